"""Processes in virtual time: two stores, workers that are killed and frozen, answers that get lost, clocks that jump.

A history is one of three kinds: orders that are reserved, paid and shipped; transfers between accounts; or picking by
plain effects, with `context.execute`. Once the faults are over and nothing is left to do, each command that was asked
for is in the stream of its target once, or it was refused for good; each timer has fired once and not too early, or it
was cancelled; each input was taken in once; each process has ended; the money is all there.

A seed defines a history: `python -m campaigns processes --seed 7 --seeds 1` replays one.
"""

from __future__ import annotations

import asyncio
import math
import random
import sqlite3
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

from eventsrc import Commit, Fenced, Repository, SnapshotPolicy, StreamParked, StreamsParked
from eventsrc.aggregates.declaration import declaration_of
from eventsrc.processes import ProcessManager, ServiceRefused, Timers
from eventsrc.processes.timers import timers_in
from eventsrc.processing import Leases, Processor, Runner
from eventsrc.processing.worker import GRACE
from eventsrc.retrying import TRANSIENT
from eventsrc.stores import OrderedStore
from eventsrc.stores.sqlite.rows import read_after

from . import market
from .clock import Deadlock, VirtualLoop, WallClock, run, virtual_time
from .hostile import Chaos, FailingCheckpoints
from .market import (
    Checking,
    Moving,
    Order,
    Payment,
    Pick,
    Picking,
    PriceAsked,
    Priced,
    Sale,
    Saving,
    Stock,
    Transfer,
)
from .process_checks import Checker, Found
from .progress import report
from .reading import silence
from .report import Layer
from .views import (
    FailingMemoryCheckpoints,
    FailingMemoryTimers,
    InlineSQLiteStore,
    SharedMemory,
    SharedMemoryStore,
    Sight,
    View,
)

TTL = 2.0
HANDLER_TIMEOUT = 5.0  # seconds
PATIENCE = 400.0  # seconds after the last fault within which everything must be done
STILL = 21.0  # seconds after that, in which nothing may be done: late writes arrive by then
LOOK = 70.0  # seconds after that, by which timers that were stored late are looked at, and are gone

OUTCOMES = ("parked", "fenced", "checkpoints kept", "other commands")  # results of faults, and no faults

EXPLAINED = (  # of parked streams, by what is injected
    *("ConnectionError", "AggregateNotFound", "StoreUnavailable", "Throttled", "CommitOutcomeUnknown"),
    *("TimeoutError", "ConflictError", "ProcessEnded"),
)


class Worker:
    """A worker, with its own view of the stores and checkpoints."""

    def __init__(self, play: Play) -> None:
        self.play, self.sight = play, Sight(play.chaos)
        play.opened += 1
        self.name = f"w-{play.opened}"
        self.views = {name: View(store, self.sight, play.is_out(name)) for name, store in play.stores.items()}
        self.checkpoints, self.timers = play.open_checkpoints(self.sight)
        self.leases: list[Leases] = []
        self.task: asyncio.Task[None] | None = None
        self.sight.crash = self._crash
        self._stop: Callable[[], None] = lambda: None
        self._ends = math.inf

    async def start(self) -> None:
        for view in self.views.values():
            await view.open()
        self.work = self.play.make_work(self)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        leases = self._make_leases if self.play.slots else None
        if isinstance(self.work, ProcessManager):
            self._stop = self.work.stop
            if self.play.in_batches:
                await self._run_in_batches(self.work)
            else:
                await self.work.run(leases=leases, save_every=self.play.random.choice((0.3, 1.5)))
        else:
            runner = Runner(*self.work, leases=leases() if leases is not None else None, save_every=0.5)
            self._stop = runner.stop
            await runner.run()

    async def _run_in_batches(self, manager: ProcessManager[Any]) -> None:
        """Run to the end of the feeds again and again, as a schedule does."""
        while True:
            with suppress(StreamsParked, *TRANSIENT):
                await manager.run(until_caught_up=True)
            await asyncio.sleep(1)

    def _make_leases(self) -> Leases:
        leases = Leases(worker=f"{self.name}-{len(self.leases)}", slots=self.play.slots, ttl=TTL)
        self.leases.append(leases)
        return leases

    @property
    def processors(self) -> Sequence[Processor[Any]]:
        return self.work.processors if isinstance(self.work, ProcessManager) else self.work

    @property
    def has_given_up(self) -> bool:
        """Whether it was stopped so long ago that it does not wait for a store any more."""
        return asyncio.get_running_loop().time() >= self._ends

    def stop(self) -> None:
        self._ends = asyncio.get_running_loop().time() + GRACE
        if self.play.in_batches and self.task is not None:
            self.task.cancel()
        self._stop()

    async def freeze(self, seconds: float) -> None:
        """Suspend the worker as SIGSTOP does. Until it resumes it does not detect that its lease has expired."""
        assert self.task is not None
        self.sight.back.clear()
        self._count_on_leases(asyncio.get_running_loop().time() + seconds)
        await asyncio.wait([self.task], timeout=seconds)
        self.sight.back.set()
        await asyncio.sleep(0.12)  # its pending write completes
        self._count_on_leases(-math.inf)

    def _count_on_leases(self, until: float) -> None:
        for leases in self.leases:
            leases._last = until
            if leases._limit is not None and not leases._limit.expired():
                leases._limit.reschedule(leases._ends)

    def _crash(self) -> None:
        self.sight.is_dead = True
        self.checkpoints.is_dead = True
        self.sight.back.set()
        if self.task is not None:
            self.task.cancel()

    async def kill(self) -> None:
        """Cancel the worker. Nothing that it does later takes effect, except writes in flight."""
        self._crash()
        if self.task is not None:
            with suppress(asyncio.CancelledError, Exception):
                await self.task

    async def close(self) -> None:
        for view in self.views.values():
            await view.aclose()


class Play(ABC):
    """One history: the stores and checkpoints, the workers and their faults, and what users do in the meantime."""

    category: str  # of the targets that get other commands

    def __init__(self, source: Random, folder: Path, seed: int, wall: WallClock) -> None:
        self.random, self.wall, self.chaos = source, wall, Chaos(source)
        self.chaos.rates |= {
            "dropped": 0.0,
            "handler hung": 0.0,
            "handler failed": source.choice((0.0, 0.1, 0.4)),
            "command failed": source.choice((0.0, 0.1, 0.4)),
            "refused": source.choice((0.0, 0.3, 0.8)),
            "service failed": source.choice((0.0, 0.3)),
            "answer lost": source.choice((0.0, 0.1)),
            "write late": source.choice((0.0, 0.1)),
            "crashed after a write": source.choice((0.0, 0.05, 0.2)),
            "write refused": source.choice((0.0, 0.03, 0.1)),
        }
        self.chaos.is_lossless = True
        self.violations: list[str] = []
        self.opened = 0
        self.slots = source.choice((0, 1, 3, 8))
        self.in_batches = not self.slots and source.random() < 0.3
        self.stores: dict[str, OrderedStore] = {"a": self._make_store(folder / f"{seed}-a.db")}
        self.home = source.choice(("a", "b", "b"))  # the store of the processes, and of some of the targets
        if self.home == "b":
            self.stores["b"] = self._make_store(folder / f"{seed}-b.db")
        self.sources = {"a": "a", "b": "b"} if self.home == "b" else {"": "a"}
        self._memory = SharedMemory() if source.random() < 0.7 else None
        self._path = folder / f"{seed}-checkpoints.db"
        self._files: list[FailingCheckpoints] = []
        self._copies: list[Any] = []
        self.clock_shown = 0  # the latest time that the clock of a manager has shown
        self.latest: dict[bytes, int] = {}  # by the id of a commit, what that was when it was stored
        self._outages: dict[str, float] = {}
        self._workers: dict[Worker, None] = {}
        self._zombies: list[asyncio.Task[None]] = []
        self.over, self._ended, self._open = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._open.set()
        self._calm: dict[tuple[Any, str], Repository[Any]] = {}
        self.found = Found(0, 0, 0, 0, [])
        self._jumps = source.random() < 0.3
        self._ahead = self._most_ahead = 0.0  # seconds by which the clock was set

    # What a kind of history says.

    @abstractmethod
    def make_work(self, worker: Worker) -> Any:
        """Return the manager, or the processors, of a worker."""

    @abstractmethod
    async def use(self) -> None:
        """Do what users do, without faults."""

    @abstractmethod
    async def do_others(self, count: int) -> None:
        """Let one of the targets take this number of other commands."""

    @abstractmethod
    async def check(self) -> Found:
        """Compare what was done with what should have been done."""

    # The world.

    def _make_store(self, path: Path) -> OrderedStore:
        return InlineSQLiteStore(path) if self.random.random() < 0.15 else SharedMemoryStore()

    def clock(self) -> int:
        """Return the time for managers, in µs since the epoch."""
        now = self.wall.time_ns() // 1000
        self.clock_shown = max(self.clock_shown, now)
        return now

    def is_out(self, store: str) -> Callable[[], bool]:
        return lambda: self._outages.get(store, 0.0) > asyncio.get_running_loop().time()

    def open_checkpoints(self, sight: Sight) -> tuple[Any, Timers]:
        if self._memory is not None:
            return FailingMemoryCheckpoints(self._memory, sight), FailingMemoryTimers(self._memory, sight)
        opened = FailingCheckpoints(self._path, self.chaos, self.opened, lambda processor: None)
        opened.back = sight.back
        self._files.append(opened)
        return opened, timers_in(opened)

    def repository(self, kind: Any, store: OrderedStore) -> Repository[Any]:
        """Return a repository that writes snapshots, or none."""
        policy = self.random.choice((SnapshotPolicy(enabled=False), SnapshotPolicy(floor=1_500)))
        return Repository(kind, store, snapshots=policy)

    def calm(self, kind: Any, store: str = "") -> Repository[Any]:
        """Return a repository without faults."""
        key = kind, store or self.home
        if key not in self._calm:
            self._calm[key] = Repository(kind, self.stores[key[1]], snapshots=SnapshotPolicy(enabled=False))
        return self._calm[key]

    async def create(self, kind: Any, id: str, command: Callable[..., Any], *args: Any, store: str = "") -> None:
        await self.calm(kind, store).executor(create=True).execute(id, command, *args)

    def logs(self) -> Mapping[str, Mapping[str, Sequence[Commit]]]:
        return {name: self._read_log(store) for name, store in self.stores.items()}

    def _read_log(self, store: OrderedStore) -> Mapping[str, Sequence[Commit]]:
        if isinstance(store, SharedMemoryStore):
            return store._streams
        found: dict[str, list[Commit]] = defaultdict(list)
        position, complete = 0, False
        connection = store._reading  # type: ignore[attr-defined]
        while not complete:
            rows, complete = read_after(connection, position, 1_000)
            for row in rows:
                assert isinstance(row, Commit)
                assert row.position is not None
                found[row.stream].append(row)
                position = row.position
        return found

    def _note_appends(self) -> None:
        """Note for each commit the latest time that a clock had shown."""
        for store in self.stores.values():
            append = store.append

            async def noting(commit: Commit, append: Any = append) -> Any:
                self.latest.setdefault(commit.id, self.clock_shown)
                return await append(commit)

            store.append = noting  # type: ignore[method-assign]

    # The history.

    async def play(self) -> None:
        for store in self.stores.values():
            await store.open()
        self._note_appends()
        market.trouble.strikes = self.chaos.strikes
        self._copies.append(self._copy())
        try:
            async with asyncio.TaskGroup() as group:
                places = [
                    group.create_task(self._place()) for _ in range(self.random.randint(1, 3) if self.slots else 1)
                ]
                operator = group.create_task(self._noting("an operator", self._operate()))
                await self._noting("a user", self.use())
                await asyncio.sleep(self.random.choice((10, 30, 60)))
                self.chaos.off()
                self._outages.clear()
                self.over.set()
                self._jump(self._most_ahead - self._ahead)  # else timers would wait until the clock is there again
                await self._until_done()
                operator.cancel()
                self._ended.set()
                for worker in self._workers:
                    worker.stop()
                await asyncio.wait([*places, *self._zombies])
        finally:
            market.trouble.strikes = lambda kind: False
            for opened in self._files:
                opened.close()
        for store in self.stores.values():
            await store.aclose()
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        self.violations += [f"a task was left: {task!r}" for task in left]

    async def _noting(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Do some work. An exception is a violation."""
        try:
            await work
        except Exception as error:
            self.violations.append(f"{name} ended with {error!r}")

    async def _until_done(self) -> None:
        """Wait until everything is done. Then nothing may change any more."""
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while (found := await self._check_all()).violations and loop.time() < end:  # noqa: ASYNC110  # virtual time
            await asyncio.sleep(5)
        if not found.violations:
            before = self._count()
            await asyncio.sleep(STILL)
            end = loop.time() + LOOK
            while (found := await self._check_all()).violations and loop.time() < end:  # noqa: ASYNC110
                await asyncio.sleep(5)
            if self._count() != before:
                self.violations.append("more was done after everything was done")
        self.found = found
        self.violations += found.violations

    async def _check_all(self) -> Found:
        found = await self.check()
        violations = list(found.violations)
        for processor in self._desk.processors:
            with suppress(*TRANSIENT):
                violations += [f"{processor.name}: {each.stream} is parked" for each in await processor.parked()]
        violations += await self.check_timers()
        return found._replace(violations=violations)

    async def check_timers(self) -> Sequence[str]:
        """Return what is wrong with the stored timers: none may be left."""
        if isinstance(self._desk.work, ProcessManager):
            for processor in self._desk.work.processors:
                if processor.projection.tag.endswith("-timers"):
                    await self._desk.timers.prepare()
                    if left := await self._desk.timers.count(processor.name):
                        return [f"{left} timers are left in the store of timers"]
        return ()

    def _count(self) -> int:
        return sum(len(commits) for streams in self.logs().values() for commits in streams.values())

    async def _place(self) -> None:
        """Run one worker after the other."""
        dice = self.random
        await asyncio.sleep(dice.uniform(0, 2))
        while True:
            await self._open.wait()
            worker = Worker(self)
            await worker.start()
            self._workers[worker] = None
            if await self._live(worker) == "zombie":
                self._zombies.append(asyncio.get_running_loop().create_task(self._thaw(worker)))
            else:
                await self._await(worker)
            if self._ended.is_set():
                return
            if not self.over.is_set():
                await self._be_busy()
                await asyncio.sleep(dice.choice((0.0, 0.5, 5.0)))

    async def _await(self, worker: Worker) -> None:
        """Wait for the end of a worker."""
        assert worker.task is not None
        try:
            await worker.task
        except asyncio.CancelledError:
            pass
        except Fenced:
            self.chaos.counts["fenced"] += 1
            if self.slots:
                self.violations.append("a worker with leases was fenced")
            elif self.over.is_set() and not self._ended.is_set():
                await asyncio.sleep(1)
        except Exception as error:  # any other exception is a violation
            if not (worker.sight.is_dead or (worker.has_given_up and isinstance(error, TRANSIENT))):
                self.violations.append(f"a worker ended with {error!r}")
        await worker.close()
        del self._workers[worker]

    async def _be_busy(self) -> None:
        """Let a target take other commands while its commands are interrupted."""
        dice = self.random
        if count := dice.choice((0,) * 12 + (3, 70, 70, 150)) if dice.random() < 0.99 else 1_000:
            self.chaos.counts["other commands"] += count
            await self.do_others(count)

    async def _live(self, worker: Worker) -> str:
        """Disturb a worker until it is stopped or killed, or until the faults are over. Return the last disturbance."""
        dice, chaos = self.random, self.chaos
        assert worker.task is not None
        while not self.over.is_set():
            await asyncio.wait([worker.task], timeout=dice.choice((0.1, 0.4, 2.0, 8.0, 20.0)))
            if self.over.is_set() or worker.task.done():
                break
            match kind := dice.choice(("continue", "freeze", "zombie", "stop", "cancel", "kill", "kill")):
                case "freeze":
                    chaos.counts["frozen"] += 1
                    await worker.freeze(dice.choice((1.0, 3 * TTL)))
                case "zombie" if not self.slots and not self.in_batches:
                    chaos.counts["frozen"] += 1
                    return kind
                case "stop":
                    chaos.counts["stopped"] += 1
                    worker.stop()
                    return kind
                case "cancel":
                    chaos.counts["cancelled"] += 1
                    worker.task.cancel()
                    return kind
                case "kill":
                    chaos.counts["killed"] += 1
                    await worker.kill()
                    return kind
        return "none"

    async def _thaw(self, worker: Worker) -> None:
        """Freeze a worker without leases while another one takes over."""
        await worker.freeze(self.random.choice((1.0, 10.0)))
        await self._await(worker)

    # The operator.

    async def _operate(self) -> None:
        """Retry what is parked; let stores fail, clocks jump, and checkpoints go back to an older copy."""
        dice = self.random
        self._desk = desk = Worker(self)
        desk.sight.crash = None
        for view in desk.views.values():
            await view.open()
        desk.work = self.make_work(desk)
        try:
            while True:
                await asyncio.sleep(dice.choice((1, 5)))
                if not self.over.is_set():
                    await self._disturb()
                for processor in desk.processors:
                    try:
                        await self._retry(processor)
                    except (StreamParked, *TRANSIENT, ValueError, RuntimeError, Fenced):
                        pass
        finally:
            await desk.close()

    async def _retry(self, processor: Processor[Any]) -> None:
        for parked in await processor.parked():
            self.chaos.counts["parked"] += 1
            if not parked.error.startswith(EXPLAINED):
                self.violations.append(f"{processor.name}: {parked.stream} is parked with {parked.error}")
        await processor.retry_all()

    async def _disturb(self) -> None:
        dice, counts = self.random, self.chaos.counts
        match dice.choice(("nothing", "nothing", "outage", "jump", "keep", "restore", "busy")):
            case "outage":
                counts["outage"] += 1
                name = dice.choice(sorted(self.stores))
                self._outages[name] = asyncio.get_running_loop().time() + dice.choice((1.0, 10.0))
            case "jump" if self._jumps:
                counts["clock jumped"] += 1
                self._jump(dice.choice((-3_600.0, -10.0, -1.0, 1.0, 10.0)))
            case "keep":
                counts["checkpoints kept"] += 1
                self._copies.append(self._copy())
            case "restore" if dice.random() < 0.5:
                await self._restore(dice.choice((self._copies[0], self._copies[-1], dice.choice(self._copies))))
            case "busy":
                await self._be_busy()

    def _jump(self, seconds: float) -> None:
        self.wall.jump(seconds)
        self._ahead += seconds
        self._most_ahead = max(self._most_ahead, self._ahead)

    def _copy(self) -> Any:
        """Return a copy of the checkpoints and timers. The first one is empty."""
        if self._memory is not None:
            return self._memory.copy()
        copy = sqlite3.connect(":memory:")
        if self._files:
            self._files[-1].connection.backup(copy)
        return copy

    async def _restore(self, copy: Any) -> None:
        """Kill all workers, and replace the checkpoints and timers by an older copy, or by nothing."""
        self.chaos.counts["checkpoints restored"] += 1
        self._open.clear()
        for worker in list(self._workers):
            await worker.kill()
        while self._workers:  # noqa: ASYNC110  # until each has been closed
            await asyncio.sleep(0.1)
        if self._memory is not None:
            self._memory.restore(copy)
        else:
            for opened in self._files:  # writes that are in flight are lost
                if opened is not self._desk.checkpoints:
                    opened.close()
            self._files = [self._desk.checkpoints]
            self._replace_rows(copy)
        self._open.set()

    def _replace_rows(self, copy: sqlite3.Connection) -> None:
        """Replace the content of the tables of the library."""
        connection: sqlite3.Connection = self._desk.checkpoints.connection
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'eventsrc_%'"
        old = {name for (name,) in copy.execute(tables)}
        connection.execute("BEGIN IMMEDIATE")
        for (name,) in connection.execute(tables).fetchall():
            connection.execute(f"DELETE FROM {name}")
            if name in old:
                for row in copy.execute(f"SELECT * FROM {name}"):
                    connection.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", row)
        connection.commit()


class Sales(Play):
    """Orders that are placed, paid or not, and fulfilled by a process."""

    async def use(self) -> None:
        dice = self.random
        self._skus = [f"s-{number}" for number in range(dice.randint(1, 3))]
        for sku in self._skus:
            if dice.random() < 0.7:
                await self.create(Stock, sku, Stock.stock, dice.choice((1, 10, 100)))
        self._orders = [f"o-{number}" for number in range(dice.randint(2, 8))]
        async with asyncio.TaskGroup() as group:
            for order in self._orders:
                group.create_task(self._buy(order))

    async def _buy(self, order: str) -> None:
        dice = self.random
        await asyncio.sleep(dice.uniform(0, 10))
        drafts, places = dice.choice((0, 0, 1, 2)), dice.choice(self._skus)
        patience = dice.choice((0.0, 2.0, 8.0, 30.0))
        pays = dice.choice((0, 0, 1, 1, 2) if patience else (1, 1, 2))  # else its process never ends
        for step in self._shuffle([*["draft"] * drafts, "place", *["pay"] * pays]):
            match step:
                case "draft":
                    await self.create(Order, order, Order.draft, store="a")
                case "place":
                    await self.create(Order, order, Order.place, places, dice.randint(1, 5), patience, store="a")
                case "pay":
                    store = dice.choice(sorted(self.stores))  # streams of both stores have the same names
                    await self.create(Payment, f"p-{order}", Payment.receive, order, store=store)
            await asyncio.sleep(dice.choice((0.0, 0.0, 1.0, 5.0)))

    def _shuffle(self, steps: list[str]) -> list[str]:
        if self.random.random() < 0.5:
            self.random.shuffle(steps)
        return steps

    def make_work(self, worker: Worker) -> Any:
        async def prices(request: PriceAsked, key: str) -> Priced:
            await asyncio.sleep(self.random.choice((0.0, 0.2)))
            if self.chaos.strikes("service failed"):
                raise ConnectionError("made up")
            if key.endswith("4") and request.sku == "s-1":
                raise ServiceRefused("not for sale")
            return Priced(amount=1)

        home, source = worker.views[self.home], worker.views["a"]
        return ProcessManager(
            Sale,
            home,
            worker.checkpoints,
            targets=[self.repository(Stock, home), self.repository(Order, source)],
            sources={name: worker.views[store] for name, store in self.sources.items()} if self.home == "b" else None,
            services={"prices": prices},
            timers=worker.timers,
            attempts=self.random.choice((2, 4)),
            handler_timeout=HANDLER_TIMEOUT,
            clock=self.clock,
        )

    async def do_others(self, count: int) -> None:
        stocks = self.calm(Stock)
        if "stock" not in {stream.partition("-")[0] for stream in self.logs()[self.home]}:
            return
        known = [each for each in self._skus if f"stock-{each}" in self.logs()[self.home]]
        if known:
            sku = self.random.choice(known)
            for _ in range(count):
                await stocks.execute(sku, Stock.stock, 1, command_id=f"other-{self.random.randrange(1 << 60)}")

    async def check(self) -> Found:
        logs = self.logs()
        checker = Checker(
            Sale,
            self.home,
            self.sources,
            logs,
            targets={"stock": self.home, "order": "a"},
            latest=self.latest,
        )
        found = checker.check()
        violations = list(found.violations)
        stocks = [await self.calm(Stock).load(each) for each in self._skus if f"stock-{each}" in logs[self.home]]
        for id in self._orders:
            order = await self.calm(Order, "a").load(id)
            times = sum(stock.times.get(id, 0) for stock in stocks)
            left = sum(stock.reserved.get(id, 0) for stock in stocks)
            if order.shipped + order.cancelled > 1 or times > 1:
                violations.append(f"order {id}: shipped {order.shipped}, cancelled {order.cancelled}, reserved {times}")
            if (left > 0) != bool(order.shipped) or left < 0:
                violations.append(f"order {id}: {left} are reserved, and it was shipped {order.shipped} times")
        return found._replace(violations=violations)


class Bank(Play):
    """Transfers between accounts of two stores."""

    async def use(self) -> None:
        dice = self.random
        self._checking = [f"c-{number}" for number in range(dice.randint(1, 3))]
        self._saving = [f"s-{number}" for number in range(dice.randint(1, 3))]
        for id in self._checking:
            await self.create(Checking, id, Checking.open, dice.choice((10, 1_000)), store="a")
        self._transfers = [f"t-{number}" for number in range(dice.randint(1, 8))]
        async with asyncio.TaskGroup() as group:
            for id in self._saving:
                group.create_task(self._open_saving(id))
            for id in self._transfers:
                group.create_task(self._request(id))

    async def _open_saving(self, id: str) -> None:
        dice = self.random
        await asyncio.sleep(dice.choice((0.0, 0.0, 5.0, 15.0)))
        await self.create(Saving, id, Saving.open)
        if dice.random() < 0.2:
            await asyncio.sleep(dice.uniform(0, 20))
            await self.calm(Saving).execute(id, Saving.close)

    async def _request(self, id: str) -> None:
        dice = self.random
        await asyncio.sleep(dice.uniform(0, 10))
        request = (dice.choice(self._checking), dice.choice(self._saving), dice.randint(1, 9))
        await self.create(Transfer, id, Transfer.request, *request, dice.choice((1.0, 5.0, 20.0)))

    def make_work(self, worker: Worker) -> Any:
        home, source = worker.views[self.home], worker.views["a"]
        return ProcessManager(
            Moving,
            home,
            worker.checkpoints,
            targets=[self.repository(Saving, home), self.repository(Checking, source)],
            timers=worker.timers,
            attempts=self.random.choice((2, 4)),
            handler_timeout=HANDLER_TIMEOUT,
            clock=self.clock,
        )

    async def do_others(self, count: int) -> None:
        checking = self.calm(Checking, "a")
        id = self.random.choice(self._checking)
        for _ in range(count):
            await checking.execute(id, Checking.add, 0, command_id=f"other-{self.random.randrange(1 << 60)}")

    async def check(self) -> Found:
        logs = self.logs()
        targets = {"saving": self.home, "checking": "a"}
        found = Checker(Moving, self.home, {"": self.home}, logs, targets=targets, latest=self.latest).check()
        violations = list(found.violations)
        opened = sum(
            event.amount for id in self._checking for event in _events(logs["a"][f"checking-{id}"], Checking)[:1]
        )
        balances = [(await self.calm(Checking, "a").load(id)).balance for id in self._checking]
        balances += [(await self.calm(Saving).load(id)).balance for id in self._saving]
        if sum(balances) != opened:
            violations.append(f"{opened} were paid in, and there are {sum(balances)}")
        return found._replace(violations=violations)


class Picks(Play):
    """Plain effects that issue commands, two and more for each event."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.chaos.rates["refused"] = 0.0  # such a command is decided again
        self.in_batches = False

    async def use(self) -> None:
        dice = self.random
        self._picks = {
            f"p-{number}": [dice.choice(("s-0", "s-1", "s-2")) for _ in range(dice.randint(1, 4))]
            for number in range(dice.randint(1, 5))
        }
        async with asyncio.TaskGroup() as group:
            for id, skus in self._picks.items():
                group.create_task(self._pick(id, skus))

    async def _pick(self, id: str, skus: list[str]) -> None:
        for _ in range(2):
            await asyncio.sleep(self.random.uniform(0, 10))
            await self.create(Pick, id, Pick.pick, skus, store="a")

    def make_work(self, worker: Worker) -> Any:
        stocks = self.repository(Stock, worker.views[self.home])
        attempts = self.random.choice((2, 4))
        options: Any = {"attempts": attempts, "handler_timeout": HANDLER_TIMEOUT}
        return [Processor(Picking(stocks), worker.views["a"], worker.checkpoints, **options)]

    async def do_others(self, count: int) -> None:
        stocks = self.calm(Stock)
        known = [each for each in ("s-0", "s-1", "s-2") if f"stock-{each}" in self.logs()[self.home]]
        if known:
            sku = self.random.choice(known)
            for _ in range(count):
                await stocks.execute(sku, Stock.stock, 1, command_id=f"other-{self.random.randrange(1 << 60)}")

    async def check(self) -> Found:
        wanted = Counter[tuple[str, str]]()
        for id, skus in self._picks.items():
            for version in (1, 2):
                wanted.update((f"pick-{id}@{version}.0 {number}", sku) for number, sku in enumerate(skus))
        seen = Counter[tuple[str, str]]()
        for sku in ("s-0", "s-1", "s-2"):
            if f"stock-{sku}" in self.logs()[self.home]:
                stock = await self.calm(Stock).load(sku)
                seen.update({(order, sku): times for order, times in stock.times.items()})
        lost, twice = wanted - seen, seen - wanted
        violations = [f"{len(lost)} commands were not applied: {sorted(lost)[:3]}"] if lost else []
        if twice:
            violations.append(f"{len(twice)} commands were applied twice: {sorted(twice)[:3]}")
        return Found(wanted.total(), 0, lost.total(), twice.total(), violations)


def _events(commits: Sequence[Commit], kind: Any) -> Sequence[Any]:
    codec = declaration_of(kind).codec
    return [event for each in commits for event in codec.decode(each.payload, each.stream, each.version)]


KINDS: Sequence[type[Play]] = (Sales, Bank)


class Story(NamedTuple):
    """The result of one seed."""

    found: Found
    commits: int
    faults: Counter[str]
    violations: Sequence[str]


def tell(seed: int, folder: Path, kinds: Sequence[type[Play]] = KINDS) -> Story:
    """Play one history."""
    source = Random(seed)
    random.seed(seed)  # for the random numbers of the library
    loop = VirtualLoop()
    with virtual_time(loop) as wall:
        play = kinds[seed % len(kinds)](source, folder, seed, wall)
        try:
            run(play.play(), loop)
        except Deadlock:
            play.violations.append("the history has not ended, but no task can continue")
        except BaseExceptionGroup as error:
            play.violations.append(f"the history ended with {error.exceptions!r}")
    return Story(play.found, len(play.latest), play.chaos.counts, play.violations)


def tell_picks(seed: int, folder: Path) -> Story:
    """Play one history of plain effects."""
    return tell(seed, folder, (Picks,))


def campaign(seeds: Sequence[int], name: str = "processes", tell: Callable[[int, Path], Story] = tell) -> Layer:
    """Run these seeds, one after the other. A violation names its seed."""
    begun = perf_counter()
    commands = timers = lost = twice = 0
    faults = Counter[str]()
    violations: list[str] = []
    with TemporaryDirectory() as folder, silence():
        for done, seed in enumerate(seeds):
            report(done, len(seeds))
            story = tell(seed, Path(folder))
            commands, timers = commands + story.found.commands, timers + story.found.timers
            lost, twice = lost + story.found.lost, twice + story.found.twice
            faults += story.faults
            violations += [f"seed {seed}: {violation}" for violation in story.violations]
    injected = faults.total() - sum(faults[outcome] for outcome in OUTCOMES)
    row = (name, commands + timers, injected, commands, lost, twice, perf_counter() - begun)
    return Layer(*row, seed=seeds[0], violations=violations, kinds=faults)


def picking_campaign(seeds: Sequence[int]) -> Layer:
    """Run histories of plain effects with these seeds."""
    return campaign(seeds, "processes, context.execute", tell_picks)
