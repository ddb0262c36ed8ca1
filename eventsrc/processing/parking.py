"""Streams that do not keep up: those that catch up by themselves, are tried again, or are parked."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random, wait_random_exponential

from ..concurrency import load_all
from ..errors import StoredDataError, StoreUnavailable, StreamCorrupt, StreamParked, Throttled
from ..log import log
from ..store import Commit
from ..stores.reading import read_without_gaps
from .checkpoints.checkpoints import Parked, Skipped, now
from .slice import HandlerFailed, PositionMoved, Slice

if TYPE_CHECKING:
    from .processor import Processor

_LIBRARY = str(Path(__file__).parents[1])
TRANSIENT = (Throttled, StoreUnavailable)  # what is waited for
_MAX_CATCHING_UP = 32  # streams that catch up; each has a page in memory
_PAGE = 100  # commits that are read and handled at once
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0  # seconds between attempts; each pause is four times the last one
_STORE_WAIT = wait_random_exponential(multiplier=0.1, max=5.0)  # for a store that cannot be reached


class CatchingUp:
    """A stream that goes on by itself from behind `base`, unless its position says otherwise."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.latest = 0  # what the feed has told of it
        self.failed: HandlerFailed | None = None  # the last of `failures` attempts at one commit
        self.failures = 0
        self.task: asyncio.Task[None] | None = None


class Parking:
    """The streams of a processor that its feed passes by. While a stream is here nobody else handles it."""

    def __init__(self, processor: Processor[Any], attempts: int, stops: bool) -> None:
        self._processor, self._attempts, self.stops = processor, attempts, stops
        self.catching_up: dict[str, CatchingUp] = {}
        self.parked: dict[str, Parked] = {}
        self._changes = 0  # that this one has made of what is parked
        self.reset()

    def reset(self) -> None:
        """Forget what went wrong in an earlier run."""
        self.failure: Exception | None = None
        self._limit = asyncio.Semaphore(_MAX_CATCHING_UP)

    async def refresh(self, streams: Collection[str] | None = None) -> Sequence[Parked]:
        """Learn what is parked, of these streams or of all: any process may have retried or skipped it."""
        processor = self._processor
        found: Sequence[Parked] = ()
        changes = -1
        while changes != self._changes:  # what was read may be older than what was written meanwhile
            changes = self._changes
            found = await processor.checkpoints.parked(processor.name, streams)
        for stream in streams if streams is not None else list(self.parked):
            self.parked.pop(stream, None)
        self.parked |= {each.stream: each for each in found if not each.released}
        return found

    async def out_of_feed(self, streams: Collection[str]) -> set[str]:
        """Which of these the feed passes by."""
        if parked := self.parked.keys() & streams:
            await self.refresh(parked)
        return {stream for stream in streams if stream in self.parked or stream in self.catching_up}

    def note_newer(self, stream: str, version: int) -> None:
        if (entry := self.catching_up.get(stream)) is not None:
            entry.latest = max(entry.latest, version)

    def retry_later(self, stream: str, base: int, version: int, failed: HandlerFailed | None = None) -> None:
        """Have a task of its own go on with a stream, at least up to a version; the others need not wait."""
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
            for stream in tasks:  # a task that had not begun has not done it
                self.catching_up.pop(stream, None)

    def drop_slot(self, slot: int) -> None:
        """Somebody else goes on with the streams of that slot."""
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
            with suppress(StreamParked, ValueError):  # it fails again, or somebody else has released it
                await self.retry(stream)

        found = await self.refresh()
        await load_all(
            one, [parked.stream for parked in found if parked.stream not in self.catching_up], _MAX_CATCHING_UP
        )

    async def skip(self, stream: str, reason: str) -> None:
        parked, processor = await self._find(stream), self._processor
        if not processor.projection.skips:
            raise ValueError(f"{processor.name} passes over nothing; mend what parked {stream}, and retry")
        await self._release(parked, reason)

    async def _find(self, stream: str) -> Parked:
        found = await self.refresh([stream])
        if not found:
            raise ValueError(f"{self._processor.name} has not parked {stream}")
        if stream in self.catching_up:
            raise RuntimeError(f"{stream} is being retried already")
        return found[0]

    async def _release(self, parked: Parked, reason: str = "") -> None:
        """Handle a parked stream to its end, but for its first commit if there is a reason, and release it."""
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
            await self._catch_up(stream)  # what was told while it was still parked; who fails in this retries again
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
            with suppress(PositionMoved):  # somebody else has handled it
                skip = Slice(stream, position, [_placeholder(stream, parked.version)], fence)
                await processor.projection.advance(skip)
            processor.forget_position(stream)

    async def _run_task(self, stream: str, entry: CatchingUp, failed: HandlerFailed | None) -> None:
        try:
            await self._catch_up_with_retries(stream, entry, failed)
        except Exception as error:  # noqa: BLE001  # whoever runs the processor gets it
            self.failure = self.failure or error
        finally:
            if self.catching_up.get(stream) is entry:
                del self.catching_up[stream]

    async def _catch_up_with_retries(self, stream: str, entry: CatchingUp, failed: HandlerFailed | None) -> None:
        """Catch up until a handler has failed too often; a store that cannot be reached is waited for."""
        entry.failed, entry.failures = failed, 1 if failed else 0  # with the commit behind `at`
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

        def pause(state: RetryCallState) -> float:
            if state.outcome is None or not isinstance(state.outcome.exception(), HandlerFailed):
                return _STORE_WAIT(state)
            jitter: float = wait_random(0, _FIRST_PAUSE)(state)
            seconds: float = min(_FIRST_PAUSE * 4 ** (entry.failures - 1), _LONGEST_PAUSE)
            return seconds + jitter

        retrying = AsyncRetrying(
            retry=retry_if_exception_type((HandlerFailed, *TRANSIENT)),
            wait=pause,
            stop=lambda _: entry.failures >= self._attempts,
            reraise=True,
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
        reachable = AsyncRetrying(retry=retry_if_exception_type(TRANSIENT), wait=_STORE_WAIT)
        await reachable(self._park, stream, entry.failed, entry.failures, now())

    async def _park(self, stream: str, failed: HandlerFailed | None, attempts: int, since: int) -> None:
        assert failed is not None
        processor, version = self._processor, await self._position(stream) + 1
        parked = Parked(stream=stream, version=version, error=_describe(failed.error), attempts=attempts, since=since)
        await processor.checkpoints.park(processor.name, parked)
        self._changes += 1
        self.parked[stream] = parked
        kind = type(failed.error).__name__
        log.error(
            "%s: %s is parked at version %d after %d attempts: %s", processor.name, stream, version, attempts, kind
        )
        processor.wake(stream)

    async def _catch_up(self, stream: str) -> None:
        """Handle a stream from where it stands to its end. Raises HandlerFailed, Fenced, StoreError."""
        processor, entry = self._processor, self.catching_up[stream]
        while True:
            latest = entry.latest
            position = await self._position(stream)
            page = await self._page(stream, position)
            if not page and position < latest:
                raise HandlerFailed(StreamCorrupt(stream, position + 1))  # though the feed has told more
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
                return  # the version beside which this one is rebuilt is no further

    async def _position(self, stream: str) -> int:
        """How far a stream is; what has been handled since it was last asked for is counted."""
        entry = self.catching_up[stream]
        position = (await self._processor.positions([stream])).get(stream, entry.base)
        self._processor.commits += position - entry.base
        entry.base = position
        return position

    async def _page(self, stream: str, position: int) -> Sequence[Commit]:
        """What is next; where some of that cannot be read, the next commit alone, to handle what comes before."""
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
    """For a commit that is passed over, which may be damaged or missing."""
    return Commit(stream=stream, version=version, id=b"", time=0, events=0, tags=(), payload=b"")


def _describe(error: Exception) -> str:
    """For who looks at what is parked: type, text, and the last place in the code that is not this library's."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(_LIBRARY)] or frames
    place = f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
    text = str(error).encode(errors="replace").decode()  # it may have surrogates
    return f"{type(error).__name__}: {text}{place}"
