"""Building a read model anew, beside the one in use, and switching to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Literal

from msgspec import structs

from ..errors import NotActive
from .checkpoints.checkpoints import Checkpoints
from .processor import Processor
from .projections.projection import Guarantee
from .runner import Runner

Progress = Callable[[int, int], object]
"""Told how many commits of how many are handled."""

_PROGRESS_INTERVAL = 0.2  # seconds


async def rebuild(
    processor: Processor[Any], *, progress: Progress | None = None, on_error: Literal["stop", "park"] = "stop"
) -> None:
    """Handle all with a new version of a projection while the active one goes on, then make it the active one.

    It goes as far as the active one is, stream by stream, with `context.muted` true, so that handlers which also act
    outside leave that. Then the active one is fenced and cannot run again, what it has handled meanwhile follows, and
    readers are switched over (`Checkpoints.active`). What nobody has handled yet is handled now, and not muted: each
    outside effect is had by one of the two. (On DynamoDB a fenced worker goes on until it next writes its checkpoint,
    about a second; outside effects of that time may be had by both.)

    `progress` is told the commits handled of all that the active one has; where positions are in the rows of the read
    model, to count them the store is scanned. It may be cancelled or killed, and called again, at any time. A handler
    that fails stops it, unless `on_error` is "park". If no version is active this one becomes it, and is run to the end
    of the feed. Afterwards `run` it; `Processor.forget` drops the old one. Raises ValueError where one of the two began
    with `start="now"`: what lies before that was never to be handled, so there is nothing to build anew.
    """
    stops, processor.parking.stops = processor.parking.stops, on_error == "stop"
    try:
        await _rebuild(processor, progress)
    finally:
        processor.parking.stops = stops
        processor.follow(None)


async def _rebuild(processor: Processor[Any], progress: Progress | None) -> None:
    checkpoints, projection = processor.checkpoints, processor.projection
    active = await checkpoints.active(projection.tag)
    if active in (None, projection.version):
        await _run(processor, progress, None)
        return
    old = f"{projection.tag}@{active}"
    if processor.from_now or any(slot.began for slot in await checkpoints.slots(old)):
        raise ValueError(f'{processor.name} or {old} has start="now", and cannot be rebuilt; give it a tag of its own')
    processor.follow(old)
    await _run(processor, progress, old)
    await _retire(checkpoints, old)
    await _run(processor, progress, old)  # what it has handled meanwhile; now that is all
    if not await checkpoints.activate(projection.tag, projection.version, instead_of=active):
        raise NotActive(projection.tag, projection.version, await checkpoints.active(projection.tag) or 0)
    processor.follow(None)
    await _run(processor, None, None)


async def _run(processor: Processor[Any], progress: Progress | None, old: str | None) -> None:
    """To the end of the feed."""
    if progress is None:
        await Runner(processor).run(until_caught_up=True)
        return
    before = await _count(processor, processor.name) - processor.commits
    total = await _total(processor, old)

    def report() -> None:
        done = before + processor.commits
        progress(done, max(done, total))  # more, if the active one has gone on, or writers have

    async def keep_reporting() -> None:
        while True:
            report()
            await asyncio.sleep(_PROGRESS_INTERVAL)

    reporting = asyncio.create_task(keep_reporting())
    try:
        await Runner(processor).run(until_caught_up=True)
    finally:
        reporting.cancel()
        await asyncio.wait([reporting])
        failure = None if reporting.cancelled() else reporting.exception()
    if failure is not None:
        raise failure
    before = await _count(processor, processor.name) - processor.commits  # also what it stopped amid
    report()


async def _total(processor: Processor[Any], old: str | None) -> int:
    """The commits to handle: those that the active one has, or all there are."""
    if old is not None:
        return await _count(processor, old)
    remaining = await processor.feed.remaining("")
    if remaining is not None:
        return remaining
    return sum([head.version async for page in processor.feed.heads() for head in page])


async def _count(processor: Processor[Any], name: str) -> int:
    """The commits that a version has handled: there are no gaps, so they are the sum of its positions.

    Where those are in the rows of the read model, the streams are had from the store.
    """
    if processor.projection.guarantee is not Guarantee.ROW:
        pages = processor.checkpoints.all_positions(name)
        return sum([position.version async for page in pages for position in page])
    count = 0
    async with aclosing(processor.feed.heads()) as heads:
        async for page in heads:
            count += sum((await processor.projection.positions_of(name, [head.stream for head in page])).values())
    return count


async def _retire(checkpoints: Checkpoints, processor: str) -> None:
    """Fence a processor for ever."""
    for slot in await checkpoints.slots(processor):
        if not slot.retired:
            await checkpoints.claim(processor, structs.replace(slot, epoch=slot.epoch + 1, owner="", retired=True))
