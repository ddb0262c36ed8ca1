"""A processor passes the commits of a feed through the gate to a projection, and deals with handlers that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Generic, Literal, TypeVar

from ..errors import Fenced, StoredDataError, StreamParked
from ..store import Commit, Receipt, Store
from ..stores.feed import Batch, Feed
from ..stores.gate import Gate, TooManyMissing
from .assignment import Assignment
from .checkpoints.checkpoints import Checkpoints, MemoryCheckpoints, Parked, now
from .parking import Parking
from .projections.projection import Guarantee, Projection
from .slice import Fence, HandlerFailed, PositionMoved, Slice

P = TypeVar("P", bound=Projection)

_MAX_POSITIONS = 200_000  # positions kept in memory
_MAX_MISSING = 100  # commits; a stream that misses more of them catches up in a task of its own
_CLOCK_SKEW = 60_000_000  # µs by which the clocks of writers may be slow; matters for `start="now"`


class Processor(Assignment, Generic[P]):
    """Pass each commit of a store to a projection, once and in stream order, starting with the first commit.

    - `checkpoints` stores the positions. A MemoryProjection takes none.
    - `feed` is the transport; by default, the store's own feed.
    - `start="now"` begins with commits stored after the first run started. Older commits are never handled, except that
      an unordered feed may deliver some of the last minute.
    - `attempts` is how often a failing handler is called in all. The first pause is 0.1 seconds, each further one four
      times as long, up to 30 seconds. Other streams continue in the meantime. Then the stream is parked: neither this
      commit nor later ones of the stream are handled until you retry or skip.
    - `on_error="stop"` stops the processor instead of parking, and `run` raises the handler's error.

    Raises:
        TypeError: no projection or feed is given, or checkpoints are missing, not needed or of a wrong kind.
        ValueError: `start`, `attempts` or `on_error` has a value that is not allowed.
        DeclarationError: the projection is declared wrongly.
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
            raise TypeError(f"{given!r} is not a projection; give an object of a subclass, as Processor(Wealth(), ...)")
        if start not in ("beginning", "now"):
            raise ValueError(f"start is {start!r}; give 'beginning' or 'now'")
        if on_error not in ("park", "stop"):
            raise ValueError(f"on_error is {on_error!r}; give 'park' or 'stop'")
        if attempts < 1:
            raise ValueError(f"attempts is {attempts!r}; give a number of at least 1")
        if feed is None and not isinstance(store, Feed):
            raise TypeError(f"{type(store).__name__} has no feed; give one as feed=")
        if checkpoints is None and projection.guarantee is not Guarantee.MEMORY:
            raise TypeError(
                f"{type(projection).__qualname__} needs checkpoints to store its positions; give checkpoints="
            )
        if checkpoints is not None and projection.guarantee is Guarantee.MEMORY:
            raise TypeError(
                f"{type(projection).__qualname__} is in memory, and so are its positions; leave out checkpoints"
            )
        checkpoints = checkpoints if checkpoints is not None else MemoryCheckpoints()
        used: Feed = feed if feed is not None else store  # type: ignore[assignment]  # checked above
        super().__init__(projection, checkpoints, used, from_now=start == "now")
        self.projection, self.store = projection, store
        projection.bind(checkpoints)
        projection._store, projection._semaphore = store, asyncio.Semaphore(projection.concurrency)
        self.caught_up = asyncio.Event()  # all commits that the feed knows of are handled
        self.in_flight = 0  # commits that handlers are working on
        self._oldest = 0  # time of the oldest of them, in µs since the epoch
        self.commits = 0  # handled since this object was created
        self.handled_up_to = 0  # time of the newest of them, in µs since the epoch
        self._at_end = False
        self._positions: dict[str, int] = {}
        self._gate = Gate(store, self._positions, most=_MAX_MISSING)
        self.parking = Parking(self, attempts, stops=on_error == "stop")
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._followed: str | None = None  # in a rebuild: the name of the active version
        self.beyond_limit: set[str] = set()  # streams with commits that the active version has not handled
        self._handle_lock = asyncio.Lock()

    async def prepare(self) -> None:
        """Get ready to handle commits: create the read model and read which streams are parked.

        Raises:
            NotActive: readers use another version of this processor.
        """
        if self._followed is None:
            await self.check_active()
        await self.projection.prepare()
        self.projection._semaphore = asyncio.Semaphore(self.projection.concurrency)
        await self.parking.refresh()
        self.parking.reset()
        self.caught_up.clear()

    def follow(self, other: str | None) -> None:
        """Handle, muted, only commits that version `other` has handled. None ends that."""
        self._followed = other
        self.beyond_limit.clear()

    def batch_done(self, batch: Batch) -> None:
        """Note that all commits of a batch were passed to `handle`."""
        self.note_checkpoint(batch.checkpoint)
        self._at_end = batch.caught_up
        self._update_caught_up()

    async def save(self) -> None:
        """Write the feed checkpoint, if it has changed and every commit before it is handled or parked.

        Raises:
            Fenced: another worker has taken over a slot.
            StoreError: the checkpoints cannot be written.
        """
        self._update_caught_up()
        if not (self.parking.catching_up or self.beyond_limit or self.parking.failure):
            await self.write()

    @property
    def state(self) -> str:
        """One of `stopped`, `failed`, `waiting` (other workers have all slots), `catching up` and `live`."""
        if self.parking.failure is not None:
            return "failed"
        if not self.held:
            return "waiting" if self.running else "stopped"
        return "live" if self.caught_up.is_set() else "catching up"

    @property
    def lag(self) -> float:
        """The age, in seconds, of what this processor still has to handle.

        - While it catches up: since the newest handled commit was stored.
        - After it has caught up: since the oldest commit in flight was stored, or 0 if none is.
        - 0 if this process handles nothing.
        """
        since = self._oldest if self.caught_up.is_set() else self.handled_up_to or self._oldest
        return max(0.0, (now() - since) / 1e6) if since and self.held else 0.0

    def _update_caught_up(self) -> None:
        if self._at_end and not self.parking.catching_up:
            self.caught_up.set()
        else:
            self.caught_up.clear()

    async def run(self, *, until_caught_up: bool = False) -> None:
        """Run only this processor, as `Runner(self).run(...)` does."""
        from .runner import Runner

        await Runner(self).run(until_caught_up=until_caught_up)

    async def handle(self, commits: Iterable[Commit]) -> None:
        """Handle these commits, and commits before them that the feed has left out.

        They may come in any order and repeatedly. When this returns, each one is handled, now or before, or its stream
        is parked, or the stream is caught up in the background: `wait_until_idle` waits for that.

        Raises:
            RuntimeError: this object holds no slots.
            Fenced: another worker has taken over a slot.
            StoreError: positions cannot be read or written. Call `handle` again with the same commits.
        """
        if not self.held and not self.running:  # in a runner, other workers may have all slots
            raise RuntimeError(f"{self.name} holds no slots; call `prepare`, and then `take_all` or `join`")
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
                self._positions.clear()  # other processes may have handled more
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
        """Raise the error that makes this processor stop, if there is one."""
        if self.parking.failure is not None:
            raise self.parking.failure

    async def forget(self) -> None:
        """Drop the read model and everything stored for this version; the next run builds it from the beginning.

        The processor must not run in any process. See `Projection.discard` for what happens to the read model.

        Raises:
            RuntimeError: this object is running.
            TypeError: the read model is in memory.
        """
        if self.running:
            raise RuntimeError(f"{self.name} is running; stop it in every process first")
        await self.projection.discard()
        await self.drop()

    def dropped(self, number: int) -> None:
        super().dropped(number)
        self.parking.drop_slot(number)

    async def drop(self) -> None:
        """Release everything held in memory. The next run delivers unfinished commits again."""
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
        """Return the stored position, the version handled last, of each of these streams that has one."""
        return await self.projection.positions(streams)

    async def wait_for(self, receipt: Receipt, timeout: float = 10.0) -> None:
        """Wait until the commit of a save is handled, here or in another process: to read your own writes.

        Raises:
            StreamParked: the stream is parked at this commit or before it.
            TimeoutError: the commit was not handled within `timeout` seconds.
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
                        async with asyncio.timeout(pause):  # another process may handle it, so look again
                            await progress.wait()
                    except TimeoutError:
                        pause = min(pause * 2, 1.0)
                    progress.clear()
        except TimeoutError:
            raise TimeoutError(
                f"{self.name} has not handled {stream}@{version} in {timeout} s; check that it runs"
            ) from None
        finally:
            self._waiters[stream].discard(progress)
            if not self._waiters[stream]:
                del self._waiters[stream]

    async def parked(self) -> Sequence[Parked]:
        """Return the parked streams, and those whose retry was interrupted at its end: retry these, too."""
        return await self.checkpoints.parked(self.name)

    async def retry(self, stream: str) -> None:
        """Handle a parked stream from its position to its end, and release it. Any process may call this.

        Raises:
            StreamParked: a handler failed again; the stream stays parked.
            ValueError: the stream is not parked.
            RuntimeError: this object is already retrying the stream.
        """
        await self.parking.retry(stream)

    async def retry_all(self) -> Sequence[Parked]:
        """Retry all parked streams concurrently, as after an outage. Return those that are still parked."""
        await self.parking.retry_all()
        return await self.parked()

    async def skip(self, stream: str, reason: str) -> None:
        """Skip the commit at which a stream is parked, and handle the rest of the stream.

        The skipped commit is stored with the reason: `checkpoints.skipped(name)` returns it.

        Raises:
            StreamParked: a handler failed at a later commit.
            ValueError: the reason is empty, the stream is not parked, or the projection allows no skipping.
            RuntimeError: this object is already retrying the stream.
        """
        if not reason.strip():
            raise ValueError("the reason is empty; say why the commit is skipped, for later readers of the read model")
        await self.parking.skip(stream, reason)

    async def _load_positions(self, streams: Mapping[str, Sequence[Commit]]) -> None:
        """Load the positions of these streams into memory."""
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
        """Return the position of a stream with no handled commit: 0, or the last version before `start="now"`."""
        if self.feed.ordered and self.start_time(stream):
            return min(commit.version for commit in hints) - 1
        return await self.start_position(stream)

    def start_time(self, stream: str) -> int:
        """Return the time of the start, in µs since the epoch; older commits are not handled. 0: all are."""
        held = self.held.get(self.slot_of(stream))
        return held.began if held is not None else 0

    async def start_position(self, stream: str) -> int:
        """Return the last version of a stream that is older than the start, by the times of its commits; else 0."""
        if not (began := self.start_time(stream)):
            return 0
        earliest = began if self.feed.ordered else began - _CLOCK_SKEW
        async with aclosing(self.store.read(stream, backward=True)) as commits:
            async for commit in commits:
                if commit.time < earliest:
                    return commit.version
        return 0

    async def _due(self, by_stream: Mapping[str, list[Commit]]) -> list[Slice]:
        """Return the slices to handle now. Streams that miss many commits catch up in a task of their own."""
        runs: list[Slice] = []
        for stream, hints in by_stream.items():
            try:
                due = await self._gate.due(*hints)
            except (TooManyMissing, StoredDataError):  # the stream's own task reports damaged data
                self.parking.retry_later(stream, self._positions[stream], max(commit.version for commit in hints))
                continue
            if due:
                if (slot := self.held.get(number := self.slot_of(stream))) is None:
                    raise Fenced(self.name, number)
                fence = Fence(number, slot.epoch)
                runs.append(Slice(stream, self._positions[stream], due, fence))
        return runs

    async def split(self, runs: Sequence[Slice]) -> Sequence[Slice]:
        """In a rebuild: return what the active version has handled, muted. Later commits are held back."""
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
                self._positions.pop(run.stream, None)  # unknown after an error
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
        """Note that a slice was handled."""
        self._positions[run.stream] = run.last_version
        self.handled_up_to = max(self.handled_up_to, run.commits[-1].time)
        if self._waiters:
            self.wake(run.stream)

    def forget_position(self, stream: str) -> None:
        """Forget the position of a stream whose slice was not handled to its end, so that it is read again."""
        self._positions.pop(stream, None)

    def wake(self, stream: str) -> None:
        """Wake the callers of `wait_for` that wait for this stream."""
        for waiting in self._waiters.get(stream, ()):
            waiting.set()
