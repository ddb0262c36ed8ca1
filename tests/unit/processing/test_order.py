"""The order of commits across streams: as the feed has it, in live runs, in rebuilds and after failures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support.bank import Account, Deposited
from support.ledger import InSQLite, Refused, commits_of, deposit, run_with_parked, running

from eventsrc import MemoryStore, Repository, SQLiteStore
from eventsrc.processing import Context, MemoryProjection, Processor, SQLiteCheckpoints, rebuild

ORDER = [0, 1, 0, 2, 1, 1, 0, 2, 0, 1] * 3  # accounts, as they deposit

every_kind = pytest.mark.parametrize("kind", ["memory", "sqlite"])
every_store = pytest.mark.parametrize("store", ["memory", "sqlite"], indirect=True)

Make = Callable[..., Processor[Any]]


@pytest.fixture
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    async with MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "ledger.db") as store:
        yield store


class Listed(MemoryProjection, tag="listed"):
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.poison: set[int] = set()

    def handle_deposited(self, event: Deposited, context: Context) -> None:
        if event.amount in self.poison:
            raise Refused
        self.calls.append(context.id)


class ByStream(InSQLite, tag="by-stream"):
    order = "stream"


class Second(InSQLite, tag="in-sqlite"):
    version = 2


async def order_in(processor: Processor[Any]) -> list[str]:
    """Return the ids of all handled events, in the order in which handlers were called."""
    projection = processor.projection
    if isinstance(projection, Listed):
        return projection.calls
    query = f"SELECT event FROM {projection.table} ORDER BY number"
    checkpoints: Any = processor.checkpoints
    return [row[0] for row in await checkpoints.read(lambda db: db.execute(query).fetchall())]


@pytest.fixture
async def make(kind: str, store: Any, tmp_path: Path) -> AsyncIterator[Make]:
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:

        def made(projection: Any = None, **options: Any) -> Processor[Any]:
            if kind == "memory":
                return Processor(projection or Listed(), store, **options)
            return Processor(projection or InSQLite(), store, checkpoints, **options)

        yield made


async def write(store: Any, order: list[int] = ORDER) -> list[str]:
    """Let accounts deposit in this order. Return the ids of the events, as the feed has them, without the opening."""
    repository = Repository(Account, store)
    for number in sorted(set(order)):
        account = Account.open(f"a-{number}", owner="ann")
        account.deposit(1)
        await repository.save(account)
    for amount, number in enumerate(order):
        await deposit(store, f"a-{number}", 10 + amount)
    return await deposits_of(store)


async def deposits_of(store: Any) -> list[str]:
    ids = [str(commit.event_id(index)) for commit in await commits_of(store) for index in range(commit.events)]
    return [id for id in ids if not id.endswith("@1.0")]


async def handled_by(processor: Processor[Any]) -> list[str]:
    return [id for id in await order_in(processor) if not id.endswith("@1.0")]


@every_store
@every_kind
async def test_handlers_are_called_in_the_order_of_the_feed(store: Any, make: Make) -> None:
    expected = await write(store)
    processor = make()
    await processor.run(until_caught_up=True)
    assert await handled_by(processor) == expected


@every_store
@every_kind
async def test_a_live_run_and_a_later_one_see_the_same_order(store: Any, make: Make) -> None:
    live = make()
    async with running(live):
        expected = await write(store)
        await live.wait_for(await deposit(store, "a-2", 5))
    expected = await deposits_of(store)
    assert await handled_by(live) == expected
    if isinstance(live.projection, Listed):
        again = make()
        await again.run(until_caught_up=True)
    else:
        await rebuild(again := make(Second()))
    assert await handled_by(again) == expected


@every_store
@pytest.mark.parametrize("kind", ["sqlite"])
async def test_a_restart_in_the_middle_keeps_the_order(store: Any, make: Make) -> None:
    await write(store, ORDER[:7])
    await make().run(until_caught_up=True)
    for amount, number in enumerate(ORDER[7:]):
        await deposit(store, f"a-{number}", 30 + amount)
    processor = make()
    await processor.run(until_caught_up=True)
    assert await handled_by(processor) == await deposits_of(store)


@every_store
@every_kind
async def test_a_stream_that_fails_leaves_the_others_in_order(store: Any, make: Make) -> None:
    expected = await write(store)
    processor = make(attempts=1)
    processor.projection.poison = {10 + ORDER.index(1)}  # the first deposit of account 1
    assert await run_with_parked(processor) == ("account-a-1",)
    told = await handled_by(processor)
    assert [id for id in told if "a-1@" not in id] == [id for id in expected if "a-1@" not in id]
    assert [id for id in told if "a-1@" in id] == ["account-a-1@1.1"]


@every_store
@pytest.mark.parametrize("kind", ["sqlite"])
async def test_the_order_of_streams_is_an_option(store: Any, make: Make) -> None:
    expected = await write(store)
    processor = make(ByStream())
    await processor.run(until_caught_up=True)
    told = await handled_by(processor)
    assert told != expected
    for number in range(3):
        ours = [id for id in expected if f"a-{number}@" in id]
        assert [id for id in told if f"a-{number}@" in id] == ours
        first = told.index(ours[0])
        assert told[first : first + len(ours)] == ours  # one after the other
