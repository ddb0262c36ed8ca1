"""Imitations of AWS: a server is reached by its endpoint; one inside the process needs the SDK's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from moto.server import ThreadedMotoServer
from support.tables import fresh_name, session, store_on

from eventsrc import DynamoDBStore
from eventsrc.testing.contract.samples import expect_stored, fresh_stream, make_commit


@pytest.fixture(scope="module")
def moto() -> Any:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


async def expect_use(store: DynamoDBStore) -> None:
    await store.create_table()
    assert await store.create_table(stream=True) is False
    await store.append(commit := make_commit(fresh_stream()))
    await expect_stored(store, commit.stream, [commit])
    assert {each.id async for batch in store.feed(follow=False) for each in batch.commits} == {commit.id}


async def test_the_server_of_moto(moto: str) -> None:
    async with store_on(moto, fresh_name()) as store:
        await expect_use(store)


class Layer(AIOHTTPSession):  # type: ignore[misc]  # it has no types
    """The HTTP layer of the SDK, which mocks inside the process replace."""

    seen: list[str] = []  # noqa: RUF012  # of all clients

    async def send(self, request: Any) -> Any:
        self.seen.append(request.headers["X-Amz-Target"].decode())
        return await super().send(request)


@pytest.fixture
async def clients(moto: str) -> AsyncIterator[tuple[Any, Any]]:
    config = AioConfig(http_session_cls=Layer, retries={"mode": "standard", "total_max_attempts": 1})
    async with (
        session().client("dynamodb", endpoint_url=moto, config=config) as client,
        session().client("dynamodbstreams", endpoint_url=moto, config=config) as streams_client,
    ):
        yield client, streams_client


async def test_all_requests_go_through_a_client_that_was_passed(clients: tuple[Any, Any]) -> None:
    Layer.seen.clear()
    async with DynamoDBStore(fresh_name(), client=clients[0], streams_client=clients[1]) as store:
        await expect_use(store)
    operations = {each.rpartition(".")[2] for each in Layer.seen}
    assert operations >= {"CreateTable", "UpdateTable", "DescribeTable", "PutItem", "Query", "Scan", "GetRecords"}
