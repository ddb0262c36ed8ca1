"""Follow a trace: find it again whenever one of its stores has a new commit of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from ..concurrency import cancel_all
from ..store import Store
from ..stores.feed import Feed
from ..trace_context import trace_id_of
from .finding import find_trace
from .trace import Describe, Trace

if TYPE_CHECKING:
    from ..processing import Processor

QUIET = 5.0
"""Seconds without a change after which a trace with nothing open is taken to be complete."""


async def follow_trace(
    id: str,
    stores: Store | Mapping[str, Store],
    *,
    processors: Sequence[Processor[Any]] = (),
    quiet: float = QUIET,
    describe: Describe | None = None,
) -> AsyncGenerator[Trace]:
    """Yield the trace that an id belongs to, and yield it again each time that it has changed.

    - It ends after `quiet` seconds without a change if nothing is open, except what is parked, which waits for people.
      Without `processors` nothing is known to be open.
    - It waits for new commits through the feeds of the stores. What processors do is in no feed, so while something is
      open they are asked again every `quiet` seconds, and at each new commit.

    Raises:
        TraceNotFound, TypeError: as `find_trace`; and TypeError if a store has no feed.
        ValueError: `quiet` is not above 0.
        StoreError: a feed cannot be read.
    """
    if not quiet > 0:
        raise ValueError(f"quiet is {quiet!r}; give a number of seconds above 0")
    named = dict(stores) if isinstance(stores, Mapping) else {"store": stores}
    feeds: dict[str, Feed] = {}
    for name, store in named.items():
        if not isinstance(store, Feed):
            raise TypeError(f"{name} is {type(store).__name__}, which has no feed")
        feeds[name] = store
    ends = {name: await feed.end() for name, feed in feeds.items()}  # before it is found: no commit is missed
    yield (trace := await find_trace(id, named, processors=processors, describe=describe))
    grown = asyncio.Event()

    async def watch(name: str) -> None:
        async with aclosing(feeds[name].feed(after=ends[name], report_damaged=True)) as batches:
            async for batch in batches:
                if any(trace_id_of(commit) == trace.id for commit in batch.commits):
                    grown.set()

    watching = [asyncio.create_task(watch(name)) for name in feeds]
    for task in watching:
        task.add_done_callback(lambda _: grown.set())
    try:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(grown.wait(), quiet)
            for task in watching:
                if task.done():
                    await task  # which raises: a feed that is followed has no end
            is_quiet = not grown.is_set()
            grown.clear()
            if (found := await find_trace(id, named, processors=processors, describe=describe)) != trace:
                yield (trace := found)
            elif is_quiet and all(each.state == "parked" for _, each in trace.open):
                return
    finally:
        await cancel_all(watching)
