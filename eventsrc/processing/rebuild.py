"""Rebuild a read model while the old one stays in use, then switch to the new one."""

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
"""Called with the number of handled commits, and the number of all."""

_PROGRESS_INTERVAL = 0.2  # seconds


async def rebuild(
    processor: Processor[Any], *, progress: Progress | None = None, on_error: Literal["stop", "park"] = "stop"
) -> None:
    """Build the read model of a new version while the active version continues to run, then make the new one active.

    1. The new version handles each stream up to the position of the active one. `context.muted` is true, so that
       handlers do not act outside again.
    2. The active version is fenced and cannot run again. The new one handles, still muted, what the active one has
       handled in the meantime.
    3. Readers switch to the new version (`Checkpoints.active`).
    4. Commits that no version has handled are handled now, not muted. So each outside effect belongs to one of the two
       versions. On DynamoDB a fenced worker continues until it next writes its checkpoint, about a second; outside
       effects in that time may happen in both.

    If no version is active, this one becomes active and runs to the end of the feed. Afterwards `run` it, and drop the
    old one with `Processor.forget`.

    - `progress` is called with the handled commits and all that the active version has handled. If positions are in the
      rows of the read model, counting them scans the store.
    - `on_error="stop"` stops the rebuild when a handler fails; `"park"` parks the stream.
    - It may be cancelled or killed at any time; call it again to continue.

    Raises:
        ValueError: one of the two versions has `start="now"`. Commits before its start were never to be handled, so the
            read model cannot be rebuilt from all commits.
        NotActive: another version became active in the meantime.
        Exception: what a handler raised, with `on_error="stop"`, or what `progress` raised.
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
        raise ValueError(
            f'{processor.name} or {old} has start="now", and cannot be rebuilt; give the new one a tag of its own'
        )
    processor.follow(old)
    await _run(processor, progress, old)
    await _retire(checkpoints, old)
    await _run(processor, progress, old)  # what the old version has handled since; fenced, it handles no more
    if not await checkpoints.activate(projection.tag, projection.version, instead_of=active):
        raise NotActive(projection.tag, projection.version, await checkpoints.active(projection.tag) or 0)
    processor.follow(None)
    await _run(processor, None, None)


async def _run(processor: Processor[Any], progress: Progress | None, old: str | None) -> None:
    """Run the processor to the end of the feed, and report progress."""
    if progress is None:
        await Runner(processor).run(until_caught_up=True)
        return
    before = await _count(processor, processor.name) - processor.commits
    total = await _total(processor, old)

    def report() -> None:
        done = before + processor.commits
        progress(done, max(done, total))  # `total` is too low if the active version or writers have continued

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
    before = await _count(processor, processor.name) - processor.commits  # with slices that were handled in part
    report()


async def _total(processor: Processor[Any], old: str | None) -> int:
    """Return the number of commits to handle: those that the active version has handled, or all."""
    if old is not None:
        return await _count(processor, old)
    remaining = await processor.feed.remaining("")
    if remaining is not None:
        return remaining
    return sum([head.version async for page in processor.feed.heads() for head in page])


async def _count(processor: Processor[Any], name: str) -> int:
    """Return the number of commits that a version has handled: the sum of its positions, as streams have no gaps.

    If positions are in the rows of the read model, the names of the streams are read from the store.
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
    """Fence a processor for good."""
    for slot in await checkpoints.slots(processor):
        if not slot.retired:
            await checkpoints.claim(processor, structs.replace(slot, epoch=slot.epoch + 1, owner="", retired=True))
