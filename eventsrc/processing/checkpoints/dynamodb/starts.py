"""The least epoch that may store first positions. `forget` raises it while it drops a read model.

A first position has no stored position before it, whose epoch would fence a stale worker. So it is stored in one
transaction with a check of this epoch. There is an item in each partition of positions, because transactions that check
one item at once conflict. Streams of different slots have different partitions, if the number of slots divides 64.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import AbstractAsyncContextManager
from typing import Any

from ....concurrency import load_all
from ....stores.dynamodb.table import Refusal, Table
from ....stores.dynamodb.wire.attributes import number_of
from .expressions import alias, to_numbers
from .keys import START, position_key, position_partitions

_MOST_CLAIMS = 1_000_000  # of a slot while a processor is forgotten
_CONCURRENCY = 8


class Starts:
    """The items with the least epoch that may store first positions."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._locks = defaultdict[str, asyncio.Lock](asyncio.Lock)  # by partition

    def opened(self) -> None:
        """Note that the checkpoints were opened, maybe in another event loop than before."""
        self._locks.clear()

    def turn(self, processor: str, stream: str) -> AbstractAsyncContextManager[None]:
        """Return the lock to hold during a transaction with `check`, as transactions that check one item conflict."""
        return self._locks[position_key(processor, stream)[0]]

    def check(self, processor: str, stream: str, epoch: int) -> dict[str, Any]:
        """Return the action of a transaction that fails if this epoch must not store first positions any more."""
        check = {
            "TableName": self._table.name,
            "Key": self._table.key(position_key(processor, stream)[0], START),
            "ConditionExpression": "attribute_not_exists(#least) OR #least <= :epoch",
            "ExpressionAttributeNames": alias("least"),
            "ExpressionAttributeValues": to_numbers({":epoch": epoch}),
        }
        return {"ConditionCheck": check}

    async def refuse(self, processor: str, epoch: int) -> int:
        """Refuse first positions from all workers, also from those that claim slots from now on.

        `epoch` is the highest one of the slots. Return the least epoch that is not refused, for new claims. Of several
        calls at once, each returns another one; the highest counts.
        """
        first, *others = position_partitions(processor)
        least = epoch + _MOST_CLAIMS
        while (refusal := await self._raise(first, least)) is not None:
            item = refusal.item or await self._table.get(self._table.key(first, START)) or {}
            stored = number_of(item, "least")
            if refusal.repeated and stored == least:  # by an earlier try
                break
            least = max(stored, epoch) + _MOST_CLAIMS

        async def raise_other(partition: str) -> None:
            await self._raise(partition, least)  # or it is higher already

        await load_all(raise_other, others, _CONCURRENCY)
        return least

    async def _raise(self, partition: str, least: int) -> Refusal | None:
        return await self._table.update(
            {
                "Key": self._table.key(partition, START),
                "UpdateExpression": "SET #least = :least",
                "ConditionExpression": "attribute_not_exists(#least) OR #least < :least",
                "ExpressionAttributeNames": alias("least"),
                "ExpressionAttributeValues": to_numbers({":least": least}),
            }
        )
