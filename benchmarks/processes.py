"""Measure processes: how many a second, how soon commands are applied, how late timers fire, and what steps cost."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from time import perf_counter, time_ns
from typing import Any, NamedTuple

from support.tables import checkpoints_on, fresh_name, store_on

from eventsrc import Aggregate, Event, Repository, SQLiteStore
from eventsrc.concurrency import load_all
from eventsrc.local import dynamodb_local
from eventsrc.processes import Asks, Done, Due, Process, ProcessManager, after, cancel, create_or_command, end
from eventsrc.processes.events import TimerFired
from eventsrc.processing import SQLiteCheckpoints

from .counting import Counts, counting
from .measure import Figure, markdown, median_of, quantile
from .peers import SAGAS as PEERS
from .peers import Unavailable, driving

PROCESSES = {"SQLite": 1_000, "DynamoDB Local": 300}
LATENCIES = {"SQLite": 300, "DynamoDB Local": 100}  # commands, one after the other
PENDING = (10, 1_000, 100_000)
FIRED = 200  # timers, spread over SPREAD seconds
SPREAD = 4.0
COUNTED = (40, 120)  # processes whose steps are counted
SAGAS, SAGA_ROUNDS = 1_000, 3
DAY = 86_400 * 10**6  # µs


class Placed(Event, tag="order.placed"):
    asks: str


class Next(Event, tag="order.next"):
    pass


class Order(Aggregate, tag="order"):
    def apply_any(self, event: Placed | Next) -> None: ...


class Reserved(Event, tag="stock.reserved"):
    order: str


class Stock(Aggregate, tag="stock"):
    def reserve(self, order: str) -> None:
        self.record(Reserved(order=order))

    def apply_reserved(self, event: Reserved) -> None: ...


class Alarm(Event, tag="alarm"):
    pass


class Work(Process, tag="work"):
    """Asks for what its order says."""

    def on_placed(self, event: Placed) -> Asks:
        match event.asks:
            case "command":
                yield create_or_command(Stock, f"s-{self.id}", Stock.reserve, self.id)
            case "timer":
                yield after(timedelta(days=1), Alarm())
            case "fire":
                yield after(timedelta(0), Alarm())
            case "soon":
                yield after(timedelta(seconds=1.0 + int(self.id.partition("-")[2]) / FIRED * SPREAD), Alarm())

    def on_next(self, event: Next) -> Asks:
        yield cancel(Alarm)

    def on_done(self, event: Done) -> Asks:
        yield end()

    def on_alarm(self, event: Alarm) -> Asks:
        return ()


class Place:
    """A store with checkpoints, both new, that notes when a command is first applied to each stream."""

    def __init__(self, store: Any, checkpoints: Any, table: str = "", checkpoints_table: str = "") -> None:
        self.store, self.checkpoints = store, checkpoints
        self.table, self.checkpoints_table = table, checkpoints_table
        self.applied: dict[str, float] = {}
        self.orders: Repository[Order] = Repository(Order, store)
        append = store.append

        async def noting(commit: Any) -> Any:
            receipt = await append(commit)
            if commit.command_id is not None:
                self.applied[commit.stream] = perf_counter()
            return receipt

        store.append = noting

    def manager(self) -> ProcessManager[Work]:
        return ProcessManager(Work, self.store, self.checkpoints, targets=[Repository(Stock, self.store)])

    async def place(self, ids: Sequence[str], asks: str) -> None:
        async def one(id: str) -> None:
            order = Order(id=id)
            order.record(Placed(asks=asks))
            await self.orders.save(order)

        await load_all(one, ids, 32)


class Steps(NamedTuple):
    """What a number of steps cost."""

    requests: float
    read_units: float
    write_units: float

    @classmethod
    def of(cls, counts: Counts) -> Steps:
        return cls(float(counts.requests), counts.read_units, counts.write_units)

    def less(self, other: Steps) -> Steps:
        return Steps(*(a - b for a, b in zip(self, other, strict=True)))


@asynccontextmanager
async def _places(kind: str, endpoint: str, folder: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        store: Any
        checkpoints: Any
        tables = "", ""
        if kind == "SQLite":
            name = os.urandom(4).hex()
            store, checkpoints = SQLiteStore(folder / f"{name}.db"), SQLiteCheckpoints(folder / f"{name}-c.db")
        else:
            tables = fresh_name(), fresh_name()
            store, checkpoints = store_on(endpoint, tables[0]), checkpoints_on(endpoint, tables[1])
        await stack.enter_async_context(store)
        await stack.enter_async_context(checkpoints)
        if kind != "SQLite":
            await store.create_table(stream=True)
            await checkpoints.create_table()
        yield Place(store, checkpoints, *tables)


@asynccontextmanager
async def _running(place: Place) -> AsyncIterator[ProcessManager[Work]]:
    manager = place.manager()
    running = asyncio.create_task(manager.run())
    try:
        for each in manager.processors:
            await each.caught_up.wait()
        yield manager
    finally:
        manager.stop()
        await running


def measure() -> dict[str, Any]:
    return {"figures": [asdict(figure) for figure in asyncio.run(_measure())]}


async def _measure() -> list[Figure]:
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with dynamodb_local() as local:
            for kind in PROCESSES:
                print(f"  {kind}: processes", file=sys.stderr, flush=True)
                async with _places(kind, local.endpoint_url, folder) as place:
                    found += await _throughput(kind, place)
                async with _places(kind, local.endpoint_url, folder) as place:
                    found += await _latency(kind, place)
                for pending in PENDING:
                    print(f"  {kind}: {pending:,} timers", file=sys.stderr, flush=True)
                    async with _places(kind, local.endpoint_url, folder) as place:
                        found += await _lateness(kind, pending, place)
            print("  steps", file=sys.stderr, flush=True)
            found += await _steps(local.endpoint_url, folder)
        print("  sagas", file=sys.stderr, flush=True)
        found += await _sagas(folder)
    return found


async def _throughput(kind: str, place: Place) -> list[Figure]:
    """Place orders first, and then handle them: an input, a command, its outcome and the end for each."""
    count = PROCESSES[kind]
    await place.manager().run(until_caught_up=True)
    await place.place([f"o-{number}" for number in range(count)], "command")
    begun = perf_counter()
    await place.manager().run(until_caught_up=True)
    seconds = perf_counter() - begun
    assert len(place.applied) == count
    return [Figure(f"processes a second, {kind}", count / seconds)]


async def _latency(kind: str, place: Place) -> list[Figure]:
    times = []
    async with _running(place):
        for number in range(LATENCIES[kind]):
            await place.place([f"o-{number}"], "command")
            begun = perf_counter()
            target = f"stock-s-o-{number}"
            while target not in place.applied:  # noqa: ASYNC110  # it is noted where the store is called
                await asyncio.sleep(0.0005)
            times.append((place.applied[target] - begun) * 1000)
    text = f"ms from an event to its command, applied, {kind}"
    return [Figure(text, median_of(times)), Figure(f"{text}, p99", quantile(times, 0.99))]


async def _lateness(kind: str, pending: int, place: Place) -> list[Figure]:
    """Fire timers while others wait, which are due much later."""
    manager = place.manager()
    await manager.timers.prepare()
    name = manager.processors[-1].name
    later = time_ns() // 1000 + DAY

    async def wait(number: int) -> None:
        await manager.timers.put(name, Due(later + number, f"work-waiting-{number}", 1, "alarm"))

    await load_all(wait, range(pending), 32)
    ids = [f"o-{number}" for number in range(FIRED)]
    late: list[float] = []
    async with _running(place) as running:
        await place.place(ids, "soon")
        for id in ids:
            while (at := await _read_fired(running, id)) is None:  # noqa: ASYNC110  # only the stream says it
                await asyncio.sleep(0.05)
            late.append(at)
    text = f"ms that a timer is late, {kind}, {pending:,} pending"
    return [
        Figure(text, median_of(late)),
        Figure(f"{text}, p99", quantile(late, 0.99), 1_000.0 if kind == "SQLite" else None, at_most=True),
    ]


async def _read_fired(manager: ProcessManager[Work], id: str) -> float | None:
    """Return how many ms late the timer of a process has fired, or None if it has not."""
    async for recorded in manager.repository.history(id):
        for event in recorded.events:
            if isinstance(event, TimerFired):
                return (recorded.commit.time - event.due) / 1000
    return None


async def _steps(endpoint: str, folder: Path) -> list[Figure]:
    """Count requests and units of the steps: the slope from a few processes to more, so without those of the run."""
    costs: dict[str, Steps] = {}
    for asks in ("nothing", "command", "timer", "cancel", "fire"):
        few, more = [await _count(endpoint, folder, asks, count) for count in COUNTED]
        counted = COUNTED[1] - COUNTED[0]
        costs[asks] = Steps(*((b - a) / counted for a, b in zip(few, more, strict=True)))
    rows = {
        "an event taken in": costs["nothing"],
        "a command issued, and its outcome taken in": costs["command"].less(costs["nothing"]),
        "a timer started": costs["timer"].less(costs["nothing"]),
        "a timer fired, and its event handled": costs["fire"].less(costs["timer"]),
        "a timer cancelled": costs["cancel"].less(costs["nothing"]),
    }
    return [
        Figure(f"{name}: {what}", value)
        for what, each in rows.items()
        for name, value in zip(("requests", "read units", "write units"), each, strict=True)
    ]


async def _count(endpoint: str, folder: Path, asks: str, count: int) -> Steps:
    """Return the requests and units of so many processes that do one thing, with those of the run."""
    async with (
        _places("DynamoDB Local", endpoint, folder) as place,
        counting(endpoint) as proxy,
        store_on(proxy.url, place.table) as store,
        checkpoints_on(proxy.url, place.checkpoints_table) as checkpoints,
    ):
        counted = Place(store, checkpoints)
        await counted.manager().run(until_caught_up=True)  # it is registered now
        ids = [f"o-{number}" for number in range(count)]
        await place.place(ids, "timer" if asks == "cancel" else asks)
        if asks == "cancel":
            await counted.manager().run(until_caught_up=True)
            for id in ids:
                order = await place.orders.load(id)
                order.record(Next())
                await place.orders.save(order)
        before = Steps.of(proxy.counts)
        await counted.manager().run(until_caught_up=True)
        return Steps.of(proxy.counts).less(before)


async def _sagas(folder: Path) -> list[Figure]:
    """Compare with a saga by hand on another library, on SQLite: they take turns."""
    rates: dict[str, list[float]] = {peer.name: [] for peer in PEERS}
    cpu: dict[str, list[float]] = {peer.name: [] for peer in PEERS}
    try:
        for turn in range(SAGA_ROUNDS):
            for peer in PEERS:
                where = folder / f"saga-{peer.name}-{turn}"
                where.mkdir()
                async with driving(peer, folder / "log") as driver:
                    answer = await driver.ask("saga", where=str(where), count=SAGAS)
                rates[peer.name].append(SAGAS / answer["wall"])
                cpu[peer.name].append(answer["cpu"] / SAGAS * 1000)
    except Unavailable as missing:
        print(f"  {missing}", file=sys.stderr)
        return []
    found = [Figure(f"sagas a second, SQLite, {name}", median_of(each)) for name, each in rates.items()]
    found += [Figure(f"ms of CPU of a saga, SQLite, {name}", median_of(each)) for name, each in cpu.items()]
    ratios = [ours / theirs for ours, theirs in zip(rates["eventsrc"], rates["eventsourcing"], strict=True)]
    return [*found, Figure("sagas a second, SQLite: eventsrc ÷ eventsourcing", median_of(ratios))]


def goals(found: dict[str, Any]) -> list[Figure]:
    return [figure for each in found["figures"] if (figure := Figure(**each)).goal is not None]


def section(found: dict[str, Any]) -> str:
    values = {each["name"]: each["value"] for each in found["figures"]}
    names = ("requests", "read units", "write units")
    steps = [name.partition(": ")[2] for name in values if name.startswith("requests: ")]
    rows = [[step, *(f"{values[f'{name}: {step}']:.2f}" for name in names)] for step in steps]
    late = [
        [kind, f"{pending:,}", f"{values[text]:.1f}", f"{values[f'{text}, p99']:.1f}"]
        for kind in PROCESSES
        for pending in PENDING
        if (text := f"ms that a timer is late, {kind}, {pending:,} pending") in values
    ]
    others = [
        [name, f"{value:.3g}"]
        for name, value in values.items()
        if not name.startswith(names) and not name.startswith("ms that a timer")
    ]
    return f"""## Processes

A process takes in an event of an order, asks for a command of another aggregate, takes in its outcome and ends: five
events in three commits, and the command. A saga by hand on eventsourcing is a process application, which stores all of
that in one transaction, in one process and one database; here each step is a commit of its own, so that targets may be
in any store, and workers share the work. That takes several times the CPU.

{markdown(["figure", "measured"], others)}

{FIRED} timers fire within {SPREAD:.0f} seconds, while others wait that are due much later. How late is the time of the
commit that records it, less the time at which the timer is due. The first ones are due a second after their order is
stored. On DynamoDB a timer is stored once the order, and then the commit of the process, have come out of the table's
stream, which takes most of that second and, next to many writes, more: those are as late as they were stored.

{markdown(["store", "pending", "ms late, median", "p99"], late)}

What steps cost on DynamoDB Local, without the requests to its streams and without what a run costs whatever it does:

{markdown(["step", *names], rows)}
"""


def draw(found: dict[str, Any]) -> None:
    """Draw nothing: this part has no plots."""
