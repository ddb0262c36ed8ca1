"""Signatures equal those of botocore's signer, for any request."""

from __future__ import annotations

from datetime import UTC, datetime
from unittest.mock import patch

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as SDKCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from eventsrc.stores.dynamodb.wire.signature import Credentials, Signer

HOSTS = st.sampled_from(["dynamodb.eu-west-1.amazonaws.com", "localhost:8000", "127.0.0.1", "[::1]:8000"])
REGIONS = st.sampled_from(["eu-west-1", "us-east-1", "cn-north-1", "us-gov-west-1"])
SECRETS = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=60)
TOKENS = st.none() | st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=400)
TARGETS = st.sampled_from(["DynamoDB_20120810.PutItem", "DynamoDB_20120810.Query"])
TIMES = st.integers(0, 4_000_000_000)


def by_botocore(
    host: str, region: str, target: str, body: bytes, credentials: Credentials, now: float
) -> dict[str, str]:
    request = AWSRequest(
        "POST",
        f"https://{host}/",
        headers={"content-type": "application/x-amz-json-1.0", "host": host, "x-amz-target": target},
        data=body,
    )
    moment = datetime.fromtimestamp(now, UTC).replace(tzinfo=None)
    with patch("botocore.auth.get_current_datetime", lambda: moment):
        SigV4Auth(SDKCredentials(*credentials), "dynamodb", region).add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


@settings(max_examples=300)
@given(HOSTS, REGIONS, TARGETS, st.binary(max_size=300), SECRETS, SECRETS, TOKENS, TIMES)
def test_a_signature_is_that_of_botocore(
    host: str, region: str, target: str, body: bytes, key: str, secret: str, token: str | None, now: int
) -> None:
    credentials = Credentials(key, secret, token)
    ours = Signer(host, region).headers(target, body, credentials, now)
    assert ours == by_botocore(host, region, target, body, credentials, now)


@given(st.lists(st.tuples(SECRETS, TIMES), min_size=2, max_size=6))
def test_a_cached_key_is_used_for_its_day_and_secret_only(requests: list[tuple[str, int]]) -> None:
    signer = Signer("localhost", "eu-west-1")
    for secret, now in requests:
        credentials = Credentials("key", secret)
        fresh = Signer("localhost", "eu-west-1").headers("t", b"{}", credentials, now)
        assert signer.headers("t", b"{}", credentials, now) == fresh
