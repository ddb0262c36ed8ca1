"""The library's client: what it sends, and how it handles wrong clocks, tokens and responses of other servers."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aioboto3
import pytest
import trustme
from support.proxy import Answer, Proxy, error, proxy_to
from support.tables import CREDENTIALS, fresh_name, store_on

from eventsrc import CommitOutcomeUnknown, DynamoDBStore, StoreRejected, StoreUnavailable
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
    session = aioboto3.Session(**CREDENTIALS, aws_session_token="token-9")
    async with DynamoDBStore(store.table.name, endpoint_url=proxy.url, session=session) as other:
        await other.append(make_commit(fresh_stream()))
    head = proxy.heads[-1]
    assert head["x-amz-security-token"] == "token-9"
    assert "x-amz-security-token" in head["authorization"]


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


@asynccontextmanager
async def encrypted(endpoint: str, certificate: trustme.LeafCert) -> AsyncIterator[str]:
    """Open an https endpoint that forwards to this one."""
    parts = urlsplit(endpoint)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    server = await asyncio.start_server(lead, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"


async def test_https_with_a_certificate_that_the_sdk_trusts(
    store: DynamoDBStore, dynamodb_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, bundle = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    commits = [make_commit(stream := fresh_stream(), 1, payload=os.urandom(300_000)), make_commit(stream, 2)]
    async with encrypted(dynamodb_endpoint, authority.issue_cert("localhost")) as endpoint:
        async with store_on(endpoint, store.table.name, deadline=1.0) as stranger:
            with pytest.raises(StoreUnavailable):
                await stranger.load(stream)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
        async with store_on(endpoint, store.table.name, session=aioboto3.Session(**CREDENTIALS)) as other:
            await other.append(commits[0])
            await other.append(commits[1])
            await expect_stored(other, stream, commits)
    async with (
        encrypted(dynamodb_endpoint, authority.issue_cert("elsewhere.example")) as endpoint,
        store_on(endpoint, store.table.name, session=aioboto3.Session(**CREDENTIALS), deadline=1.0) as impostor,
    ):
        with pytest.raises(StoreUnavailable):
            await impostor.load(stream)


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
