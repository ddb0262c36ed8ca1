"""Streams that need more than the feed: they catch up in tasks of their own, are retried, or are parked."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from ..concurrency import load_all
from ..errors import StoredDataError, StreamCorrupt, StreamParked
from ..log import log
from ..retrying import on_failed_handler, on_outage
from ..store import Commit
from ..stores.reading import read_without_gaps
from .checkpoints.checkpoints import Parked, Skipped, now
from .slice import HandlerFailed, PositionMoved, Slice

if TYPE_CHECKING:
    from .processor import Processor

_LIBRARY = str(Path(__file__).parents[1])
_MAX_CATCHING_UP = 32  # streams at a time; each has a page in memory
_PAGE = 100  # commits that are read and handled at a time


class CatchingUp:
    """A stream that is caught up in a task of its own. `base` is its position, unless a position is stored."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.latest = 0  # the newest version that the feed has delivered
        self.failed: HandlerFailed | None = None  # in the last of `failures` attempts at one commit
        self.failures = 0
        self.task: asyncio.Task[None] | None = None


class Parking:
    """The streams of a processor that are not handled from its feed: those that are catching up, and parked ones."""

    def __init__(self, processor: Processor[Any], attempts: int, stops: bool) -> None:
        self._processor, self._attempts, self.stops = processor, attempts, stops
        self.catching_up: dict[str, CatchingUp] = {}
        self.parked: dict[str, Parked] = {}
        self._changes = 0  # counts the parked streams written by this object
        self.reset()

    def reset(self) -> None:
        """Forget the failure of an earlier run."""
        self.failure: Exception | None = None
        self._limit = asyncio.Semaphore(_MAX_CATCHING_UP)

    async def refresh(self, streams: Collection[str] | None = None) -> Sequence[Parked]:
        """Read which of these streams, or of all, are parked: any process may have retried or skipped some."""
        processor = self._processor
        found: Sequence[Parked] = ()
        changes = -1
        while changes != self._changes:  # what was read may be older than a change made since
            changes = self._changes
            found = await processor.checkpoints.parked(processor.name, streams)
        for stream in streams if streams is not None else list(self.parked):
            self.parked.pop(stream, None)
        self.parked |= {each.stream: each for each in found if not each.released}
        return found

    async def out_of_feed(self, streams: Collection[str]) -> set[str]:
        """Return those of these streams that are not handled from the feed."""
        if parked := self.parked.keys() & streams:
            await self.refresh(parked)
        return {stream for stream in streams if stream in self.parked or stream in self.catching_up}

    def note_newer(self, stream: str, version: int) -> None:
        """Note that the feed has delivered a newer version of a stream that is catching up."""
        if (entry := self.catching_up.get(stream)) is not None:
            entry.latest = max(entry.latest, version)

    def retry_later(self, stream: str, base: int, version: int, failed: HandlerFailed | None = None) -> None:
        """Catch up a stream in a task of its own, at least up to `version`. Other streams do not wait for it."""
        if stream in self.catching_up:  # it is being retried
            self.note_newer(stream, version)
            return
        entry = self.catching_up[stream] = CatchingUp(base)
        entry.latest = version
        entry.task = asyncio.create_task(self._run_task(stream, entry, failed))

    async def wait_until_idle(self) -> None:
        """Wait until no stream is catching up."""
        while tasks := [entry.task for entry in self.catching_up.values() if entry.task is not None]:
            await asyncio.wait(tasks)

    async def drop(self) -> None:
        """Cancel all streams that are catching up. The next run starts them again."""
        tasks = {stream: entry.task for stream, entry in self.catching_up.items() if entry.task is not None}
        for task in tasks.values():
            task.cancel()
        try:
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        finally:
            for stream in tasks:  # a task that never started has not removed it
                self.catching_up.pop(stream, None)

    def drop_slot(self, slot: int) -> None:
        """Cancel the streams of a slot that another worker continues with."""
        for stream, entry in list(self.catching_up.items()):
            if entry.task is not None and self._processor.slot_of(stream) == slot:
                entry.task.cancel()
                del self.catching_up[stream]

    async def park_failing(self) -> None:
        """Park the streams that would be retried, and cancel the others: for a caller that has no more time."""
        failing = {
            stream: entry for stream, entry in self.catching_up.items() if entry.task and entry.failed is not None
        }
        await self.drop()
        for stream, entry in failing.items():
            self.catching_up[stream] = entry
            try:
                await self._park(stream, entry.failed, entry.failures, now())
            finally:
                del self.catching_up[stream]

    async def retry(self, stream: str) -> None:
        await self._release(await self._find(stream))

    async def retry_all(self) -> None:
        async def one(stream: str) -> None:
            with suppress(StreamParked, ValueError):  # it failed again, or another process has released it
                await self.retry(stream)

        found = await self.refresh()
        await load_all(
            one, [parked.stream for parked in found if parked.stream not in self.catching_up], _MAX_CATCHING_UP
        )

    async def skip(self, stream: str, reason: str) -> None:
        parked, processor = await self._find(stream), self._processor
        if not processor.projection.skips:
            raise ValueError(f"{processor.name} cannot skip commits; fix what parked {stream}, and retry")
        await self._release(parked, reason)

    async def _find(self, stream: str) -> Parked:
        found = await self.refresh([stream])
        if not found:
            raise ValueError(f"{self._processor.name} has not parked {stream}; `parked` returns the streams to retry")
        if stream in self.catching_up:
            raise RuntimeError(f"{stream} is being retried already; wait for that")
        return found[0]

    async def _release(self, parked: Parked, reason: str = "") -> None:
        """Handle a parked stream to its end and release it. With a reason, skip its first commit."""
        processor, stream = self._processor, parked.stream
        self.catching_up[stream] = CatchingUp(parked.version - 1)
        try:
            if reason:
                await self._skip_first(parked, reason)
            await self._catch_up(stream)
            released = structs.replace(parked, released=True)
            await processor.checkpoints.park(processor.name, released)
            self._changes += 1
            self.parked.pop(stream, None)
            # What the feed delivered while the stream was still parked. If this is interrupted, `retry` does it again.
            await self._catch_up(stream)
            await processor.checkpoints.unpark(processor.name, released)
        except HandlerFailed as failed:
            await self._park(stream, failed, parked.attempts + 1, parked.since)
            raise StreamParked(processor.name, stream, self.parked[stream].version) from failed.error
        finally:
            self.catching_up.pop(stream, None)

    async def _skip_first(self, parked: Parked, reason: str) -> None:
        processor, stream = self._processor, parked.stream
        position = await self._position(stream)
        if position + 1 == parked.version:
            skipped = Skipped(stream=stream, version=parked.version, reason=reason, time=now())
            await processor.checkpoints.note_skipped(processor.name, skipped)
            fence = await processor.fence_of(stream)
            with suppress(PositionMoved):  # another process has handled it
                skip = Slice(stream, position, [_placeholder(stream, parked.version)], fence)
                await processor.projection.advance(skip)
            processor.forget_position(stream)

    async def _run_task(self, stream: str, entry: CatchingUp, failed: HandlerFailed | None) -> None:
        """The task of a stream: catch it up, and keep what stops the processor as `failure`."""
        try:
            await self._catch_up_with_retries(stream, entry, failed)
        except Exception as error:  # noqa: BLE001  # `Processor.check` raises it in the runner
            self.failure = self.failure or error
        finally:
            if self.catching_up.get(stream) is entry:
                del self.catching_up[stream]

    async def _catch_up_with_retries(self, stream: str, entry: CatchingUp, failed: HandlerFailed | None) -> None:
        """Catch up, and park the stream after too many failed attempts. Wait while a store cannot be reached."""
        entry.failed, entry.failures = failed, 1 if failed else 0  # at the commit after `at`
        at: int | None = None

        async def once() -> None:
            nonlocal at
            if entry.failures >= self._attempts and entry.failed is not None:
                raise entry.failed
            async with self._limit:
                try:
                    at = await self._position(stream) if at is None else at
                    await self._catch_up(stream)
                except HandlerFailed as error:
                    before, at = at, await self._position(stream)
                    entry.failed, entry.failures = error, entry.failures + 1 if at == before else 1
                    raise

        retrying = on_failed_handler(
            HandlerFailed, lambda: entry.failures, gives_up=lambda: entry.failures >= self._attempts
        )
        try:
            if failed is not None:
                await asyncio.sleep(0.05)
            await retrying(once)
        except HandlerFailed as error:
            if self.stops:
                raise error.error from None
        else:
            return
        await on_outage()(self._park, stream, entry.failed, entry.failures, now())

    async def _park(self, stream: str, failed: HandlerFailed | None, attempts: int, since: int) -> None:
        assert failed is not None
        processor, version = self._processor, await self._position(stream) + 1
        parked = Parked(stream=stream, version=version, error=_describe(failed.error), attempts=attempts, since=since)
        await processor.checkpoints.park(processor.name, parked)
        self._changes += 1
        self.parked[stream] = parked
        kind = type(failed.error).__name__
        log.error(
            "%s: %s is parked at version %d after %d attempts: %s; "
            "`await processor.parked()` shows the error; then call `retry` or `skip`",
            *(processor.name, stream, version, attempts, kind),
        )
        processor.wake(stream)

    async def _catch_up(self, stream: str) -> None:
        """Handle a stream from its position to its end. Raises HandlerFailed, Fenced, StoreError."""
        processor, entry = self._processor, self.catching_up[stream]
        while True:
            latest = entry.latest
            position = await self._position(stream)
            page = await self._page(stream, position)
            if not page and position < latest:
                raise HandlerFailed(StreamCorrupt(stream, position + 1))  # the feed has delivered a later version
            if not page and entry.latest <= position:
                return
            run = Slice(stream, position, page, await processor.fence_of(stream))
            processor.forget_position(stream)
            parts = await processor.split([run]) if page else []
            for part in parts:
                for failure in await processor.projection.apply([part]):
                    if not isinstance(failure.error, PositionMoved):
                        raise failure.error
                    break
                else:
                    processor.applied(part)
            if page and (not parts or parts[0].last_version < run.last_version):
                return  # in a rebuild: the active version has not handled more

    async def _position(self, stream: str) -> int:
        """Read the position of a stream, and count the commits handled since the last call."""
        entry = self.catching_up[stream]
        position = (await self._processor.positions([stream])).get(stream, entry.base)
        self._processor.commits += position - entry.base
        entry.base = position
        return position

    async def _page(self, stream: str, position: int) -> Sequence[Commit]:
        """Read the next commits; if one of them is damaged, only the next one, to handle all before the damaged one."""
        damaged: StoredDataError | None = None
        for count in (_PAGE, 1):
            try:
                page = [c async for c in read_without_gaps(self._processor.store, stream, position, position + count)]
            except StoredDataError as error:
                damaged = error
            else:
                if page or damaged is None:
                    return page
        assert damaged is not None
        raise HandlerFailed(damaged) from damaged


def _placeholder(stream: str, version: int) -> Commit:
    """Return a commit in place of a skipped one, which may be damaged or missing."""
    return Commit(stream=stream, version=version, id=b"", time=0, events=0, tags=(), payload=b"")


def _describe(error: Exception) -> str:
    """Return the error's type and text, and the last line of code in its traceback outside this library."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(_LIBRARY)] or frames
    place = f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
    text = str(error).encode(errors="replace").decode()  # the text may hold surrogates
    return f"{type(error).__name__}: {text}{place}"
