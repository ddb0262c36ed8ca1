"""Scans of a whole table, in parallel segments that can be resumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from ....store import MAX_VERSION
from ...feed import Batch, Head
from ..items import Items, Stored
from ..wire.responses import QueryResponse
from .found import find_commits

ScanPage = Callable[[dict[str, Any]], Awaitable[QueryResponse[Stored]]]


class Progress(msgspec.Struct, omit_defaults=True):
    """How far a segment has been read: up to a key (included), to the end, or not at all."""

    key: dict[str, Any] | None = None
    done: bool = False


async def scan_commits(
    scan_page: ScanPage,
    request: dict[str, Any],
    items: Items,
    *,
    segments: int,
    after: str,
    units_per_second: float | None,
    report_damaged: bool,
) -> AsyncGenerator[Batch]:
    """Iterate over batches in the order in which the segments return them. Closing it cancels requests in flight."""
    checkpoint = after
    progress = parse_scan_checkpoint(after) or [Progress() for _ in range(segments)]
    if is_complete := all(segment.done for segment in progress):
        yield Batch((), after, caught_up=True)
    async with aclosing(_scan_pages(scan_page, request, items, progress, Pace(units_per_second))) as pages:
        async for _, page in pages:
            commits, damaged, _ = found = find_commits(page.Items, items.to_commit_of_tenant)
            if damaged and not report_damaged:
                if found.commits_before:
                    yield Batch(found.commits_before, checkpoint, caught_up=False)
                raise damaged[0].error
            is_complete = all(segment.done for segment in progress)
            checkpoint = msgspec.json.encode(progress).decode()
            if commits or damaged or is_complete:
                yield Batch(commits, checkpoint, is_complete, damaged)


async def scan_heads(
    scan_page: ScanPage, request: dict[str, Any], items: Items, *, segments: int
) -> AsyncGenerator[Sequence[Head]]:
    """Iterate over the last version of each stream.

    The items of a partition follow each other within one segment, so memory stays flat.
    """
    names = {"#pk": items.partition_key, "#sk": items.sort_key}
    request |= {"ProjectionExpression": "#pk, #sk", "ExpressionAttributeNames": names, "ConsistentRead": True}
    progress = [Progress() for _ in range(segments)]
    last: list[Head | None] = [None] * segments
    async with aclosing(_scan_pages(scan_page, request, items, progress, Pace(None))) as pages:
        async for segment, page in pages:
            heads: list[Head] = []
            head = last[segment]
            for stream, version in (key for item in page.Items if (key := items.read_commit_key(item)) is not None):
                if head is not None and head.stream != stream:
                    heads.append(head)
                    head = None
                head = Head(stream, max(version, head.version if head else 0))
            if head is not None and progress[segment].done:
                heads.append(head)
            last[segment] = head
            if heads:
                yield heads


async def _scan_pages(
    scan_page: ScanPage, request: dict[str, Any], items: Items, progress: list[Progress], pace: Pace
) -> AsyncGenerator[tuple[int, QueryResponse[Stored]]]:
    """Iterate over pages with their segment. `progress` is updated before each page."""
    pages: asyncio.Queue[tuple[int, QueryResponse[Stored], Progress] | Exception] = asyncio.Queue(maxsize=len(progress))

    async def read(segment: int, read_so_far: Progress) -> None:
        try:
            while not read_so_far.done:
                await pace.wait()
                page = await scan_page(_build_request(request, items, segment, len(progress), read_so_far))
                pace.spend(page.units)
                key = page.LastEvaluatedKey
                read_so_far = Progress(done=True) if key is None else Progress(items.read_key(key))
                await pages.put((segment, page, read_so_far))
        except Exception as error:  # noqa: BLE001  # raised below, after the pages read before it
            await pages.put(error)

    tasks = [asyncio.create_task(read(*each)) for each in enumerate(progress)]
    try:
        while not all(segment.done for segment in progress):
            received = await pages.get()
            if isinstance(received, Exception):
                raise received
            number, page, progress[number] = received
            yield number, page
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Pace:
    """Limits the read units per second of all segments together."""

    def __init__(self, units_per_second: float | None) -> None:
        self._rate = units_per_second
        self._next = 0.0  # when the next request may start, in the loop's time

    async def wait(self) -> None:
        await asyncio.sleep(max(0.0, self._next - asyncio.get_running_loop().time()))

    def spend(self, units: float) -> None:
        if self._rate is not None:
            self._next = max(self._next, asyncio.get_running_loop().time()) + units / self._rate


def _build_request(
    request: dict[str, Any], items: Items, segment: int, segments: int, progress: Progress
) -> dict[str, Any]:
    """Return the request for a segment's next page, filtered by the sort keys that commits can have.

    Snapshots of some layouts pass the filter. Items that do not pass it cost read units but are not returned.
    """
    names = {"#sk": items.sort_key} | request.get("ExpressionAttributeNames", {})
    values = {":first": {"N": "1"}, ":last": {"N": str(MAX_VERSION)}}
    scan = request | {
        "Segment": segment,
        "TotalSegments": segments,
        "FilterExpression": "#sk BETWEEN :first AND :last",
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
    }
    if items.prefix:
        scan["FilterExpression"] += " AND begins_with(#pk, :prefix)"
        names["#pk"], values[":prefix"] = items.partition_key, {"S": items.prefix}
    return scan if progress.key is None else scan | {"ExclusiveStartKey": progress.key}


def parse_scan_checkpoint(after: str) -> list[Progress]:
    """Return the progress of each segment; [] for an empty text. Raises ValueError if it is not a checkpoint."""
    if not after:
        return []
    try:
        progress = msgspec.json.decode(after, type=list[Progress])
    except (msgspec.MsgspecError, UnicodeError):
        progress = []
    if not progress:
        raise ValueError(
            f"{after!r} is not a checkpoint of a scan; use the checkpoint of a batch, or '' for the beginning"
        )
    return progress
