"""Slots as items of a DynamoDB table, and the fences that they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import msgspec

from ....errors import Fenced
from ....stores.dynamodb.table import Table
from ....stores.dynamodb.wire.attributes import number_of, text_of
from ....stores.dynamodb.wire.responses import Item
from ...slice import Fence
from ..checkpoints import Slot, to_text, tombstone
from .expressions import alias, to_numbers
from .keys import slots_partition
from .stamps import Stamps


class SlotItems:
    """The items of slots. Its methods are those of `Checkpoints`, and what others need."""

    def __init__(self, table: Table, stamps: Stamps) -> None:
        self._table, self._stamps = table, stamps

    async def read(self, processor: str) -> Sequence[Slot]:
        items = await self._table.query_all(slots_partition(processor), "slot#")
        found = [_decode_slot(text_of(item, "slot")) for item in items]
        return sorted(found, key=lambda slot: slot.number)

    async def claim(self, processor: str, slot: Slot) -> None:
        # The token identifies this call, so a try that was carried out without a response is not another's claim.
        update = self._request(
            processor,
            slot,
            "SET #slot = :slot, #epoch = :epoch, #stamp = :stamp, #token = :token",
            "attribute_not_exists(#epoch) OR #epoch < :epoch OR #token = :token",
        )
        update["ExpressionAttributeValues"][":token"] = {"S": str(uuid4())}
        if await self._table.update(update) is not None:
            raise Fenced(processor, slot.number)

    async def save(self, processor: str, slot: Slot) -> None:
        # With the stamp, a try that arrives late, after a later save, changes nothing.
        update = self._request(
            processor,
            slot,
            "SET #slot = :slot, #stamp = :stamp REMOVE #token",
            "#epoch = :epoch AND #stamp <= :stamp",
        )
        refusal = await self._table.update(update)
        if refusal is not None and (not refusal.item or number_of(refusal.item, "epoch") != slot.epoch):
            raise Fenced(processor, slot.number)

    def _key(self, processor: str, number: int) -> Item:
        return self._table.key(slots_partition(processor), f"slot#{number:08}")

    def _request(self, processor: str, slot: Slot, update: str, condition: str) -> dict[str, Any]:
        return {
            "Key": self._key(processor, slot.number),
            "UpdateExpression": update,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": alias("slot", "epoch", "stamp", "token"),
            "ExpressionAttributeValues": {
                ":slot": {"S": to_text(slot)},
                **to_numbers({":epoch": slot.epoch, ":stamp": self._stamps.next()}),
            },
        }

    async def bury(self, processor: str, slot: Slot, *, least: int = 0) -> None:
        """Leave a tombstone of a slot, whose epoch is at least `least`. If a worker has claimed it, do it again."""
        left: Slot | None = slot
        while left is not None:
            buried = tombstone(left)
            update = self._request(
                processor,
                msgspec.structs.replace(buried, epoch=max(buried.epoch, least)),
                "SET #slot = :slot, #epoch = :epoch, #stamp = :stamp REMOVE #token",
                "#epoch = :before",
            )
            update["ExpressionAttributeValues"] |= to_numbers({":before": left.epoch})
            if await self._table.update(update) is None:
                return
            left = next((each for each in await self.read(processor) if each.number == slot.number), None)

    async def check_fence(self, processor: str, fence: Fence) -> None:
        """Raise Fenced if the slot is stored with another epoch."""
        slot = await self._table.get(self._key(processor, fence.slot))
        if slot is not None and number_of(slot, "epoch") != fence.epoch:
            raise Fenced(processor, fence.slot)

    def fence_check(self, processor: str, fence: Fence) -> dict[str, Any]:
        """Return the action of a transaction that fails if the slot is stored with another epoch."""
        check = {
            "TableName": self._table.name,
            "Key": self._key(processor, fence.slot),
            "ConditionExpression": "attribute_not_exists(#epoch) OR #epoch = :epoch",
            "ExpressionAttributeNames": alias("epoch"),
            "ExpressionAttributeValues": to_numbers({":epoch": fence.epoch}),
        }
        return {"ConditionCheck": check}


_decode_slot = msgspec.json.Decoder(Slot).decode
