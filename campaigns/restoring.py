"""A store that is changed while its checkpoints stay: restored from a backup, or replaced by another store or tenant.

A processor handles the commits of a store until it is stopped or killed. Then the store changes, and the processor runs
again with the same checkpoints. It must notice, unless nothing that it has handled was lost:

- before it handles or skips any commit, if the checkpoint of the feed is of the old history, or it is another store;
- before it handles or skips any commit of a stream of which a handled commit was lost, if only positions, which are
  ahead of the checkpoint after a kill, are of the old history.

A seed defines a history: `python -m campaigns restoring --seed 7 --seeds 1` replays one.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from support.bank import Account, Deposited, Opened, Withdrawn

from eventsrc import FeedTrimmed, Repository, SnapshotPolicy
from eventsrc.errors import StoreChanged
from eventsrc.processing import Context, Effects, Processor, Runner, SQLiteContext, SQLiteProjection
from eventsrc.processing.projections.sqlite import Database
from eventsrc.stores.ordered import position_of

from .clock import Deadlock, VirtualLoop, run, virtual_time
from .hostile import Chaos, FailingCheckpoints, FailingStore, HostileFeed
from .progress import report
from .reading import silence
from .report import Layer

Movement = Opened | Deposited | Withdrawn

CHANGES = ("nothing", "restored", "restored", "another store")
ENOUGH = 120.0  # seconds in which a processor handles everything or notices the change


class Kept(SQLiteProjection, tag="kept"):
    """Insert a row for each commit, with its id."""

    def create(self, db: Database) -> None:
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} (number INTEGER PRIMARY KEY, stream TEXT, id BLOB)")

    def handle_movement(self, event: Movement, context: SQLiteContext) -> None:
        if context.index == 0:
            context.db.execute(
                f"INSERT INTO {self.table} (stream, id) VALUES (?, ?)", (context.stream, context.commit.id)
            )


class Sent(Effects, tag="sent"):
    """Record the ids of commits."""

    def __init__(self, sent: dict[str, list[bytes]]) -> None:
        self._sent = sent

    async def handle_movement(self, event: Movement, context: Context) -> None:
        if context.index == 0:
            self._sent[context.stream].append(context.commit.id)


class Play:
    """One history."""

    def __init__(self, source: Random, path: Path) -> None:
        self.random, self.chaos = source, Chaos(source)
        for rate in ("dropped", "handler failed", "handler hung"):
            self.chaos.rates[rate] = 0.0
        self.chaos.is_lossless = True
        self.change = source.choice(CHANGES)
        self.violations: list[str] = []
        self.store = FailingStore(self.chaos)
        self.commits = 0
        self._path = path
        self._opened: list[FailingCheckpoints] = []
        self._sent: dict[str, list[bytes]] = defaultdict(list)
        self._registered: set[str] = set()
        self._left = self._checkpoint = 0  # positions in the store: of the restore, and of the checkpoint before it
        self._is_kept = source.random() < 0.5  # a projection, or effects

    async def play(self) -> None:
        dice = self.random
        async with self.store:
            await self._write(dice.randint(1, 6))
            await self._read(dice.choice((0.05, 0.5, 3.0, ENOUGH)), kills=dice.random() < 0.5)
        self._checkpoint = self._read_checkpoint()
        before, self._was_registered = self._handled(), bool(self._registered)
        self._old = {each.id for each in self.store._all}
        self._unstored = self._find_unstored(before)
        await self._change()
        self.chaos.off()
        async with self.store:
            error = await self._read(ENOUGH, kills=False)
        self._check(before, error)
        for each in self._opened:
            each.close()

    async def _write(self, streams: int) -> None:
        repository = Repository(Account, self.store, snapshots=SnapshotPolicy(enabled=False))
        for _ in range(self.random.randint(1, 12)):
            for number in self.random.sample(range(streams), self.random.randint(1, streams)):
                id = f"s-{number}"
                stored = self.store._streams.get(f"account-{id}")
                account = await self._load(repository, id) if stored else Account.open(id, owner="ann")
                account.deposit(1)
                await repository.save(account)
                await asyncio.sleep(self.random.choice((0.0, 0.1)))

    async def _load(self, repository: Repository[Account], id: str) -> Account:
        rates, self.chaos.rates = self.chaos.rates, dict.fromkeys(self.chaos.rates, 0.0)
        try:
            return await repository.load(id)
        finally:
            self.chaos.rates = rates

    async def _read(self, seconds: float, *, kills: bool) -> Exception | None:
        """Run the processor for some time. Return the error by which it noticed a change."""
        checkpoints = FailingCheckpoints(self._path, self.chaos, len(self._opened) + 1, self._registered.add)
        self._opened.append(checkpoints)
        projection: Any = Kept() if self._is_kept else Sent(self._sent)
        processor = Processor(projection, self.store, checkpoints, feed=HostileFeed(self.store, self.chaos))
        runner = Runner(processor, save_every=self.random.choice((0.1, 1, 30)))
        task = asyncio.create_task(runner.run())
        await asyncio.wait([task], timeout=seconds)
        if not task.done() and kills:
            self.chaos.counts["killed"] += 1
            checkpoints.is_dead = True
            task.cancel()
        elif not task.done():
            runner.stop()
        with suppress(asyncio.CancelledError):
            try:
                await task
            except (StoreChanged, FeedTrimmed) as error:
                return error
            except Exception as error:  # any other exception is a violation
                self.violations.append(f"{self.change}: the run ended with {error!r}")
        return None

    async def _change(self) -> None:
        """Change the store, not the checkpoints, and sometimes continue to write."""
        dice, store = self.random, self.store
        self.chaos.counts[self.change] += 1
        if self.change == "restored":
            self._left = left = dice.randint(0, len(store._all))
            del store._all[left:]
            for stream in list(store._streams):
                store._streams[stream] = [each for each in store._all if each.stream == stream]
        elif self.change == "another store":
            self.store = FailingStore(self.chaos)
        if dice.random() < 0.8:
            async with self.store:
                await self._write(dice.randint(1, 6))
        self.commits = len(self.store._all)

    def _read_checkpoint(self) -> int:
        """Return the position in the stored checkpoint of the feed."""
        slots = self._opened[0].connection.execute("SELECT slot ->> 'checkpoint' FROM eventsrc_slots").fetchall()
        return min([position_of(checkpoint) for (checkpoint,) in slots], default=0)

    def _handled(self) -> dict[str, list[bytes]]:
        """Return the ids of the handled commits of each stream, in the order of handling."""
        if not self._is_kept:
            return {stream: list(dict.fromkeys(ids)) for stream, ids in self._sent.items()}
        found: dict[str, list[bytes]] = defaultdict(list)
        db = self._opened[0].connection
        if db.execute("SELECT TRUE FROM sqlite_master WHERE name = 'kept_1'").fetchone():  # else: it has never run
            for stream, id in db.execute("SELECT stream, id FROM kept_1 ORDER BY number"):
                found[stream].append(id)
        return found

    def _find_unstored(self, handled: Mapping[str, Sequence[bytes]]) -> set[bytes]:
        """Return the ids of acts of a killed process whose positions were not stored, so nobody knows of them."""
        if self._is_kept:
            return set()
        rows = self._opened[0].connection.execute("SELECT stream, version FROM eventsrc_positions")
        positions: dict[str, int] = dict(rows.fetchall())
        return {
            commit.id
            for stream, ids in handled.items()
            for commit in self.store._streams[stream]
            if commit.id in ids and commit.version > positions.get(stream, 0)
        }

    def _check(self, before: Mapping[str, Sequence[bytes]], error: Exception | None) -> None:
        stored = {stream: [each.id for each in commits] for stream, commits in self.store._streams.items()}
        gone = self._old - {each.id for each in self.store._all}
        handled_gone = {id for ids in self._handled().values() for id in ids if id in gone}
        after = {
            stream: [id for id in ids if id not in gone & self._unstored] for stream, ids in self._handled().items()
        }
        # Writes of a killed process may arrive late, so what was handled before the change is looked up after it.
        old = {stream: [id for id in ids if id in self._old] for stream, ids in after.items()}
        lost = {stream for stream, ids in old.items() if not _begins_with(stored.get(stream, []), ids)}
        is_another = self.change == "another store" and self._was_registered
        if error is not None:
            self.chaos.counts["noticed"] += 1
            if not (handled_gone or is_another):
                self.violations.append(f"{self.change}: nothing was lost, but the run ended with {error!r}")
            is_strict = is_another or self._checkpoint > self._left
            touched = {stream for stream, ids in after.items() if not gone >= {*ids} - {*before.get(stream, ())}}
            if wrong := [
                each for each in touched if is_strict or each in lost or not _begins_with(stored[each], after[each])
            ]:
                self.violations.append(f"{self.change}: commits of {wrong} were handled before the change was noticed")
            elif touched:
                self.chaos.counts["noticed after a batch"] += 1
            return
        for stream in stored.keys() | after.keys():
            here, handled = stored.get(stream, []), after.get(stream, [])
            if handled != here and not (stream in lost and _begins_with(handled, here)):
                self.violations.append(
                    f"{self.change}: not noticed; {stream} has {len(here)} commits, and {len(handled)} were handled, "
                    f"{len(set(here) - set(handled))} of the store's are missing"
                )
        if is_another:
            self.violations.append(f"{self.change}: not noticed")


def _begins_with(ids: Sequence[bytes], start: Sequence[bytes]) -> bool:
    return ids[: len(start)] == start


def tell(seed: int, folder: Path) -> Play:
    """Play one history."""
    source = Random(seed)
    random.seed(seed)  # for the random numbers of the library
    loop = VirtualLoop()
    play = Play(source, folder / f"restored-{seed}.db")
    with virtual_time(loop):
        try:
            run(play.play(), loop)
        except Deadlock:
            play.violations.append("the history has not ended, but no task can continue")
    return play


def campaign(seeds: Sequence[int]) -> Layer:
    """Run these seeds, one after the other. A violation names its seed. `lost` counts histories with a violation."""
    begun = perf_counter()
    commits = lost = 0
    kinds = Counter[str]()
    violations: list[str] = []
    with TemporaryDirectory() as folder, silence():
        for done, seed in enumerate(seeds):
            report(done, len(seeds))
            play = tell(seed, Path(folder))
            commits += play.commits
            kinds += play.chaos.counts
            lost += bool(play.violations)
            violations += [f"seed {seed}: {violation}" for violation in play.violations]
    faults = kinds["restored"] + kinds["another store"]
    row = ("restoring", len(seeds), faults, commits, lost, 0, perf_counter() - begun)
    return Layer(*row, seed=seeds[0], violations=violations, kinds=kinds)
