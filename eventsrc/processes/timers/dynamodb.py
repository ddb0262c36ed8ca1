"""Timers in the DynamoDB table of checkpoints: items that are sorted by time, in a few partitions.

| partition | sort | attributes |
|---|---|---|
| `@fulfilment-timers@1/timers/5`, 0 to 7 | `00001796095066278997#12#fulfilment-o-1`, or its hash if long | timer |

A timer costs a write unit to start, one to remove, and while it waits nothing but its storage. The first timers of a
partition are found by one query, of a read unit or less, however many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

import msgspec

from ...processing.checkpoints.dynamodb.checkpoints import DynamoDBCheckpoints
from ...processing.checkpoints.dynamodb.keys import to_sort_key
from ...stores.dynamodb.wire.attributes import text_of
from ...stores.dynamodb.wire.responses import Item
from .timers import Due, Timers


class DynamoDBTimers(Timers):
    """Timers in the table of checkpoints."""

    parts = 8  # a partition takes 1,000 writes a second

    def __init__(self, checkpoints: DynamoDBCheckpoints) -> None:
        self._table = checkpoints.table

    async def put(self, processor: str, timer: Due) -> None:
        text = msgspec.json.encode(timer).decode()
        await self._table.put({**self._key(processor, timer), "timer": {"S": text}})

    async def remove(self, processor: str, timer: Due) -> None:
        await self._table.delete(self._key(processor, timer))

    async def first(self, processor: str, part: int, limit: int, after: Due | None = None) -> Sequence[Due]:
        found, key = list[Due](), self._key(processor, after) if after is not None else None
        async with aclosing(self._table.query(_partition(processor, part), limit=limit, after=key)) as pages:
            async for items in pages:  # a page of 1 MB may have fewer
                found += [_decode(text_of(item, "timer")) for item in items]
                if len(found) >= limit:
                    break
        return found[:limit]

    async def count(self, processor: str) -> int:
        return sum([len(await self._table.query_all(_partition(processor, part))) for part in range(self.parts)])

    def _key(self, processor: str, timer: Due) -> Item:
        sort = f"{timer.due:020d}#{timer.number}#{to_sort_key(timer.stream)}"
        return self._table.key(_partition(processor, self.part_of(timer.stream)), sort)


def _partition(processor: str, part: int) -> str:
    return f"@{processor}/timers/{part}"


_decode = msgspec.json.Decoder(Due).decode
