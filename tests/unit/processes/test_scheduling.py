"""Commands at a time, and processes that are stuck."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from support.counting import CountingStore
from support.fulfilment import Fulfilment, Order, Paid, Placed, Stock

from eventsrc import MemoryStore, Repository
from eventsrc.processes import Asks, Process, ProcessManager, Scheduler, command, find_stuck
from eventsrc.processing import MemoryCheckpoints

LATER = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


@pytest.fixture
async def orders(store: MemoryStore) -> Repository[Order]:
    orders = Repository(Order, store)
    await orders.executor(create=True).execute("o-1", Order.place, "pen", 1)
    return orders


class Times:
    """A clock that is set by hand."""

    now = 0

    def __call__(self) -> int:
        return self.now

    def set(self, time: datetime) -> None:
        self.now = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


async def test_a_command_is_issued_at_its_time_and_not_before(store: MemoryStore, orders: Repository[Order]) -> None:
    scheduler = Scheduler(store, MemoryCheckpoints(), targets=[orders], clock=(clock := Times()))
    key = await scheduler.schedule(command(Order, "o-1", Order.cancel, "too late"), at=LATER, key="cancel-o-1")
    assert key == await scheduler.schedule(command(Order, "o-1", Order.cancel, "again"), at=LATER, key=key)
    for time, state in (
        (LATER - timedelta(microseconds=1), "placed"),
        (LATER, "cancelled: too late"),
        (LATER + timedelta(days=1), "cancelled: too late"),
    ):
        clock.set(time)
        await scheduler.run(until_caught_up=True)
        assert (await orders.load("o-1")).state == state
    assert (await orders.load("o-1")).version == 2
    assert not await scheduler.cancel(key)


async def test_a_scheduled_command_that_is_refused_ends_there(store: MemoryStore, orders: Repository[Order]) -> None:
    scheduler = Scheduler(store, MemoryCheckpoints(), targets=[orders], clock=(clock := Times()))
    key = await scheduler.schedule(command(Order, "o-1", Order.cancel, "too late"), at=LATER)
    await orders.execute("o-1", Order.pay)
    clock.set(LATER)
    await scheduler.run(until_caught_up=True)
    assert (await orders.load("o-1")).state == "paid"
    tags = [tag async for entry in scheduler.manager.repository.history(key) for tag in entry.commit.tags]
    assert tags == [
        "process.timer",
        "process.fired",
        "process.fired-handled",
        "process.command",
        "process.refused",
        "process.ended",
    ]


async def test_what_happens_to_the_target_before_the_time_is_not_read(store: MemoryStore) -> None:
    async with CountingStore() as shop:
        orders = Repository(Order, shop)
        await orders.executor(create=True).execute("o-1", Order.place, "pen", 1)
        scheduler = Scheduler(store, MemoryCheckpoints(), targets=[orders], clock=(clock := Times()))
        await scheduler.schedule(command(Order, "o-1", Order.cancel, "too late"), at=LATER)
        for _ in range(200):
            await orders.execute("o-1", Order.ship)
        clock.set(LATER)
        shop.read_commits = 0
        await scheduler.run(until_caught_up=True)
        assert shop.read_commits < 10


async def test_a_cancelled_command_is_not_issued(store: MemoryStore, orders: Repository[Order]) -> None:
    scheduler = Scheduler(store, MemoryCheckpoints(), targets=[orders], clock=(clock := Times()))
    key = await scheduler.schedule(command(Order, "o-1", Order.cancel, "too late"), at=LATER)
    for _ in range(2):  # the first answer may be lost
        assert await scheduler.cancel(key)
    assert not await scheduler.cancel("no such key")
    clock.set(LATER)
    await scheduler.run(until_caught_up=True)
    assert (await orders.load("o-1")).state == "placed"


async def test_bad_input_is_refused(store: MemoryStore, orders: Repository[Order]) -> None:
    scheduler = Scheduler(store, MemoryCheckpoints(), targets=[orders])
    with pytest.raises(TypeError, match="Stock is none of the targets"):
        await scheduler.schedule(command(Stock, "pen", Stock.release, "o-1"), at=LATER)
    with pytest.raises(ValueError, match="has no zone"):
        await scheduler.schedule(command(Order, "o-1", Order.cancel, "x"), at=LATER.replace(tzinfo=None))
    with pytest.raises(TypeError, match="missing a required argument"):
        await scheduler.schedule(command(Order, "o-1", Order.cancel), at=LATER)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="cannot be stored"):
        await scheduler.schedule(command(Order, "o-1", Order.cancel, 5), at=LATER)  # type: ignore[arg-type]


async def test_a_scheduler_that_runs_issues_what_is_due(store: MemoryStore, orders: Repository[Order]) -> None:
    scheduler = Scheduler(store, MemoryCheckpoints(), targets=[orders])
    task = asyncio.create_task(scheduler.run())
    await scheduler.schedule(command(Order, "o-1", Order.cancel, "now"), at=datetime.now(UTC))
    async with asyncio.timeout(20):
        while (await orders.load("o-1")).state == "placed":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    scheduler.stop()
    await task


class Waiting(Process, tag="waiting"):
    starts = (Paid,)

    def on_events(self, event: Placed | Paid) -> Asks:
        return ()


async def test_stuck_processes_are_found(store: MemoryStore, orders: Repository[Order]) -> None:
    await orders.executor(create=True).execute("o-2", Order.place, "pen", 1)
    await orders.execute("o-2", Order.pay)
    manager = ProcessManager(Waiting, store, MemoryCheckpoints())
    await manager.run(until_caught_up=True)
    now = timedelta(microseconds=-1)
    stuck = [each async for each in find_stuck(Waiting, store, idle=now)]
    assert sorted((each.id, each.held) for each in stuck) == [("o-1", 1), ("o-2", 0)]
    assert [each async for each in find_stuck(Waiting, store)] == []
    fulfilments = ProcessManager(
        Fulfilment, store, MemoryCheckpoints(), targets=[orders, Repository(Stock, store)], clock=lambda: 0
    )
    await fulfilments.run(until_caught_up=True)
    assert [each async for each in find_stuck(Fulfilment, store, idle=now)] == []  # timers are pending
