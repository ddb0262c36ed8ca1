"""A runner runs processors: it reads one feed for all of them and writes checkpoints of what is handled."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from ..concurrency import cancel_all, first_of
from ..errors import Fenced
from ..log import log
from ..retrying import TRANSIENT, on_outage
from ..stores.feed import Batch
from .leases import LeaseExpired, Leases
from .processor import Processor

T = TypeVar("T")

_STABLE_TIME = 30.0  # seconds; a reader that worked this long is restarted at once, without a pause
_STOP_TIMEOUT = 20.0  # seconds that a stopped runner waits for a store, and for streams that are retried


class Runner:
    """Run processors of one store in one task, until it is stopped or one of them fails.

    - The processors share one reader of the feed, so the slowest one sets the pace of all.
    - A store that cannot be reached is waited for.
    - Checkpoints are written at most every `save_every` seconds, and only if they have changed.
    - Without `leases` this process handles all streams, and the process that did so before is fenced.
    - A runner runs once.

    Raises:
        ValueError: there are no processors, or they read different feeds, or two have the same tag and version.
    """

    def __init__(self, *processors: Processor[Any], leases: Leases | None = None, save_every: float = 1.0) -> None:
        if not processors:
            raise ValueError("a runner needs processors; give at least one")
        if len({id(processor.feed) for processor in processors}) > 1:
            raise ValueError("processors of one runner share a feed; create a second runner for another feed")
        if len({processor.name for processor in processors}) < len(processors):
            raise ValueError("two processors have the same tag and version; give each its own tag")
        self._processors, self._leases, self._save_every = processors, leases, save_every
        self._feed = processors[0].feed
        self._stopping = asyncio.Event()
        self._rebalance_due = asyncio.Event()  # set by the leases: slots have to be claimed or released
        self._saved = 0.0  # when checkpoints were last written
        self._stop_deadline = 0.0  # when a stopped runner gives up
        self.waiting = ""  # the name of the error, while a store cannot be reached

    def stop(self) -> None:
        """Let `run` end soon: commits in flight are finished, checkpoints are written, and leases end."""
        self._stopping.set()

    async def run(self, *, until_caught_up: bool = False, on_sigterm: bool = False) -> None:
        """Handle all commits, then new ones as they are stored, until `stop` is called.

        - `until_caught_up` ends at the end of the feed. With leases, all slots must first be owned by workers that
          are alive: this one or others.
        - `on_sigterm` calls `stop` on SIGTERM.

        Raises:
            Fenced: without leases, another process has taken over.
            NotActive: readers use another version of a processor.
            StoreError: a store failed with an error that does not pass, or stayed unreachable after `stop`.
            Exception: an error of a handler, where `on_error="stop"`.
        """
        loop, follow = asyncio.get_running_loop(), not until_caught_up
        if on_sigterm:
            loop.add_signal_handler(signal.SIGTERM, self.stop)
        for processor in self._processors:
            processor.running = True
        try:
            await self._with_retries(self._prepare)
            if self._leases is None:
                await self._with_retries(self._take_all)
                await self._read_feed(follow)
            else:
                await self._run_with_leases(self._leases, follow)
        finally:
            if on_sigterm:
                loop.remove_signal_handler(signal.SIGTERM)
            ended = [processor for processor in self._processors if processor.caught_up.is_set()]
            for processor in self._processors:
                processor.running = False
            await self._drop()
            for processor in ended:
                processor.caught_up.set()  # stays set until the next run

    async def _prepare(self) -> None:
        for processor in self._processors:
            await processor.prepare()

    async def _take_all(self) -> None:
        for processor in self._processors:
            await processor.take_all()

    async def _drop(self) -> None:
        for processor in self._processors:
            await processor.drop()

    async def _reset(self) -> None:
        """Forget everything that other workers may have handled in the meantime."""
        await self._drop()
        for processor in self._processors:
            processor.parking.failure = None  # a stream that was catching up may have failed with Fenced

    async def _run_with_leases(self, leases: Leases, follow: bool) -> None:
        """Read the feed for the slots held here; claim and release slots between batches when the leases ask for it."""
        async with leases.held_for(self._processors, self._rebalance_due):
            await self._with_retries(leases.heartbeat)
            while not self._stopping.is_set():
                self._rebalance_due.clear()
                leases.beaten.clear()
                try:
                    async with leases.alive():
                        await self._with_retries(leases.rebalance)
                        await self._read_feed(follow)
                except Fenced as error:
                    # Others took this worker for dead. It restarts with the slots that are left.
                    log.warning("%s", error)
                    await self._reset()
                except LeaseExpired:
                    log.warning("worker %s sent no heartbeat in time: it pauses until it can", leases.worker)
                    await self._reset()
                    await first_of(leases.beaten, self._stopping)
                else:
                    if not self._rebalance_due.is_set() and not self._stopping.is_set():  # the feed has ended
                        if await self._with_retries(leases.all_owned):
                            return
                        await first_of(leases.beaten, self._rebalance_due, self._stopping)

    async def _read_feed(self, follow: bool) -> None:
        """Read the feed from the earliest checkpoint, until it ends, the runner is stopped, or slots change."""
        while not await self._with_retries(partial(self._read_once, follow)):
            pass
        await self._with_retries(self._drain)

    async def _read_once(self, follow: bool) -> bool:
        """Read the feed from the checkpoints. True: it is done. False: call this again at once.

        Raises transient errors, so that it is called again after a pause.
        """
        began = self._now()
        try:
            await self._read_batches(follow)
        except TRANSIENT as error:
            if not self._is_transient(error) or self._now() - began < _STABLE_TIME:
                raise
            log.warning("reading the feed again after %s", type(error).__name__)
            return False  # at once: it had worked for a while
        return True

    async def _read_batches(self, follow: bool) -> None:
        checkpoints = [slot.checkpoint for processor in self._processors for slot in processor.held.values()]
        if not checkpoints:  # other workers hold all slots
            if follow:
                await first_of(self._rebalance_due, self._stopping)
            return
        self._saved = self._now()
        after = self._feed.earliest(checkpoints)
        async with aclosing(self._feed.feed(after=after, follow=follow)) as batches:
            while (batch := await self._next(batches)) is not None:
                self.waiting = ""
                for processor in self._processors:
                    await processor.handle(batch.commits)
                    processor.batch_done(batch)
                    processor.check()
                if self._now() - self._saved >= self._save_every:
                    await self._save()
                await asyncio.sleep(0)  # let other tasks run: handlers may never have awaited anything

    async def _next(self, batches: AsyncGenerator[Batch]) -> Batch | None:
        """Return the next batch, or None at the end or to stop reading. Write checkpoints while waiting."""
        coming = asyncio.ensure_future(anext(batches, None))
        ends = [asyncio.ensure_future(event.wait()) for event in (self._stopping, self._rebalance_due)]
        try:
            while not coming.done():
                pause = min(max(0.01, self._saved + self._save_every - self._now()), 1.0)
                await asyncio.wait([coming, *ends], timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                if any(end.done() for end in ends):
                    return None
                for processor in self._processors:
                    processor.check()
                if self._now() - self._saved >= self._save_every and not coming.done():
                    await self._save()
            return coming.result()
        finally:
            await cancel_all((coming, *ends))

    async def _save(self) -> None:
        self._saved = self._now()
        for processor in self._processors:
            await processor.save()

    async def _drain(self) -> None:
        """Wait a limited time for streams that are catching up, and write the checkpoints."""
        limit = asyncio.timeout(_STOP_TIMEOUT)
        try:
            async with limit:
                for processor in self._processors:
                    await processor.wait_until_idle()
        except TimeoutError:
            if not limit.expired():
                raise  # a handler's own TimeoutError
            await self._drop()
        await self._save()

    async def _with_retries(self, work: Callable[[], Awaitable[T]]) -> T:
        """Call `work`, again while a store cannot be reached, and return its result."""
        retrying = on_outage(
            self._is_transient,
            longest=10.0,
            gives_up=self._gives_up,
            sleep=self._pause,
            note=self._note_waiting,
        )
        result: T = await retrying(work)
        self.waiting = ""
        return result

    def _gives_up(self) -> bool:
        if not self._stopping.is_set():
            return False
        self._stop_deadline = self._stop_deadline or self._now() + _STOP_TIMEOUT
        return self._now() >= self._stop_deadline

    def _is_transient(self, error: BaseException) -> bool:
        """Whether it is a store's transient error, and not a handler's error that has stopped a processor."""
        return isinstance(error, TRANSIENT) and all(each.parking.failure is not error for each in self._processors)

    def _note_waiting(self, error: BaseException, seconds: float) -> None:
        self.waiting = type(error).__name__
        log.warning("%s; trying again in %.1f s: %s", self.waiting, seconds, error)

    async def _pause(self, seconds: float) -> None:
        """Sleep this long, or until the runner is stopped or slots change."""
        news = (event for event in (self._stopping, self._rebalance_due) if not event.is_set())
        await first_of(*news, timeout=seconds)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
