"""The readers in the campaign of the read side: projections that record their events, and workers to be killed."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.bank import Deposited, Opened, Withdrawn

from eventsrc.processing import (
    Context,
    Effects,
    Leases,
    MemoryProjection,
    Processor,
    Runner,
    SQLiteContext,
    SQLiteProjection,
)
from eventsrc.processing.projections.projection import Failure
from eventsrc.processing.projections.sqlite import Database
from eventsrc.processing.slice import Slice
from eventsrc.processing.worker import GRACE

from .deliveries import Delivery
from .hostile import Chaos, FailingCheckpoints, FailingStore, HostileFeed

Movement = Opened | Deposited | Withdrawn

TTL = 6.0
HANDLER_TIMEOUT = 5.0  # seconds
LONG = 3_600.0  # seconds for which a handler hangs


class World:
    """What processes share: a store and its feed, a file of checkpoints, and external effects."""

    def __init__(self, chaos: Chaos, path: Path) -> None:
        self.chaos, self.path = chaos, path
        self.store = FailingStore(chaos)
        disorder = chaos.rates["shuffled"] or chaos.rates["delayed"] or chaos.rates["dropped"]
        self.feed = HostileFeed(self.store, chaos, ordered=not disorder and chaos.random.random() < 0.8)
        self.effects: dict[str, list[Delivery]] = defaultdict(list)
        self.opened: list[FailingCheckpoints] = []
        self.ancient: dict[str, int] = {}  # heads half an hour before the first worker was started
        self.old: dict[str, int] | None = None  # heads when it was started
        self.new: dict[str, int] | None = None  # heads when `since` was registered: it handles all after these

    def heads(self) -> dict[str, int]:
        """Return the version of each stream now, without the library's reads."""
        return {stream: len(commits) for stream, commits in self.store._streams.items()}

    def note_start(self, processor: str) -> None:
        """Note the heads when the processor with start="now" is registered."""
        if processor == "since@1" and self.new is None:
            self.new = self.heads()


class Refused(Exception):
    """Raised by handlers."""


class Rows(SQLiteProjection, tag="rows"):
    """Insert a row for each event, in one transaction with the position."""

    def __init__(self, chaos: Chaos) -> None:
        self._chaos = chaos

    def create(self, db: Database) -> None:
        columns = "number INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT, version INTEGER, place INTEGER"
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({columns})")

    def handle_movement(self, event: Movement, context: SQLiteContext) -> None:
        row = (context.stream, context.commit.version, context.index)
        context.db.execute(f"INSERT INTO {self.table} (stream, version, place) VALUES (?, ?, ?)", row)
        if self._chaos.strikes("handler failed"):
            raise Refused


class Since(SQLiteProjection, tag="since"):
    """Insert a row for each event that was stored after the start of its processor."""

    def __init__(self, chaos: Chaos) -> None:
        self._chaos = chaos

    def create(self, db: Database) -> None:
        columns = "number INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT, version INTEGER, place INTEGER"
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({columns})")

    def handle_movement(self, event: Movement, context: SQLiteContext) -> None:
        row = (context.stream, context.commit.version, context.index)
        context.db.execute(f"INSERT INTO {self.table} (stream, version, place) VALUES (?, ?, ?)", row)
        if self._chaos.strikes("handler failed"):
            raise Refused


class InMemory(MemoryProjection, tag="in-memory"):
    def __init__(self, chaos: Chaos) -> None:
        self._chaos = chaos
        self.seen: dict[str, list[tuple[int, int]]] = defaultdict(list)

    def handle_movement(self, event: Movement, context: Context) -> None:
        if self._chaos.strikes("handler failed"):
            raise Refused
        self.seen[context.stream].append((context.commit.version, context.index))


class Outside(Effects, tag="outside"):
    """Effects that take time. The effects of all workers are in one list per stream."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        try:
            return await super().apply(runs)
        except (
            BaseException
        ):  # cancelled, or a write failed: the handler may have ended, but its position is not stored
            self._process.chaos.disturb(self._process.number)
            raise

    async def handle_movement(self, event: Movement, context: Context) -> None:
        process, chaos, clock = self._process, self._process.chaos, asyncio.get_running_loop().time
        begun = clock()
        try:
            await asyncio.sleep(LONG if chaos.strikes("handler hung") else chaos.random.choice((0.0, 0.01, 0.3)))
            while process.is_frozen or process.checkpoints.is_dead:  # noqa: ASYNC110  # until it is cancelled
                await asyncio.sleep(0.05)
            act = Delivery(begun, clock(), process.number, context.commit.version, context.index)
            process.effects[context.stream].append(act)
            await asyncio.sleep(LONG if chaos.strikes("handler hung") else chaos.random.choice((0.0, 0.0, 0.3)))
            if chaos.strikes("handler failed"):
                raise Refused
        except BaseException:
            chaos.disturb(process.number)
            raise


class Process:
    """Three processors with checkpoints of their own, which use the shared file."""

    def __init__(self, world: World) -> None:
        self.chaos, self.effects = world.chaos, world.effects
        self.number = len(world.opened) + 1
        self.checkpoints = FailingCheckpoints(world.path, world.chaos, self.number, world.note_start)
        world.opened.append(self.checkpoints)
        self.is_frozen = False
        options: Any = {"feed": world.feed, "attempts": 4, "handler_timeout": HANDLER_TIMEOUT}
        self.rows = Processor(Rows(world.chaos), world.store, self.checkpoints, **options)
        self.outside = Processor(Outside(self), world.store, self.checkpoints, **options)
        self.since = Processor(Since(world.chaos), world.store, self.checkpoints, start="now", **options)

    @property
    def processors(self) -> Sequence[Processor[Any]]:
        return self.rows, self.outside, self.since


class Worker(Process):
    """A process that runs its processors with leases."""

    def __init__(self, world: World, name: str, slots: int) -> None:
        super().__init__(world)
        self._leases = Leases(worker=name, slots=slots, ttl=TTL)
        self.runner = Runner(
            *self.processors,
            leases=self._leases,
            save_every=world.chaos.random.choice((0.3, 1.5)),
        )
        self._ends = math.inf
        if world.old is None:
            world.old = world.heads()
        self.task = asyncio.create_task(self.runner.run())

    def stop(self) -> None:
        self._ends = asyncio.get_running_loop().time() + GRACE
        self.runner.stop()

    @property
    def has_given_up(self) -> bool:
        """Whether it was stopped so long ago that it does not wait for a store any more."""
        return asyncio.get_running_loop().time() >= self._ends

    async def freeze(self, seconds: float) -> None:
        """Suspend the worker as SIGSTOP does. Until it resumes it does not detect that its lease has expired."""
        self.is_frozen = True
        self.checkpoints.back.clear()
        self._count_on_it(asyncio.get_running_loop().time() + seconds)
        await asyncio.wait([self.task], timeout=seconds)
        self.is_frozen = False
        self.checkpoints.back.set()
        await asyncio.sleep(0.12)  # its pending write completes
        self._count_on_it(-math.inf)

    def _count_on_it(self, until: float) -> None:
        leases = self._leases
        leases._last = until
        if leases._limit is not None and not leases._limit.expired():
            leases._limit.reschedule(leases._ends)

    async def kill(self) -> None:
        """Cancel the worker. Nothing that it does later takes effect, except writes in flight."""
        self.checkpoints.is_dead = True
        self.checkpoints.back.set()
        self.chaos.disturb(self.number)
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
