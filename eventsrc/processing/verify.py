"""Compare every stream of a store with a processor's positions, and let it handle what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from ..concurrency import load_all
from ..errors import Fenced
from ..store import Commit
from ..stores.feed import Head
from .pipeline import Pipeline
from .processor import Processor

_CONCURRENCY = 16  # streams that are compared at a time


class Verified(NamedTuple):
    """The result of `verify`. All is well if nothing is missing, parked, lost or changed."""

    streams: int  # compared
    missing: int  # commits that were not handled, except in parked streams
    handled: int  # of the missing commits, now; the rest are parked, or still missing with `deliver=False`
    parked: int  # parked streams
    # Streams that end before the handled version, at 0 if nothing is left: the store was restored or truncated.
    lost: Sequence[Head]
    changed: Sequence[Head] = ()  # streams that hold another commit at the handled version: it was restored


async def verify(processor: Processor[Any], *, deliver: bool = True, rate: float | None = None) -> Verified:
    """Compare all streams with the processor's positions, and handle missing commits unless `deliver=False`.

    - Run it in the process of the processor while that runs, or in any process while the processor is stopped.
    - A worker with leases compares only the streams of its slots.
    - While the processor runs in another process, read models stay exact, but outside effects may happen twice.
    - It reads through the whole store: see `Feed.heads`. `rate` limits how many streams it compares in a second.

    Raises:
        StoreChanged: the checkpoints belong to another store or tenant.
    """
    pipeline = processor.pipeline
    if pipeline.assignment.held:
        return await _Verification(pipeline, joined=False).run(deliver, rate)
    await pipeline.prepare()
    await pipeline.assignment.join()
    try:
        return await _Verification(pipeline, joined=True).run(deliver, rate)
    finally:
        await pipeline.checkpointer.drop()


class _Verification:
    def __init__(self, pipeline: Pipeline, *, joined: bool) -> None:
        self._pipeline, self._joined = pipeline, joined
        self._streams = self._missing = self._parked = 0
        self._positions = 0  # of streams that the store has
        self._lost: list[Head] = []
        self._changed: list[Head] = []

    async def run(self, deliver: bool, rate: float | None) -> Verified:
        pipeline = self._pipeline
        await pipeline.parking.refresh()
        before = pipeline.progress.commits
        async with aclosing(pipeline.assignment.feed.heads()) as pages:
            async for page in pages:
                hints = await self._compare(page)
                if deliver and hints:
                    await self._deliver(hints)
                if rate is not None:
                    await asyncio.sleep(len(page) / rate)
        await self._find_vanished()
        handled = pipeline.progress.commits - before if deliver else 0
        return Verified(self._streams, self._missing, handled, self._parked, self._lost, self._changed)

    async def _compare(self, page: Sequence[Head]) -> list[Commit]:
        """Compare streams. Return commits to hand to the pipeline: the newest of each stream that misses some."""
        pipeline = self._pipeline
        heads = [head for head in page if pipeline.is_ours(head.stream)]
        self._streams += len(heads)
        positions = await pipeline.projection.positions([head.stream for head in heads])
        self._positions += len(positions)
        self._parked += sum(head.stream in pipeline.parking.parked for head in heads)
        heads = [head for head in heads if head.stream not in pipeline.parking.parked]
        by_stream = {head.stream: head for head in heads}
        hints: list[Commit] = []

        async def compare(stream: str) -> None:
            head, position = by_stream[stream], positions.get(stream)
            after = position.version if position is not None else (await pipeline.positions.start(stream)).version
            stored = await self._read(stream, after) if position is not None else None
            if after > head.version and stored is None:
                self._lost.append(head)  # the stream was not just handled further since its head was read
            elif position is not None and stored is not None and position.contradicts(stored):
                self._changed.append(head)
            elif after < head.version and (last := await pipeline.last_wanted(stream, head.version, after)) > after:
                self._missing += last - after
                if (hint := await self._read(stream, last)) is not None:
                    hints.append(hint)

        await load_all(compare, by_stream, _CONCURRENCY)
        return hints

    async def _find_vanished(self) -> None:
        """Find streams that have a stored position, but no commit any more. They are rare, so they are counted first.

        Positions that a projection keeps itself, as in rows of a read model, are not listed.
        """
        stored = 0
        async for page in self._all_positions():
            stored += len(page)
        if stored <= self._positions:
            return
        known = {head.stream for head in self._lost}

        async def look(stream: str) -> None:
            if await self._read(stream, 1) is None:
                self._lost.append(Head(stream, 0))

        async for page in self._all_positions():
            await load_all(look, [stream for stream in page if stream not in known], _CONCURRENCY)

    async def _all_positions(self) -> AsyncGenerator[Sequence[str]]:
        """Yield the streams of all stored positions, in pages."""
        pipeline = self._pipeline
        async with aclosing(pipeline.assignment.checkpoints.all_positions(pipeline.projection.name)) as pages:
            async for page in pages:
                yield [head.stream for head in page if pipeline.is_ours(head.stream)]

    async def _deliver(self, hints: Sequence[Commit]) -> None:
        pipeline = self._pipeline
        while True:
            try:
                await pipeline.handle(hints)
                await pipeline.wait_until_idle()
            except Fenced:
                if not self._joined:
                    raise
                pipeline.retries.reset()
                await pipeline.assignment.join()  # a worker has taken over a slot: continue with the current fences
            else:
                return

    async def _read(self, stream: str, version: int) -> Commit | None:
        """Read this commit as it is stored now."""
        async with aclosing(self._pipeline.store.read(stream, after=version - 1, until=version)) as commits:
            return await anext(commits, None)
