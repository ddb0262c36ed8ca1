"""Answers of other servers of the protocol, and of gateways that only look like one, for every request and client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from support.proxy import GZIP, UNMETERED, Answer, Proxy, proxy_to
from support.tables import fresh_name, session, store_on

from eventsrc import CommitOutcomeUnknown, ConflictError, DynamoDBStore, StoreRejected, StoreUnavailable
from eventsrc.testing.contract.samples import expect_stored, fresh_stream, make_commit, make_snapshot, read_all

ONCE = AioConfig(retries={"mode": "standard", "total_max_attempts": 1})
KEY = {"PK": {"S": "odd"}, "SK": {"N": "-5"}}


async def update(store: DynamoDBStore) -> Any:
    request = {"Key": KEY, "UpdateExpression": "SET a = :a", "ExpressionAttributeValues": {":a": {"S": "x"}}}
    return await store.table.update(request)


async def transact(store: DynamoDBStore) -> Any:
    return await store.table.transact([{"Put": {"TableName": store.table.name, "Item": KEY}}])


REQUESTS: dict[str, Callable[[DynamoDBStore], Awaitable[Any]]] = {
    "PutItem": lambda store: store.table.put(KEY),
    "GetItem": lambda store: store.table.get(KEY),
    "Query": lambda store: read_all(store, "odd"),
    "UpdateItem": update,
    "DeleteItem": lambda store: store.table.delete(KEY),
    "TransactWriteItems": transact,
    "BatchGetItem": lambda store: store.table.get_all(store.table.name, [KEY], ["PK"]),
    "BatchWriteItem": lambda store: store.table.delete_all(store.table.name, [KEY]),
    "Scan": lambda store: drain(store),
    "clock": lambda store: store.clock(),
    "load": lambda store: store.load("other"),
    "put_snapshot": lambda store: store.put_snapshot(make_snapshot("other", 1)),
}

both_clients = pytest.mark.parametrize("kind", ["signed", "sdk"])


async def drain(store: DynamoDBStore) -> None:
    async for _ in store.scan(segments=1):
        pass


@pytest.fixture(scope="module")
def table(dynamodb_endpoint: str) -> str:
    name = fresh_name()

    async def create() -> None:
        async with store_on(dynamodb_endpoint, name) as store:
            await store.create_table()

    asyncio.run(create())
    return name


@pytest.fixture
async def proxy(dynamodb_endpoint: str) -> AsyncIterator[Proxy]:
    async with proxy_to(dynamodb_endpoint) as proxy:
        yield proxy


@asynccontextmanager
async def opened(kind: str, proxy: Proxy, table: str, deadline: float) -> AsyncIterator[DynamoDBStore]:
    if kind == "signed":
        async with store_on(proxy.url, table, deadline=deadline) as store:
            yield store
    else:
        async with (
            session().client("dynamodb", endpoint_url=proxy.url, config=ONCE) as client,
            DynamoDBStore(table, client=client, deadline=deadline) as store,
        ):
            yield store


@both_clients
@pytest.mark.parametrize("fault", [UNMETERED, GZIP])
async def test_every_request_works_without_reported_capacity_and_with_gzip(
    proxy: Proxy, table: str, kind: str, fault: str
) -> None:
    async with opened(kind, proxy, table, 10.0) as store:
        proxy.then = fault
        for name, request in REQUESTS.items():
            before = len(proxy.operations)
            await request(store)
            assert len(proxy.operations) == before + 1, name
        commit = make_commit(fresh_stream())
        receipt = await store.append(commit)
        await expect_stored(store, commit.stream, [commit])
        with pytest.raises(ConflictError):
            await store.append(make_commit(commit.stream))
    assert receipt.usage is not None
    assert receipt.usage.requests == 1
    assert (receipt.usage.write_units == 0) == (fault == UNMETERED)


@both_clients
@pytest.mark.parametrize("answer", [Answer(200, b"{}"), Answer(200, b"{}", forwarded=True)], ids=str)
async def test_an_answer_that_anybody_could_have_given_is_not_taken_for_the_services(
    proxy: Proxy, table: str, kind: str, answer: Any
) -> None:
    """A gateway that answers `{}`, with the right content type, may not have forwarded the request."""
    commit = make_commit(fresh_stream())
    async with opened(kind, proxy, table, 1.0) as store:
        proxy.then = answer
        outcomes = await asyncio.gather(
            store.append(commit), *(request(store) for request in REQUESTS.values()), return_exceptions=True
        )
        proxy.then = "pass"
        assert [type(outcome) for outcome in outcomes] == [CommitOutcomeUnknown, *[StoreUnavailable] * len(REQUESTS)]
        await store.append(commit)
        await expect_stored(store, commit.stream, [commit])


FORMS: dict[str, Any] = {
    "type": {"__type": "com.amazonaws.dynamodb#AccessDeniedException"},
    "short": {"__type": "AccessDeniedException"},
    "uri": {"__type": "AccessDeniedException:http://internal.example/coral/#x"},
    "code": {"code": "AccessDeniedException", "Message": "no"},
    "Code": {"Code": "AccessDeniedException", "message": "no"},
}


@both_clients
@pytest.mark.parametrize("form", [*FORMS, "header"])
async def test_the_code_of_an_error_is_found_in_every_form(proxy: Proxy, table: str, kind: str, form: str) -> None:
    async with opened(kind, proxy, table, 2.0) as store:
        body = json.dumps(FORMS.get(form, {})).encode()
        proxy.then = Answer(
            400, body, headers="x-amzn-errortype: a#AccessDeniedException:b\r\n" if form == "header" else ""
        )
        with pytest.raises(StoreRejected, match="AccessDenied"):
            await store.append(make_commit(fresh_stream()))


@both_clients
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("encoding", ["gzip", "br"])
async def test_a_body_that_cannot_be_decoded_leaves_the_outcome_unknown(
    proxy: Proxy, table: str, kind: str, status: int, encoding: str
) -> None:
    async with opened(kind, proxy, table, 0.5) as store:
        headers = f"content-encoding: {encoding}\r\nx-amzn-requestid: A1\r\n"
        proxy.then = Answer(status, b'{"__type":"AccessDeniedException"}', headers=headers)
        with pytest.raises(CommitOutcomeUnknown):
            await store.append(make_commit(fresh_stream()))
