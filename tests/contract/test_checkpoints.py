"""Every kind of checkpoints keeps the contract that is shipped for authors of checkpoints."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest
from support.tables import checkpoints_on, fresh_name, session

from eventsrc import StoreClosed, StoreError
from eventsrc.processing import Checkpoints, DynamoDBCheckpoints, MemoryCheckpoints, SQLiteCheckpoints
from eventsrc.testing.contract.checkpoints import CONTRACT, Capability, Check
from eventsrc.testing.contract.checkpoints.samples import make_slice

P = "balances@1"

every_check = pytest.mark.parametrize("check", CONTRACT, ids=str)


@every_check
async def test_memory(check: Check) -> None:
    only = MemoryCheckpoints()
    await check(lambda: only)


@every_check
async def test_sqlite(check: Check, tmp_path: Path) -> None:
    await check(lambda: SQLiteCheckpoints(tmp_path / "model.db"))


@every_check
async def test_dynamodb(check: Check, dynamodb_endpoint: str, table: str) -> None:
    await check(lambda: checkpoints_on(dynamodb_endpoint, table), without={Capability.FENCES_ALL_STREAMS})


@every_check
async def test_dynamodb_with_a_client_of_the_user(check: Check, dynamodb_endpoint: str, table: str) -> None:
    async with session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client:
        await check(
            lambda: DynamoDBCheckpoints(table, client=client, deadline=60.0), without={Capability.FENCES_ALL_STREAMS}
        )


@pytest.fixture(scope="session")
def table(dynamodb_endpoint: str) -> str:
    """Create a table for the whole session."""
    name = fresh_name()

    async def create() -> None:
        async with checkpoints_on(dynamodb_endpoint, name) as checkpoints:
            await checkpoints.create_table()

    asyncio.run(create())
    return name


@pytest.fixture(params=["sqlite", "dynamodb"])
def make_checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Checkpoints]:
    if request.param == "sqlite":
        return lambda: SQLiteCheckpoints(tmp_path / "model.db")
    endpoint, table = request.getfixturevalue("dynamodb_endpoint"), request.getfixturevalue("table")
    return lambda: checkpoints_on(endpoint, table)


@pytest.fixture
async def both(make_checkpoints: Callable[[], Checkpoints]) -> AsyncIterator[tuple[Checkpoints, Checkpoints]]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(make_checkpoints()), await stack.enter_async_context(make_checkpoints())


async def test_closed_checkpoints_refuse_calls(both: tuple[Checkpoints, Checkpoints]) -> None:
    one, _ = both
    with pytest.raises(StoreClosed):
        await one.open()
    await one.aclose()
    await one.aclose()
    for call in (one.positions(P, ["s-1"]), one.advance(P, make_slice("s-1", 0, 1)), one.slots(P), one.processors()):
        with pytest.raises(StoreClosed, match=r"is not open.*; use it inside `async with checkpoints:`$"):
            await call
    await one.open()
    assert await one.positions(P, ["s-1"]) == {}


async def test_calls_in_flight_end_before_close_returns(both: tuple[Checkpoints, Checkpoints]) -> None:
    one, other = both
    streams = [f"{fresh_name()}-{i}" for i in range(20)]
    advancing = [asyncio.create_task(one.advance(P, make_slice(stream, 0, 1))) for stream in streams]
    await asyncio.sleep(0)
    await one.aclose()
    outcomes = await asyncio.gather(*advancing, return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, StoreError) for outcome in outcomes)
    positions = await other.positions(P, streams)
    assert positions.keys() == {stream for stream, outcome in zip(streams, outcomes, strict=True) if outcome is None}
    assert positions


async def test_opening_waits_for_another_writer_of_a_new_sqlite_file(tmp_path: Path) -> None:
    """SQLite fails the switch to WAL at once while another connection writes; it does not wait by itself."""
    path = tmp_path / "model.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("CREATE TABLE theirs (id INTEGER)")
        asyncio.get_running_loop().call_later(0.3, other.execute, "COMMIT")
        async with SQLiteCheckpoints(path) as checkpoints:
            assert await checkpoints.slots("p@1") == []
