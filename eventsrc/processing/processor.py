"""A processor: takes what a feed tells through the gate and to a projection, and keeps its promises when that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Generic, Literal, TypeVar

from ..errors import Fenced, StoredDataError, StreamParked
from ..store import Commit, Receipt, Store
from ..stores.feed import Batch, Feed
from ..stores.gate import FarBehind, Gate
from .assignment import Assignment
from .checkpoints.checkpoints import Checkpoints, MemoryCheckpoints, Parked, now
from .parking import Parking
from .projections.projection import Guarantee, Projection
from .slice import Fence, HandlerFailed, PositionMoved, Slice

P = TypeVar("P", bound=Projection)

_MAX_POSITIONS = 200_000  # positions held in memory
_MAX_MISSING = 100  # commits of a stream that are missing and are waited for; with more it catches up by itself
_CLOCK_SKEW = 60_000_000  # µs that the clocks of writers may be behind, for who begins now


class Processor(Assignment, Generic[P]):
    """Has a projection handle each commit of a store once and in order, from the first one on.

    `checkpoints` is where positions are kept; a MemoryProjection needs none. `feed` is the transport, the store's own
    if nothing else is given. `start="now"` begins with what is stored from the first run on: older commits are never
    handled, though on an unordered feed those of the last minute may be.

    A handler that fails is called again, `attempts` times in all, after 0.1 seconds and then after four times as long
    each time, up to 30, while other streams go on. Then its stream is parked, which holds back its later events, too.
    With `on_error="stop"` the processor stops instead, and what the handler raised comes out.
    """

    def __init__(
        self,
        projection: P,
        store: Store,
        checkpoints: Checkpoints | None = None,
        *,
        feed: Feed | None = None,
        start: Literal["beginning", "now"] = "beginning",
        attempts: int = 5,
        on_error: Literal["park", "stop"] = "park",
    ) -> None:
        given: object = projection
        if not isinstance(given, Projection):
            raise TypeError(f"{given!r} is no projection; give an object of a subclass, as Processor(Wealth(), ...)")
        if start not in ("beginning", "now"):
            raise ValueError(f"start is {start!r}; it is 'beginning' or 'now'")
        if on_error not in ("park", "stop"):
            raise ValueError(f"on_error is {on_error!r}; it is 'park' or 'stop'")
        if attempts < 1:
            raise ValueError(f"attempts is {attempts!r}; it is a number from 1 on")
        if feed is None and not isinstance(store, Feed):
            raise TypeError(f"{type(store).__name__} tells no feed; give one as feed=")
        if checkpoints is None and projection.guarantee is not Guarantee.MEMORY:
            raise TypeError(f"{type(projection).__qualname__} needs checkpoints, to keep its positions in")
        if checkpoints is not None and projection.guarantee is Guarantee.MEMORY:
            raise TypeError(
                f"{type(projection).__qualname__} is in memory, and so are its positions; give no checkpoints"
            )
        checkpoints = checkpoints if checkpoints is not None else MemoryCheckpoints()
        used: Feed = feed if feed is not None else store  # type: ignore[assignment]  # checked above
        super().__init__(projection, checkpoints, used, from_now=start == "now")
        self.projection, self.store = projection, store
        projection.bind(checkpoints)
        projection._store, projection._semaphore = store, asyncio.Semaphore(projection.concurrency)
        self.caught_up = asyncio.Event()  # nothing is behind what was handled, as far as the feed knows
        self.in_flight = 0  # commits that handlers have now
        self._oldest = 0  # time of the oldest of them, in µs since the epoch
        self.commits = 0  # that were handled since this object was made
        self.handled_up_to = 0  # time of the newest of them, in µs since the epoch
        self._at_end = False
        self._positions: dict[str, int] = {}
        self._gate = Gate(store, self._positions, most=_MAX_MISSING)
        self.parking = Parking(self, attempts, stops=on_error == "stop")
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._followed: str | None = None  # the version that this one is rebuilt beside
        self.beyond_limit: set[str] = set()  # streams in which that one is not as far
        self._handle_lock = asyncio.Lock()

    async def prepare(self) -> None:
        """Get ready to handle: look up what is parked, and have the read model made. Raises NotActive."""
        if self._followed is None:
            await self.check_active()
        await self.projection.prepare()
        self.projection._semaphore = asyncio.Semaphore(self.projection.concurrency)
        await self.parking.refresh()
        self.parking.reset()
        self.caught_up.clear()

    def follow(self, other: str | None) -> None:
        """From now on, go as far as this other version is and no further, muted; None: go on alone."""
        self._followed = other
        self.beyond_limit.clear()

    def batch_done(self, batch: Batch) -> None:
        """All of a batch was given to `handle`."""
        self.note_checkpoint(batch.checkpoint)
        self._at_end = batch.caught_up
        self._update_caught_up()

    async def save(self) -> None:
        """Write how far all is handled, if that has changed. Raises Fenced, StoreError."""
        self._update_caught_up()
        if not (self.parking.catching_up or self.beyond_limit or self.parking.failure):
            await self.write()

    @property
    def state(self) -> str:
        """`stopped`, `failed`, `waiting` for slots that other workers have, `catching up` or `live`."""
        if self.parking.failure is not None:
            return "failed"
        if not self.held:
            return "waiting" if self.running else "stopped"
        return "live" if self.caught_up.is_set() else "catching up"

    @property
    def lag(self) -> float:
        """Seconds since the newest commit that was handled, while there is more; when it had caught up, since what
        handlers have now was stored. 0 if they have nothing, or it handles nothing here.
        """
        since = self._oldest if self.caught_up.is_set() else self.handled_up_to or self._oldest
        return max(0.0, (now() - since) / 1e6) if since and self.held else 0.0

    def _update_caught_up(self) -> None:
        if self._at_end and not self.parking.catching_up:
            self.caught_up.set()
        else:
            self.caught_up.clear()

    async def run(self, *, until_caught_up: bool = False) -> None:
        """Run this processor alone, as `Runner(self).run(...)`."""
        from .runner import Runner

        await Runner(self).run(until_caught_up=until_caught_up)

    async def handle(self, commits: Iterable[Commit]) -> None:
        """Handle what a feed has delivered, in any order and however often, and what it has left out.

        Comes back when all is handled, dropped as handled before, parked, or put aside to be tried again: see
        `settled`. Raises Fenced, and StoreError where positions cannot be read or written; then call it again.
        """
        if not self.held and not self.running:  # in a runner, other workers may have all of them
            raise RuntimeError(f"{self.name} holds no slots (any more); `prepare` it, and `take_all` or `join`")
        by_stream: dict[str, list[Commit]] = {}
        for commit in commits:
            if commit.stream in by_stream:
                by_stream[commit.stream].append(commit)
            else:
                by_stream[commit.stream] = [commit]
        if len(self.held) < self._slot_count:
            by_stream = {stream: hints for stream, hints in by_stream.items() if self.holds(stream)}
        async with self._handle_lock:
            if self._joined:
                self._positions.clear()  # others may have handled more
            # These are taken out first, so that their positions are not remembered.
            for stream in await self.parking.out_of_feed(by_stream.keys()):
                self.parking.note_newer(stream, max(commit.version for commit in by_stream.pop(stream)))
            await self._load_positions(by_stream)
            await self._apply(await self.split(await self._due(by_stream)))

    async def wait_until_idle(self) -> None:
        """Wait until all commits given to `handle` are handled or parked.

        Raises:
            Exception: what makes the processor stop, such as a handler's error with `on_error="stop"`.
        """
        await self.parking.wait_until_idle()
        self.check()

    def check(self) -> None:
        """Raise what makes this processor stop, if anything does."""
        if self.parking.failure is not None:
            raise self.parking.failure

    async def forget(self) -> None:
        """Drop the read model and all that is kept for this version: it begins with nothing when it is run again.

        Nobody may run it. What `Projection.discard` says goes for the read model. Raises RuntimeError if it runs here.
        """
        if self.running:
            raise RuntimeError(f"{self.name} is running; stop it first, here and elsewhere")
        await self.projection.discard()
        await self.drop()

    def dropped(self, number: int) -> None:
        super().dropped(number)
        self.parking.drop_slot(number)

    async def drop(self) -> None:
        """Forget what is not stored; what was aside comes again with the next run."""
        await self.parking.drop()
        self.held.clear()
        self.changed()

    def changed(self) -> None:
        super().changed()
        self._positions.clear()
        self.beyond_limit.clear()
        self._at_end = False
        self.caught_up.clear()

    async def positions(self, streams: Sequence[str]) -> Mapping[str, int]:
        """The versions of these streams that were handled last, as they are stored."""
        return await self.projection.positions(streams)

    async def wait_for(self, receipt: Receipt, timeout: float = 10.0) -> None:
        """Wait until what a save has stored is handled, here or in another process: to read one's own writes.

        Raises StreamParked if it is held back, and TimeoutError after so many seconds.
        """
        stream, version = receipt.stream, receipt.version
        progress = asyncio.Event()
        self._waiters.setdefault(stream, set()).add(progress)
        pause = 0.02
        try:
            async with asyncio.timeout(timeout):
                while (await self.positions([stream])).get(stream, 0) < version:
                    for parked in await self.checkpoints.parked(self.name, [stream]):
                        if parked.version <= version and not parked.released:
                            raise StreamParked(self.name, stream, parked.version)
                    try:
                        async with asyncio.timeout(pause):  # another process may be the one that handles it
                            await progress.wait()
                    except TimeoutError:
                        pause = min(pause * 2, 1.0)
                    progress.clear()
        except TimeoutError:
            raise TimeoutError(f"{self.name} has not handled {stream}@{version} in {timeout} s; does it run?") from None
        finally:
            self._waiters[stream].discard(progress)
            if not self._waiters[stream]:
                del self._waiters[stream]

    async def parked(self) -> Sequence[Parked]:
        """The streams that are held back, and those whose retry broke off as it ended: retry them too."""
        return await self.checkpoints.parked(self.name)

    async def retry(self, stream: str) -> None:
        """Handle a parked stream from where it stands to its end, and release it. Any process may do that.

        Raises StreamParked if a handler fails again; then it stays parked.
        """
        await self.parking.retry(stream)

    async def retry_all(self) -> Sequence[Parked]:
        """Retry all that are parked, side by side, as after an outage; returns those that have failed again."""
        await self.parking.retry_all()
        return await self.parked()

    async def skip(self, stream: str, reason: str) -> None:
        """Pass over the commit that a parked stream stands at, which is noted with the reason, and handle the rest.

        Raises StreamParked if a handler fails with a later one.
        """
        if not reason.strip():
            raise ValueError("say why it is skipped; whoever looks at the read model later needs it")
        await self.parking.skip(stream, reason)

    async def _load_positions(self, streams: Mapping[str, Sequence[Commit]]) -> None:
        """Have the positions of these in memory."""
        unknown = [stream for stream in streams if stream not in self._positions]
        if not unknown:
            return
        found = await self.projection.positions(unknown)
        for stream in unknown:
            position = found.get(stream)
            if position is None:
                position = await self._first_position(stream, streams[stream])
            self._positions[stream] = position
        if len(self._positions) > _MAX_POSITIONS + len(streams):
            for stream in list(islice(self._positions, _MAX_POSITIONS // 4)):
                if stream not in streams:
                    del self._positions[stream]

    async def _first_position(self, stream: str, hints: Sequence[Commit]) -> int:
        """The version that a stream of which nothing was handled begins behind: 0, or where it was at the start."""
        if self.feed.ordered and self.start_time(stream):
            return min(commit.version for commit in hints) - 1
        return await self.start_position(stream)

    def start_time(self, stream: str) -> int:
        """What was stored before that is not to be handled, in µs since the epoch; 0 if all is."""
        held = self.held.get(self.slot_of(stream))
        return held.began if held is not None else 0

    async def start_position(self, stream: str) -> int:
        """The version that a stream begins behind, by the times of its commits."""
        if not (began := self.start_time(stream)):
            return 0
        earliest = began if self.feed.ordered else began - _CLOCK_SKEW
        async with aclosing(self.store.read(stream, backward=True)) as commits:
            async for commit in commits:
                if commit.time < earliest:
                    return commit.version
        return 0

    async def _due(self, by_stream: Mapping[str, list[Commit]]) -> list[Slice]:
        """What these lead to. Streams of which much is missing are put aside, to catch up by themselves."""
        runs: list[Slice] = []
        for stream, hints in by_stream.items():
            try:
                due = await self._gate.due(*hints)
            except (FarBehind, StoredDataError):  # by itself it finds out what is wrong
                self.parking.retry_later(stream, self._positions[stream], max(commit.version for commit in hints))
                continue
            if due:
                if (slot := self.held.get(number := self.slot_of(stream))) is None:
                    raise Fenced(self.name, number)
                fence = Fence(number, slot.epoch)
                runs.append(Slice(stream, self._positions[stream], due, fence))
        return runs

    async def split(self, runs: Sequence[Slice]) -> Sequence[Slice]:
        """Beside another version: these up to where that one is, muted. What is beyond is held back."""
        if self._followed is None:
            return runs
        theirs = await self.projection.positions_of(self._followed, [run.stream for run in runs])
        found: list[Slice] = []
        for run in runs:
            commits = [commit for commit in run.commits if commit.version <= theirs.get(run.stream, 0)]
            if len(commits) < len(run.commits):
                self.beyond_limit.add(run.stream)
            if commits:
                found.append(run._replace(commits=commits, muted=True))
        return found

    async def _apply(self, runs: Sequence[Slice]) -> None:
        if not runs:
            return
        self.in_flight = sum(len(run.commits) for run in runs)
        self._oldest = min(run.commits[0].time for run in runs)
        try:
            failures = await self.projection.apply(runs)
        except BaseException:
            for run in runs:
                self._positions.pop(run.stream, None)  # nobody knows
            raise
        finally:
            self.in_flight = self._oldest = 0
        failed = {failure.run.stream for failure in failures}
        for run in runs:
            if run.stream in failed:
                self._positions.pop(run.stream, None)
            else:
                self.commits += len(run.commits)
                self.applied(run)
        for failure in failures:
            if not isinstance(failure.error, (HandlerFailed, PositionMoved)):
                raise failure.error
        for run, error in failures:
            failed_by = error if isinstance(error, HandlerFailed) else None
            self.parking.retry_later(run.stream, run.after, run.last_version, failed_by)

    def applied(self, run: Slice) -> None:
        """Note that a run was handled."""
        self._positions[run.stream] = run.last_version
        self.handled_up_to = max(self.handled_up_to, run.commits[-1].time)
        if self._waiters:
            self.wake(run.stream)

    def forget_position(self, stream: str) -> None:
        """A run has ended amid its commits: look up where the stream is."""
        self._positions.pop(stream, None)

    def wake(self, stream: str) -> None:
        """Have those look again who wait for this stream."""
        for waiting in self._waiters.get(stream, ()):
            waiting.set()
