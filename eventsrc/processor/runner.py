"""Runs processors: one reader of a feed for all of them, checkpoints behind what is handled."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception_type, wait_random_exponential

from ..errors import Fenced, StoreUnavailable, Throttled
from ..feed import Batch
from ..log import log
from .leases import Leases
from .processor import Processor

_TRANSIENT = (Throttled, StoreUnavailable)


class Runner:
    """Runs processors of one store in one task, until it is stopped or one of them fails.

    They share one reader of the feed, so the slowest sets the pace of all. A store that cannot be reached is waited
    for. Checkpoints are written at most every `save_every` seconds, and only if something was handled since. Without
    `leases` this process handles all streams, and fences whoever did so before.
    """

    def __init__(self, *processors: Processor[Any], leases: Leases | None = None, save_every: float = 1.0) -> None:
        if not processors:
            raise ValueError("a runner needs processors")
        if len({id(processor.feed) for processor in processors}) > 1:
            raise ValueError("processors of one runner share a feed; give those of another feed a runner of their own")
        if len({processor.name for processor in processors}) < len(processors):
            raise ValueError("two processors have the same tag and version")
        self._processors, self._leases, self._save_every = processors, leases, save_every
        self._feed = processors[0].feed
        self._stopping = asyncio.Event()
        self._again = asyncio.Event()  # read from other checkpoints: other slots are held now
        self.waiting = ""  # for what, while a store cannot be reached

    def stop(self) -> None:
        """Have `run` end soon: what is in flight is finished, checkpoints are written, leases given back."""
        self._stopping.set()

    async def run(self, *, until_caught_up: bool = False, on_sigterm: bool = False) -> None:
        """Handle all there is and then what comes; with `until_caught_up`, end at the end of the feed.

        `on_sigterm` has SIGTERM stop it. Raises Fenced when another process has taken over, NotActive if readers use
        another version, what a handler raised if it stops a processor, and StoreError.
        """
        loop = asyncio.get_running_loop()
        if on_sigterm:
            loop.add_signal_handler(signal.SIGTERM, self.stop)
        try:
            for processor in self._processors:
                await processor.prepare()
            if self._leases is None:
                for processor in self._processors:
                    await processor.take_all()
                await self._read(follow=not until_caught_up)
            else:
                async with self._leases.held_for(self._processors, self._again):
                    await self._read_what_is_held(self._leases, follow=not until_caught_up)
        finally:
            if on_sigterm:
                loop.remove_signal_handler(signal.SIGTERM)
            for processor in self._processors:
                await processor.drop()

    async def _read_what_is_held(self, leases: Leases, *, follow: bool) -> None:
        """Read, and share the slots out anew between two batches, as often as the leases ask for it."""
        while not self._stopping.is_set():
            self._again.clear()
            if leases.is_alive:
                await leases.share_out()
            else:
                for processor in self._processors:  # the others have them by now
                    await processor.drop()
            try:
                await self._read(follow=follow)
            except Fenced as error:
                log.warning("%s", error)  # a worker that was taken for dead: it starts again with what is left for it
                for processor in self._processors:
                    await processor.drop()
                    processor.parking.failure = None  # a stream that was aside may have found it
                self._again.set()
            if not follow and not self._again.is_set():
                return

    async def _read(self, *, follow: bool) -> None:
        """Read the feed from the earliest checkpoint, until it ends or is to be read from elsewhere."""
        patiently = AsyncRetrying(
            retry=retry_if_exception_type(_TRANSIENT),
            wait=wait_random_exponential(multiplier=0.2, max=10.0),
            before_sleep=self._note_waiting,
            reraise=True,
        )
        while not await patiently(self._read_once, follow):
            pass
        await self._drain()

    def _note_waiting(self, state: Any) -> None:
        self.waiting = type(state.outcome.exception()).__name__
        before_sleep_log(log, 30)(state)

    async def _read_once(self, follow: bool) -> bool:
        """True at the end. Raises what is transient; then it is read again, from the checkpoints."""
        checkpoints = [slot.checkpoint for processor in self._processors for slot in processor.held.values()]
        after = self._feed.earliest(checkpoints)
        if not checkpoints:  # others hold them all
            await self._first_of(self._again, self._stopping)
            return True
        saved = asyncio.get_running_loop().time()
        async with aclosing(self._feed.feed(after=after, follow=follow)) as batches:
            while (batch := await self._next(batches)) is not None:
                self.waiting = ""
                for processor in self._processors:
                    await processor.handle(batch.commits)
                    processor.reached(batch)
                    processor.check()
                if (now := asyncio.get_running_loop().time()) - saved >= self._save_every:
                    await self._save()
                    saved = now
                await asyncio.sleep(0)  # handlers may never have waited
        return True

    async def _next(self, batches: AsyncGenerator[Batch]) -> Batch | None:
        """The next batch; None at the end, or when this run is to end. While there is none, checkpoints are written."""
        coming = asyncio.ensure_future(anext(batches, None))
        ends = [asyncio.ensure_future(event.wait()) for event in (self._stopping, self._again)]
        try:
            while not coming.done():
                await asyncio.wait([coming, *ends], timeout=self._save_every, return_when=asyncio.FIRST_COMPLETED)
                if any(end.done() for end in ends):
                    return None
                for processor in self._processors:
                    processor.check()
                if not coming.done():
                    await self._save()
            return coming.result()
        finally:
            for task in (coming, *ends):
                task.cancel()
            await asyncio.gather(coming, *ends, return_exceptions=True)

    async def _save(self) -> None:
        for processor in self._processors:
            await processor.save()

    async def _drain(self) -> None:
        """Let what is aside end, and write the checkpoints."""
        for processor in self._processors:
            await processor.settled()
        await self._save()

    @staticmethod
    async def _first_of(*events: asyncio.Event) -> None:
        tasks = [asyncio.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
