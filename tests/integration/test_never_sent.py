"""An append that never left the machine is a definite failure, at any deadline, and the next try may still succeed."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import boto3.session
import pytest
import trustme
from aiobotocore.config import AioConfig
from support.proxy import Proxy, proxy_to
from support.tables import fresh_name, new_session, session, store_on

from eventsrc import DynamoDBStore, StoreUnavailable
from eventsrc.stores.dynamodb.wire.client import NotSent
from eventsrc.testing.contract.samples import expect_stored, fresh_stream, make_commit

ONCE = AioConfig(retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=0.1)

every_deadline = pytest.mark.parametrize("deadline", [0.2, 1.0])


@contextmanager
def deaf_endpoint() -> Iterator[str]:
    """Open a port that does not accept connections any more."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        waiting = [socket.socket() for _ in range(4)]  # they fill its queue
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(deaf.getsockname())
        yield f"http://127.0.0.1:{deaf.getsockname()[1]}"
        for each in waiting:
            each.close()


@contextmanager
def closed_endpoint() -> Iterator[str]:
    """Reserve a port without a listener."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


async def expect_nothing_sent(store: DynamoDBStore) -> None:
    with pytest.raises(StoreUnavailable):
        await store.append(make_commit(fresh_stream()))


@every_deadline
@pytest.mark.parametrize("endpoint", [deaf_endpoint, closed_endpoint])
async def test_no_connection(endpoint: Any, deadline: float) -> None:
    with endpoint() as url:
        async with store_on(url, "ledger", deadline=deadline) as store:
            await expect_nothing_sent(store)


@every_deadline
async def test_an_executor_that_is_busy(deadline: float) -> None:
    """Names are resolved in the loop's executor."""
    async with store_on("http://localhost:1", "ledger", deadline=deadline) as store, busy_executor():
        await expect_nothing_sent(store)


@asynccontextmanager
async def busy_executor() -> AsyncIterator[None]:
    released, executor = threading.Event(), ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(executor)
    executor.submit(released.wait)
    try:
        yield
    finally:
        released.set()


@pytest.fixture
async def proxied(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DynamoDBStore]:
    """A store that uses the SDK's client, which has no connection yet."""
    with deaf_endpoint() as url:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, url.replace("127.0.0.1", "localhost"))
        async with store_on("http://dynamodb.example.invalid:8000", "ledger", deadline=0.4) as store:
            yield store


async def test_an_executor_that_is_busy_before_the_proxy_is_found(proxied: DynamoDBStore) -> None:
    async with busy_executor():
        await expect_nothing_sent(proxied)


async def test_a_call_that_is_cancelled_before_the_proxy_is_found_says_that_nothing_was_sent(
    proxied: DynamoDBStore,
) -> None:
    client = proxied.table.connection.client
    assert client is not None
    async with busy_executor():
        call = asyncio.ensure_future(client.call("ListTables", {}))
        await asyncio.wait([call], timeout=0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await call
    assert isinstance(cancelled.value.__cause__, NotSent)


class Hanging:
    """Credentials whose source does not answer."""

    async def get_frozen_credentials(self) -> Any:
        await asyncio.Event().wait()


class HangingSession(boto3.session.Session):  # type: ignore[misc]  # it has no types
    async def get_credentials(self) -> Any:
        return Hanging()


@every_deadline
async def test_credentials_that_do_not_arrive(deadline: float) -> None:
    with closed_endpoint() as url:
        async with store_on(url, "ledger", session=new_session(HangingSession), deadline=deadline) as store:
            with pytest.raises(StoreUnavailable, match="no credentials"):
                await store.append(make_commit(fresh_stream()))


async def test_credentials_that_do_not_arrive_at_a_client_that_was_passed() -> None:
    async def hang(**_: Any) -> None:
        await asyncio.Event().wait()

    with closed_endpoint() as url:
        async with session().client("dynamodb", endpoint_url=url) as client:
            client.meta.events.register("before-sign", hang)
            async with DynamoDBStore("ledger", client=client, deadline=0.2) as store:
                with pytest.raises(StoreUnavailable, match="no credentials"):
                    await store.append(make_commit(fresh_stream()))


@every_deadline
@pytest.mark.parametrize("endpoint", [deaf_endpoint, closed_endpoint])
async def test_a_dead_proxy(endpoint: Any, deadline: float, monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint() as url:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, url)
        async with store_on("http://dynamodb.example.invalid:8000", "ledger", deadline=deadline) as store:
            await expect_nothing_sent(store)


@pytest.mark.parametrize("endpoint", [deaf_endpoint, closed_endpoint])
async def test_no_connection_of_a_client_that_was_passed(endpoint: Any) -> None:
    with endpoint() as url:
        async with (
            session().client("dynamodb", endpoint_url=url, config=ONCE) as client,
            DynamoDBStore("ledger", client=client, deadline=1.0) as store,
        ):
            await expect_nothing_sent(store)


@asynccontextmanager
async def silent_first(endpoint: str, certificate: trustme.LeafCert) -> AsyncIterator[str]:
    """Open an https endpoint that forwards to this one, except the first connection, which gets no handshake."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    async with proxy_to(endpoint) as proxy:
        tasks: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.current_task())  # type: ignore[arg-type]
            try:
                if len(tasks) == 1:
                    await asyncio.Event().wait()
                await writer.start_tls(context)
                await proxy.serve(reader, writer)
            finally:
                writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_connection_that_is_not_made_leaves_time_for_another(
    dynamodb_endpoint: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, bundle, table = trustme.CA(), tmp_path / "ca.pem", fresh_name()
    authority.cert_pem.write_to_path(str(bundle))
    commit = make_commit(fresh_stream())
    async with store_on(dynamodb_endpoint, table) as direct:
        await direct.create_table()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
        async with (
            silent_first(dynamodb_endpoint, authority.issue_cert("localhost")) as url,
            store_on(url, table, session=new_session(), deadline=3.0) as store,
        ):
            await store.append(commit)
        await expect_stored(direct, commit.stream, [commit])


@pytest.fixture
async def proxy(dynamodb_endpoint: str) -> AsyncIterator[Proxy]:
    async with proxy_to(dynamodb_endpoint) as proxy:
        yield proxy


async def test_connections_that_all_went_dead_cost_one_try(proxy: Proxy) -> None:
    async with store_on(proxy.url, fresh_name(), deadline=3.0) as store:
        await store.create_table()
        proxy.operations.clear()
        await asyncio.gather(*(store.load(fresh_stream()) for _ in range(20)))
        before = len(proxy.operations)
        proxy.silence()
        commit = make_commit(fresh_stream())
        await store.append(commit)
        assert len(proxy.silent) > 10
        assert len(proxy.operations) == before + 2
        await expect_stored(store, commit.stream, [commit])
