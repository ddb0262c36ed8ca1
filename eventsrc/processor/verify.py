"""Compares every stream's head with where a processor is, and has it handle what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from ..feed import Head
from ..store import Commit
from .processor import Processor


class Verified(NamedTuple):
    """What was found. All is well if nothing was missing, parked or lost."""

    streams: int  # that were compared
    missing: int  # commits that were not handled, beside those of parked streams
    handled: int  # of the missing, now; the rest is parked or, if nothing was to be delivered, still missing
    parked: int  # streams that are held back
    lost: Sequence[Head]  # streams that end before the version that was handled: the store was restored, or cut


async def verify(processor: Processor[Any], *, deliver: bool = True) -> Verified:
    """Compare all streams, and deliver what is missing, unless `deliver=False`.

    Run it beside the processor, in its process, or while it is stopped. In another process it is exact all the same, by
    the positions, but effects outside may be had twice. It reads through the whole store: see `Feed.heads`.
    """
    if not processor.held:
        await processor.prepare()
        await processor.join()
    await processor.parking.look()
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
                elif position is not None and position > head.version:
                    lost.append(head)
                elif position != head.version and (hint := await _hint(processor, head, position)) is not None:
                    missing += head.version - (position or 0)
                    hints.append(hint)
            if deliver and hints:
                await processor.handle(hints)
                await processor.settled()
    return Verified(streams, missing, processor.commits - before if deliver else 0, parked, lost)


async def _hint(processor: Processor[Any], head: Head, position: int | None) -> Commit | None:
    """The last commit of a stream; None if it is older than where the processor began."""
    async with aclosing(processor.store.read(head.stream, after=head.version - 1, until=head.version)) as commits:
        async for commit in commits:
            began = processor.held[processor.slot_of(head.stream)].began
            return commit if position is not None or commit.time >= began else None
    return None
