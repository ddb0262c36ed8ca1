"""Parked streams: what is stored of streams that failed, and how they are released."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from msgspec import structs

from ..errors import StreamParked
from ..log import log
from ..store import Commit
from .assignment import CONFIRM_SECONDS, Assignment
from .catch_up import CatchUp, Entry
from .checkpoints.checkpoints import Parked, Skipped, now
from .positions import Positions
from .projections.projection import Projection
from .slice import HandlerFailed, PositionMoved

_LIBRARY = str(Path(__file__).parents[1])
_RETRYING = "it is being retried, or catches up"
_ENDED = "a process ended while it handled this commit"


class Parking:
    """The parked streams of a processor.

    Releasing a stream is one step with looking for what came since: the entry in the checkpoints stays, as
    `retrying`, until everything that the feed delivered while the stream was parked is handled. A worker that
    finds such an entry continues.
    """

    def __init__(self, projection: Projection, assignment: Assignment, positions: Positions, catch_up: CatchUp) -> None:
        self._projection, self._assignment, self._positions = projection, assignment, positions
        self._catch_up = catch_up
        self._name, self._checkpoints = assignment.name, assignment.checkpoints
        self.parked: dict[str, Parked] = {}  # as last seen
        self.orphans: dict[str, Parked | None] = {}  # without a task here; None: nothing is stored for it any more
        self._changes = 0  # counts the entries written by this object

    async def refresh(self, streams: Collection[str] | None = None) -> Sequence[Parked]:
        """Read the entries of these streams, or of all: any process may have retried or skipped some.

        A stream that was parked, or an orphan, and for which nothing is stored any more, is an orphan: the feed may
        have delivered commits of it, which were left to the worker that has handled it.
        """
        found: Sequence[Parked] = ()
        changes = -1
        while changes != self._changes:  # what was read may be older than a change made since
            changes = self._changes
            found = await self._checkpoints.parked(self._name, streams)
        asked = {*self.parked, *self.orphans} if streams is None else set(streams)
        for stream in asked & (self.parked.keys() | self.orphans.keys()):
            self.parked.pop(stream, None)
            self.orphans[stream] = None
        for each in found:
            self.orphans.pop(each.stream, None)
            if each.state == "parked":
                self.parked[each.stream] = each
            elif each.stream not in self._catch_up.entries:
                self.orphans[each.stream] = each
        for stream in asked & self._catch_up.entries.keys():
            self.orphans.pop(stream, None)
        return found

    async def out_of_feed(self, streams: Iterable[str]) -> set[str]:
        """Return those of these streams that are not handled from the feed."""
        streams = set(streams)
        if parked := self.parked.keys() & streams:
            await self.refresh(parked)
        return streams & (self.parked.keys() | self._catch_up.entries.keys() | self.orphans.keys())

    async def store(self, entry: Entry, *, lives: int = 0) -> None:
        """Store that a stream is handled by a task, so that the checkpoint of the feed may pass its commits."""
        async with entry.writing:
            failed = entry.failed.error if entry.failed is not None else None
            version = (await self._positions.read(entry.stream)).version + 1
            if self._catch_up.entries.get(entry.stream) is not entry or entry.stream in self.parked:
                return  # its task has ended since, or has parked it
            known = entry.stored
            if known is not None and not lives and (known.version, known.attempts) == (version, entry.failures):
                return  # its task has stored it since, maybe with the processes that have ended
            stored = Parked(
                stream=entry.stream,
                version=version,
                error=_ENDED if lives else describe(failed) if failed is not None else _RETRYING,
                attempts=entry.failures,
                since=now(),
                state="retrying",
                lives=lives,
            )
            await self._put(stored)
            entry.stored = stored

    async def clear(self, entry: Entry) -> None:
        """Delete what is stored for a stream that was handled to its end."""
        async with entry.writing:
            if (stored := entry.stored) is not None:
                await self._checkpoints.unpark(self._name, stored)
                entry.stored = None
                self._changes += 1

    async def park(self, entry: Entry, failed: HandlerFailed, attempts: int, *, lives: int = 0) -> Parked:
        """Store that a stream is not handled until it is retried or skipped.

        Raises:
            Fenced: another worker has taken over the slot; it decides.
            StoreError: it could not be stored.
        """
        stream = entry.stream
        async with entry.writing:
            version = (await self._positions.read(stream)).version + 1
            parked = Parked(
                stream=stream,
                version=version,
                error=describe(failed.error),
                attempts=attempts,
                since=entry.stored.since if entry.stored is not None else now(),
                lives=lives,
            )
            await self._put(parked)
            self.parked[stream] = parked
        log.error(
            "%s: %s is parked at version %d after %d attempts: %s; "
            "`await processor.parked()` shows the error; then call `retry` or `skip`",
            *(self._name, stream, version, attempts, type(failed.error).__name__),
        )
        return parked

    async def _put(self, parked: Parked, instead_of: Parked | None = None) -> None:
        fence = await self._assignment.fence_of(parked.stream)
        if not await self._checkpoints.park(self._name, parked, fence, instead_of=instead_of):
            raise _is_retried(parked.stream)
        self._changes += 1

    async def find(self, stream: str) -> Parked:
        """Return the stored entry of a stream.

        Raises:
            ValueError: there is none.
            RuntimeError: this object is retrying the stream already.
        """
        found = await self.refresh([stream])
        if not found:
            raise ValueError(f"{self._name} has not parked {stream}; `parked` returns the streams to retry")
        if stream in self._catch_up.entries:
            raise RuntimeError(f"{stream} is being retried already; wait for that")
        return found[0]

    async def release(self, parked: Parked, skip: Skipped | None = None, *, is_holder: bool) -> bool:
        """Handle a parked stream to its end, and what the feed delivers until then. Skip its first commit, if asked to.

        Return False if the stream's slot is not held here and there are newer commits, which its holder handles: the
        entry asks it to.

        Raises:
            StreamParked: a handler failed; the stream stays parked.
            RuntimeError: another process is retrying it.
            Fenced, StoreError: nothing is lost; call it again.
        """
        stream = parked.stream
        self.orphans.pop(stream, None)
        entry = self._catch_up.enter(stream)
        entry.stored, entry.released = parked, asyncio.Event()
        try:
            await self._claim(entry, parked, is_holder)
            if skip is not None:
                await self._skip(skip)
            await self._catch_up.run(entry)
            # From here on any worker that finds the entry continues. One that has left out commits of the parked stream
            # relies on that.
            retrying = structs.replace(parked, state="retrying", retry="", attempts=0)
            await self._put(retrying, instead_of=entry.stored)
            entry.stored = retrying
            self.parked.pop(stream, None)
            if is_holder:
                await self._catch_up.run(entry)
            elif await self._catch_up.has_more(stream):
                return False
        except HandlerFailed as failed:
            again = await self.park(entry, failed, parked.attempts + 1)
            raise StreamParked(self._name, stream, again.version) from failed.error
        except BaseException:
            if entry.stored.state == "retrying":
                self.orphans[stream] = entry.stored
            raise
        finally:
            self._catch_up.leave(entry)
            entry.released.set()
        await self.clear(entry)
        return True

    async def _claim(self, entry: Entry, parked: Parked, is_holder: bool) -> None:
        """Store that this call handles the stream, so that no other one does."""
        mine = structs.replace(parked, retry=uuid4().hex)
        await self._put(mine, instead_of=parked)
        entry.stored = mine
        clock = asyncio.get_running_loop().time
        # A call that was made before may still act, as it checks its entry only so often.
        not_before, checked = clock() + CONFIRM_SECONDS if parked.retry else 0.0, clock()

        async def confirm() -> None:
            nonlocal checked
            if (wait := not_before - clock()) > 0:
                await asyncio.sleep(wait)
            while clock() - checked >= CONFIRM_SECONDS:
                began = clock()
                if mine not in await self._checkpoints.parked(self._name, [parked.stream]):
                    raise _is_retried(parked.stream)
                checked = began

        async def confirm_slot() -> None:
            if (wait := not_before - clock()) > 0:
                await asyncio.sleep(wait)
            await self._assignment.confirm(self._assignment.slot_of(parked.stream))

        entry.confirm = confirm_slot if is_holder else confirm

    async def has_answered(self, stream: str) -> bool:
        """Whether the worker that holds the slot has handled a stream to its end, and deleted its entry.

        Raises:
            StreamParked: it has parked the stream again.
        """
        for found in await self._checkpoints.parked(self._name, [stream]):
            if found.state == "parked":
                raise StreamParked(self._name, found.stream, found.version)
            return False
        return True

    async def _skip(self, skip: Skipped) -> None:
        stream = skip.stream
        known = await self._positions.read(stream)
        if known.version + 1 != skip.version:
            return  # it was skipped or handled already
        await self._checkpoints.note_skipped(self._name, skip)
        run = await self._catch_up.slice(stream, [_placeholder(stream, skip.version)], known.is_first)
        with suppress(PositionMoved):  # another process has handled it
            await self._projection.advance(run)
        self._positions.forget(stream)

    def drop_slot(self, number: int) -> None:
        """Forget the streams of a slot that another worker continues with."""
        for known in (self.parked, self.orphans):
            for stream in [stream for stream in known if self._assignment.slot_of(stream) == number]:
                del known[stream]


def _is_retried(stream: str) -> RuntimeError:
    return RuntimeError(f"{stream} is being retried by another call, or was released; look at `parked` again")


def _placeholder(stream: str, version: int) -> Commit:
    """Return a commit in place of a skipped one, which may be damaged or missing."""
    return Commit(stream=stream, version=version, id=b"", time=0, events=0, tags=(), payload=b"")


def describe(error: Exception) -> str:
    """Return the error's type and text, and the last line of code in its traceback outside this library."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(_LIBRARY)] or frames
    place = f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
    text = str(error).encode(errors="replace").decode()  # the text may hold surrogates
    return f"{type(error).__name__}: {text}{place}"
