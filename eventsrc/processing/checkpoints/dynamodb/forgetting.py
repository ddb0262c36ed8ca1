"""Delete what is stored for a processor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, suppress

from ....concurrency import load_all
from ....stores.dynamodb.table import Table
from ....stores.dynamodb.wire.outcomes import ConditionNotMet
from ....stores.dynamodb.wire.responses import Item, Response
from ....usage import Usage
from .keys import PROCESSORS, parked_partition, position_partitions, skipped_partition
from .slots import SlotItems
from .starts import Starts

_CONCURRENCY = 8  # partitions that are cleared at once, and items of each


async def forget(table: Table, slots: SlotItems, processor: str) -> None:
    """Delete everything stored for a processor, except its read model, and leave tombstones of its slots."""
    for slot in await slots.read(processor):
        await slots.bury(processor, slot)
    await _clear_positions(table, processor)
    await _clear_rest(table, processor)


async def forget_with(
    table: Table, slots: SlotItems, starts: Starts, processor: str, drop: Callable[[], Awaitable[None]]
) -> None:
    """Delete everything stored for a processor, and its read model with `drop`, also while workers run.

    Until both are gone, no worker stores a first position, so what is left to them is to move positions that are there.
    If this fails, nobody stores one until it is called again.
    """
    while not (known := await slots.read(processor)):  # it has never run
        await drop()
        await forget(table, slots, processor)
        if not await slots.read(processor):
            return
    least = await starts.refuse(processor, max(slot.epoch for slot in known))
    while not await _clear_positions(table, processor):  # a worker has moved some since they were read
        pass
    await drop()
    for slot in await slots.read(processor):
        await slots.bury(processor, slot, least=least)
    await _clear_rest(table, processor)


async def _clear_positions(table: Table, processor: str) -> bool:
    """Delete all positions. Return False if some were written since they were read, and stay."""
    cleared: list[bool] = []

    async def clear(partition: str) -> None:
        cleared.append(await _clear(table, partition, "epoch"))

    await load_all(clear, position_partitions(processor), _CONCURRENCY)
    return all(cleared)


async def _clear_rest(table: Table, processor: str) -> None:
    await _clear(table, parked_partition(processor), "stamp")
    await _clear(table, skipped_partition(processor), "stamp")
    key = table.key(PROCESSORS, processor)  # last, so that it is listed until all is deleted
    if (item := await table.get(key)) is not None:
        await _delete_as_read(table, key, item, "stamp")


async def _clear(table: Table, partition: str, name: str) -> bool:
    """Delete the items of a partition that have an attribute `name`.

    An item in which it was written since it was read stays. Return False if there are any.
    """
    deleted: list[bool] = []
    async with aclosing(table.query(partition)) as pages:
        async for page in pages:
            items = {table.sort_key_of(item): item for item in page if name in item}

            async def delete(sort_key: str, items: Mapping[str, Item] = items) -> None:
                key = table.key(partition, sort_key)
                deleted.append(await _delete_as_read(table, key, items[sort_key], name))

            await load_all(delete, items, _CONCURRENCY)
    return all(deleted)


async def _delete_as_read(table: Table, key: Item, item: Item, name: str) -> bool:
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
        return True
    return False
