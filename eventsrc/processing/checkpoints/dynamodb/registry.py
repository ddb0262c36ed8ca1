"""The registry in a DynamoDB table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ....stores.dynamodb.table import Refusal, Table
from ....stores.dynamodb.wire.attributes import number_of, text_of
from ..checkpoints import to_text
from ..registry import Registration, Registry
from .expressions import alias, to_numbers
from .keys import ACTIVE, PROCESSORS
from .stamps import IS_NEWEST, Stamps


class DynamoDBRegistry(Registry):
    """The processors of one table, and which version of each readers use."""

    def __init__(self, table: Table, stamps: Stamps) -> None:
        self._table, self._stamps = table, stamps

    async def registration(self, processor: str) -> Registration | None:
        item = await self._table.get(self._table.key(PROCESSORS, processor))
        return _decode_registration(text_of(item, "registration")) if item is not None else None

    async def register(self, processor: str, new: Registration, *, instead_of: Registration | None) -> bool:
        condition = "attribute_not_exists(#registration)"
        values: dict[str, Any] = {":new": {"S": to_text(new)}}
        if instead_of is not None:
            condition, values[":before"] = "#registration = :before", {"S": to_text(instead_of)}
        key = self._table.key(PROCESSORS, processor)

        async def write(stamp: int) -> Refusal | None:
            return await self._table.update(
                {
                    "Key": key,
                    "UpdateExpression": "SET #registration = :new, #stamp = :stamp",
                    "ConditionExpression": f"({condition} OR #registration = :new) AND {IS_NEWEST}",
                    "ExpressionAttributeNames": alias("registration", "stamp"),
                    "ExpressionAttributeValues": values | to_numbers({":stamp": stamp}),
                }
            )

        return await self._stamps.write_newest(key, write)

    async def processors(self) -> Sequence[str]:
        return sorted(self._table.sort_key_of(item) for item in await self._table.query_all(PROCESSORS))

    async def active(self, tag: str) -> int | None:
        item = await self._table.get(self._table.key(ACTIVE, tag))
        return number_of(item, "version") if item is not None else None

    async def activate(self, tag: str, version: int, *, instead_of: int | None) -> bool:
        before = "attribute_not_exists(#version)" if instead_of is None else "#version = :before"
        values = {":version": version} | ({":before": instead_of} if instead_of is not None else {})
        update = {
            "Key": self._table.key(ACTIVE, tag),
            "UpdateExpression": "SET #version = :version",
            "ConditionExpression": f"{before} OR #version = :version",
            "ExpressionAttributeNames": alias("version"),
            "ExpressionAttributeValues": to_numbers(values),
        }
        return await self._table.update(update) is None


_decode_registration = msgspec.json.Decoder(Registration).decode
