"""Compare the last version of every stream with a processor's position, and let it handle what is missing."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import aclosing
from typing import Any, NamedTuple

from ..errors import Fenced
from ..store import Commit
from ..stores.feed import Head
from .processor import Processor


class Verified(NamedTuple):
    """The result of `verify`. All is well if nothing is missing, parked or lost."""

    streams: int  # compared
    missing: int  # commits that were not handled, except in parked streams
    handled: int  # of the missing commits, now; the rest are parked, or still missing with `deliver=False`
    parked: int  # parked streams
    lost: Sequence[Head]  # streams that end before the handled version: the store was restored or truncated


async def verify(processor: Processor[Any], *, deliver: bool = True) -> Verified:
    """Compare all streams with the processor's positions, and handle missing commits unless `deliver=False`.

    - Run it in the process of the processor while that runs, or in any process while the processor is stopped.
    - A worker with leases compares only the streams of its slots.
    - While the processor runs in another process, read models stay exact, but outside effects may happen twice.
    - It reads through the whole store: see `Feed.heads`.
    """
    if processor.held:
        return await _verified(processor, deliver, joined=False)
    await processor.prepare()
    await processor.join()
    try:
        return await _verified(processor, deliver, joined=True)
    finally:
        await processor.drop()


async def _verified(processor: Processor[Any], deliver: bool, *, joined: bool) -> Verified:
    await processor.parking.refresh()
    streams = missing = parked = 0
    lost: list[Head] = []
    before = processor.commits
    async with aclosing(processor.feed.heads()) as pages:
        async for page in pages:
            positions = await processor.positions([head.stream for head in page])
            hints: list[Commit] = []
            for head in page:
                if not processor.holds(head.stream):
                    continue
                streams += 1
                position = positions.get(head.stream)
                if head.stream in processor.parking.parked:
                    parked += 1
                    continue
                if position is None:
                    position = await processor.start_position(head.stream)
                if position > head.version and not await _commits(processor, head.stream, {position}):
                    lost.append(head)  # the stream was not just handled further since its head was read
                elif position < head.version:
                    missing += head.version - position
                    # A processor with start="now" learns from the first missing commit where a new stream begins.
                    first = {position + 1} if processor.start_time(head.stream) else set()
                    hints += await _commits(processor, head.stream, {*first, head.version})
            if deliver and hints:
                await _deliver(processor, hints, joined)
    return Verified(streams, missing, processor.commits - before if deliver else 0, parked, lost)


async def _deliver(processor: Processor[Any], hints: Sequence[Commit], joined: bool) -> None:
    while True:
        try:
            await processor.handle(hints)
            await processor.wait_until_idle()
        except Fenced:
            if not joined:
                raise
            processor.parking.failure = None
            await processor.join()  # a worker has taken over a slot: continue with the current fences
        else:
            return


async def _commits(processor: Processor[Any], stream: str, versions: Set[int]) -> Sequence[Commit]:
    """Read those of these versions that are stored now."""
    found: list[Commit] = []
    for version in versions:
        async with aclosing(processor.store.read(stream, after=version - 1, until=version)) as commits:
            found += [commit async for commit in commits]
    return found
