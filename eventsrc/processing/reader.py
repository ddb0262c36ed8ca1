"""Reading the feed for some processors: batches in, checkpoints out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from ..concurrency import cancel_all, first_of, run_all
from ..log import log
from ..retrying import TRANSIENT, on_outage
from ..stores.feed import Batch, Feed
from .applying import Interrupted
from .pipeline import Pipeline

T = TypeVar("T")

_STABLE_TIME = 30.0  # seconds; a reader that worked this long is restarted at once, without a pause


class Patience:
    """Calls work again while a store cannot be reached, until `ends` is set, and notes that in the pipelines."""

    def __init__(self, pipelines: Sequence[Pipeline], *ends: asyncio.Event, gives_up: Callable[[], bool]) -> None:
        self._pipelines, self._ends, self._gives_up = pipelines, ends, gives_up

    async def __call__(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `work`. Raises what it raises, except errors of stores that pass."""
        retrying = on_outage(
            self.is_transient, longest=10.0, gives_up=self._gives_up, sleep=self._pause, note=self._note
        )
        result: T = await retrying(work)
        self.over()
        return result

    def is_transient(self, error: BaseException) -> bool:
        """Whether it is a store's transient error, and not a handler's error that has stopped a processor."""
        return isinstance(error, TRANSIENT) and all(each.retries.failure is not error for each in self._pipelines)

    def over(self) -> None:
        """Note that the store answers."""
        for each in self._pipelines:
            each.progress.wait(self, "")
            each.update_caught_up()

    def _note(self, error: BaseException, seconds: float) -> None:
        for each in self._pipelines:
            each.progress.wait(self, type(error).__name__)
            each.update_caught_up()
        log.warning("%s; trying again in %.1f s: %s", type(error).__name__, seconds, error)

    async def _pause(self, seconds: float) -> None:
        await first_of(*(event for event in self._ends if not event.is_set()), timeout=seconds)


class Reader:
    """Reads the feed for pipelines that are equally far, until it ends or one of `ends` is set."""

    def __init__(
        self,
        feed: Feed,
        pipelines: Sequence[Pipeline],
        patience: Patience,
        ends: Sequence[asyncio.Event],
        *,
        save_every: float,
        rate: float | None,
    ) -> None:
        self._feed, self._pipelines, self._patience, self._ends = feed, pipelines, patience, ends
        self._save_every, self._rate = save_every, rate
        self._clock = asyncio.get_running_loop().time
        self._saved = self._clock()

    async def run(self, *, follow: bool) -> None:
        """Read from the earliest checkpoint of the pipelines.

        Raises:
            Fenced, NotActive, SwitchPending, StoreChanged: nobody may continue here.
            StoreError: a store failed with an error that does not pass.
            Exception: what makes a processor stop, such as a handler's error with `on_error="stop"`.
        """
        try:
            while not await self._patience(partial(self._read_once, follow)):
                pass
        finally:
            self._patience.over()

    async def _read_once(self, follow: bool) -> bool:
        """Read the feed from the checkpoints. True: it is done. False: call this again at once.

        Raises transient errors, so that it is called again after a pause.
        """
        began = self._clock()
        try:
            await self._read(follow)
        except TRANSIENT as error:
            if not self._patience.is_transient(error) or self._clock() - began < _STABLE_TIME:
                raise
            log.warning("reading the feed again after %s", type(error).__name__)
            return False  # at once: it had worked for a while
        return True

    async def _read(self, follow: bool) -> None:
        found = [each.assignment.read_from() for each in self._pipelines]
        checkpoints = [checkpoint for checkpoint in found if checkpoint is not None]
        if not checkpoints:  # other workers hold all slots
            if follow:
                await first_of(*self._ends)
            return
        for pipeline in self._pipelines:
            pipeline.positions.clear()
            pipeline.progress.restart()
        taken = [each.projection.categories for each in self._pipelines]
        categories = {each for some in taken for each in some} if all(taken) else ()
        batches = self._feed.feed(
            after=self._feed.earliest(checkpoints), follow=follow, report_damaged=True, categories=categories
        )
        async with aclosing(batches):
            while (batch := await self._next(batches)) is not None:
                self._patience.over()
                try:
                    await self._handle(batch)
                except Interrupted:
                    return  # the rest is read again
                if self._clock() - self._saved >= self._save_every:
                    await self._save()
                await asyncio.sleep(self._pause_after(batch))  # others run, too: handlers may never have awaited

    async def _handle(self, batch: Batch) -> None:
        for pipeline in self._pipelines:
            pipeline.progress.delivered(batch)
        if len(self._pipelines) == 1:
            await self._pipelines[0].handle(batch.commits, batch.damaged, self._is_ending)
        else:
            await run_all(each.handle(batch.commits, batch.damaged, self._is_ending) for each in self._pipelines)
        for pipeline in self._pipelines:
            pipeline.batch_done(batch)
            pipeline.check()

    def _is_ending(self) -> bool:
        return any(event.is_set() for event in self._ends)

    def _pause_after(self, batch: Batch) -> float:
        return len(batch.commits) / self._rate if self._rate is not None else 0.0

    async def _next(self, batches: AsyncGenerator[Batch]) -> Batch | None:
        """Return the next batch, or None at the end or to stop reading. Write checkpoints while waiting."""
        ends = [asyncio.ensure_future(event.wait()) for event in self._ends]
        coming: asyncio.Future[Batch | None] | None = None
        try:
            while coming is None or not coming.done():
                if coming is None and not any(each.catch_up.is_full for each in self._pipelines):
                    coming = asyncio.ensure_future(anext(batches, None))
                pause = min(max(0.01, self._saved + self._save_every - self._clock()), 1.0)
                waiting: list[asyncio.Future[Any]] = [*ends, coming] if coming is not None else [*ends]
                await asyncio.wait(waiting, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                if any(end.done() for end in ends):
                    return None
                for pipeline in self._pipelines:
                    pipeline.check()
                    pipeline.update_caught_up()
                if self._clock() - self._saved >= self._save_every and not (coming is not None and coming.done()):
                    await self._save()
            return coming.result()
        finally:
            await cancel_all([each for each in (*ends, coming) if each is not None])

    async def _save(self) -> None:
        self._saved = self._clock()
        for pipeline in self._pipelines:
            pipeline.update_caught_up()
            pipeline.check()
            await pipeline.checkpointer.save()
