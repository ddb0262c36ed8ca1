"""The durable state of processors in a DynamoDB table.

| partition | sort | attributes |
|---|---|---|
| `@processors` | `balances@1` | registration, stamp |
| `@balances@1/17`, 0 to 63 | `account-a-1`, or its hash if long | version, id, time, epoch; stream if hashed |
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
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from hashlib import sha256
from typing import Any
from uuid import uuid4
from zlib import crc32

import msgspec

from ....concurrency import load_all
from ....errors import Fenced, StoreClosed, StoreRejected
from ....stores.dynamodb.table import Refusal, Table
from ....stores.dynamodb.wire.attributes import bytes_of, number_of, text_of
from ....stores.dynamodb.wire.connection import DEADLINE, MAX_CONNECTIONS, Connection
from ....stores.dynamodb.wire.outcomes import CONDITION_FAILED, ConditionNotMet
from ....stores.dynamodb.wire.responses import Item, Response
from ....stores.feed import Head
from ....stores.lifecycle import CallInFlight, CallsInFlight
from ....usage import Usage
from ...slice import Fence, Position, PositionMoved, Slice
from ..checkpoints import Checkpoints, Parked, Registration, Skipped, Slot, tombstone

_ATTRIBUTES = {
    *("registration", "version", "id", "time", "epoch", "stream"),
    *("slot", "token", "stamp", "parked", "skipped", "beats"),
}
_PARTITIONS = 64  # for the positions of a processor: a partition accepts 1,000 writes a second
_PROCESSORS, _WORKERS, _ACTIVE = "@processors", "@workers", "@active"  # partition keys
_CONCURRENCY = 8  # partitions that `forget` clears at once, and items of each
_MAX_SORT_KEY = 900  # bytes of a stream id that is used as a sort key, which holds 1,024
_MAX_ERROR = 10_000  # characters
_IS_NEWEST = "(attribute_not_exists(#stamp) OR #stamp < :stamp)"
_IS_NOT_DELETED_SINCE = (
    "(attribute_not_exists(#epoch) OR #epoch < :epoch"
    " OR (#epoch = :epoch AND (attribute_not_exists(#stamp) OR #stamp <= :stamp)))"
)


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
        if partition_key == sort_key or not partition_key or not sort_key or {partition_key, sort_key} & _ATTRIBUTES:
            taken = ", ".join(sorted(_ATTRIBUTES))
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
        self._sort_key = sort_key
        self._calls = CallsInFlight()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stamp = 0
        self._parking = defaultdict[tuple[str, int], asyncio.Lock](asyncio.Lock)  # by processor and slot

    async def open(self) -> None:
        """Connect. `async with` calls it. Raises StoreClosed if it is open already, and StoreRejected."""
        if self.table.connection.client is not None:
            raise StoreClosed("DynamoDBCheckpoints is open already; open it once, and share it")
        await self.table.connection.open()
        self._calls, self._loop = CallsInFlight(), asyncio.get_running_loop()
        self._parking.clear()

    async def aclose(self) -> None:
        """Refuse new calls, wait for those in flight, close the connection."""
        self._loop = None
        try:
            while self._calls.count:
                self._calls.idle.clear()
                await self._calls.idle.wait()
        finally:
            await self.table.connection.aclose()

    def _in_flight(self, used: Usage) -> CallInFlight:
        """Guard one request. Raises StoreClosed."""
        if self._loop is not asyncio.get_running_loop():
            raise StoreClosed("DynamoDBCheckpoints is not open in this loop; use it inside `async with checkpoints:`")
        return CallInFlight(self._calls, self.usage, used)

    async def create_table(self, *, point_in_time_recovery: bool = False, deletion_protection: bool = False) -> bool:
        """Create the table, billed on demand, and wait until it can be used. Return False if it exists already."""
        return await self.table.create(
            point_in_time_recovery=point_in_time_recovery, deletion_protection=deletion_protection
        )

    async def registration(self, processor: str) -> Registration | None:
        item = await self.table.get(self.table.key(_PROCESSORS, processor))
        return _decode_registration(text_of(item, "registration")) if item is not None else None

    async def register(self, processor: str, new: Registration, *, instead_of: Registration | None) -> bool:
        condition = "attribute_not_exists(#registration)"
        values: dict[str, Any] = {":new": {"S": _to_json(new)}}
        if instead_of is not None:
            condition, values[":before"] = "#registration = :before", {"S": _to_json(instead_of)}
        key = self.table.key(_PROCESSORS, processor)

        async def write(stamp: int) -> Refusal | None:
            return await self.table.update(
                {
                    "Key": key,
                    "UpdateExpression": "SET #registration = :new, #stamp = :stamp",
                    "ConditionExpression": f"({condition} OR #registration = :new) AND {_IS_NEWEST}",
                    "ExpressionAttributeNames": _alias("registration", "stamp"),
                    "ExpressionAttributeValues": values | _to_numbers({":stamp": stamp}),
                }
            )

        return await self._write_newest(key, write)

    async def processors(self) -> Sequence[str]:
        return sorted(self.table.sort_key_of(item) for item in await self.table.query_all(_PROCESSORS))

    async def positions(self, processor: str, streams: Collection[str]) -> dict[str, Position]:
        by_sort_key = {_to_sort_key(stream): stream for stream in streams}
        keys = [self.table.key(*_position_key(processor, stream)) for stream in by_sort_key.values()]
        items = await self.table.get_all(self.table.name, keys, [self._sort_key, "version", "id", "time"])
        return {by_sort_key[self.table.sort_key_of(item)]: decode_position(item) for item in items if "version" in item}

    async def all_positions(self, processor: str) -> AsyncGenerator[Sequence[Head]]:
        for partition in _position_partitions(processor):
            async with aclosing(self.table.query(partition)) as pages:
                async for page in pages:
                    stored = [item for item in page if "version" in item]
                    yield [Head(self._stream_of(item), number_of(item, "version")) for item in stored]

    def _stream_of(self, item: Item) -> str:
        return text_of(item, "stream") if "stream" in item else self.table.sort_key_of(item)

    async def advance(self, processor: str, run: Slice) -> None:
        if (refusal := await self.table.update(self.advance_request(processor, run))) is not None:
            await self.explain_failed_condition(processor, run, refusal)

    def advance_request(self, processor: str, run: Slice) -> dict[str, Any]:
        """Return the update that sets a position. It can also be an action of a transaction."""
        names = ["version", "id", "time", "epoch", "stamp"]
        version, id, time = run.position
        values = {":version": version, ":time": time, ":epoch": run.fence.epoch, ":stamp": self._next_stamp()}
        update = "SET #version = :version, #id = :id, #time = :time, #epoch = :epoch"
        others: dict[str, Any] = {":id": {"B": id}}
        if run.is_first:
            condition = "attribute_not_exists(#version)"
        else:
            condition, values[":after"] = "#version = :after", run.after
        if _to_sort_key(run.stream) != run.stream:
            names.append("stream")
            update, others[":stream"] = f"{update}, #stream = :stream", {"S": run.stream}
        return {
            "TableName": self.table.name,
            "Key": self.table.key(*_position_key(processor, run.stream)),
            "UpdateExpression": update,
            "ConditionExpression": f"{condition} AND {_IS_NOT_DELETED_SINCE}",
            "ExpressionAttributeNames": _alias(*names),
            "ExpressionAttributeValues": _to_numbers(values) | others,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }

    async def explain_failed_condition(self, processor: str, run: Slice, refusal: Refusal) -> None:
        """Raise Fenced or PositionMoved if a position could not be set, as the function of this name."""
        item = refusal.item or await self.table.get(self.table.key(*_position_key(processor, run.stream))) or {}
        found = (number_of(item, "version"), number_of(item, "epoch")) if "version" in item else None
        if "stamp" in item:  # of a deletion, by a process whose clock may be ahead
            self._stamp = max(self._stamp, number_of(item, "stamp"))
        try:
            explain_failed_condition(processor, run, found, repeated=refusal.repeated)
        except PositionMoved:
            await self.check_fence(processor, run.fence)
            raise

    async def check_fence(self, processor: str, fence: Fence) -> None:
        """Raise Fenced if the slot is stored with another epoch."""
        slot = await self.table.get(self._slot_key(processor, fence.slot))
        if slot is not None and number_of(slot, "epoch") != fence.epoch:
            raise Fenced(processor, fence.slot)

    async def delete_position(
        self, processor: str, stream: str, fence: Fence, *, actions: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Delete a position, in one transaction with `actions`. If there is none, nothing is done.

        Raises:
            Fenced: another worker has taken over the slot.
            StoreRejected: the condition of one of the actions failed.
        """
        await self.check_fence(processor, fence)
        key = self.table.key(*_position_key(processor, stream))
        while (item := await self.table.get(key)) is not None and "version" in item:
            numbers = {":seen": number_of(item, "version"), ":epoch": fence.epoch, ":stamp": self._next_stamp()}
            delete = {
                "TableName": self.table.name,
                "Key": key,
                "UpdateExpression": "SET #epoch = :epoch, #stamp = :stamp REMOVE #version, #id, #time",
                "ConditionExpression": f"#version = :seen AND {_IS_NOT_DELETED_SINCE}",
                "ExpressionAttributeNames": _alias("version", "id", "time", "epoch", "stamp"),
                "ExpressionAttributeValues": _to_numbers(numbers),
            }
            refusal = await self.table.transact([self._fence_check(processor, fence), {"Update": delete}, *actions])
            if refusal is None:
                return
            if refusal.action > 1:
                raise StoreRejected(CONDITION_FAILED, "the condition of one of the actions failed")
            if refusal.action == 0 or number_of(item, "epoch") > fence.epoch:
                raise Fenced(processor, fence.slot)
            if "stamp" in item:
                self._stamp = max(self._stamp, number_of(item, "stamp"))

    def _fence_check(self, processor: str, fence: Fence) -> dict[str, Any]:
        """Return the action of a transaction that fails if the slot is stored with another epoch."""
        check = {
            "TableName": self.table.name,
            "Key": self._slot_key(processor, fence.slot),
            "ConditionExpression": "attribute_not_exists(#epoch) OR #epoch = :epoch",
            "ExpressionAttributeNames": _alias("epoch"),
            "ExpressionAttributeValues": _to_numbers({":epoch": fence.epoch}),
        }
        return {"ConditionCheck": check}

    def _next_stamp(self) -> int:
        self._stamp = max(self._stamp + 1, time.time_ns())
        return self._stamp

    async def _write_newest(self, key: Item, write: Callable[[int], Awaitable[Refusal | None]]) -> bool:
        """Write an item with a stamp that is above the stored one. Return False if something else refuses it."""
        while True:
            stamp = self._next_stamp()
            if (refusal := await write(stamp)) is None:
                return True
            item = refusal.item or await self.table.get(key) or {}
            stored = number_of(item, "stamp") if "stamp" in item else 0
            if stored < stamp:
                return False
            if stored == stamp:  # an earlier try, whose response was lost
                return True
            self._stamp = stored  # by another process, whose clock is ahead

    async def slots(self, processor: str) -> Sequence[Slot]:
        found = [_decode_slot(text_of(item, "slot")) for item in await self.table.query_all(f"@{processor}", "slot#")]
        return sorted(found, key=lambda slot: slot.number)

    async def claim(self, processor: str, slot: Slot) -> None:
        # The token identifies this call, so a try that was carried out without a response is not another's claim.
        update = self._slot_update(
            processor,
            slot,
            "SET #slot = :slot, #epoch = :epoch, #stamp = :stamp, #token = :token",
            "attribute_not_exists(#epoch) OR #epoch < :epoch OR #token = :token",
        )
        update["ExpressionAttributeValues"][":token"] = {"S": str(uuid4())}
        if await self.table.update(update) is not None:
            raise Fenced(processor, slot.number)

    async def save(self, processor: str, slot: Slot) -> None:
        # With the stamp, a try that arrives late, after a later save, changes nothing.
        update = self._slot_update(
            processor,
            slot,
            "SET #slot = :slot, #stamp = :stamp REMOVE #token",
            "#epoch = :epoch AND #stamp <= :stamp",
        )
        refusal = await self.table.update(update)
        if refusal is not None and (not refusal.item or number_of(refusal.item, "epoch") != slot.epoch):
            raise Fenced(processor, slot.number)

    def _slot_key(self, processor: str, number: int) -> Item:
        return self.table.key(f"@{processor}", f"slot#{number:08}")

    def _slot_update(self, processor: str, slot: Slot, update: str, condition: str) -> dict[str, Any]:
        return {
            "Key": self._slot_key(processor, slot.number),
            "UpdateExpression": update,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": _alias("slot", "epoch", "stamp", "token"),
            "ExpressionAttributeValues": {
                ":slot": {"S": _to_json(slot)},
                **_to_numbers({":epoch": slot.epoch, ":stamp": self._next_stamp()}),
            },
        }

    async def heartbeat(self, worker: str) -> None:
        await self.table.update(
            {
                "Key": self.table.key(_WORKERS, worker),
                "UpdateExpression": "ADD #beats :one",
                "ExpressionAttributeNames": _alias("beats"),
                "ExpressionAttributeValues": _to_numbers({":one": 1}),
            }
        )

    async def beats(self) -> Mapping[str, int]:
        return {self.table.sort_key_of(item): number_of(item, "beats") for item in await self.table.query_all(_WORKERS)}

    async def sign_off(self, worker: str) -> None:
        await self.table.delete(self.table.key(_WORKERS, worker))

    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        key, new = self._parked_key(processor, parked.stream), {"S": _to_json(_shorten(parked))}
        condition, names, values = _IS_NEWEST, ["stamp"], dict[str, Any]()
        if instead_of is not None:
            condition, names = f"{_IS_NEWEST} AND (#parked = :before OR #parked = :new)", ["stamp", "parked"]
            values = {":before": {"S": _to_json(_shorten(instead_of))}, ":new": new}

        async def write(stamp: int) -> Refusal | None:
            put = {
                "TableName": self.table.name,
                "Item": {**key, "parked": new, **_to_numbers({"stamp": stamp})},
                "ConditionExpression": condition,
                "ExpressionAttributeNames": _alias(*names),
                "ExpressionAttributeValues": values | _to_numbers({":stamp": stamp}),
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
            refusal = await self.table.transact([self._fence_check(processor, fence), {"Put": put}])
            if refusal is not None and refusal.action == 0:
                raise Fenced(processor, fence.slot)
            return refusal

        async with self._parking[processor, fence.slot]:  # transactions that check one slot at once fail
            return await self._write_newest(key, write)

    async def unpark(self, processor: str, parked: Parked) -> None:
        # With the condition, a try that arrives late, after the stream was parked again, changes nothing.
        await self.table.delete(
            self._parked_key(processor, parked.stream), only_if=("parked", _to_json(_shorten(parked)))
        )

    async def parked(self, processor: str, streams: Collection[str] | None = None) -> Sequence[Parked]:
        if streams is None:
            items: Sequence[Item] = await self.table.query_all(_parked_partition(processor))
        else:
            keys = [self._parked_key(processor, stream) for stream in dict.fromkeys(streams)]
            items = await self.table.get_all(self.table.name, keys, ["parked"])
        return [_decode_parked(text_of(item, "parked")) for item in items]

    def _parked_key(self, processor: str, stream: str) -> dict[str, Any]:
        return self.table.key(_parked_partition(processor), _to_sort_key(stream))

    async def note_skipped(self, processor: str, skipped: Skipped) -> None:
        key = self.table.key(_skipped_partition(processor), f"{_to_sort_key(skipped.stream)}@{skipped.version}")

        async def write(stamp: int) -> Refusal | None:
            return await self.table.update(
                {
                    "Key": key,
                    "UpdateExpression": "SET #skipped = :skipped, #stamp = :stamp",
                    "ConditionExpression": _IS_NEWEST,
                    "ExpressionAttributeNames": _alias("skipped", "stamp"),
                    "ExpressionAttributeValues": {":skipped": {"S": _to_json(skipped)}}
                    | _to_numbers({":stamp": stamp}),
                }
            )

        await self._write_newest(key, write)

    async def skipped(self, processor: str) -> Sequence[Skipped]:
        items = await self.table.query_all(_skipped_partition(processor))
        return sorted((_decode_skipped(text_of(item, "skipped")) for item in items), key=lambda skipped: skipped.time)

    async def active(self, tag: str) -> int | None:
        item = await self.table.get(self.table.key(_ACTIVE, tag))
        return number_of(item, "version") if item is not None else None

    async def activate(self, tag: str, version: int, *, instead_of: int | None) -> bool:
        before = "attribute_not_exists(#version)" if instead_of is None else "#version = :before"
        values = {":version": version} | ({":before": instead_of} if instead_of is not None else {})
        update = {
            "Key": self.table.key(_ACTIVE, tag),
            "UpdateExpression": "SET #version = :version",
            "ConditionExpression": f"{before} OR #version = :version",
            "ExpressionAttributeNames": _alias("version"),
            "ExpressionAttributeValues": _to_numbers(values),
        }
        return await self.table.update(update) is None

    async def forget(self, processor: str) -> None:
        for slot in await self.slots(processor):
            await self._bury(processor, slot)

        async def clear(partition: str) -> None:
            await self._clear(partition, "epoch")

        await load_all(clear, _position_partitions(processor), _CONCURRENCY)
        await self._clear(_parked_partition(processor), "stamp")
        await self._clear(_skipped_partition(processor), "stamp")
        key = self.table.key(_PROCESSORS, processor)  # last, so that it is listed until all is deleted
        if (item := await self.table.get(key)) is not None:
            await self._delete_as_read(key, item, "stamp")

    async def _bury(self, processor: str, slot: Slot) -> None:
        """Leave a tombstone of a slot. If a worker has claimed it since it was read, do it again."""
        left: Slot | None = slot
        while left is not None:
            update = self._slot_update(
                processor,
                tombstone(left),
                "SET #slot = :slot, #epoch = :epoch, #stamp = :stamp REMOVE #token",
                "#epoch = :before",
            )
            update["ExpressionAttributeValues"] |= _to_numbers({":before": left.epoch})
            if await self.table.update(update) is None:
                return
            left = next((each for each in await self.slots(processor) if each.number == slot.number), None)

    async def _clear(self, partition: str, name: str) -> None:
        """Delete the items of a partition. An item whose attribute `name` was written since it was read stays."""
        async with aclosing(self.table.query(partition)) as pages:
            async for page in pages:
                items = {self.table.sort_key_of(item): item for item in page if name in item}

                async def delete(sort_key: str, items: Mapping[str, Item] = items) -> None:
                    await self._delete_as_read(self.table.key(partition, sort_key), items[sort_key], name)

                await load_all(delete, items, _CONCURRENCY)

    async def _delete_as_read(self, key: Item, item: Item, name: str) -> None:
        request = {
            "TableName": self.table.name,
            "Key": key,
            "ConditionExpression": "#name = :seen",
            "ExpressionAttributeNames": {"#name": name},
            "ExpressionAttributeValues": {":seen": item[name]},
            "ReturnConsumedCapacity": "TOTAL",
        }
        used = Usage(calls=1)
        with self.table.guard(used), suppress(ConditionNotMet):
            await self.table.send("DeleteItem", request, Response, used)


def explain_failed_condition(processor: str, run: Slice, found: tuple[int, int] | None, *, repeated: bool) -> None:
    """Raise the error for a position that could not be set, because `found` (version, epoch) was stored.

    If the request was `repeated` and the stored version is the slice's last one, return without an error. Either an
    earlier try without a response set the position, or another worker did. Both mean that these commits were handled.

    Raises:
        Fenced: the stored epoch is newer.
        PositionMoved: the stored version is another one.
    """
    version, epoch = found or (0, 0)
    if epoch > run.fence.epoch:
        raise Fenced(processor, run.fence.slot)
    if not (repeated and version == run.last_version):
        raise PositionMoved(run.stream)


def decode_position(item: Item) -> Position:
    """Return the position that an item or a map holds. Raises StoreRejected if it holds none."""
    return Position(number_of(item, "version"), bytes_of(item, "id"), number_of(item, "time"))


def _position_partitions(processor: str) -> list[str]:
    return [f"@{processor}/{each}" for each in range(_PARTITIONS)]


def _parked_partition(processor: str) -> str:
    return f"@{processor}/parked"


def _skipped_partition(processor: str) -> str:
    return f"@{processor}/skipped"


def _position_key(processor: str, stream: str) -> tuple[str, str]:
    """Return the partition and the sort key of a position."""
    return f"@{processor}/{crc32(stream.encode()) % _PARTITIONS}", _to_sort_key(stream)


def _to_sort_key(stream: str) -> str:
    """Return the sort key for a stream: the stream, or its hash if it is too long. Streams do not contain '|'."""
    encoded = stream.encode()
    return stream if len(encoded) <= _MAX_SORT_KEY else f"|{sha256(encoded).hexdigest()}"


def _alias(*names: str) -> dict[str, str]:
    return {f"#{name}": name for name in names}


def _to_numbers(values: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    return {name: {"N": str(value)} for name, value in values.items()}


def _shorten(parked: Parked) -> Parked:
    """Shorten the error, so that it fits into an item."""
    return msgspec.structs.replace(parked, error=parked.error[:_MAX_ERROR])


def _to_json(value: Registration | Slot | Parked | Skipped) -> str:
    return msgspec.json.encode(value).decode()


_decode_registration = msgspec.json.Decoder(Registration).decode
_decode_slot = msgspec.json.Decoder(Slot).decode
_decode_parked = msgspec.json.Decoder(Parked).decode
_decode_skipped = msgspec.json.Decoder(Skipped).decode
