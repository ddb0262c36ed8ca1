"""What reviewers and campaigns broke in processes: each fault by its kind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from support.fulfilment import Fulfilment, Order, Paid, Placed, Stock

from eventsrc import (
    Aggregate,
    Commit,
    Event,
    MemoryStore,
    Receipt,
    Repository,
    StoreUnavailable,
)
from eventsrc.errors import DeclarationError
from eventsrc.processes import (
    Asks,
    Due,
    Process,
    ProcessManager,
    Scheduler,
    after,
    call,
    cancel,
    command,
    create_or_command,
    end,
)
from eventsrc.processes.firing import Firing
from eventsrc.processes.timers import timers_in
from eventsrc.processing import EffectContext, Effects, MemoryCheckpoints, Processor, Runner


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


async def place(store: MemoryStore, id: str) -> Repository[Order]:
    orders = Repository(Order, store)
    await orders.executor(create=True).execute(id, Order.place, "pen", 1)
    return orders


class Ping(Event, tag="ping"):
    pass


class Echo(Process, tag="echo"):
    """Records an event that it handles as well."""

    pings: int = 0

    def on_placed(self, event: Placed | Ping) -> Asks:
        self.record(Ping())
        yield from ()

    def apply_ping(self, event: Ping) -> None:
        self.pings += 1


async def test_what_a_process_records_is_not_an_input_of_it(store: MemoryStore) -> None:
    await place(store, "o-1")
    manager = ProcessManager(Echo, store, MemoryCheckpoints())
    async with asyncio.timeout(20):
        await manager.run(until_caught_up=True)
    assert (await manager.repository.load("o-1")).pings == 1


async def test_a_clock_that_is_set_back_while_a_timer_fires_loses_it_not() -> None:
    timers = timers_in(MemoryCheckpoints())
    times, fired = [100, 5], list[tuple[int, int]]()

    async def fire(timer: Due, now: int) -> None:
        if now >= timer.due:
            fired.append((timer.due, now))

    firing = Firing(timers, "a@1", fire, lambda: times.pop(0) if len(times) > 1 else times[0])
    await firing.put(Due(50, "process-1", 1))
    while await firing.fire_due(lambda stream: True):
        pass
    assert fired == [(50, 100)]
    assert await timers.count("a@1") == 0


async def test_one_process_that_cannot_be_folded_ends_no_worker(store: MemoryStore) -> None:
    orders = await place(store, "o-1")
    await place(store, "o-2")
    now = [0]

    manager = ProcessManager(
        Fulfilment, store, MemoryCheckpoints(), targets=[orders, Repository(Stock, store)], clock=lambda: now[0]
    )
    await manager.run(until_caught_up=True)
    real = manager.repository.execute

    async def execute(id: str, *args: Any, **kwargs: Any) -> Any:
        if id == "o-1":
            raise ZeroDivisionError
        return await real(id, *args, **kwargs)

    manager.repository.execute = execute  # type: ignore[assignment,method-assign]
    now[0] = 4_000_000_000_000_000
    assert await manager.fire_due() == 1
    assert await manager.timers.count("fulfilment-timers@1") == 1


class Picky(Process, tag="picky"):
    def on_placed(self, event: Placed) -> Asks:
        yield create_or_command(Stock, str(uuid4()), Stock.reserve, self.id, 1)


async def test_ids_that_are_drawn_at_random_are_refused(store: MemoryStore) -> None:
    await place(store, "o-1")
    manager = ProcessManager(Picky, store, MemoryCheckpoints(), targets=[Repository(Stock, store)], attempts=1)
    with pytest.raises(Exception, match="order-o-1"):
        await manager.run(until_caught_up=True)
    [parked] = await manager.processors[0].parked()
    assert "of other aggregates each time" in parked.error


class Counted(Event, tag="counted"):
    by: str


class Counter(Aggregate, tag="counter"):
    count: int = 0

    def add(self, by: str) -> None:
        self.record(Counted(by=by))

    def apply_counted(self, event: Counted) -> None:
        self.count += 1


class Counting(Process, tag="counting"):
    def on_placed(self, event: Placed) -> Asks:
        yield create_or_command(Counter, "all", Counter.add, self.id)


class CountingEffects(Effects, tag="counting-effects"):
    def __init__(self, counters: Repository[Counter]) -> None:
        self.counters = counters

    async def handle_placed(self, event: Placed, context: EffectContext) -> None:
        await context.create_or_execute(self.counters, "all", Counter.add, "x")


async def test_processes_of_one_name_in_two_stores_share_a_target() -> None:
    """As services of two regions or tenants do."""
    async with MemoryStore() as east, MemoryStore() as west, MemoryStore() as shared:
        counters = Repository(Counter, shared)
        for each in (east, west):
            await place(each, "o-1")
            await ProcessManager(Counting, each, MemoryCheckpoints(), targets=[counters]).run(until_caught_up=True)
            await Processor(CountingEffects(counters), each, MemoryCheckpoints()).run(until_caught_up=True)
        assert (await counters.load("all")).count == 4


async def test_two_targets_of_one_category_are_refused(store: MemoryStore) -> None:
    async with MemoryStore() as other:
        with pytest.raises(ValueError, match="two targets have one category"):
            ProcessManager(
                Counting, store, MemoryCheckpoints(), targets=[Repository(Counter, store), Repository(Counter, other)]
            )


class Down(MemoryStore):
    """A store that cannot be written as long as `is_down`."""

    is_down = True
    refused = 0

    async def append(self, commit: Commit) -> Receipt:
        if self.is_down:
            self.refused += 1
            raise StoreUnavailable("no answer")
        return await super().append(commit)


async def test_a_target_that_is_down_parks_nothing(store: MemoryStore) -> None:
    await place(store, "o-1")
    async with Down() as depot:
        counters = Repository(Counter, depot)
        manager = ProcessManager(Counting, store, MemoryCheckpoints(), targets=[counters], attempts=1)
        task = asyncio.create_task(manager.run())
        async with asyncio.timeout(20):
            while depot.refused < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert not await manager.processors[1].parked()
            depot.is_down = False
            while not (await counters.load_many(["all"])):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        manager.stop()
        await task
        assert (await counters.load("all")).count == 1


async def test_a_manager_that_is_stopped_stays_so(store: MemoryStore) -> None:
    await place(store, "o-1")
    manager = ProcessManager(Counting, store, MemoryCheckpoints(), targets=[Repository(Counter, store)])
    manager.stop()
    async with asyncio.timeout(20):
        await manager.run()  # ends at once
    task = asyncio.create_task(manager.run())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="running already"):
        await manager.run()
    manager.stop()
    async with asyncio.timeout(20):
        await task


async def test_timers_that_others_have_stored_are_fired_by_a_schedule(store: MemoryStore) -> None:
    orders = await place(store, "o-1")
    now = [0]
    checkpoints = MemoryCheckpoints()
    options: dict[str, Any] = {"targets": [orders, Repository(Stock, store)], "clock": lambda: now[0]}
    warm = ProcessManager(Fulfilment, store, checkpoints, **options)
    assert await warm.fire_due() == 0
    await ProcessManager(Fulfilment, store, checkpoints, **options).run(until_caught_up=True)
    now[0] = 4_000_000_000_000_000
    assert await warm.fire_due() == 1


class Tick(Event, tag="tick"):
    number: int


class Holding(Process, tag="holding"):
    starts = (Paid,)
    ticks: int = 0

    def on_placed(self, event: Placed) -> Asks:
        for number in range(50):
            yield after(timedelta(days=1), Tick(number=number), name=f"{self.ticks}-{number}-{'x' * 50}")
        self.record(Counted(by="x"))

    def on_paid(self, event: Paid) -> Asks:
        yield from ()

    def on_tick(self, event: Tick) -> Asks:
        yield from ()

    def apply_counted(self, event: Counted) -> None:
        self.ticks += 1


async def test_many_held_events_are_handled_in_commits_of_their_own(store: MemoryStore) -> None:
    sources = {f"s{number}": MemoryStore() for number in range(40)}
    for each in sources.values():
        await each.open()
        await place(each, "o-1")
    manager = ProcessManager(Holding, store, MemoryCheckpoints(), sources=sources)
    await manager.run(until_caught_up=True)
    first = next(iter(sources.values()))
    await Repository(Order, first).execute("o-1", Order.pay)
    await manager.run(until_caught_up=True)
    holding = await manager.repository.load("o-1")
    assert (holding.ticks, holding.instance.held, len(holding.instance.timers)) == (40, [], 40 * 50)
    assert [entry.commit.events < 200 async for entry in manager.repository.history("o-1")]
    for each in sources.values():
        await each.aclose()


class Charge(Event, tag="charge"):
    pass


class Charged(Event, tag="charged"):
    pass


class Typo(Process, tag="typo"):
    def on_placed(self, event: Placed) -> Asks:
        yield call("provyder", Charge())


async def test_services_are_checked_before_anything_is_stored(store: MemoryStore) -> None:
    async def charge(request: Charge, key: str) -> Charged | None:
        return None

    with pytest.raises(DeclarationError, match="answers with Charged, which Typo does not handle"):
        ProcessManager(Typo, store, MemoryCheckpoints(), services={"provider": charge})
    await place(store, "o-1")
    manager = ProcessManager(Typo, store, MemoryCheckpoints(), attempts=1)
    with pytest.raises(Exception, match="order-o-1"):
        await manager.run(until_caught_up=True)
    assert not await manager.repository.load_many(["o-1"])


async def test_schedulers_of_one_store_have_tags(store: MemoryStore) -> None:
    orders = await place(store, "o-1")
    checkpoints = MemoryCheckpoints()
    one = Scheduler(store, checkpoints, targets=[orders], clock=lambda: 2**60)
    other = Scheduler(store, checkpoints, targets=[Repository(Counter, store)], clock=lambda: 2**60, tag="counts")
    due = datetime(2026, 1, 1, tzinfo=UTC)
    await one.schedule(command(Order, "o-1", Order.cancel, "late"), at=due)
    await other.schedule(create_or_command(Counter, "all", Counter.add, "x"), at=due)
    for each in (other, one):
        await each.run(until_caught_up=True)
    assert (await orders.load("o-1")).state == "cancelled: late"
    assert (await Repository(Counter, store).load("all")).count == 1


class Final(Process, tag="final"):
    def on_placed(self, event: Placed) -> Asks:
        yield command(Order, self.id, Order.pay)
        yield command(Order, self.id, Order.pay)
        yield end()


async def test_a_refusal_after_the_end_is_in_the_log(store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "eventsrc")
    orders = await place(store, "o-1")
    await ProcessManager(Final, store, MemoryCheckpoints(), targets=[orders]).run(until_caught_up=True)
    assert "final-o-1: order.pay of o-1 was refused with AlreadyDecided" in caplog.text


class Patient(Process, tag="patient"):
    def on_placed(self, event: Placed) -> Asks:
        yield after(timedelta(days=100_000_000), Tick(number=1))

    def on_tick(self, event: Tick) -> Asks:
        yield end()


async def test_a_timer_that_no_store_can_keep_is_refused_before_anything_is_stored(store: MemoryStore) -> None:
    await place(store, "o-1")
    manager = ProcessManager(Patient, store, MemoryCheckpoints(), attempts=1)
    with pytest.raises(Exception, match="order-o-1"):
        await manager.run(until_caught_up=True)
    [parked] = await manager.processors[0].parked()
    assert "timer 'tick' is due after the year 9999" in parked.error


async def test_a_process_can_begin_with_what_is_stored_from_now_on(store: MemoryStore) -> None:
    await place(store, "o-1")
    counters = Repository(Counter, store)
    manager = ProcessManager(Counting, store, MemoryCheckpoints(), targets=[counters], start="now")
    await manager.run(until_caught_up=True)
    await place(store, "o-2")
    await manager.run(until_caught_up=True)
    assert (await counters.load("all")).count == 1


class Waiting(Process, tag="waiting"):
    def on_placed(self, event: Placed) -> Asks:
        yield after(timedelta(minutes=15), Tick(number=1))

    def on_paid(self, event: Paid) -> Asks:
        yield cancel(Tick)

    def on_tick(self, event: Tick) -> Asks:
        yield create_or_command(Counter, "all", Counter.add, self.id)


async def test_a_timer_that_has_fired_can_be_cancelled_until_it_is_handled(store: MemoryStore) -> None:
    orders, counters, now = await place(store, "o-1"), Repository(Counter, store), [0]
    manager = ProcessManager(Waiting, store, MemoryCheckpoints(), targets=[counters], clock=lambda: now[0])
    await manager.run(until_caught_up=True)
    now[0] = 2**52
    assert await manager.fire_due() == 1
    await orders.execute("o-1", Order.pay)
    await Runner(manager.processors[0]).run(until_caught_up=True)
    await manager.run(until_caught_up=True)
    assert not await counters.load_many(["all"])
