"""Parked streams and skipped commits as items of a DynamoDB table."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from ....errors import Fenced
from ....stores.dynamodb.table import Refusal, Table
from ....stores.dynamodb.wire.attributes import text_of
from ....stores.dynamodb.wire.responses import Item
from ...slice import Fence
from ..checkpoints import Parked, Skipped, to_text
from .expressions import alias, to_numbers
from .keys import parked_partition, skipped_partition, to_sort_key
from .slots import SlotItems
from .stamps import IS_NEWEST, Stamps

_MAX_ERROR = 10_000  # characters


class EntryItems:
    """The items of parked streams and of skipped commits. Its methods are those of `Checkpoints`."""

    def __init__(self, table: Table, stamps: Stamps, slots: SlotItems) -> None:
        self._table, self._stamps, self._slots = table, stamps, slots
        self._parking = defaultdict[tuple[str, int], asyncio.Lock](asyncio.Lock)  # by processor and slot

    def opened(self) -> None:
        """Note that the checkpoints were opened, maybe in another event loop than before."""
        self._parking.clear()

    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        key, new = self._parked_key(processor, parked.stream), {"S": to_text(_shorten(parked))}
        condition, names, values = IS_NEWEST, ["stamp"], dict[str, Any]()
        if instead_of is not None:
            condition, names = f"{IS_NEWEST} AND (#parked = :before OR #parked = :new)", ["stamp", "parked"]
            values = {":before": {"S": to_text(_shorten(instead_of))}, ":new": new}

        async def write(stamp: int) -> Refusal | None:
            put = {
                "TableName": self._table.name,
                "Item": {**key, "parked": new, **to_numbers({"stamp": stamp})},
                "ConditionExpression": condition,
                "ExpressionAttributeNames": alias(*names),
                "ExpressionAttributeValues": values | to_numbers({":stamp": stamp}),
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
            refusal = await self._table.transact([self._slots.fence_check(processor, fence), {"Put": put}])
            if refusal is not None and refusal.action == 0:
                raise Fenced(processor, fence.slot)
            return refusal

        async with self._parking[processor, fence.slot]:  # transactions that check one slot at once fail
            return await self._stamps.write_newest(key, write)

    async def unpark(self, processor: str, parked: Parked) -> None:
        # With the condition, a try that arrives late, after the stream was parked again, changes nothing.
        await self._table.delete(
            self._parked_key(processor, parked.stream), only_if=("parked", to_text(_shorten(parked)))
        )

    async def read_parked(self, processor: str, streams: Collection[str] | None = None) -> Sequence[Parked]:
        if streams is None:
            items: Sequence[Item] = await self._table.query_all(parked_partition(processor))
        else:
            keys = [self._parked_key(processor, stream) for stream in dict.fromkeys(streams)]
            items = await self._table.get_all(self._table.name, keys, ["parked"])
        return [_decode_parked(text_of(item, "parked")) for item in items]

    def _parked_key(self, processor: str, stream: str) -> dict[str, Any]:
        return self._table.key(parked_partition(processor), to_sort_key(stream))

    async def note_skipped(self, processor: str, skipped: Skipped) -> None:
        key = self._table.key(skipped_partition(processor), f"{to_sort_key(skipped.stream)}@{skipped.version}")

        async def write(stamp: int) -> Refusal | None:
            return await self._table.update(
                {
                    "Key": key,
                    "UpdateExpression": "SET #skipped = :skipped, #stamp = :stamp",
                    "ConditionExpression": IS_NEWEST,
                    "ExpressionAttributeNames": alias("skipped", "stamp"),
                    "ExpressionAttributeValues": {":skipped": {"S": to_text(skipped)}} | to_numbers({":stamp": stamp}),
                }
            )

        await self._stamps.write_newest(key, write)

    async def read_skipped(self, processor: str) -> Sequence[Skipped]:
        items = await self._table.query_all(skipped_partition(processor))
        return sorted((_decode_skipped(text_of(item, "skipped")) for item in items), key=lambda skipped: skipped.time)


def _shorten(parked: Parked) -> Parked:
    """Shorten the error, so that it fits into an item."""
    return msgspec.structs.replace(parked, error=parked.error[:_MAX_ERROR])


_decode_parked = msgspec.json.Decoder(Parked).decode
_decode_skipped = msgspec.json.Decoder(Skipped).decode
