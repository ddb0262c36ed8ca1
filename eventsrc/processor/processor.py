"""A processor: takes what a feed tells through the gate and to a projection, and keeps its promises when that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Generic, TypeVar
from zlib import crc32

from msgspec import structs

from ..errors import Fenced, NotActive, StoredDataError, StreamParked
from ..feed import Batch, Feed
from ..gaps import contiguous
from ..store import Commit, Receipt, Store
from .checkpoints import Checkpoints, MemoryCheckpoints, Parked, Slot, in_use, now
from .parking import Parking
from .projection import Guarantee, Projection
from .run import Fence, HandlerFailed, PositionMoved, Run

P = TypeVar("P", bound=Projection)

_REMEMBERED = 200_000  # positions held in memory
_FEW = 100  # commits of a stream that are missing and are waited for; with more it catches up by itself
_SKEW = 60_000_000  # µs that the clocks of writers may be behind, for who begins now


class Processor(Generic[P]):
    """Has a projection handle each commit of a store once and in order, from the first one on.

    `checkpoints` is where positions are kept; a MemoryProjection needs none. `feed` is the transport, the store's own
    if nothing else is given. `start="now"` begins with what is stored from the first run on: older commits are never
    handled, though on an unordered feed those of the last minute may be.

    A handler that fails is called again, `attempts` times in all over some seconds, while other streams go on; then its
    stream is parked, which holds back its later events, too. With `on_error="stop"` the processor stops instead, and
    what the handler raised comes out.
    """

    def __init__(
        self,
        projection: P,
        store: Store,
        checkpoints: Checkpoints | None = None,
        *,
        feed: Feed | None = None,
        start: str = "beginning",
        attempts: int = 5,
        on_error: str = "park",
    ) -> None:
        if start not in ("beginning", "now") or on_error not in ("park", "stop") or attempts < 1:
            raise ValueError("start is 'beginning' or 'now', on_error 'park' or 'stop', attempts a number from 1 on")
        if feed is None and not isinstance(store, Feed):
            raise TypeError(f"{type(store).__name__} tells no feed; give one as feed=")
        if checkpoints is None and projection.guarantee is not Guarantee.MEMORY:
            raise TypeError(f"{type(projection).__qualname__} needs checkpoints, to keep its positions in")
        if checkpoints is not None and projection.guarantee is Guarantee.MEMORY:
            raise TypeError(f"{type(projection).__qualname__} is in memory, and so are its positions: no checkpoints")
        self.projection, self.store = projection, store
        self.checkpoints = checkpoints if checkpoints is not None else MemoryCheckpoints()
        self.feed: Feed = feed if feed is not None else store  # type: ignore[assignment]  # checked above
        self._from_now = start == "now"
        projection.bind(self.checkpoints)
        projection._store = store
        self.held: dict[int, Slot] = {}  # the slots that this one handles, by number
        self.caught_up = asyncio.Event()  # nothing is behind what was handled, as far as the feed knows
        self.in_flight = 0  # commits that handlers have now
        self.commits = 0  # that were handled since this object was made
        self.handled_up_to = 0  # time of the newest of them, in µs since the epoch
        self._of = 1
        self._checkpoint, self._unsaved, self._at_end = "", False, False
        self._positions: dict[str, int] = {}
        self.parking = Parking(self, attempts, stops=on_error == "stop")
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._passing: str | None = None  # the version that this one is rebuilt beside
        self.held_back: set[str] = set()  # streams in which that one is not as far
        self._turn = asyncio.Lock()

    @property
    def name(self) -> str:
        return self.projection.name

    async def prepare(self) -> None:
        """Get ready to handle: look up what is parked, and have the read model made. Raises NotActive."""
        if self._passing is None:
            await self.check_active()
        await self.projection.prepare()
        await self.parking.look()
        self.parking.failure = None

    def beside(self, other: str | None) -> None:
        """From now on, go as far as this other version is and no further, muted; None: go on alone."""
        self._passing = other
        self.held_back.clear()

    async def _active(self) -> int | None:
        return await self.checkpoints.active(self.projection.tag)

    async def check_active(self) -> None:
        """Raise NotActive if readers use another version; become the one they use if there is none."""
        tag, version = self.projection.tag, self.projection.version
        active = await self._active()
        if active is None and not await self.checkpoints.activate(tag, version, instead_of=None):
            active = await self._active()
        if active not in (None, version):
            raise NotActive(tag, version, active)

    async def lay_out(self, of: int = 1, *, anew: bool = False) -> None:
        """Have slots: as many as there are already, or `of` if there are none or others are wanted, `anew`.

        No slot may be handled before all are there: until then, how far a stream is may be kept with another one.
        Raises Fenced if somebody else does the same just now, and NotActive.
        """
        known = await self._slots()
        used = in_use(known)
        if used and (not anew or len(used) == of):
            return
        epoch = max((slot.epoch for slot in known), default=0) + 1
        laid = epoch
        if known and not used and not anew:  # who began with it was killed
            of, laid = known[0].of, known[0].laid
        if known:
            began = min(slot.began for slot in used or known)
            checkpoint = self.feed.earliest(slot.checkpoint for slot in used or known)
        else:
            began, checkpoint = (now(), await self.feed.end()) if self._from_now else (0, "")
        numbers = {*range(of), *(slot.number for slot in known)} - {slot.number for slot in known if slot.laid == laid}
        for number in sorted(
            numbers, key=lambda number: (number > 0, number < of)
        ):  # fence those that go, then the rest
            slot = Slot(number=number, of=of, laid=laid, epoch=epoch, checkpoint=checkpoint, began=began)
            await self.checkpoints.take(self.name, slot)

    async def take_all(self) -> None:
        """Hold all slots from now on, as many as there are. Raises Fenced if somebody else was quicker."""
        await self.lay_out()
        for slot in in_use(await self._slots()):
            await self.take(slot)

    async def take(self, seen: Slot, owner: str = "") -> None:
        """Hold a slot from now on: whoever held it, as we have seen it, is fenced. Raises Fenced if somebody else was
        quicker.
        """
        slot = structs.replace(seen, epoch=seen.epoch + 1, owner=owner)
        await self.checkpoints.take(self.name, slot)
        self.held[slot.number], self._of = slot, slot.of
        self._forget()

    async def _slots(self) -> Sequence[Slot]:
        """Those that are stored. Raises NotActive."""
        known = await self.checkpoints.slots(self.name)
        if any(slot.retired for slot in known):
            raise NotActive(self.projection.tag, self.projection.version, await self._active() or 0)
        return known

    def lose(self, number: int) -> None:
        """Somebody else holds that slot now."""
        del self.held[number]
        self._forget()

    async def release(self, number: int) -> None:
        """Let somebody else have a slot. Raises Fenced if that is so already."""
        await self.checkpoints.save(self.name, structs.replace(self.held[number], owner=""))
        self.lose(number)

    def reached(self, batch: Batch) -> None:
        """All of a batch was given to `handle`."""
        self._unsaved = self._unsaved or bool(batch.commits) or (batch.caught_up and not self._at_end)
        self._checkpoint, self._at_end = batch.checkpoint, batch.caught_up
        self._note_end()

    async def save(self) -> None:
        """Write how far all is handled, if that has changed. Raises Fenced, StoreError."""
        self._note_end()
        if not self._unsaved or self.parking.aside or self.held_back or self.parking.failure is not None:
            return
        for number, slot in self.held.items():
            saved = structs.replace(slot, checkpoint=self._checkpoint)
            await self.checkpoints.save(self.name, saved)
            self.held[number] = saved
        self._unsaved = False

    @property
    def state(self) -> str:
        """`stopped`, `failed`, `catching up` or `live`."""
        if self.parking.failure is not None:
            return "failed"
        if not self.held:
            return "stopped"
        return "live" if self.caught_up.is_set() else "catching up"

    @property
    def checkpoint(self) -> str:
        """Where the feed was when it was last read here; what is aside may be behind that. "" before that."""
        return self._checkpoint

    @property
    def lag(self) -> float:
        """Seconds since the newest commit that was handled, while there is more; 0 when it has caught up."""
        return (
            0.0 if self.caught_up.is_set() or not self.handled_up_to else max(0.0, (now() - self.handled_up_to) / 1e6)
        )

    def _note_end(self) -> None:
        if self._at_end and not self.parking.aside:
            self.caught_up.set()
        else:
            self.caught_up.clear()

    async def run(self, *, until_caught_up: bool = False) -> None:
        """Run this processor alone, as `Runner(self).run(...)`."""
        from .runner import Runner

        await Runner(self).run(until_caught_up=until_caught_up)

    async def join(self) -> None:
        """Hold all slots beside others who do so, without fencing them: positions alone keep it exact."""
        try:
            await self.lay_out()
        except Fenced:
            await self.join()
            return
        self.held = {slot.number: slot for slot in in_use(await self._slots())}
        self._of = len(self.held)

    async def handle(self, commits: Iterable[Commit]) -> None:
        """Handle what a feed has told, in any order and however often, and what it has left out.

        Comes back when all is handled, dropped as handled before, parked, or put aside to be tried again: see
        `settled`. Raises Fenced, and StoreError where positions cannot be read or written; then call it again.
        """
        by_stream: dict[str, list[Commit]] = {}
        for commit in commits:
            if commit.stream in by_stream:
                by_stream[commit.stream].append(commit)
            else:
                by_stream[commit.stream] = [commit]
        if len(self.held) < self._of:
            by_stream = {stream: told for stream, told in by_stream.items() if self.holds(stream)}
        async with self._turn:
            for stream in await self.parking.passed(by_stream.keys()):  # so that their positions are not remembered
                self.parking.told(stream, max(commit.version for commit in by_stream.pop(stream)))
            await self._know(by_stream)
            await self._apply(await self.split(await self._due(by_stream)))

    async def settled(self) -> None:
        """Wait until nothing is aside: all that was told is handled or parked. Raises what makes the processor stop."""
        await self.parking.settled()
        self.check()

    def check(self) -> None:
        """Raise what makes this processor stop, if anything does."""
        if self.parking.failure is not None:
            raise self.parking.failure

    async def drop(self) -> None:
        """Forget what is not stored; what was aside comes again with the next run."""
        await self.parking.drop()
        self.held.clear()
        self._forget()

    def _forget(self) -> None:
        """Where streams are, and how far the feed was: others go on with these streams, or it is read anew."""
        self._positions.clear()
        self._checkpoint, self._unsaved, self._at_end = "", False, False
        self.caught_up.clear()

    def holds(self, stream: str) -> bool:
        """Whether this one handles the stream, and no other worker."""
        return self.slot_of(stream) in self.held

    def slot_of(self, stream: str) -> int:
        return crc32(stream.encode()) % self._of

    async def positions(self, streams: Sequence[str]) -> Mapping[str, int]:
        """The versions of these streams that were handled last, as they are stored."""
        return await self.projection.positions(streams)

    async def wait_for(self, receipt: Receipt, timeout: float = 10.0) -> None:
        """Wait until what a save has stored is handled, here or in another process: to read one's own writes.

        Raises StreamParked if it is held back, and TimeoutError after so many seconds.
        """
        stream, version = receipt.stream, receipt.version
        progress = asyncio.Event()
        self._waiting.setdefault(stream, set()).add(progress)
        pause = 0.02
        try:
            async with asyncio.timeout(timeout):
                while (await self.positions([stream])).get(stream, 0) < version:
                    for parked in await self.checkpoints.parked(self.name):
                        if parked.stream == stream and parked.version <= version:
                            raise StreamParked(self.name, stream, parked.version)
                    try:
                        async with asyncio.timeout(pause):  # another process may be the one that handles it
                            await progress.wait()
                    except TimeoutError:
                        pause = min(pause * 2, 1.0)
                    progress.clear()
        finally:
            self._waiting[stream].discard(progress)
            if not self._waiting[stream]:
                del self._waiting[stream]

    async def parked(self) -> Sequence[Parked]:
        """The streams that are held back."""
        return await self.checkpoints.parked(self.name)

    async def retry(self, stream: str) -> None:
        """Handle a parked stream from where it stands to its end, and release it. Any process may do that.

        Raises StreamParked if a handler fails again; then it stays parked.
        """
        await self.parking.retry(stream)

    async def skip(self, stream: str, reason: str) -> None:
        """Pass over the commit that a parked stream stands at, which is noted with the reason, and handle the rest.

        Raises StreamParked if a handler fails with a later one.
        """
        if not reason.strip():
            raise ValueError("say why it is skipped; whoever looks at the read model later needs it")
        await self.parking.skip(stream, reason)

    async def fence_of(self, stream: str) -> Fence:
        """What to show with this stream's position. In a process that does not handle it: what is valid now."""
        if not self.held:
            await self.join()
        number = self.slot_of(stream)
        slot = self.held.get(number)
        if slot is None:
            slot = next(slot for slot in await self._slots() if slot.number == number)
        return Fence(number, slot.epoch)

    async def _know(self, streams: Mapping[str, Sequence[Commit]]) -> None:
        """Have the positions of these in memory."""
        unknown = [stream for stream in streams if stream not in self._positions]
        if not unknown:
            return
        found = await self.projection.positions(unknown)
        for stream in unknown:
            position = found.get(stream)
            self._positions[stream] = await self._base(stream, streams[stream]) if position is None else position
        if len(self._positions) > _REMEMBERED + len(streams):
            for stream in list(islice(self._positions, _REMEMBERED // 4)):
                if stream not in streams:
                    del self._positions[stream]

    async def _base(self, stream: str, told: Sequence[Commit]) -> int:
        """The version that a stream of which nothing was handled begins behind: 0, or where it was at the start."""
        held = self.held.get(self.slot_of(stream))
        if held is None or not held.began:
            return 0
        first = min(told, key=lambda commit: commit.version)
        if self.feed.ordered:
            return first.version - 1
        if first.time < held.began - _SKEW:
            return first.version
        async with aclosing(self.store.read(stream, until=first.version - 1, backward=True)) as earlier:
            async for commit in earlier:
                if commit.time < held.began - _SKEW:
                    return commit.version
        return 0

    async def _due(self, by_stream: Mapping[str, list[Commit]]) -> list[Run]:
        """What these lead to. Streams of which much is missing are put aside, to catch up by themselves."""
        runs: list[Run] = []
        for stream, told in by_stream.items():
            position = self._positions[stream]
            if len(told) > 1:
                told.sort(key=_version)
            due: list[Commit] = []
            reached = position
            for commit in told:
                if commit.version <= reached:
                    continue
                if missing := commit.version - reached - 1:
                    due += await self._missing(stream, reached, commit.version - 1) if missing <= _FEW else ()
                    if len(due) != commit.version - position - 1:  # many, or it finds out what is wrong
                        self.parking.set_aside(stream, position, told[-1].version)
                        break
                due.append(commit)
                reached = commit.version
            else:
                if due:
                    fence = Fence(number := self.slot_of(stream), self.held[number].epoch)
                    runs.append(Run(stream, position, due, fence))
        return runs

    async def _missing(self, stream: str, after: int, until: int) -> list[Commit]:
        try:
            return [commit async for commit in contiguous(self.store, stream, after, until)]
        except StoredDataError:
            return []

    async def split(self, runs: Sequence[Run]) -> Sequence[Run]:
        """Beside another version: these up to where that one is, muted. What is beyond is held back."""
        if self._passing is None:
            return runs
        theirs = await self.projection.positions_of(self._passing, [run.stream for run in runs])
        found: list[Run] = []
        for run in runs:
            commits = [commit for commit in run.commits if commit.version <= theirs.get(run.stream, 0)]
            if len(commits) < len(run.commits):
                self.held_back.add(run.stream)
            if commits:
                found.append(run._replace(commits=commits, muted=True))
        return found

    async def _apply(self, runs: Sequence[Run]) -> None:
        if not runs:
            return
        self.in_flight = sum(len(run.commits) for run in runs)
        try:
            failures = await self.projection.apply(runs)
        except BaseException:
            for run in runs:
                self._positions.pop(run.stream, None)  # nobody knows
            raise
        finally:
            self.in_flight = 0
        failed = {failure.run.stream for failure in failures}
        for run in runs:
            if run.stream in failed:
                self._positions.pop(run.stream, None)
            else:
                self.commits += len(run.commits)
                self.moved(run)
        for failure in failures:
            if not isinstance(failure.error, (HandlerFailed, PositionMoved)):
                raise failure.error
        for run, error in failures:
            self.parking.set_aside(
                run.stream, run.after, run.reached, error if isinstance(error, HandlerFailed) else None
            )

    def moved(self, run: Run) -> None:
        """Note that a run was handled."""
        self._positions[run.stream] = run.reached
        self.handled_up_to = max(self.handled_up_to, run.commits[-1].time)
        if self._waiting:
            self.wake(run.stream)

    def forget(self, stream: str) -> None:
        """A run has ended amid its commits: look up where the stream is."""
        self._positions.pop(stream, None)

    def wake(self, stream: str) -> None:
        """Have those look again who wait for this stream."""
        for waiting in self._waiting.get(stream, ()):
            waiting.set()


def _version(commit: Commit) -> int:
    return commit.version
