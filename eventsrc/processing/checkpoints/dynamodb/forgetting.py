"""Delete what is stored for a processor."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing, suppress

from ....concurrency import load_all
from ....stores.dynamodb.table import Table
from ....stores.dynamodb.wire.outcomes import ConditionNotMet
from ....stores.dynamodb.wire.responses import Item, Response
from ....usage import Usage
from .keys import PROCESSORS, parked_partition, position_partitions, skipped_partition
from .slots import SlotItems

_CONCURRENCY = 8  # partitions that are cleared at once, and items of each


async def forget(table: Table, slots: SlotItems, processor: str) -> None:
    """Delete everything stored for a processor, except its read model, and leave tombstones of its slots."""
    for slot in await slots.read(processor):
        await slots.bury(processor, slot)

    async def clear(partition: str) -> None:
        await _clear(table, partition, "epoch")

    await load_all(clear, position_partitions(processor), _CONCURRENCY)
    await _clear(table, parked_partition(processor), "stamp")
    await _clear(table, skipped_partition(processor), "stamp")
    key = table.key(PROCESSORS, processor)  # last, so that it is listed until all is deleted
    if (item := await table.get(key)) is not None:
        await _delete_as_read(table, key, item, "stamp")


async def _clear(table: Table, partition: str, name: str) -> None:
    """Delete the items of a partition. An item whose attribute `name` was written since it was read stays."""
    async with aclosing(table.query(partition)) as pages:
        async for page in pages:
            items = {table.sort_key_of(item): item for item in page if name in item}

            async def delete(sort_key: str, items: Mapping[str, Item] = items) -> None:
                await _delete_as_read(table, table.key(partition, sort_key), items[sort_key], name)

            await load_all(delete, items, _CONCURRENCY)


async def _delete_as_read(table: Table, key: Item, item: Item, name: str) -> None:
    request = {
        "TableName": table.name,
        "Key": key,
        "ConditionExpression": "#name = :seen",
        "ExpressionAttributeNames": {"#name": name},
        "ExpressionAttributeValues": {":seen": item[name]},
        "ReturnConsumedCapacity": "TOTAL",
    }
    used = Usage(calls=1)
    with table.guard(used), suppress(ConditionNotMet):
        await table.send("DeleteItem", request, Response, used)
