"""Processes that run: what they take in, ask for and record, exactly once, on all kinds of stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.fulfilment import Fulfilment, Order, Paid, PaymentMissing, Placed, Stock
from support.ledger import until

from eventsrc import Aggregate, Event, MemoryStore, Repository, SQLiteStore, trace
from eventsrc.processes import (
    Asks,
    Done,
    Input,
    Process,
    ProcessManager,
    Refused,
    ServiceRefused,
    after,
    call,
    cancel,
    command,
    end,
)
from eventsrc.processing import Checkpoints, MemoryCheckpoints, SQLiteCheckpoints
from eventsrc.stores import OrderedStore
from eventsrc.tracing import find_trace


class Clock:
    """A clock that is set by hand, in µs since the epoch. It starts after all events of a test."""

    def __init__(self) -> None:
        self.now = 4_000_000_000_000_000

    def __call__(self) -> int:
        return self.now

    def pass_(self, **time: float) -> None:
        self.now += timedelta(**time) // timedelta(microseconds=1)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OrderedStore]:
    made: OrderedStore = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "shop.db")
    async with made:
        yield made


@pytest.fixture
async def checkpoints(store: OrderedStore, tmp_path: Path) -> AsyncIterator[Checkpoints]:
    made = MemoryCheckpoints() if isinstance(store, MemoryStore) else SQLiteCheckpoints(tmp_path / "model.db")
    async with made:
        yield made


@pytest.fixture
def orders(store: OrderedStore) -> Repository[Order]:
    return Repository(Order, store)


@pytest.fixture
def stock(store: OrderedStore) -> Repository[Stock]:
    return Repository(Stock, store)


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def place(orders: Repository[Order], id: str, quantity: int = 3) -> None:
    await orders.executor(create=True).execute(id, Order.place, "pen", quantity)


def manage(
    store: OrderedStore, checkpoints: Checkpoints, *targets: Repository[Any], **options: Any
) -> ProcessManager[Fulfilment]:
    return ProcessManager(Fulfilment, store, checkpoints, targets=targets, **options)


@asynccontextmanager
async def running(*managers: ProcessManager[Any]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each.run(save_every=0.05)) for each in managers]
    try:
        yield
    finally:
        for each in managers:
            each.stop()
        async with asyncio.timeout(20):
            await asyncio.gather(*tasks)


async def state_of(orders: Repository[Order], id: str) -> str:
    return (await orders.load(id)).state


async def until_state(orders: Repository[Order], id: str, state: str) -> None:
    async with asyncio.timeout(20):
        while await state_of(orders, id) != state:  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.01)


async def until_ended(manager: ProcessManager[Any], *ids: str) -> None:
    """Wait until these processes have ended, all they asked for is done, and their timers are removed."""
    async with asyncio.timeout(20):
        for id in ids:
            while not (found := (await manager.repository.load(id)).instance).ended or found.pending:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        while await manager.timers.count(manager.processors[-1].name):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_two_causes_lead_to_one_shipping(
    store: OrderedStore, checkpoints: Checkpoints, orders: Repository[Order], stock: Repository[Stock]
) -> None:
    manager = manage(store, checkpoints, orders, stock)
    async with running(manager):
        await place(orders, "o-1")
        await orders.execute("o-1", Order.pay)
        await until_state(orders, "o-1", "shipped")
        await place(orders, "o-2", 30)
        await until_state(orders, "o-2", "cancelled: 7 left")
        await until_ended(manager, "o-1", "o-2")
    assert (await stock.load("pen")).left == 7
    for id in ("o-1", "o-2"):
        instance = (await manager.repository.load(id)).instance
        assert (instance.ended, instance.pending, instance.timers) == (True, {}, {})
    assert await manager.timers.count("fulfilment-timers@1") == 0


async def test_an_order_that_is_not_paid_in_time_is_released(
    store: OrderedStore,
    checkpoints: Checkpoints,
    orders: Repository[Order],
    stock: Repository[Stock],
    clock: Clock,
) -> None:
    clock.now = 0
    manager = manage(store, checkpoints, orders, stock, clock=clock)
    await place(orders, "o-1")
    await manager.run(until_caught_up=True)
    timer = (await manager.repository.load("o-1")).instance.timers["fulfilment.payment-missing"]
    assert (await stock.load("pen")).left == 7
    clock.now = timer.due - 1
    await manager.run(until_caught_up=True)
    assert await state_of(orders, "o-1") == "placed"
    clock.now = timer.due
    await manager.run(until_caught_up=True)
    assert await state_of(orders, "o-1") == "cancelled: not paid"
    assert (await stock.load("pen")).left == 10
    assert await manager.timers.count("fulfilment-timers@1") == 0


async def test_timers_fire_while_the_manager_runs_and_survive_its_end(
    store: OrderedStore, checkpoints: Checkpoints, orders: Repository[Order], stock: Repository[Stock], clock: Clock
) -> None:
    clock.now = 0
    await place(orders, "o-1")
    async with running(manage(store, checkpoints, orders, stock, clock=clock)) as _:
        await until_timer(store, "o-1")
    clock.now = 4_000_000_000_000_000
    again = manage(store, checkpoints, orders, stock, clock=clock)
    async with running(again):
        await until_state(orders, "o-1", "cancelled: not paid")


async def until_timer(store: OrderedStore, id: str) -> None:
    processes = Repository(Fulfilment, store)
    async with asyncio.timeout(20):
        while not (found := await processes.load_many([id])) or not found[id].instance.timers:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_everything_that_is_handled_again_changes_nothing(
    store: OrderedStore, checkpoints: Checkpoints, orders: Repository[Order], stock: Repository[Stock], clock: Clock
) -> None:
    """All checkpoints are lost, with the timers, after more other commands than a stream remembers."""
    for number in range(5):
        await place(orders, f"o-{number}", 1)
    await orders.execute("o-1", Order.pay)
    await manage(store, checkpoints, orders, stock, clock=clock).run(until_caught_up=True)
    before = await versions_of(store)
    for number in range(100):
        executor = stock.executor(command_id=f"other-{number}")
        await executor.execute("pen", Stock.reserve, f"other-{number}", 0)
    before["stock-pen"] += 100
    async with MemoryCheckpoints() as other:
        again = manage(store, other, orders, stock, clock=clock)
        await again.run(until_caught_up=True)
        assert await again.timers.count("fulfilment-timers@1") == 0
        for processor in again.processors:
            assert not await processor.parked()
    assert await versions_of(store) == before


async def versions_of(store: OrderedStore) -> dict[str, int]:
    found: dict[str, int] = {}
    async for batch in store.feed(follow=False):
        found |= {commit.stream: commit.version for commit in batch.commits if not commit.stream.startswith("issued-")}
    return found


async def test_a_late_delivery_of_a_refused_command_does_not_apply_it(
    store: OrderedStore, checkpoints: Checkpoints, orders: Repository[Order], stock: Repository[Stock]
) -> None:
    await place(orders, "o-1", 8)
    await place(orders, "o-2", 8)
    await manage(store, checkpoints, orders, stock).run(until_caught_up=True)
    states = {await state_of(orders, id) for id in ("o-1", "o-2")}
    assert states == {"placed", "cancelled: 2 left"}
    await stock.execute("pen", Stock.reserve, "return", -10)
    async with MemoryCheckpoints() as other:
        await manage(store, other, orders, stock).run(until_caught_up=True)
    assert (await stock.load("pen")).left == 12


async def test_the_trace_shows_causes_through_processes_and_timers(
    store: OrderedStore, checkpoints: Checkpoints, orders: Repository[Order], stock: Repository[Stock], clock: Clock
) -> None:
    with trace(correlation_id="r-1"):
        await place(orders, "o-1")
    manager = manage(store, checkpoints, orders, stock, clock=clock)
    await manager.run(until_caught_up=True)
    found = await find_trace("r-1", store, processors=manager.processors)
    assert len(found.roots) == 1
    streams = {step.id.partition("@")[0] for step in found.steps}
    assert streams == {"order-o-1", "fulfilment-o-1", "stock-pen"}
    fired = [step for step in found.steps if step.handler == "fulfilment-timers@1.fire"]
    assert len(fired) == 1
    assert fired[0].parents
    assert not [step for step in found.steps if step.outside]


class Charge(Event, tag="charge"):
    amount: int


class Charged(Event, tag="charged"):
    receipt: str


class Bill(Process, tag="bill"):
    receipt: str = ""
    refusal: str = ""

    def on_placed(self, event: Placed) -> Asks:
        yield call("provider", Charge(amount=event.quantity))

    def on_charged(self, event: Charged, given: Input) -> Asks:
        self.record(event)
        yield end()

    def on_refused(self, event: Refused) -> Asks:
        self.record(Failed(reason=f"{event.category}: {event.reason}"))
        yield end()

    def apply_charged(self, event: Charged) -> None:
        self.receipt = event.receipt

    def apply_failed(self, event: Failed) -> None:
        self.refusal = event.reason


class Failed(Event, tag="bill.failed"):
    reason: str


async def test_services_are_called_with_a_key_until_they_answer(
    store: OrderedStore, checkpoints: Checkpoints, orders: Repository[Order]
) -> None:
    calls: list[tuple[int, str]] = []

    async def charge(request: Charge, key: str) -> Charged:
        calls.append((request.amount, key))
        if request.amount == 13:
            raise ServiceRefused("unlucky")
        if len(calls) < 3:
            raise ConnectionError
        return Charged(receipt=f"r-{request.amount}")

    manager = ProcessManager(Bill, store, checkpoints, services={"provider": charge})
    await place(orders, "o-1", 7)
    await manager.run(until_caught_up=True)
    assert [amount for amount, _ in calls] == [7] * 3
    assert len({key for _, key in calls}) == 1
    assert calls[0][1].endswith(":bill-o-1:1")
    assert (await manager.repository.load("o-1")).receipt == "r-7"
    await place(orders, "o-2", 13)
    await manager.run(until_caught_up=True)
    assert (await manager.repository.load("o-2")).refusal == "provider: unlucky"


class Greeting(Process, tag="greeting"):
    """Commands one aggregate for each of two sources, whose streams have the same names."""

    greeted: int = 0

    def on_placed(self, event: Placed, given: Input) -> Asks:
        self.record(Greeted())
        yield from ()

    def apply_greeted(self, event: Greeted) -> None:
        self.greeted += 1


class Greeted(Event, tag="greeting.greeted"):
    pass


async def test_sources_with_streams_of_one_name_do_not_mix(store: OrderedStore, checkpoints: Checkpoints) -> None:
    async with MemoryStore() as north, MemoryStore() as south:
        for each in (north, south):
            await place(Repository(Order, each), "o-1")
        manager = ProcessManager(Greeting, store, checkpoints, sources={"north": north, "south": south})
        await manager.run(until_caught_up=True)
        greeting = await manager.repository.load("o-1")
        assert greeting.greeted == 2
        assert greeting.instance.inputs == {"north|order-o-1": (1, 0, 0), "south|order-o-1": (1, 0, 0)}


async def test_targets_of_other_stores(checkpoints: Checkpoints, store: OrderedStore) -> None:
    async with MemoryStore() as shop, MemoryStore() as depot:
        orders, stock = Repository(Order, shop), Repository(Stock, depot)
        manager = manage(store, checkpoints, orders, stock, sources={"shop": shop})
        await place(orders, "o-1")
        await orders.execute("o-1", Order.pay)
        await manager.run(until_caught_up=True)
        assert await state_of(orders, "o-1") == "shipped"
        assert (await stock.load("pen")).left == 7


async def test_a_command_without_a_target_parks_the_process_and_says_what_to_do(
    store: OrderedStore, checkpoints: Checkpoints, orders: Repository[Order], stock: Repository[Stock]
) -> None:
    await place(orders, "o-1")
    manager = manage(store, checkpoints, orders, attempts=1)
    with pytest.raises(Exception, match="order-o-1"):
        await manager.run(until_caught_up=True)
    [parked] = await manager.processors[0].parked()
    assert "there is no repository for it; give one to ProcessManager(targets=...)" in parked.error
    again = manage(store, checkpoints, orders, stock)
    assert not await again.processors[0].retry_all()
    await again.run(until_caught_up=True)
    assert (await stock.load("pen")).left == 7


class Silent(Process, tag="silent"):
    def on_placed(self, event: Placed) -> Asks:
        yield command(Order, self.id, Order.pay)
        yield command(Order, self.id, Order.pay)

    def on_done(self, event: Done) -> Asks:
        yield from ()


async def test_a_refusal_that_is_not_handled_parks_the_process(
    store: OrderedStore, checkpoints: Checkpoints, orders: Repository[Order]
) -> None:
    await place(orders, "o-1")
    manager = ProcessManager(Silent, store, checkpoints, targets=[orders], attempts=1)
    with pytest.raises(Exception, match="silent-o-1"):
        await manager.run(until_caught_up=True)
    [parked] = await manager.processors[1].parked()
    assert "order.pay was refused with AlreadyDecided" in parked.error
    assert "write on_refused(self, event: Refused)" in parked.error


class Ticket(Aggregate, tag="ticket"):
    count: int = 0

    def tick(self) -> None:
        self.record(Greeted())

    def apply_greeted(self, event: Greeted) -> None:
        self.count += 1


class Ticking(Process, tag="ticking"):
    """Starts a timer again each time it fires, and ends after five."""

    ticks: int = 0

    def on_placed(self, event: Placed) -> Asks:
        yield after(timedelta(seconds=1), PaymentMissing())

    def on_missing(self, event: PaymentMissing) -> Asks:
        self.record(Greeted())
        yield command(Ticket, "t", Ticket.tick)
        if self.ticks < 5:
            yield after(timedelta(seconds=1), PaymentMissing())

    def apply_greeted(self, event: Greeted) -> None:
        self.ticks += 1

    def on_paid(self, event: Paid) -> Asks:
        yield cancel("no such timer")


async def test_a_timer_that_is_started_again_fires_again(
    store: OrderedStore, checkpoints: Checkpoints, orders: Repository[Order], clock: Clock
) -> None:
    tickets = Repository(Ticket, store)
    await tickets.executor(create=True).execute("t", Ticket.tick)
    manager = ProcessManager(Ticking, store, checkpoints, targets=[tickets], clock=clock)
    await place(orders, "o-1")
    await orders.execute("o-1", Order.pay)
    for _ in range(7):
        await manager.run(until_caught_up=True)
        clock.pass_(seconds=1)
    assert (await tickets.load("t")).count == 6
    assert (await manager.repository.load("o-1")).instance.is_waiting


async def test_two_managers_at_once_do_everything_once(
    store: OrderedStore, checkpoints: Checkpoints, orders: Repository[Order], stock: Repository[Stock], clock: Clock
) -> None:
    """They have checkpoints of their own, so both handle all of it, and their timers fire at the same time."""
    async with MemoryCheckpoints() as other:
        managers = [
            manage(store, each, Repository(Order, store), Repository(Stock, store), clock=clock)
            for each in (checkpoints, other)
        ]
        async with running(*managers):
            for number in range(6):
                await place(orders, f"o-{number}", 1)
            for number in range(6):
                await until_state(orders, f"o-{number}", "cancelled: not paid")
            await until_ended(managers[0], *(f"o-{number}" for number in range(6)))
            await until(lambda: all(each.processors[1].caught_up.is_set() for each in managers))
    assert (await stock.load("pen")).left == 10
    assert (await stock.load("pen")).commands == 12
