"""The path of commits through one processor: gate, slices, projection; and what happens to those that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing

from ..errors import Fenced, StoredDataError
from ..store import Commit, Store
from ..stores.feed import Batch, Damaged
from ..stores.gate import Gate, TooManyMissing
from ..stream_id import category_of
from .applying import Applied, Applier, Interrupted
from .assignment import Assignment
from .catch_up import CatchUp
from .following import Following
from .parking import Parking
from .positions import Positions
from .progress import Progress
from .projections.projection import Projection
from .retries import Retries
from .slice import HandlerFailed, Slice

MAX_MISSING = 100  # commits; a stream that misses more of them catches up in a task of its own
CAREFUL_SECONDS = 10.0
"""After a process has ended, commits are handled one at a time for this long, to find out which one ended it."""

LIVE = 10.0  # seconds; a processor that is less behind is live

STORE_AFTER = 2.0  # seconds; streams that are aside for less are not stored, as most of them soon are not any more
WRITE_AT_LEAST = 10.0  # seconds after which they are, so that the checkpoint advances


class Pipeline:
    """Passes each commit of a store to a projection, once and in stream order.

    The checkpoint of the feed always advances: what it passes is handled, or stored as parked or retrying.
    """

    def __init__(
        self,
        projection: Projection,
        store: Store,
        assignment: Assignment,
        *,
        attempts: int,
        stops: bool,
        wake: Callable[[str], None],
    ) -> None:
        self.projection, self.store, self.assignment = projection, store, assignment
        self._wake = wake  # called with each stream whose position has moved
        self.progress = Progress()
        self.positions = Positions(projection, assignment, store, self.progress)
        self.following = Following(projection)
        applier = Applier(projection, assignment, self.positions, self._note)
        self._apply = applier.apply
        self.catch_up = CatchUp(store, assignment, self.positions, applier, self.following)
        self.parking = Parking(projection, assignment, self.positions, self.catch_up)
        self.retries = Retries(assignment, self.catch_up, self.parking, attempts, stops)
        self._gate = Gate(store, {}, most=MAX_MISSING)
        self._lock = asyncio.Lock()
        # Where each write is billed, commits that no handler takes move no position: the next one that is wanted does.
        self._is_lazy = assignment.checkpoints.billed
        self._careful_until: float | None = None
        self._written = 0.0  # when a checkpoint was last written, by the loop's clock
        self.running = False
        self.paused = False

    async def prepare(self) -> None:
        """Get ready to handle commits: register, create the read model and read which streams are parked.

        Raises:
            NotActive: readers use another version of this processor.
            StoreChanged: the checkpoints belong to another store.
        """
        if not self.following.is_on:
            await self.assignment.check_active()
        self.paused = (await self.assignment.register()).paused
        await self.projection.prepare()
        self.retries.reset()
        await self.parking.refresh()
        self.progress.restart()
        self._careful_until = None

    async def handle(self, commits: Iterable[Commit], damaged: Sequence[Damaged] = ()) -> None:
        """Handle these commits, and commits before them that the feed has left out.

        They may come in any order and repeatedly. When this returns, each one is handled, now or before, or its stream
        is parked, or it is handled by a task, which `wait_until_idle` waits for.

        Raises:
            RuntimeError: this object holds no slots.
            Fenced: another worker has taken over a slot.
            StoreChanged: the store holds another history than the one that was handled.
            StoreError: positions cannot be read or written. Call `handle` again with the same commits.
        """
        if not self.assignment.held and not self.running:  # in a worker, others may have all slots
            raise RuntimeError(f"{self.assignment.name} holds no slots; run it with `run`, or in a Runner")
        by_stream: dict[str, list[Commit]] = {}
        if self._is_lazy:
            commits = [commit for commit in commits if self.projection.wants(commit)]
        for commit in commits:
            if commit.stream in by_stream:
                by_stream[commit.stream].append(commit)
            else:
                by_stream[commit.stream] = [commit]
        if self.projection.categories or len(self.assignment.held) < self.assignment.of:
            by_stream = {stream: hints for stream, hints in by_stream.items() if self.is_ours(stream)}
        async with self._lock:
            if self.assignment.joined:
                self.positions.clear()  # other processes may have handled more
            for each in damaged:
                if self.is_ours(each.stream):
                    await self._set_aside(each.stream, each.version)
            if by_stream:
                await self._handle(by_stream)

    def is_ours(self, stream: str) -> bool:
        """Whether this stream is handled here: its slot is held, and the projection takes its category."""
        categories = self.projection.categories
        return self.assignment.holds(stream) and (not categories or category_of(stream) in categories)

    async def _set_aside(self, stream: str, version: int) -> None:
        if stream not in await self.parking.out_of_feed([stream]):
            if (await self.positions.load([stream]))[stream].version < version:
                self.retries.start(stream, version)
        else:
            self.catch_up.note_newer(stream, version)

    async def _handle(self, by_stream: dict[str, list[Commit]]) -> None:
        # Streams that are aside come first: their positions are not remembered.
        for stream in await self.parking.out_of_feed(by_stream):
            self.catch_up.note_newer(stream, max(commit.version for commit in by_stream.pop(stream)))
        self._start_orphans()
        runs = await self.following.split(await self._due(by_stream))
        if not runs:
            return
        self.progress.begin(runs)
        try:
            if self.assignment.unclean and self._is_careful():
                await self._handle_carefully(runs)
            else:
                self._hand_over(await self._apply(runs), runs)
        finally:
            self.progress.end()

    async def _due(self, by_stream: Mapping[str, list[Commit]]) -> list[Slice]:
        """Return the slices to handle now. Streams that miss many commits catch up in a task of their own."""
        runs: list[Slice] = []
        positions = await self.positions.load(by_stream)
        for stream, hints in by_stream.items():
            if any(commit.version <= positions[stream].version for commit in hints):
                self.positions.check(positions[stream], hints)
        for stream, hints in by_stream.items():
            known = positions[stream]
            try:
                due = await self._gate.due(*hints, after=known.version)
            except (TooManyMissing, StoredDataError):  # the stream's own task reports damaged data
                self.retries.start(stream, max(commit.version for commit in hints))
                continue
            if due:
                runs.append(self._slice(stream, due, known.is_first))
        return runs

    def _slice(self, stream: str, due: Sequence[Commit], is_first: bool) -> Slice:
        number = self.assignment.slot_of(stream)
        if (fence := self.assignment.fence(number)) is None:
            raise Fenced(self.assignment.name, number)
        return Slice(stream, due[0].version - 1, due, fence, is_first=is_first, confirm=self._confirm(number))

    def _confirm(self, number: int) -> Callable[[], Awaitable[None]]:
        async def confirm() -> None:
            await self.assignment.confirm(number)

        return confirm

    def _hand_over(self, applied: Applied, runs: Sequence[Slice]) -> None:
        """Leave streams that failed, or take long, to tasks of their own."""
        for run, error in applied.failures:
            if isinstance(error, Interrupted):
                self.catch_up.enter(
                    run.stream, run.last_version
                ).is_suspended = True  # stored when the slot is given up
            else:
                failed = error if isinstance(error, HandlerFailed) else None
                self.retries.start(run.stream, run.last_version, failed=failed)
        for run in runs if applied.slow else ():
            if (task := applied.slow.get(run.stream)) is not None:
                self.retries.start(run.stream, run.last_version, first=task)

    def _start_orphans(self) -> None:
        held_back = self.following.held_back if self.following.is_on else ()
        self.retries.start_orphans([stream for stream in self.parking.orphans if stream not in held_back])

    def _is_careful(self) -> bool:
        clock = asyncio.get_running_loop().time()
        if self._careful_until is None:
            self._careful_until = clock + CAREFUL_SECONDS
        if clock < self._careful_until:
            return True
        self.assignment.unclean.clear()
        self._careful_until = None
        return False

    async def _handle_carefully(self, runs: Sequence[Slice]) -> None:
        """Handle one commit at a time, in order, each stored before and deleted after: a process may end at one."""
        parts = [run.part(each, each + 1) for run in runs for each in range(len(run.commits))]
        if all(part.commits[0].position is not None for part in parts):
            parts.sort(key=lambda part: part.commits[0].position or 0)
        for part in parts:
            await self.retries.wait_until_survived()
            stream = part.stream
            if stream in self.catch_up.entries:
                self.catch_up.note_newer(stream, part.last_version)
                continue
            entry = self.catch_up.enter(stream, part.last_version)
            try:
                await self.parking.store(entry, lives=1)
                known = (await self.positions.load([stream]))[stream]
                applied = await self._apply([part._replace(is_first=known.is_first)])
            finally:
                self.catch_up.leave(entry)
            if applied.failures or applied.slow:
                self.parking.orphans[stream] = entry.stored  # type: ignore[assignment]  # stored above
                self._hand_over(applied, [part])
            else:
                await self.parking.clear(entry)

    def _note(self, run: Slice) -> None:
        """Note that a slice was handled."""
        self.progress.handled(run)
        self.retries.succeeded()
        self._wake(run.stream)

    @property
    def state(self) -> str:
        """One word: see `Status.state`."""
        if self.retries.failure is not None:
            return "failed"
        if not self.running:
            return "stopped"
        if self.paused:
            return "paused"
        if self.progress.waiting:
            return "waiting for the store"
        if not self.assignment.held:
            return "waiting for slots"
        if self.retries.is_backing_off:
            return "backing off"
        return "live" if self.progress.caught_up.is_set() or self.progress.lag < LIVE else "catching up"

    # Progress.

    def batch_done(self, batch: Batch) -> None:
        """Note that all commits of a batch were passed to `handle`."""
        self.assignment.checkpoint = batch.checkpoint
        self.progress.batch_done(batch)
        self.update_caught_up()

    def update_caught_up(self) -> None:
        """Find out whether all commits that the feed knows of are handled."""
        self.progress.update(len(self.catch_up.entries))

    async def save(self) -> None:
        """Write the feed checkpoint, if it has changed. Streams that are aside are stored first.

        Raises:
            Fenced: another worker has taken over a slot.
            StoreError: the checkpoints cannot be written.
        """
        self.update_caught_up()
        self.check()
        clock = asyncio.get_running_loop().time()
        aside = [entry for entry in self.catch_up.entries.values() if entry.stored is None]
        if any(clock - entry.since < STORE_AFTER for entry in aside) and clock - self._written < WRITE_AT_LEAST:
            return
        await self._store_aside()
        await self.assignment.write()
        self._written = clock

    async def _store_aside(self, number: int | None = None) -> None:
        """Store the streams that are aside, and those that a rebuild holds back, of one slot or of all."""
        for stream in list(self.following.held_back):
            if stream not in self.catch_up.entries and stream not in self.parking.orphans:
                entry = self.catch_up.enter(stream)
                try:
                    await self.parking.store(entry)
                finally:
                    self.catch_up.leave(entry)
                assert entry.stored is not None
                self.parking.orphans[stream] = entry.stored
        for entry in list(self.catch_up.entries.values()):
            ours = number is None or self.assignment.slot_of(entry.stream) == number
            if ours and entry.stored is None and entry.stream in self.catch_up.entries:
                await self.parking.store(entry)

    def check(self) -> None:
        """Raise the error that makes this processor stop, if there is one."""
        if self.retries.failure is not None:
            raise self.retries.failure

    async def watch(self) -> None:
        """Look at what other processes have changed: slots, parked streams, and whether the processor is paused.

        Raises:
            Fenced, NotActive, SwitchPending: nobody may continue here.
            StoreError: the checkpoints cannot be read.
        """
        if self.assignment.held:
            await self.assignment.refresh()
        if self.parking.parked or self.parking.orphans:
            await self.parking.refresh()
            async with self._lock:  # none of them is in a batch now
                self._start_orphans()
        self.paused = await self.assignment.is_paused()

    async def last_wanted(self, stream: str, version: int) -> int:
        """Return the last version up to this one whose position is stored: where writes are billed, of a wanted one."""
        if not self._is_lazy:
            return version
        async with aclosing(self.store.read(stream, until=version, backward=True)) as commits:
            async for commit in commits:
                if self.projection.wants(commit):
                    return commit.version
        return 0

    async def reset(self, stream: str) -> None:
        """Forget what was handled of one stream, and handle it again: now, if this process runs, else in the next run.

        Raises:
            TypeError: the projection cannot forget one stream.
            ValueError: the stream is parked, or handled by a task of its own.
        """
        if stream in await self.parking.out_of_feed([stream]) or await self.parking.refresh([stream]):
            raise ValueError(f"{stream} is parked or is being retried; retry or skip it first")
        async with self._lock:
            entry = self.catch_up.enter(stream)
            try:
                await self.parking.store(entry)
                await self.projection.reset(stream, await self.assignment.fence_of(stream))
            finally:
                self.catch_up.leave(entry)
                self.positions.forget(stream)
                if entry.stored is not None:
                    self.parking.orphans[stream] = entry.stored
            if self.running:
                self._start_orphans()

    async def wait_until_idle(self) -> None:
        """Wait until all commits given to `handle` are handled or parked.

        Raises:
            Exception: what makes the processor stop, such as a handler's error with `on_error="stop"`.
        """
        await self.retries.wait_until_idle()
        self.check()

    # Slots.

    async def claimed(self) -> None:
        """Continue with the streams of slots that were claimed: other workers may have parked or left some."""
        self.clear()
        await self.parking.refresh()
        self._start_orphans()

    async def give_up(self, number: int, grace: float) -> None:
        """Give up a slot: end what runs, store what is left, write the checkpoint.

        Raises:
            Fenced: another worker has claimed it already.
            StoreError: it could not be stored; the slot is still held.
        """
        self.assignment.draining.add(number)
        await self.retries.finish([number], grace)
        await self._store_aside(number)
        await self.assignment.give_up(number, self.assignment.checkpoint)
        self._forget_slot(number)

    def dropped(self, number: int) -> None:
        """Note that another worker has taken over a slot, or may do so."""
        self._forget_slot(number)
        self.assignment.drop(number)

    def _forget_slot(self, number: int) -> None:
        for stream, entry in list(self.catch_up.entries.items()):
            if self.assignment.slot_of(stream) == number:
                if entry.task is not None:
                    entry.task.cancel()
                self.catch_up.leave(entry)
        self.parking.drop_slot(number)
        self.clear()

    async def stop(self, grace: float) -> None:
        """End what runs, within `grace` seconds, store what is left, write the checkpoint and give up all slots.

        Raises:
            Fenced: another worker has taken over a slot.
            StoreError: what is left could not be stored: the next run handles it again.
        """
        if self.assignment.joined:
            return
        numbers = list(self.assignment.held)
        self.assignment.draining.update(numbers)
        await self.retries.finish(numbers, grace)
        self.check()
        await self._store_aside()
        for number in numbers:
            await self.assignment.give_up(number, self.assignment.checkpoint)

    async def drop(self) -> None:
        """Release everything held in memory. The next run delivers unfinished commits again."""
        await self.retries.drop()
        self.assignment.clear()
        self.clear()

    def clear(self) -> None:
        """Forget everything that other workers may have changed."""
        self.positions.clear()
        self.following.held_back.clear()
        self.progress.restart()
