"""Rebuilds of a read model that fail, are cancelled or killed, while workers of the old version and writers continue.

- Every event is handled by the new version, in order, after all. Each act outside happens, under one of the versions.
- The old version continues after a rebuild that ended before its switch, also if it was killed in the middle of it.
- A rebuild from another store, with the same checkpoints, is refused.

A seed defines a history: `python -m campaigns rebuilding --seed 7 --seeds 1` replays one.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from support.bank import Account, Deposited, Opened, Withdrawn

from eventsrc import EventsrcError, NotActive, Repository, SnapshotPolicy, StoreClosed
from eventsrc.errors import StoreChanged, StreamsParked
from eventsrc.processing import (
    Context,
    Effects,
    Leases,
    Processor,
    Runner,
    SQLiteContext,
    SQLiteProjection,
    rebuild,
)
from eventsrc.processing.projections.projection import Failure
from eventsrc.processing.projections.sqlite import Database
from eventsrc.processing.slice import Slice
from eventsrc.retrying import TRANSIENT

from .clock import Deadlock, VirtualLoop, run, virtual_time
from .deliveries import Claim, Delivery, Disturbances, Place, check_deliveries
from .hostile import Chaos, FailingCheckpoints, FailingStore, HostileFeed
from .progress import report
from .readers import Refused
from .reading import claims_of, silence
from .report import Layer

Movement = Opened | Deposited | Withdrawn

TTL = 6.0
CALM = 60.0  # seconds after the last fault within which a version has handled everything
PATIENCE = 300.0  # seconds within which a rebuild ends without faults
LONGEST = 1_500.0  # seconds of a history
OUTCOMES = ("parked", "effects had again", "switched")  # results of faults, not faults


def _define(version: int) -> tuple[type[SQLiteProjection], type[Effects]]:
    """Return the projections of a version."""
    number = version

    class Built(SQLiteProjection, tag="built"):
        version = number

        def __init__(self, reader: Reader) -> None:
            self._reader = reader

        def create(self, db: Database) -> None:
            columns = "number INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT, version INTEGER, place INTEGER"
            db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({columns})")

        def handle_movement(self, event: Movement, context: SQLiteContext) -> None:
            row = (context.stream, context.commit.version, context.index)
            context.db.execute(f"INSERT INTO {self.table} (stream, version, place) VALUES (?, ?, ?)", row)
            if self._reader.chaos.strikes("handler failed"):
                raise Refused

    class Acted(Effects, tag="acted"):
        version = number

        def __init__(self, reader: Reader) -> None:
            self._reader = reader

        async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
            try:
                return await super().apply(runs)
            except (
                BaseException
            ):  # cancelled, or a write failed: the handler may have ended, but its position is not stored
                self._reader.chaos.disturb(self._reader.number)
                raise

        async def handle_movement(self, event: Movement, context: Context) -> None:
            await self._reader.act(context)

    return Built, Acted


_PROJECTIONS: dict[int, tuple[Any, Any]] = {version: _define(version) for version in (1, 2)}
_ACTIVATED = """
CREATE TABLE IF NOT EXISTS activations (at REAL, version INTEGER);
CREATE TRIGGER IF NOT EXISTS activated AFTER UPDATE ON eventsrc_active WHEN NEW.version <> OLD.version BEGIN
    INSERT INTO activations SELECT now(), NEW.version; END;
"""


class Reader:
    """A process with a processor of one version."""

    def __init__(self, play: Play, version: int, store: FailingStore | None = None) -> None:
        self.chaos, self._play = play.chaos, play
        self.number = len(play.opened) + 1
        self.checkpoints = FailingCheckpoints(play.path, play.chaos, self.number, lambda processor: None)
        self.checkpoints.connection.executescript(_ACTIVATED)
        play.opened.append(self.checkpoints)
        built, acted = _PROJECTIONS[version]
        make: Any = acted if play.acts else built
        projection = make(self)
        given = store or play.store
        feed = play.feed if store is None else HostileFeed(store, play.chaos)
        self.processor = Processor(projection, given, self.checkpoints, feed=feed, attempts=3)

    async def act(self, context: Context) -> None:
        dice, clock = self.chaos.random, asyncio.get_running_loop().time
        begun = clock()
        try:
            await asyncio.sleep(dice.choice((0.0, 0.01, 0.3)))
            place = (context.commit.version, context.index)
            self._play.acts_of[context.stream].append(Delivery(begun, clock(), self.number, *place))
            await asyncio.sleep(dice.choice((0.0, 0.0, 0.3)))
            if self.chaos.strikes("handler failed"):
                raise Refused
        except BaseException:
            self.chaos.disturb(self.number)
            raise

    async def kill(self, task: asyncio.Task[None]) -> None:
        """Cancel the process. Nothing that it does later takes effect, except writes in flight."""
        self.checkpoints.is_gone = True
        self.chaos.disturb(self.number)
        task.cancel()
        await asyncio.wait([task])


class Play:
    """One history."""

    def __init__(self, source: Random, path: Path) -> None:
        self.random, self.path, self.chaos = source, path, Chaos(source)
        for rate in ("dropped", "handler hung"):
            self.chaos.rates[rate] = 0.0
        self.chaos.is_lossless = True
        self.acts = source.random() < 0.5  # effects, or a table
        self.store = FailingStore(self.chaos)
        self.feed = HostileFeed(self.store, self.chaos)
        self.opened: list[FailingCheckpoints] = []
        self.acts_of: dict[str, list[Delivery]] = defaultdict(list)
        self.violations: list[str] = []
        self.found: tuple[int, int, int] = (0, 0, 0)  # missing events, events handled twice, streams out of order
        self._slots = source.choice((1, 3))
        self._repository = Repository(Account, self.store, snapshots=SnapshotPolicy(enabled=False))
        self._over, self._ended = asyncio.Event(), asyncio.Event()

    async def play(self) -> None:
        dice = self.random
        async with asyncio.timeout(LONGEST), self.store, asyncio.TaskGroup() as group:
            self._desk = Reader(self, 1)
            old = [group.create_task(self._old(f"w-{each}")) for each in range(dice.randint(1, 2))]
            operator = group.create_task(self._operate())
            async with asyncio.TaskGroup() as writers:
                for number in range(dice.randint(1, 6)):
                    writers.create_task(self._write(f"s-{number}"))
                await asyncio.sleep(dice.choice((1.0, 5.0, 15.0)))
                for _ in range(dice.randint(0, 3)):
                    await self._try_rebuild()
            self.chaos.off()
            self._over.set()
            await self._check_old()
            await self._finish()
            operator.cancel()
            await asyncio.wait([*old, operator])
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        self.violations += [f"a task was left: {task!r}" for task in left]

    async def _write(self, id: str) -> None:
        account = Account.open(id, owner="ann")
        for _ in range(self.random.randint(1, 25)):
            for _ in range(self.random.choice((1, 1, 3))):
                account.deposit(1)
            await self._repository.save(account)
            await asyncio.sleep(self.random.choice((0.0, 0.1, 0.5, 3.0)))

    async def _old(self, name: str) -> None:
        """Run workers of the old version, one after the other, until the new one has replaced it."""
        dice = self.random
        while True:
            reader = Reader(self, 1)
            leases = Leases(worker=name, slots=self._slots, ttl=TTL)
            task = asyncio.create_task(Runner(reader.processor, leases=leases, save_every=0.5).run())
            while not task.done():
                await asyncio.wait([task], timeout=dice.choice((5.0, 20.0, 60.0)))
                if not task.done() and not self._over.is_set() and dice.random() < 0.3:
                    self.chaos.counts["old version killed"] += 1
                    await reader.kill(task)
            try:
                await task
            except NotActive:
                if await self._active() != 2:
                    self.violations.append("a worker of the old version ended, but it is active")
                return
            except (StoreClosed, asyncio.CancelledError):
                if not reader.checkpoints.is_gone:
                    raise  # this task is cancelled, not the worker
                await asyncio.sleep(dice.choice((0.0, 1.0, 10.0)))
            except Exception as error:
                self.violations.append(f"a worker of the old version ended with {error!r}")
                return

    async def _active(self) -> int | None:
        row = self._desk.checkpoints.connection.execute("SELECT version FROM eventsrc_active").fetchone()
        return row[0] if row else None

    async def _try_rebuild(self) -> None:
        """Start a rebuild, from the store or from another one, and let it fail, or cancel or kill it."""
        dice, counts = self.random, self.chaos.counts
        if dice.random() < 0.1 and await self._active() == 1:
            await self._rebuild_from_another()
            return
        reader, until = Reader(self, 2), asyncio.Event()
        on_error: Any = dice.choice(("stop", "park"))
        task = asyncio.create_task(rebuild(reader.processor, on_error=on_error, until=until))
        await asyncio.wait([task], timeout=dice.choice((0.1, 0.5, 1.0, 2.0, 3.0, 5.0, 20.0)))
        if not task.done():
            kind = dice.choice(("killed", "killed", "cancelled", "ended"))
            counts[f"rebuild {kind}"] += 1
            if kind == "killed":
                await reader.kill(task)
            elif kind == "cancelled":
                task.cancel()
            else:
                until.set()
        await self._await(task, on_error)
        await asyncio.sleep(dice.choice((0.0, 1.0, 20.0)))

    async def _await(self, task: asyncio.Task[None], on_error: str) -> None:
        """Wait for a rebuild. Any exception that it must not end with is a violation."""
        try:
            await task
        except (StoreClosed, asyncio.CancelledError):
            pass
        except Refused as error:
            self.chaos.counts["rebuild failed"] += 1
            if on_error != "stop":
                self.violations.append(f"a rebuild that parks ended with {error!r}")
        except StreamsParked:
            self.chaos.counts["parked"] += 1
            if await self._active() != 2:
                self.violations.append("a rebuild ended with StreamsParked, but the new version is not active")
        except TRANSIENT:
            self.chaos.counts["rebuild failed"] += 1
        except Exception as error:
            self.violations.append(f"a rebuild ended with {error!r}")
        else:
            if await self._active() != 2:
                self.violations.append("a rebuild has ended, but the new version is not active")

    async def _rebuild_from_another(self) -> None:
        self.chaos.counts["another store"] += 1
        async with FailingStore(self.chaos) as other:
            await Repository(Account, other).save(Account.open("s-0", owner="bob"))
            try:
                await rebuild(Reader(self, 2, other).processor, on_error="park")
            except StoreChanged:
                return
            except TRANSIENT:
                return
            except Exception as error:
                self.violations.append(f"a rebuild from another store ended with {error!r}")
            else:
                self.violations.append("a rebuild from another store was not refused")

    async def _operate(self) -> None:
        """Retry what is parked, of both versions."""
        readers = [Reader(self, version) for version in (1, 2)]
        ended = set[str]()
        while True:
            await asyncio.sleep(self.random.choice((1.0, 5.0)))
            for reader in readers:
                try:
                    if await self._active() == reader.processor.projection.version:
                        await reader.processor.retry_all()
                except (EventsrcError, ValueError, RuntimeError, TimeoutError):
                    pass
                except Exception as error:
                    if repr(error) not in ended:
                        self.violations.append(f"a retry ended with {error!r}")
                    ended.add(repr(error))

    async def _check_old(self) -> None:
        """Check that the active version continues, whatever has happened to the rebuilds."""
        if await self._active() == 1 and not await self._handles(self._desk.processor, CALM):
            self.violations.append(f"the old version has not handled everything {CALM} s after the last rebuild")

    async def _handles(self, processor: Processor[Any], seconds: float) -> bool:
        """Return whether the processor handles everything within so many seconds."""
        heads = {stream: len(commits) for stream, commits in self.store._streams.items()}
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await processor.positions(list(heads)) != heads:  # noqa: ASYNC110  # in other processes
                    await asyncio.sleep(0.5)
                return True
        return False

    async def _finish(self) -> None:
        """Rebuild without faults, then hand over to a worker of the new version."""
        if await self._active() == 2:
            self.chaos.counts["switched"] += 1
        reader, until = Reader(self, 2), asyncio.Event()
        task = asyncio.create_task(rebuild(reader.processor, on_error="park", until=until))
        if not await self._handles(reader.processor, PATIENCE):
            self.violations.append(f"the new version has not handled everything within {PATIENCE} s")
        until.set()
        await self._await(task, "park")
        after = Reader(self, 2)
        runner = Runner(after.processor)
        running = asyncio.create_task(runner.run())
        await self._repository.save(Account.open("last", owner="ann"))
        if not await self._handles(after.processor, CALM):
            self.violations.append("the worker of the new version has not handled the last commit")
        runner.stop()
        await running

    def check(self) -> tuple[int, int, int]:
        """Return counts: missing events, events handled twice, streams out of order. Extend `violations`."""
        missing = twice = disordered = 0
        db = self._desk.checkpoints.connection
        self.violations += [row[0] for row in db.execute("SELECT violation FROM violations")]
        rows: dict[str, list[Place]] = defaultdict(list)
        if not self.acts:
            for stream, version, place in db.execute("SELECT stream, version, place FROM built_2 ORDER BY number"):
                rows[stream].append((version, place))
        disturbances = Disturbances(self.chaos.disturbances)
        for stream, commits in self.store._streams.items():
            events = [(commit.version, index) for commit in commits for index in range(commit.events)]
            if self.acts:
                claims = list(_claims_of_both(db, stream))
                found = check_deliveries(events, self.acts_of[stream], claims, disturbances)
                missing, twice = missing + found.missing, twice + found.twice
                disordered += found.disordered
                self.chaos.counts["effects had again"] += found.repeated
                self.violations += [f"{stream}: {violation}" for violation in found.violations]
            elif rows[stream] != events:
                missing += len(set(events) - set(rows[stream]))
                twice += len(rows[stream]) - len(set(rows[stream]))
                disordered += rows[stream] != sorted(rows[stream])
                self.violations.append(f"{stream} was handled as {rows[stream]}, not {events}")
        return missing, twice, disordered


def _claims_of_both(db: sqlite3.Connection, stream: str) -> Iterator[Claim]:
    """Yield the workers that had the right to act on a stream: of the old version, then of the new one."""
    [(switched,)] = db.execute("SELECT coalesce(min(at), 1e9) FROM activations").fetchall()
    yield from (claim for claim in claims_of(db, "acted@1", stream) if claim.at <= switched)
    new = list(claims_of(db, "acted@2", stream))
    if before := [claim for claim in new if claim.at <= switched]:
        yield Claim(switched, before[-1].worker, forced=False)
    yield from (claim for claim in new if claim.at > switched)


def tell(seed: int, folder: Path) -> Play:
    """Play one history."""
    source = Random(seed)
    random.seed(seed)  # for the random numbers of the library
    loop = VirtualLoop()
    play = Play(source, folder / f"rebuilt-{seed}.db")
    with virtual_time(loop):
        try:
            run(play.play(), loop)
        except TimeoutError:
            play.violations.append(f"the history has not ended within {LONGEST} s")
        except Deadlock:
            play.violations.append("the history has not ended, but no task can continue")
        except ExceptionGroup as errors:
            play.violations.append(f"the history ended with {errors.exceptions!r}")
    play.found = play.check()
    for each in play.opened:
        each.close()
    return play


def campaign(seeds: Sequence[int]) -> Layer:
    """Run these seeds, one after the other. A violation names its seed."""
    begun = perf_counter()
    told = commits = missing = twice = 0
    kinds = Counter[str]()
    violations: list[str] = []
    with TemporaryDirectory() as folder, silence():
        for done, seed in enumerate(seeds):
            report(done, len(seeds))
            play = tell(seed, Path(folder))
            commits += sum(map(len, play.store._streams.values()))
            told += play.feed.told
            missing, twice = missing + play.found[0], twice + play.found[1]
            kinds += play.chaos.counts
            violations += [f"seed {seed}: {violation}" for violation in play.violations]
    faults = kinds.total() - sum(kinds[outcome] for outcome in OUTCOMES)
    row = ("rebuilding", told, faults, commits, missing, twice, perf_counter() - begun)
    return Layer(*row, seed=seeds[0], violations=violations, kinds=kinds)
