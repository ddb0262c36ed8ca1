"""The library's client: what it sends, and how it handles wrong clocks, tokens and responses of other servers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiobotocore.session import get_session
from support.proxy import Answer, Proxy, error, proxy_to
from support.tables import fresh_name, new_session, store_on
from support.tls import encrypted

from eventsrc import CommitOutcomeUnknown, DynamoDBStore, StoreRejected
from eventsrc.stores.dynamodb.wire.client import ServiceError
from eventsrc.testing.contract.samples import expect_stored, fresh_stream, make_commit


@pytest.fixture
async def proxy(dynamodb_endpoint: str) -> AsyncIterator[Proxy]:
    async with proxy_to(dynamodb_endpoint) as proxy:
        yield proxy


@pytest.fixture
async def store(proxy: Proxy) -> AsyncIterator[DynamoDBStore]:
    async with store_on(proxy.url, fresh_name(), deadline=2.0) as store:
        await store.create_table()
        proxy.operations.clear()
        proxy.heads.clear()
        yield store


def refuse_signature(code: str, minutes: float) -> Answer:
    """Return the refusal of a signature by a service whose clock is `minutes` ahead of ours."""
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
    return error(code)._replace(date=date)


def sent_at(head: dict[str, str]) -> datetime:
    return datetime.strptime(head["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


@pytest.mark.parametrize("code", ["InvalidSignatureException", "RequestTimeTooSkewed"])
@pytest.mark.parametrize("minutes", [10, -10, 60 * 24 * 400])
async def test_a_wrong_clock_is_corrected(proxy: Proxy, store: DynamoDBStore, code: str, minutes: float) -> None:
    commit = make_commit(fresh_stream())
    proxy.faults = [refuse_signature(code, minutes)]
    await store.append(commit)
    await store.append(make_commit(commit.stream, 2))
    assert proxy.counts == {"PutItem": 3}
    for head in proxy.heads[1:]:
        assert abs(sent_at(head) - datetime.now(UTC) - timedelta(minutes=minutes)) < timedelta(seconds=30)


@pytest.mark.parametrize("code", ["InvalidSignatureException", "RequestTimeTooSkewed"])
async def test_a_signature_refused_for_another_reason_is_raised_at_once(
    proxy: Proxy, store: DynamoDBStore, code: str
) -> None:
    proxy.faults = [refuse_signature(code, 1) if code == "InvalidSignatureException" else error(code)]
    with pytest.raises(StoreRejected, match="correct the clock, or the secret key"):
        await store.append(make_commit(fresh_stream()))
    assert proxy.counts == {"PutItem": 1}


async def test_a_clock_that_cannot_be_corrected_causes_few_requests(proxy: Proxy, store: DynamoDBStore) -> None:
    proxy.then = refuse_signature("RequestTimeTooSkewed", 10)
    with pytest.raises(StoreRejected):
        await store.append(make_commit(fresh_stream()))
    assert proxy.counts == {"PutItem": 2}


async def test_credentials_that_expire_are_sent_with_their_token(proxy: Proxy, store: DynamoDBStore) -> None:
    session = new_session(aws_session_token="token-9")
    async with DynamoDBStore(store.table.name, endpoint_url=proxy.url, session=session) as other:
        await other.append(make_commit(fresh_stream()))
    head = proxy.heads[-1]
    assert head["x-amz-security-token"] == "token-9"
    assert "x-amz-security-token" in head["authorization"]


@pytest.mark.parametrize("field", ["aws_access_key_id", "aws_session_token"])
@pytest.mark.parametrize("text", ["a\r\nx-evil: 1", "a\nb", "a\x00b", "é"])
async def test_credentials_that_no_header_can_contain_are_not_sent(
    proxy: Proxy, store: DynamoDBStore, field: str, text: str
) -> None:
    keys = ["local", "local", "token-9"]
    keys[0 if field == "aws_access_key_id" else 2] = text
    session = get_session()
    session.set_credentials(*keys)
    other = DynamoDBStore(store.table.name, endpoint_url=proxy.url, region_name="us-east-1", session=session)
    async with other:
        with pytest.raises(StoreRejected) as raised:
            await other.append(make_commit(fresh_stream()))
    assert raised.value.code == "CredentialRetrievalError"
    assert not proxy.heads


async def test_redirects_are_not_followed(proxy: Proxy, store: DynamoDBStore) -> None:
    commit = make_commit(fresh_stream())
    proxy.then = Answer(307, b"")
    with pytest.raises(CommitOutcomeUnknown):
        await store.append(commit)
    proxy.then = "pass"
    await store.append(commit)
    await expect_stored(store, commit.stream, [commit])


async def test_only_needed_headers_are_sent(proxy: Proxy, store: DynamoDBStore) -> None:
    await store.append(make_commit(fresh_stream()))
    needed = {"authorization", "content-length", "content-type", "host", "x-amz-date", "x-amz-target"}
    assert set(proxy.heads[-1]) == needed | {"accept-encoding"}
    assert proxy.heads[-1]["accept-encoding"] == "identity"


async def test_a_wrong_clock_is_corrected_for_all_requests_in_flight(proxy: Proxy, store: DynamoDBStore) -> None:
    proxy.faults = [refuse_signature("InvalidSignatureException", 60) for _ in range(16)]
    await asyncio.gather(*(store.append(make_commit(fresh_stream())) for _ in range(16)))


async def test_the_proxy_of_the_environment_is_used(
    proxy: Proxy, store: DynamoDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    elsewhere = store_on("http://dynamodb.example.invalid:8000", store.table.name, deadline=2.0)
    async with elsewhere:
        await elsewhere.append(make_commit(fresh_stream()))


async def test_https_carries_large_bodies(
    store: DynamoDBStore, dynamodb_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, bundle = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    commits = [make_commit(stream := fresh_stream(), 1, payload=os.urandom(300_000)), make_commit(stream, 2)]
    async with (
        encrypted(dynamodb_endpoint, authority.issue_cert("localhost")) as server,
        store_on(server.url, store.table.name) as other,
    ):
        await other.append(commits[0])
        await other.append(commits[1])
        await expect_stored(other, stream, commits)


async def test_transactions_go_through_the_same_call(store: DynamoDBStore) -> None:
    """The interface `Client` sends transactions like other requests."""
    client, stream = store.table.connection.client, fresh_stream()
    assert client is not None
    puts = [
        {
            "Put": {
                "TableName": store.table.name,
                "Item": store.items.from_commit(make_commit(stream, version)),
                "ConditionExpression": "attribute_not_exists(PK)",
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
        }
        for version in (1, 2)
    ]
    await client.call("TransactWriteItems", {"TransactItems": puts[:1]})
    with pytest.raises(ServiceError) as refused:
        await client.call("TransactWriteItems", {"TransactItems": puts})
    assert refused.value.code == "TransactionCanceledException"
    assert refused.value.reply is not None
    reasons = refused.value.reply.read(dict[str, Any])["CancellationReasons"]
    assert [reason["Code"] for reason in reasons] == ["ConditionalCheckFailed", "None"]
    assert reasons[0]["Item"]["SK"] == {"N": "1"}
    assert [commit.version async for commit in store.read(stream)] == [1]
