"""The read side in virtual time: writers keep writing while feeds and checkpoints fail and workers are killed.

A seed defines a history: `python -m campaigns reading --seed 7 --seeds 1` replays one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

from support.bank import Account

from eventsrc import Repository, SnapshotPolicy, StreamParked
from eventsrc.processing import Processor, Runner, verify
from eventsrc.retrying import TRANSIENT

from .clock import Deadlock, VirtualLoop, WallClock, run, virtual_time
from .deliveries import Claim, Disturbances, Place, check_deliveries
from .hostile import Chaos
from .progress import report
from .readers import TTL, InMemory, Process, Worker, World
from .report import Layer

OLD = 1_800.0  # seconds between the oldest commits and the first worker
_CLAIMS = "SELECT at, worker, forced, stream FROM claims WHERE processor = ?"
SETTLED = 30.0  # seconds after the last fault until leases are distributed
OUTCOMES = (
    "parked",
    "skip asked for",
    "fenced",
    "found by verify",
    "effects had again",
)  # results of faults, not faults
PATIENCE = 900.0  # seconds after that, within which all commits must be handled


class Play(World):
    """One history."""

    def __init__(self, source: Random, path: Path, wall: WallClock) -> None:
        super().__init__(Chaos(source), path)
        self.random, self._wall = source, wall
        wall.writers_behind = source.choice((0.0, 0.0, 600.0))
        self.violations: list[str] = []
        self.in_memory = Processor(InMemory(self.chaos), self.store, feed=self.feed, attempts=4)
        self._repository = Repository(Account, self.store, snapshots=SnapshotPolicy(enabled=False))
        self._slots = source.choice((1, 3, 8))
        self._slots_change = source.random() < 0.2
        self._restarts = source.choice((0.0, 1.0, 1.0))  # how often workers are disturbed
        self._workers: dict[Worker, None] = {}
        self._names = 0
        self._asked: dict[str, set[tuple[str, int]]] = defaultdict(set)  # commits that the operator asked to skip
        self.skipped: dict[str, set[tuple[str, int]]] = defaultdict(set)  # commits that are noted as skipped
        self._over, self._ended = asyncio.Event(), asyncio.Event()

    async def play(self) -> None:
        async with self.store, asyncio.TaskGroup() as group:
            ids = [f"s-{number}" for number in range(self.random.randint(1, 8))]
            accounts = [await self._write_before(id) for id in ids]
            self._wall.jump(OLD)
            self.ancient = self.heads()
            places = [group.create_task(self._place()) for _ in range(self.random.randint(1, 3))]
            memory = group.create_task(self._noting("the memory projection", self._in_memory()))
            operator = group.create_task(self._noting("an operator", self._operate()))
            async with asyncio.TaskGroup() as writers:
                for account in accounts:
                    writers.create_task(self._write(account))
            await asyncio.sleep(self.random.choice((0, 5, 30)))
            self.chaos.off()
            self._over.set()
            for worker in self._workers:
                worker.checkpoints.back.set()
            await asyncio.sleep(SETTLED)
            if not self.chaos.is_lossless:
                await self._verify()
            await self._until_all_is_handled()
            operator.cancel()
            for processor in (*self._desk.processors, self.in_memory):
                noted = await processor.checkpoints.skipped(processor.name)
                self.skipped[processor.name] = {(each.stream, each.version) for each in noted}
            self._ended.set()
            for worker in self._workers:
                worker.stop()
            self._memory_runner.stop()
            await asyncio.wait([*places, memory])
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        self.violations += [f"a task was left: {task!r}" for task in left]

    async def _write_before(self, id: str) -> Account:
        """Write some commits long before the first worker is started."""
        account = Account.open(id, owner="ann")
        for _ in range(self.random.choice((0, 0, 1, 3))):
            await self._repository.save(account)
            account.deposit(1)
        return account

    async def _write(self, account: Account) -> None:
        repository = self._repository
        for _ in range(self.random.randint(1, 25)):
            for _ in range(self.random.choice((1, 1, 1, 3))):
                account.deposit(1)
            await repository.save(account)
            await asyncio.sleep(self.random.choice((0.0, 0.0, 0.1, 3.0)))

    async def _place(self) -> None:
        """Run one worker after the other."""
        dice = self.random
        await asyncio.sleep(dice.uniform(0, 3))
        name = ""
        while True:
            if not name or dice.random() < 0.8:
                self._names += 1
                name = f"w-{self._names}"
            slots = dice.choice((1, 2, 5)) if self._slots_change and not self._over.is_set() else self._slots
            worker = Worker(self, name, slots)
            self._workers[worker] = None
            await self._live(worker)
            try:
                await worker.task
            except asyncio.CancelledError:
                pass
            except Exception as error:  # any other exception is a violation
                # After `stop` it waits for a store only for the grace; see `Runner.run`.
                if not (worker.has_given_up and isinstance(error, TRANSIENT)):
                    self.violations.append(f"a worker ended with {error!r}")
            del self._workers[worker]
            if self._ended.is_set():
                return
            await asyncio.sleep(dice.choice((0.0, 1.0, 10.0)))

    async def _live(self, worker: Worker) -> None:
        """Disturb a worker until it is stopped or killed, or until the faults are over."""
        dice, chaos = self.random, self.chaos
        while not self._over.is_set() and self._restarts:
            await asyncio.wait([worker.task], timeout=dice.choice((0.01, 0.3, 2.0, 8.0, 20.0)))
            if self._over.is_set() or worker.task.done():
                return
            match dice.choice(("continue", "mute", "cut off", "freeze", "stop", "kill", "kill")):
                case "mute":
                    chaos.counts["heartbeats lost"] += 1
                    worker.checkpoints.is_mute = True
                    await asyncio.wait([worker.task], timeout=dice.choice((1.0, 3 * TTL)))
                    worker.checkpoints.is_mute = False
                case "cut off":
                    chaos.counts["cut off"] += 1
                    worker.checkpoints.back.clear()
                    await asyncio.wait([worker.task], timeout=dice.choice((1.0, TTL, 3 * TTL)))
                    worker.checkpoints.back.set()
                case "freeze":
                    chaos.counts["frozen"] += 1
                    await worker.freeze(dice.choice((1.0, 3 * TTL)))
                case "stop":
                    chaos.counts["stopped"] += 1
                    worker.stop()
                    return
                case "kill":
                    chaos.counts["killed"] += 1
                    await worker.kill()
                    return

    async def _noting(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Do some work. An exception is a violation."""
        try:
            await work
        except Exception as error:
            self.violations.append(f"{name} ended with {error!r}")

    async def _in_memory(self) -> None:
        """Run the memory projection; its runner is cancelled and started again."""
        while True:
            self._memory_runner = Runner(self.in_memory)
            task = asyncio.create_task(self._memory_runner.run())
            if not self._over.is_set() and self._restarts:
                await asyncio.wait([task], timeout=self.random.choice((0.01, 0.3, 5.0)))
                if not self._over.is_set() and not task.done():
                    self.chaos.counts["cancelled"] += 1
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                    continue
            await task
            return

    async def _operate(self) -> None:
        """Retry, skip, pause and resume, from a process of its own or from one that is running the processors."""
        desk = Process(self)
        while True:
            await asyncio.sleep(self.random.choice((1, 10)))
            if self.random.random() < 0.1:
                desk = Process(self)
            is_running = self._workers and self.random.random() < 0.5
            process = self.random.choice(list(self._workers)) if is_running else desk
            for processor in (*process.processors, self.in_memory):
                calm = self._over.is_set()
                # What `retry` and `skip` may raise: the handler or a store fails, another call or a worker was faster.
                try:
                    await self._fix(processor)
                except (StreamParked, *TRANSIENT, ValueError, RuntimeError):
                    pass
                except TimeoutError:  # the worker that was asked to continue is killed, frozen or cut off
                    if calm:
                        raise

    async def _fix(self, processor: Processor[Any]) -> None:
        """Retry the parked streams of a processor, or skip commits. Sometimes pause it before; resume it at the end."""
        dice, calm = self.random, self._over.is_set()
        if calm or dice.random() < 0.05:
            await (processor.resume() if calm or dice.random() < 0.7 else processor.pause())
        for parked in await processor.parked():
            self.chaos.counts["parked"] += 1
            if dice.random() < 0.1 and not calm:
                self.chaos.counts["skip asked for"] += 1
                self._asked[processor.name].add((parked.stream, parked.version))
                await processor.skip(parked.stream, "on request", version=parked.version)
            else:
                await processor.retry(parked.stream)

    async def _verify(self) -> None:
        """Handle commits that the feed dropped for good, found by comparing heads."""
        held = [each for worker in self._workers for each in worker.processors if each.pipeline.assignment.held]
        for processor in (*held, self.in_memory):
            self.chaos.counts["found by verify"] += (await verify(processor)).handled

    async def _until_all_is_handled(self) -> None:
        heads = {head.stream: head.version async for page in self.store.heads() for head in page}
        self._desk = desk = Process(self)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while True:
                    for processor in (*desk.processors, self.in_memory):
                        due = {stream: head for stream, head in heads.items() if self._is_due(processor, stream, head)}
                        if await processor.positions(list(due)) != due or await processor.parked():
                            break
                    else:
                        return
                    await asyncio.sleep(1)

    def _is_due(self, processor: Processor[Any], stream: str, version: int) -> bool:
        """Return whether a processor must handle this version: the one with start="now" handles the later ones."""
        return processor.name != "since@1" or version > (self.new or {}).get(stream, 0)

    def check(self) -> tuple[int, int, int]:
        """Return counts: missing events, events handled twice, streams out of order. Extend `violations`."""
        expected = {
            stream: [(commit.version, index) for commit in commits for index in range(commit.events)]
            for stream, commits in self.store._streams.items()
        }
        reader = self.opened[0].connection
        rows, since = self._read_rows("rows_1"), self._read_rows("since_1")
        self.violations += [row[0] for row in reader.execute("SELECT violation FROM violations")]
        for name, skipped in self.skipped.items():
            if unasked := skipped - self._asked[name]:
                self.violations.append(f"{name}: skipped {sorted(unasked)}, which nobody had asked for")
        missing, twice, disordered = self._check_outside(expected)
        tables = {"rows@1": rows, "in-memory@1": self.in_memory.projection.seen, "since@1": since}
        for name, seen in tables.items():
            for stream, events in expected.items():
                skipped_here = {version for each, version in self.skipped[name] if each == stream}
                due = [each for each in events if each[0] not in skipped_here]
                found = [each for each in seen[stream] if each[0] not in skipped_here]
                if name == "since@1":
                    due = list(self._events_since(stream, due, found))
                missing += len(set(due) - set(found))
                twice += len(found) - len(set(found))
                disordered += found != sorted(found)
                if found != due:
                    self.violations.append(f"{name}: {stream} was handled as {found}, not {due}")
        return missing, twice, disordered

    def _events_since(self, stream: str, events: Sequence[Place], found: Sequence[Place]) -> Sequence[Place]:
        """Return the events that start="now" must handle: those after the registration, without a gap before them.

        The processor started after the first worker did and before it was registered. So the first handled commit may
        be between the two; where the feed is not ordered, it may be of the 15 minutes before. If a worker is killed
        while it handles these, the rest of them is handled before the next commit of the stream.
        """
        before = (self.old or {}) if self.feed.ordered else self.ancient
        old, new = before.get(stream, 0), (self.new or {}).get(stream, 0)
        first = min([max(found[0][0], old + 1), new + 1] if found else [new + 1])
        due = [each for each in events if each[0] >= first]
        is_cut = bool(found) and found == due[: len(found)] and due[-1][0] <= new
        return found if is_cut and self.chaos.counts["killed"] else due

    def _read_rows(self, table: str) -> dict[str, list[Place]]:
        rows: dict[str, list[Place]] = defaultdict(list)
        query = f"SELECT stream, version, place FROM {table} ORDER BY number"
        for stream, version, place in self.opened[0].connection.execute(query):
            rows[stream].append((version, place))
        return rows

    def _check_outside(self, expected: Mapping[str, Sequence[Place]]) -> tuple[int, int, int]:
        missing = twice = disordered = 0
        disturbances = Disturbances(self.chaos.disturbances)
        for stream, events in expected.items():
            claims = list(claims_of(self.opened[0].connection, "outside@1", stream))
            skipped = {version for each, version in self.skipped["outside@1"] if each == stream}
            found = check_deliveries(events, self.effects[stream], claims, disturbances, optional=skipped)
            missing, twice = missing + found.missing, twice + found.twice
            disordered += found.disordered
            self.chaos.counts["effects had again"] += found.repeated
            self.violations += [f"outside: {stream}: {violation}" for violation in found.violations]
        return missing, twice, disordered


def claims_of(db: sqlite3.Connection, processor: str, stream: str) -> Iterator[Claim]:
    """Yield the workers that had the right to act on a stream, and since when.

    A call that releases a parked stream has it until the release has ended. Otherwise the holder of the slot has it.
    """
    query = f'{_CLAIMS} AND (stream = ? OR number = crc32(?) % "of") ORDER BY rowid'
    holder, is_released = 0, False
    for at, worker, forced, released in db.execute(query, (processor, stream, stream)):
        if not released:
            holder = worker
            if not is_released:
                yield Claim(at, worker, bool(forced))
        elif worker or is_released:
            is_released = bool(worker)
            yield Claim(at, worker or holder, bool(forced))


class Story(NamedTuple):
    """The result of one seed."""

    commits: int
    told: int  # commits delivered by the feed
    missing: int  # events that were not handled
    twice: int
    disordered: int  # streams out of order
    faults: Counter[str]
    violations: Sequence[str]


def tell(seed: int, folder: Path) -> Story:
    """Play one history."""
    source = Random(seed)
    random.seed(seed)  # for the random numbers of the library
    loop = VirtualLoop()
    with virtual_time(loop) as wall:
        play = Play(source, folder / f"{seed}.db", wall)
        try:
            run(play.play(), loop)
        except Deadlock:
            play.violations.append("the history has not ended, but no task can continue")
    found = play.check()
    for each in play.opened:
        each.close()
    commits = sum(len(stream) for stream in play.store._streams.values())
    return Story(commits, play.feed.told, *found, play.chaos.counts, play.violations)


@contextmanager
def silence() -> Iterator[None]:
    """Suppress the library's log messages about each fault."""
    log = logging.getLogger("eventsrc")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def campaign(seeds: Sequence[int]) -> Layer:
    """Run these seeds, one after the other. A violation names its seed."""
    begun = perf_counter()
    commits = told = missing = twice = 0
    faults = Counter[str]()
    violations: list[str] = []
    with TemporaryDirectory() as folder, silence():
        for done, seed in enumerate(seeds):
            report(done, len(seeds))
            story = tell(seed, Path(folder))
            commits, told = commits + story.commits, told + story.told
            missing, twice = missing + story.missing, twice + story.twice
            faults += story.faults
            violations += [f"seed {seed}: {violation}" for violation in story.violations]
    injected = faults.total() - sum(faults[outcome] for outcome in OUTCOMES)
    row = ("reading", told, injected, commits, missing, twice, perf_counter() - begun)
    return Layer(*row, seed=seeds[0], violations=violations, kinds=faults)
