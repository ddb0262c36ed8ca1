"""The durable state of processors in a DynamoDB table.

| partition | sort | attributes |
|---|---|---|
| `@processors` | `balances@1` | registration, stamp |
| `@balances@1/17`, 0 to 63 | `account-a-1`, or its hash if long | version, id, time, epoch; stream if hashed |
| `@balances@1/17`, 0 to 63 | `|start` | least epoch that may store first positions of a DynamoDBProjection |
| `@balances@1` | `slot#00000003` | slot, epoch, token of the last claim, stamp of the last save |
| `@balances@1/parked` | `account-a-1`, or its hash | parked, stamp |
| `@balances@1/skipped` | `account-a-1@7` | skipped, stamp |
| `@active` | `balances` | version |
| `@workers` | `f3c1...` | beats |

A request whose response is lost is sent again, and its first try may be carried out much later. So that it changes
nothing that was written since, each write has a condition:

- A position must be the one before the slice. A deleted one leaves epoch and stamp of its deletion, and is written
  only under a newer epoch or a newer stamp.
- An entry must have an older stamp. Stamps are times. If the stored one is newer because of another process's clock,
  the write is tried again with a stamp above it.
- What `forget` deletes must be what it has read.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from typing import Any

from ....errors import StoreClosed
from ....stores.dynamodb.table import Table
from ....stores.dynamodb.wire.connection import DEADLINE, MAX_CONNECTIONS, Connection
from ....stores.feed import Head
from ....stores.lifecycle import CallInFlight, CallsInFlight, check_process
from ....usage import Usage
from ...slice import Fence, Position, Slice
from ..checkpoints import Checkpoints, Parked, Skipped, Slot
from .entries import EntryItems
from .forgetting import forget, forget_with
from .keys import ATTRIBUTES
from .positions import PositionItems
from .registry import DynamoDBRegistry
from .slots import SlotItems
from .stamps import Stamps
from .starts import Starts
from .workers import DynamoDBWorkers


class DynamoDBCheckpoints(Checkpoints):
    """Checkpoints in a DynamoDB table, which may also hold the rows of read models.

    - The partition key and the sort key are texts (S). Partition keys that start with '@' belong to the library.
    - The settings are those of `DynamoDBStore`.
    - A position is an item. Setting it takes one request and one write unit.
    - All reads are strongly consistent.
    - A worker that has lost a slot, also by `forget`, gets Fenced for each stream that the new owner has handled since,
      and whenever a position is not where it expects it. For other streams both may write; the second write raises
      Fenced or PositionMoved, so positions stay exact.
    - `forget` makes a request for each position. If it fails, call it again. Stop the workers first: one that is
      still running is fenced when it saves, and until then may handle streams that have no position.
    - `usage` adds up what all requests have consumed.
    """

    billed = True

    def __init__(
        self,
        table: str,
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        session: Any = None,
        client: Any = None,
        partition_key: str = "PK",
        sort_key: str = "SK",
        plain_http: bool = False,
        deadline: float = DEADLINE,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        if partition_key == sort_key or not partition_key or not sort_key or {partition_key, sort_key} & ATTRIBUTES:
            taken = ", ".join(sorted(ATTRIBUTES))
            raise ValueError(f"key names {partition_key!r}, {sort_key!r} must differ, and not be any of {taken}")
        connection = Connection(
            region_name=region_name,
            endpoint_url=endpoint_url,
            session=session,
            client=client,
            plain_http=plain_http,
            deadline=deadline,
            max_connections=max_connections,
        )
        self.usage = Usage()  # of all requests, including those that write read models
        self.table = Table(
            table,
            partition_key=partition_key,
            sort_key=sort_key,
            sort_type="S",
            connection=connection,
            guard=self._in_flight,
        )
        stamps = Stamps(self.table)
        self.registry, self.workers = DynamoDBRegistry(self.table, stamps), DynamoDBWorkers(self.table)
        self.slot_items = SlotItems(self.table, stamps)
        self.position_items = PositionItems(self.table, sort_key, stamps, self.slot_items)
        self.starts = Starts(self.table)
        self._entries = EntryItems(self.table, stamps, self.slot_items)
        self._calls = CallsInFlight()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """Connect. `async with` calls it. Raises StoreClosed if it is open already, and StoreRejected."""
        if self.table.connection.client is not None:
            check_process("DynamoDBCheckpoints", self._calls.process)
            raise StoreClosed("DynamoDBCheckpoints is open already; open it once, and share it")
        await self.table.connection.open()
        self._calls, self._loop = CallsInFlight(), asyncio.get_running_loop()
        self._entries.opened()
        self.starts.opened()

    async def aclose(self) -> None:
        """Refuse new calls, wait for those in flight, close the connection."""
        if self._calls.process != os.getpid():
            return  # after a fork, what is open belongs to the parent process
        self._loop = None
        try:
            while self._calls.count:
                self._calls.idle.clear()
                await self._calls.idle.wait()
        finally:
            await self.table.connection.aclose()

    def _in_flight(self, used: Usage) -> CallInFlight:
        """Guard one request. Raises StoreClosed."""
        if self._loop is not None:
            check_process("DynamoDBCheckpoints", self._calls.process)
        if self._loop is not asyncio.get_running_loop():
            raise StoreClosed("DynamoDBCheckpoints is not open in this loop; use it inside `async with checkpoints:`")
        return CallInFlight(self._calls, self.usage, used)

    async def create_table(self, *, point_in_time_recovery: bool = False, deletion_protection: bool = False) -> bool:
        """Create the table, billed on demand, and wait until it can be used. Return False if it exists already."""
        return await self.table.create(
            point_in_time_recovery=point_in_time_recovery, deletion_protection=deletion_protection
        )

    async def positions(self, processor: str, streams: Collection[str]) -> dict[str, Position]:
        return await self.position_items.read(processor, streams)

    def all_positions(self, processor: str) -> AsyncGenerator[Sequence[Head]]:
        return self.position_items.read_all(processor)

    async def advance(self, processor: str, run: Slice) -> None:
        await self.position_items.advance(processor, run)

    async def delete_position(self, processor: str, stream: str, fence: Fence) -> None:
        await self.position_items.delete(processor, stream, fence)

    async def slots(self, processor: str) -> Sequence[Slot]:
        return await self.slot_items.read(processor)

    async def claim(self, processor: str, slot: Slot) -> None:
        await self.slot_items.claim(processor, slot)

    async def save(self, processor: str, slot: Slot) -> None:
        await self.slot_items.save(processor, slot)

    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        return await self._entries.park(processor, parked, fence, instead_of=instead_of)

    async def unpark(self, processor: str, parked: Parked) -> None:
        await self._entries.unpark(processor, parked)

    async def parked(self, processor: str, streams: Collection[str] | None = None) -> Sequence[Parked]:
        return await self._entries.read_parked(processor, streams)

    async def note_skipped(self, processor: str, skipped: Skipped) -> None:
        await self._entries.note_skipped(processor, skipped)

    async def skipped(self, processor: str) -> Sequence[Skipped]:
        return await self._entries.read_skipped(processor)

    async def forget(self, processor: str, *, drop: Callable[[], Awaitable[None]] | None = None) -> None:
        """As the base. `drop` deletes the read model of a DynamoDBProjection, while no first position is stored."""
        if drop is None:
            await forget(self.table, self.slot_items, processor)
        else:
            await forget_with(self.table, self.slot_items, self.starts, processor, drop)
