"""Faults for the read side: a feed that delivers anything in any order, and checkpoints whose answers get lost."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from random import Random
from typing import TypeVar
from zlib import crc32

from eventsrc import Commit, Fenced, MemoryStore, StoreClosed, StoreUnavailable, Throttled
from eventsrc.processing import SQLiteCheckpoints
from eventsrc.processing.checkpoints.sqlite.file import SQLiteFile, ThreadName
from eventsrc.processing.checkpoints.sqlite.registry import SQLiteRegistry
from eventsrc.processing.checkpoints.sqlite.schema import SCHEMA
from eventsrc.processing.checkpoints.sqlite.workers import SQLiteWorkers
from eventsrc.store import MAX_VERSION
from eventsrc.stores.feed import Batch, Feed, Head

from .deliveries import Disturbance

T = TypeVar("T")

LATE = 20.0  # seconds, at most, until a write whose caller was cancelled takes effect
PAUSES = (0.0, 0.001, 0.05)

# What no write may do, however late: go back, or write under an epoch that another worker has raised since.
# While the number of slots is being changed, a stream is in one slot of the old number, one of the new, or neither:
# the holder of the old one may write until that is replaced.
_FENCES = """SELECT epoch FROM eventsrc_slots
    WHERE processor = NEW.processor AND number = crc32(NEW.stream) % (slot ->> 'of')"""
_STALE = f"' in epoch ' || coalesce((SELECT group_concat(epoch) FROM ({_FENCES})), 'of no slot')"
# The worker that claimed a slot or (worker 0) a parked stream, and whether the previous owner may have been at work.
_CLAIM = """INSERT INTO claims (at, worker, forced, processor, number, "of")
    SELECT now(), iif(NEW.slot ->> 'open', process(), 0),"""
_OF_SLOT = ", NEW.processor, NEW.number, NEW.slot ->> 'of'"
_RELEASE = "INSERT INTO claims (at, worker, forced, processor, stream)"
_NOTE = "INSERT INTO violations VALUES (NEW.processor || ' ' || "
_WATCH = f"""
CREATE TABLE IF NOT EXISTS violations (violation TEXT);
CREATE TRIGGER IF NOT EXISTS first_position AFTER INSERT ON eventsrc_positions WHEN NEW.epoch NOT IN ({_FENCES}) BEGIN
    {_NOTE} NEW.stream || ': a first position of epoch ' || NEW.epoch || {_STALE}); END;
CREATE TRIGGER IF NOT EXISTS position AFTER UPDATE ON eventsrc_positions WHEN NEW.epoch NOT IN ({_FENCES}) BEGIN
    {_NOTE} NEW.stream || ': a position of epoch ' || NEW.epoch || {_STALE}); END;
CREATE TRIGGER IF NOT EXISTS version AFTER UPDATE ON eventsrc_positions WHEN NEW.version <= OLD.version BEGIN
    {_NOTE} NEW.stream || ': version ' || OLD.version || ', then ' || NEW.version); END;
CREATE TRIGGER IF NOT EXISTS slot AFTER UPDATE ON eventsrc_slots WHEN NEW.epoch < OLD.epoch BEGIN
    {_NOTE} NEW.number || ': epoch ' || OLD.epoch || ', then ' || NEW.epoch); END;
CREATE TABLE IF NOT EXISTS claims (
    at REAL, worker INTEGER, forced INTEGER, processor TEXT, number INTEGER, "of" INTEGER, stream TEXT DEFAULT ''
);
CREATE TRIGGER IF NOT EXISTS first_claim AFTER INSERT ON eventsrc_slots BEGIN {_CLAIM} FALSE{_OF_SLOT}; END;
CREATE TRIGGER IF NOT EXISTS registration AFTER INSERT ON eventsrc_registrations
WHEN NEW.registration ->> 'started' >= 0 BEGIN  -- else by a tool, before its first run
    SELECT registered(NEW.processor); END;
CREATE TRIGGER IF NOT EXISTS claim AFTER UPDATE ON eventsrc_slots WHEN NEW.epoch > OLD.epoch BEGIN
    {_CLAIM} OLD.slot ->> 'open' OR OLD.slot ->> 'laid' <> NEW.slot ->> 'laid'{_OF_SLOT}; END;
CREATE TRIGGER IF NOT EXISTS park AFTER INSERT ON eventsrc_parked BEGIN
    {_RELEASE} SELECT now(), 0, FALSE, NEW.processor, NEW.stream; END;
CREATE TRIGGER IF NOT EXISTS release AFTER UPDATE ON eventsrc_parked
WHEN NEW.parked ->> 'retry' <> OLD.parked ->> 'retry' OR NEW.parked ->> 'state' <> OLD.parked ->> 'state' BEGIN
    {_RELEASE} SELECT now(), iif(NEW.parked ->> 'retry' <> '' AND NEW.parked ->> 'state' = 'parked', process(), 0),
    OLD.parked ->> 'retry' <> '', NEW.processor, NEW.stream; END;
CREATE TRIGGER IF NOT EXISTS unpark AFTER DELETE ON eventsrc_parked BEGIN
    {_RELEASE} SELECT now(), 0, FALSE, OLD.processor, OLD.stream; END;
"""


class Chaos:
    """The faults of a history and their rates. `off` ends them."""

    def __init__(self, source: Random) -> None:
        self.random, self.counts = source, Counter[str]()
        self.rates = {
            "shuffled": source.choice((0.0, 0.3, 0.9)),
            "repeated": source.choice((0.0, 0.2)),
            "delayed": source.choice((0.0, 0.2)),
            "dropped": source.choice((0.0, 0.0, 0.2)),
            "read failed": source.choice((0.0, 0.02)),
            "feed failed": source.choice((0.0, 0.02)),
            "handler failed": source.choice((0.0, 0.02, 0.15, 0.4)),
            "handler hung": source.choice((0.0, 0.0, 0.02)),
            "write refused": source.choice((0.0, 0.03)),
            "answer lost": source.choice((0.0, 0.03)),
        }
        self.is_lossless = not self.rates["dropped"]  # a checkpoint is delivered only after all commits before it
        self.disturbances: list[Disturbance] = []

    def off(self) -> None:
        self.rates = dict.fromkeys(self.rates, 0.0)

    def strikes(self, kind: str) -> bool:
        if not self.rates[kind] or self.random.random() >= self.rates[kind]:
            return False
        self.counts[kind] += 1
        return True

    def disturb(self, process: int) -> None:
        """Note that this process may have acted without storing its position."""
        self.disturbances.append(Disturbance(asyncio.get_running_loop().time(), process))


class _Ordered(set[asyncio.Event]):
    """A set that keeps insertion order."""

    def __init__(self) -> None:
        super().__init__()
        self._order: dict[asyncio.Event, None] = {}

    def add(self, element: asyncio.Event) -> None:
        self._order[element] = None

    def discard(self, element: object) -> None:
        self._order = {each: None for each in self._order if each is not element}

    def __iter__(self) -> Iterator[asyncio.Event]:
        return iter(self._order)


class FailingStore(MemoryStore):
    """A store in memory whose reads fail."""

    def __init__(self, chaos: Chaos) -> None:
        super().__init__()
        self._chaos = chaos
        self._followers = _Ordered()  # woken in the same order in each run of a history

    async def read(
        self, stream: str, *, after: int = 0, until: int = MAX_VERSION, backward: bool = False
    ) -> AsyncGenerator[Commit]:
        async with aclosing(super().read(stream, after=after, until=until, backward=backward)) as commits:
            async for commit in commits:
                if self._chaos.strikes("read failed"):
                    raise self._chaos.random.choice((Throttled, StoreUnavailable))("the store")
                yield commit


class HostileFeed:
    """Deliver a store's commits late, repeatedly, in any order, or not at all."""

    def __init__(
        self, store: Feed, chaos: Chaos, pauses: Sequence[float] = (0.0, 0.01, 0.5), *, ordered: bool = False
    ) -> None:
        self._store, self._chaos, self._pauses, self.ordered = store, chaos, pauses, ordered
        self.told = 0

    async def identity(self) -> str:
        return await self._store.identity()

    async def clock(self) -> int:
        return await self._store.clock()

    async def feed(
        self, *, after: str = "", follow: bool = True, report_damaged: bool = False, categories: Collection[str] = ()
    ) -> AsyncGenerator[Batch]:
        chaos, dice = self._chaos, self._chaos.random
        reached, late = after, list[Commit]()
        feed = self._store.feed(after=after, follow=follow, report_damaged=report_damaged, categories=categories)
        async with aclosing(feed) as batches:
            async for batch in batches:
                commits = list(batch.commits)
                while True:
                    size = dice.randint(1, 20)
                    some, commits = commits[:size], commits[size:]
                    told = late + [c for c in some for _ in range(2 if chaos.strikes("repeated") else 1)]
                    if chaos.strikes("shuffled"):
                        dice.shuffle(told)
                    told = [c for c in told if not chaos.strikes("dropped")]
                    late = [c for c in told if chaos.strikes("delayed")]
                    told = [c for c in told if c not in late]
                    if chaos.strikes("feed failed"):
                        raise dice.choice((Throttled, StoreUnavailable))("the feed")
                    await asyncio.sleep(dice.choice(self._pauses))
                    if not late or not chaos.is_lossless:
                        if not commits:
                            reached = batch.checkpoint
                        elif (position := some[-1].position) is not None:  # else: no checkpoint within a batch
                            reached = f"{position}.{some[-1].id[8:].hex()}"  # with the anchor of ordered feeds
                    self.told += len(told)
                    is_end = not commits and not late
                    yield Batch(told, reached, batch.caught_up and is_end, batch.damaged if is_end else ())
                    if is_end:
                        break

    async def end(self) -> str:
        return await self._store.end()

    def earliest(self, checkpoints: Iterable[str]) -> str:
        return self._store.earliest(checkpoints)

    async def remaining(self, after: str) -> int | None:
        return await self._store.remaining(after)

    async def behind(self, after: str) -> float | None:
        return await self._store.behind(after)

    def heads(self) -> AsyncGenerator[Sequence[Head]]:
        return self._store.heads()


class FailingCheckpoints(SQLiteCheckpoints):
    """The checkpoints of one worker, in a file that all workers share. Calls fail, or their answers get lost."""

    def __init__(self, path: Path, chaos: Chaos, process: int, registered: Callable[[str], None]) -> None:
        super().__init__(path)
        self.file = file = FailingFile(path, self, chaos, process, registered)
        self.connection = file.connection
        self.registry, self.workers = SQLiteRegistry(self.file), FailingWorkers(self)
        self.is_dead = self.is_mute = False  # mute: its heartbeats do not arrive
        self.is_gone = False  # dead, and nobody in this process waits for that to pass
        self.back = asyncio.Event()  # cleared while answers do not arrive
        self.back.set()

    def close(self) -> None:
        self.connection.close()


class FailingWorkers(SQLiteWorkers):
    def __init__(self, checkpoints: FailingCheckpoints) -> None:
        super().__init__(checkpoints.file)
        self._checkpoints = checkpoints

    async def heartbeat(self, worker: str) -> None:
        if self._checkpoints.is_mute:
            raise StoreUnavailable("this worker's heartbeats")
        await super().heartbeat(worker)


class FailingFile(SQLiteFile):
    """The transactions are real, but run in the event loop's thread, so that time can be virtual."""

    def __init__(
        self,
        path: Path,
        checkpoints: FailingCheckpoints,
        chaos: Chaos,
        process: int,
        registered: Callable[[str], None],
    ) -> None:
        super().__init__(path, deadline=10.0)
        self._checkpoints, self._chaos, self._process = checkpoints, chaos, process
        self.connection = self.connect()
        self.connection.execute("PRAGMA synchronous = OFF")
        self.connection.create_function("crc32", 1, lambda stream: crc32(stream.encode()), deterministic=True)
        self.connection.create_function("now", 0, lambda: asyncio.get_running_loop().time())
        self.connection.create_function("process", 0, lambda: process)
        self.connection.create_function("registered", 1, registered)  # called when a registration is stored
        self.connection.executescript(SCHEMA + _WATCH)

    async def open(self) -> None: ...

    async def aclose(self) -> None: ...

    async def run(self, name: ThreadName, work: Callable[[sqlite3.Connection], T]) -> T:
        chaos, dice = self._chaos, self._chaos.random
        try:
            await asyncio.sleep(dice.choice(PAUSES))
            await self._checkpoints.back.wait()
        except asyncio.CancelledError:
            chaos.disturb(self._process)
            if name == "writer" and dice.random() < 0.5:  # the write may still be carried out
                chaos.counts["write nobody waits for"] += 1
                asyncio.get_running_loop().call_later(dice.uniform(0, LATE), self._late, work)
            raise
        if self._checkpoints.is_gone:
            raise StoreClosed("checkpoints")
        if self._checkpoints.is_dead or chaos.strikes("write refused"):
            chaos.disturb(self._process)
            raise dice.choice((Throttled, StoreUnavailable))("checkpoints")
        try:
            result = work(self.connection)
        except Fenced:
            chaos.counts["fenced"] += 1
            chaos.disturb(self._process)
            raise
        try:
            await asyncio.sleep(dice.choice(PAUSES))
            await self._checkpoints.back.wait()
        except asyncio.CancelledError:
            chaos.disturb(self._process)
            raise
        if chaos.strikes("answer lost"):
            chaos.disturb(self._process)
            raise StoreUnavailable("checkpoints")
        return result

    def _late(self, work: Callable[[sqlite3.Connection], object]) -> None:
        with suppress(Exception):  # its caller is gone
            work(self.connection)
