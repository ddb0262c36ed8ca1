"""Reading a whole table, in parallel segments that can be resumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from ....store import MAX_VERSION
from ...feed import Batch, Head
from ..items import Items, Keyed
from ..wire.responses import QueryResponse

ScanPage = Callable[[dict[str, Any]], Awaitable[QueryResponse[Keyed]]]


class Place(msgspec.Struct, omit_defaults=True):
    """How far a segment has been read: behind a key, or at the start or the end."""

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
) -> AsyncGenerator[Batch]:
    """Batches as the segments bring them. Closing it ends the requests under way."""
    places = parse_places(after) or [Place() for _ in range(segments)]
    if ends := all(place.done for place in places):
        yield Batch((), after, caught_up=True)
    async with aclosing(_scan_pages(scan_page, request, items, places, Pace(units_per_second))) as pages:
        async for _, page in pages:
            commits = [commit for item in page.Items if (commit := items.to_commit_of_tenant(item)) is not None]
            ends = all(place.done for place in places)
            if commits or ends:
                yield Batch(commits, msgspec.json.encode(places).decode(), ends)


async def scan_heads(
    scan_page: ScanPage, request: dict[str, Any], items: Items, *, segments: int
) -> AsyncGenerator[Sequence[Head]]:
    """The last version of each stream. A partition's items come one after the other, within one segment."""
    names = {"#pk": items.partition_key, "#sk": items.sort_key}
    request |= {"ProjectionExpression": "#pk, #sk", "ExpressionAttributeNames": names, "ConsistentRead": True}
    places = [Place() for _ in range(segments)]
    last: list[Head | None] = [None] * segments
    async with aclosing(_scan_pages(scan_page, request, items, places, Pace(None))) as pages:
        async for segment, page in pages:
            heads: list[Head] = []
            head = last[segment]
            for stream, version in (place for item in page.Items if (place := items.read_place(item)) is not None):
                if head is not None and head.stream != stream:
                    heads.append(head)
                    head = None
                head = Head(stream, max(version, head.version if head else 0))
            if head is not None and places[segment].done:
                heads.append(head)
            last[segment] = head
            if heads:
                yield heads


async def _scan_pages(
    scan_page: ScanPage, request: dict[str, Any], items: Items, places: list[Place], pace: Pace
) -> AsyncGenerator[tuple[int, QueryResponse[Keyed]]]:
    """Pages with their segment, whose place is the one behind the page by then."""
    pages: asyncio.Queue[tuple[int, QueryResponse[Keyed], Place] | Exception] = asyncio.Queue(maxsize=len(places))

    async def read(segment: int, place: Place) -> None:
        try:
            while not place.done:
                await pace.wait()
                page = await scan_page(_segment_request(request, items, segment, len(places), place))
                pace.spend(page.ConsumedCapacity.CapacityUnits)
                key = page.LastEvaluatedKey
                place = Place(done=True) if key is None else Place(items.read_key(key))
                await pages.put((segment, page, place))
        except Exception as error:  # noqa: BLE001  # whoever reads gets it, in its own turn
            await pages.put(error)

    reading = [asyncio.create_task(read(*each)) for each in enumerate(places)]
    try:
        while not all(place.done for place in places):
            page = await pages.get()
            if isinstance(page, Exception):
                raise page
            segment, found, places[segment] = page
            yield segment, found
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


class Pace:
    """Spreads read units over time, all segments together."""

    def __init__(self, units_per_second: float | None) -> None:
        self._rate = units_per_second
        self._free = 0.0  # when the next request may start

    async def wait(self) -> None:
        await asyncio.sleep(max(0.0, self._free - asyncio.get_running_loop().time()))

    def spend(self, units: float) -> None:
        if self._rate is not None:
            self._free = max(self._free, asyncio.get_running_loop().time()) + units / self._rate


def _segment_request(
    request: dict[str, Any], items: Items, segment: int, segments: int, place: Place
) -> dict[str, Any]:
    """Sort keys of commits, among which a layout may keep snapshots. Other items are paid for, but not sent."""
    names = {"#sk": items.sort_key} | request.get("ExpressionAttributeNames", {})
    values = {":first": {"N": "1"}, ":last": {"N": str(MAX_VERSION)}}
    asked = request | {
        "Segment": segment,
        "TotalSegments": segments,
        "FilterExpression": "#sk BETWEEN :first AND :last",
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
    }
    if items.prefix:
        asked["FilterExpression"] += " AND begins_with(#pk, :prefix)"
        names["#pk"], values[":prefix"] = items.partition_key, {"S": items.prefix}
    return asked if place.key is None else asked | {"ExclusiveStartKey": place.key}


def parse_places(after: str) -> list[Place]:
    """Raises ValueError for what is no checkpoint."""
    if not after:
        return []
    try:
        places = msgspec.json.decode(after, type=list[Place])
    except (msgspec.MsgspecError, UnicodeError):
        places = []
    if not places:
        raise ValueError(f"{after!r} is no checkpoint of a scan; keep what its batches say, or begin with ''")
    return places
