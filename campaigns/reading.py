"""The read side in virtual time: writers keep writing while feeds and checkpoints fail and workers are killed.

A seed defines a history: `python -m campaigns reading --seed 7 --seeds 1` replays one.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import NamedTuple

from support.bank import Account

from eventsrc import EventsrcError, Repository, SnapshotPolicy
from eventsrc.processing import Processor, Runner, verify

from .clock import Deadlock, VirtualLoop, run, virtual_time
from .deliveries import Claim, Disturbances, check_deliveries
from .hostile import Chaos
from .progress import report
from .readers import TTL, InMemory, Process, Worker, World
from .report import Layer

SETTLED = 60.0  # seconds after the last fault until leases are distributed
OUTCOMES = ("parked", "fenced", "found by verify", "effects had again")  # results of faults, not faults
PATIENCE = 900.0  # seconds after that, within which all commits must be handled


class Play(World):
    """One history."""

    def __init__(self, source: Random, path: Path) -> None:
        super().__init__(Chaos(source), path)
        self.random = source
        self.violations: list[str] = []
        self.in_memory = Processor(InMemory(self.chaos), self.store, feed=self.feed, attempts=4)
        self._slots = source.choice((1, 3, 8))
        self._slots_change = source.random() < 0.2
        self._restarts = source.choice((0.0, 1.0, 1.0))  # how often workers are disturbed
        self._workers: dict[Worker, None] = {}
        self._names = 0
        self._over, self._ended = asyncio.Event(), asyncio.Event()

    async def play(self) -> None:
        async with self.store, asyncio.TaskGroup() as group:
            places = [group.create_task(self._place()) for _ in range(self.random.randint(1, 3))]
            memory = group.create_task(self._in_memory())
            operator = group.create_task(self._operate())
            async with asyncio.TaskGroup() as writers:
                for number in range(self.random.randint(1, 8)):
                    writers.create_task(self._write(f"s-{number}"))
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
            self._ended.set()
            for worker in self._workers:
                worker.runner.stop()
            self._memory_runner.stop()
            await asyncio.wait([*places, memory])
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        self.violations += [f"a task was left: {task!r}" for task in left]

    async def _write(self, id: str) -> None:
        repository = Repository(Account, self.store, snapshots=SnapshotPolicy(enabled=False))
        account = Account.open(id, owner="ann")
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
                    worker.runner.stop()
                    return
                case "kill":
                    chaos.counts["killed"] += 1
                    await worker.kill()
                    return

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
        """Retry parked streams, from a process of its own and from the process of the memory projection."""
        while True:
            await asyncio.sleep(10)
            desk = Process(self)
            for processor in (desk.rows, desk.outside, self.in_memory):
                with suppress(EventsrcError, ValueError, RuntimeError):
                    for parked in await processor.parked():
                        self.chaos.counts["parked"] += 1
                        await processor.retry(parked.stream)
            await desk.rows.drop()
            await desk.outside.drop()

    async def _verify(self) -> None:
        """Handle commits that the feed dropped for good, found by comparing heads."""
        held = [processor for worker in self._workers for processor in (worker.rows, worker.outside) if processor.held]
        for processor in (*held, self.in_memory):
            self.chaos.counts["found by verify"] += (await verify(processor)).handled

    async def _until_all_is_handled(self) -> None:
        heads = {head.stream: head.version async for page in self.store.heads() for head in page}
        desk = Process(self)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while True:
                    for processor in (desk.rows, desk.outside, self.in_memory):
                        if await processor.positions(list(heads)) != heads or await processor.parked():
                            break
                    else:
                        return
                    await asyncio.sleep(1)

    def check(self) -> tuple[int, int, int]:
        """Return counts: missing events, events handled twice, streams out of order. Extend `violations`."""
        expected = {
            stream: [(commit.version, index) for commit in commits for index in range(commit.events)]
            for stream, commits in self.store._streams.items()
        }
        reader = self.opened[0]._db
        rows: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for stream, *place in reader.execute("SELECT stream, version, place FROM rows_1 ORDER BY number"):
            rows[stream].append((place[0], place[1]))
        self.violations += [row[0] for row in reader.execute("SELECT violation FROM violations")]
        missing, twice, disordered = self._check_outside(expected)
        for name, seen in (("rows", rows), ("in memory", self.in_memory.projection.seen)):
            for stream, events in expected.items():
                missing += len(set(events) - set(seen[stream]))
                twice += len(seen[stream]) - len(set(seen[stream]))
                disordered += seen[stream] != sorted(seen[stream])
                if seen[stream] != events:
                    self.violations.append(f"{name}: {stream} was handled as {seen[stream]}, not {len(events)} events")
        return missing, twice, disordered

    def _check_outside(self, expected: Mapping[str, Sequence[tuple[int, int]]]) -> tuple[int, int, int]:
        missing = twice = disordered = 0
        disturbances = Disturbances(self.chaos.disturbances)
        query = 'SELECT at, worker, forced FROM claims WHERE processor = ? AND number = crc32(?) % "of" ORDER BY rowid'
        for stream, events in expected.items():
            claimed = self.opened[0]._db.execute(query, ("outside@1", stream)).fetchall()
            claims = [Claim(at, worker, bool(forced)) for at, worker, forced in claimed]
            found = check_deliveries(events, self.effects[stream], claims, disturbances)
            missing, twice = missing + found.missing, twice + found.twice
            disordered += found.disordered
            self.chaos.counts["effects had again"] += found.repeated
            self.violations += [f"outside: {stream}: {violation}" for violation in found.violations]
        return missing, twice, disordered


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
    play = Play(source, folder / f"{seed}.db")
    with virtual_time(loop):
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
