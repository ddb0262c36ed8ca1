"""The path of commits through one processor: gate, slices, projection; and what happens to those that fail."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial

from ..errors import Fenced, StoredDataError
from ..retrying import on_takeover
from ..store import Commit, Store
from ..stores.feed import Batch, Damaged
from ..stores.gate import Gate, TooManyMissing
from ..stream_id import category_of
from .applying import Applier, Interrupted
from .assignment import Assignment
from .catch_up import CatchUp, Entry
from .caution import Caution
from .checkpointer import Checkpointer
from .following import Following
from .parking import Parking
from .positions import Positions
from .progress import Progress
from .projections.projection import Projection
from .retries import Retries
from .slice import Fence, Slice

MAX_MISSING = 100  # commits; a stream that misses more of them catches up in a task of its own
CHUNK_SECONDS = 0.5
"""Batches are divided so that each part takes about this long: then a worker that is stopped ends soon."""

LIVE = 10.0  # seconds; a processor that lags by less is live


MANY_PARKED, MANY_PARKED_EVERY = 200, 10  # streams; with more of them, only each tenth look reads them all


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
        self.retries = Retries(
            *(assignment, self.following, self.catch_up, self.parking),
            attempts=attempts,
            stops=stops,
            waits=bool(projection.outages),
        )
        self._caution = Caution(assignment, self.positions, applier, self.catch_up, self.parking, self.retries)
        self.checkpointer = Checkpointer(
            assignment, self.positions, self.following, self.catch_up, self.parking, self.retries, self.progress
        )
        self._gate = Gate(store, {}, most=MAX_MISSING)
        self._lock = asyncio.Lock()
        # Where each write is billed, commits that no handler takes move no position: the next one that is wanted does.
        self._is_lazy = assignment.checkpoints.billed
        self.running = False
        self._watched = 0  # how often `watch` was called
        self._chunk = 2 * projection.concurrency  # commits that are handled at a time

    @property
    def paused(self) -> bool:
        """Whether nothing is handled until somebody calls `Processor.resume`."""
        return self.assignment.paused

    async def prepare(self) -> None:
        """Get ready to handle commits: register, create the read model and read which streams are parked.

        Raises:
            NotActive: readers use another version of this processor.
            StoreChanged: the checkpoints belong to another store.
        """
        if not self.following.is_on:
            await self.assignment.registrar.check_active()
        self.assignment.paused = (await self.assignment.registrar.register(begin=True)).paused
        await self.projection.prepare()
        self.retries.reset()
        await self.parking.refresh()
        self.progress.restart()
        self._caution.reset()

    async def handle(
        self,
        commits: Iterable[Commit],
        damaged: Sequence[Damaged] = (),
        is_ending: Callable[[], bool] = lambda: False,
    ) -> None:
        """Handle these commits, and commits before them that the feed has left out.

        They may come in any order and repeatedly. When this returns, each one is handled, now or before, or its stream
        is parked, or it is handled by a task, which `wait_until_idle` waits for.

        Raises:
            RuntimeError: this object holds no slots.
            Interrupted: `is_ending` was true before all of them were started.
            Fenced: another worker has taken over a slot.
            StoreChanged: the store holds another history than the one that was handled.
            StoreError: positions cannot be read or written. Call `handle` again with the same commits.
        """
        if not self.assignment.held and not self.running:  # in a worker, others may have all slots
            raise RuntimeError(f"{self.assignment.name} holds no slots; run it with `run`, or in a Runner")
        wanted = list(commits)
        if self._is_lazy:
            self.positions.check_known(wanted)
            wanted = [commit for commit in wanted if self.projection.wants(commit)]
        clock = asyncio.get_running_loop().time
        async with self._lock:
            if self.assignment.joined:
                self.positions.clear()  # other processes may have handled more
            for each in damaged:
                if self.is_ours(each.stream):
                    await self._set_aside(each.stream, each.version)
            start = 0
            while start < len(wanted):
                if is_ending():
                    raise Interrupted(self.assignment.name)
                began, chunk = clock(), wanted[start : start + self._chunk]
                await self._handle_chunk(chunk, is_ending)
                start += len(chunk)
                took = clock() - began
                if took < CHUNK_SECONDS / 2 and len(chunk) == self._chunk:
                    self._chunk *= 2
                elif took > CHUNK_SECONDS:
                    self._chunk = max(1, len(chunk) // 2)

    async def _handle_chunk(self, commits: Sequence[Commit], is_ending: Callable[[], bool]) -> None:
        by_stream: dict[str, list[Commit]] = defaultdict(list)
        for commit in commits:
            by_stream[commit.stream].append(commit)
        if self.projection.categories or len(self.assignment.held) < self.assignment.of:
            by_stream = {stream: hints for stream, hints in by_stream.items() if self.is_ours(stream)}
        if by_stream:
            await self._handle(by_stream, is_ending)

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

    async def _handle(self, by_stream: dict[str, list[Commit]], is_ending: Callable[[], bool]) -> None:
        # Streams that are aside come first: their positions are not remembered.
        for stream in await self.parking.out_of_feed(by_stream):
            self.catch_up.note_newer(stream, max(commit.version for commit in by_stream.pop(stream)))
        self.retries.start_orphans()
        runs = await self.following.split(await self._due(by_stream))
        if not runs:
            return
        self.progress.begin(runs)
        try:
            if not self._caution.is_on:
                self.retries.take_over(await self._apply(runs), runs)
                return
            for part in self._caution.split(runs):
                if is_ending():
                    raise Interrupted(self.assignment.name)
                if not self._caution.is_on:
                    break
                await self._caution.apply(part)
            else:
                return
        finally:
            self.progress.end()
        await self._handle(by_stream, is_ending)  # the rest, without caution

    async def _due(self, by_stream: Mapping[str, Sequence[Commit]]) -> list[Slice]:
        """Return the slices to handle now. Streams that miss many commits catch up in a task of their own."""
        runs: list[Slice] = []
        rights: dict[int, tuple[Fence, Callable[[], Awaitable[None]]]] = {}  # of each slot
        positions = await self.positions.load(by_stream)
        follow = {stream for stream, hints in by_stream.items() if _follow(hints, positions[stream].version)}
        for stream in by_stream.keys() - follow:
            self.positions.check(positions[stream], by_stream[stream])
        if self.positions.unchecked:
            newer = {s for s, hints in by_stream.items() if any(each.version > positions[s].version for each in hints)}
            await self.positions.check_stored({stream: positions[stream] for stream in newer})
        for stream, hints in by_stream.items():
            known, due = positions[stream], hints
            if stream not in follow:
                try:
                    due = await self._gate.due(*hints, after=known.version)
                except (TooManyMissing, StoredDataError):  # the stream's own task reports damaged data
                    self.retries.start(stream, max(commit.version for commit in hints))
                    continue
            if not due:
                continue
            if due[-1].version < known.end:
                self.retries.start(stream, known.end)
                continue
            number = self.assignment.slot_of(stream)
            if number not in rights:
                if (fence := self.assignment.fence(number)) is None:
                    raise Fenced(self.assignment.name, number)
                rights[number] = fence, partial(self.assignment.confirm, number)
            fence, confirm = rights[number]
            runs.append(Slice(stream, due[0].version - 1, due, fence, False, known.is_first, confirm=confirm))
        return runs

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

    def check(self) -> None:
        """Raise the error that makes this processor stop, if there is one."""
        if self.retries.failure is not None:
            raise self.retries.failure

    async def watch(self, *, slots: bool, entries: bool) -> None:
        """Look at what other processes have changed.

        With `slots`, look at the slots. With `entries`, look at the parked streams, else at whether it is paused.

        Raises:
            Fenced, NotActive, SwitchPending: nobody may continue here.
            StoreError: the checkpoints cannot be read.
        """
        if slots and self.assignment.held:
            await self.assignment.refresh()
        if entries:
            self._watched += 1
            if len(self.parking.parked) < MANY_PARKED or self._watched % MANY_PARKED_EVERY == 0:
                await self.parking.refresh()
            async with self._lock:  # none of them is in a batch now
                self.retries.start_orphans()
        elif (paused := await self.assignment.registrar.is_paused()) != self.paused:
            (self.checkpointer.pause if paused else self.checkpointer.resume)()

    async def last_wanted(self, stream: str, version: int, after: int = 0) -> int:
        """Return the last version up to this one whose position is stored: where writes are billed, of a wanted one.

        It is 0 for a stream of a category that the projection does not take.
        """
        if self.projection.categories and category_of(stream) not in self.projection.categories:
            return 0
        if not self._is_lazy:
            return version
        try:
            async with aclosing(self.store.read(stream, after=after, until=version, backward=True)) as commits:
                async for commit in commits:
                    if self.projection.wants(commit):
                        return commit.version
        except StoredDataError as error:  # nobody knows what it holds
            return error.version
        return after

    async def reset(self, stream: str) -> None:
        """Forget what was handled of one stream, and handle it again: now, if this process runs, else in the next run.

        Raises:
            TypeError: the projection cannot forget one stream.
            ValueError: the stream is parked, or handled by a task of its own.
        """
        if stream in await self.parking.out_of_feed([stream]) or await self.parking.refresh([stream]):
            raise ValueError(f"{stream} is parked or is being retried; retry or skip it first")
        async with self._lock:
            if stream in self.catch_up.entries:
                raise ValueError(f"{stream} is parked or is being retried; retry or skip it first")
            entry = self.catch_up.enter(stream)
            try:
                await on_takeover()(self._reset, entry)
            finally:
                self.catch_up.leave(entry)
                self.positions.forget(stream)
                if entry.stored is not None:
                    self.parking.orphans[stream] = entry.stored
            if self.running:
                self.retries.start_orphans()

    async def _reset(self, entry: Entry) -> None:
        await self.parking.store(entry)
        await self.projection.reset(entry.stream, await self.assignment.fence_of(entry.stream))

    async def wait_until_idle(self) -> None:
        """Wait until all commits given to `handle` are handled or parked.

        Raises:
            Exception: what makes the processor stop, such as a handler's error with `on_error="stop"`.
        """
        await self.retries.wait_until_idle()
        self.check()


def _follow(commits: Iterable[Commit], after: int) -> bool:
    """Whether commits of a stream are the ones after this version, in order."""
    for commit in commits:
        after += 1
        if commit.version != after:
            return False
    return True
