"""The store's own client: what it sends, and what it makes of clocks, tokens and answers that are not the service's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aioboto3
import pytest
from proxy import Answer, Proxy, error, proxy_to
from tables import CREDENTIALS, fresh_name, store_on

from eventsrc import CommitOutcomeUnknown, DynamoDBStore, StoreRejected
from eventsrc.storetests.samples import expect_stored, fresh_stream, make_commit


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


def skewed(code: str, minutes: float) -> Answer:
    """A refused signature, from a service whose clock is that far ahead of ours."""
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
    return error(code)._replace(date=date)


def sent_at(head: dict[str, str]) -> datetime:
    return datetime.strptime(head["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


@pytest.mark.parametrize("code", ["InvalidSignatureException", "RequestTimeTooSkewed"])
@pytest.mark.parametrize("minutes", [10, -10, 60 * 24 * 400])
async def test_a_clock_that_is_off_is_corrected(proxy: Proxy, store: DynamoDBStore, code: str, minutes: float) -> None:
    commit = make_commit(fresh_stream())
    proxy.faults = [skewed(code, minutes)]
    await store.append(commit)
    await store.append(make_commit(commit.stream, 2))
    assert proxy.counts == {"PutItem": 3}
    for head in proxy.heads[1:]:
        assert abs(sent_at(head) - datetime.now(UTC) - timedelta(minutes=minutes)) < timedelta(seconds=30)


@pytest.mark.parametrize("answer", [skewed("InvalidSignatureException", 1), error("RequestTimeTooSkewed")])
async def test_a_signature_refused_for_another_reason_is_told_at_once(
    proxy: Proxy, store: DynamoDBStore, answer: Answer
) -> None:
    proxy.faults = [answer]
    with pytest.raises(StoreRejected, match="correct the clock, or the secret key"):
        await store.append(make_commit(fresh_stream()))
    assert proxy.counts == {"PutItem": 1}


async def test_a_clock_that_cannot_be_corrected_causes_no_storm(proxy: Proxy, store: DynamoDBStore) -> None:
    proxy.then = skewed("RequestTimeTooSkewed", 10)
    with pytest.raises(StoreRejected):
        await store.append(make_commit(fresh_stream()))
    assert proxy.counts == {"PutItem": 2}


async def test_credentials_that_expire_are_sent_with_their_token(proxy: Proxy, store: DynamoDBStore) -> None:
    session = aioboto3.Session(**CREDENTIALS, aws_session_token="token-9")
    async with DynamoDBStore(store._table, endpoint_url=proxy.url, session=session) as other:
        await other.append(make_commit(fresh_stream()))
    head = proxy.heads[-1]
    assert head["x-amz-security-token"] == "token-9"
    assert "x-amz-security-token" in head["authorization"]


async def test_nobody_is_followed_elsewhere(proxy: Proxy, store: DynamoDBStore) -> None:
    commit = make_commit(fresh_stream())
    proxy.then = Answer(307, b"")
    with pytest.raises(CommitOutcomeUnknown):
        await store.append(commit)
    proxy.then = "pass"
    await store.append(commit)
    await expect_stored(store, commit.stream, [commit])


async def test_only_what_is_needed_is_sent(proxy: Proxy, store: DynamoDBStore) -> None:
    await store.append(make_commit(fresh_stream()))
    needed = {"authorization", "content-length", "content-type", "host", "x-amz-date", "x-amz-target"}
    assert set(proxy.heads[-1]) == needed


async def test_a_clock_that_is_off_is_corrected_for_all_who_were_under_way(proxy: Proxy, store: DynamoDBStore) -> None:
    proxy.faults = [skewed("InvalidSignatureException", 60) for _ in range(16)]
    await asyncio.gather(*(store.append(make_commit(fresh_stream())) for _ in range(16)))


async def test_the_proxy_of_the_environment_is_used(
    proxy: Proxy, store: DynamoDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    elsewhere = store_on("http://dynamodb.example.invalid:8000", store._table, deadline=2.0)
    async with elsewhere:
        await elsewhere.append(make_commit(fresh_stream()))
