"""The durable state of processors in a DynamoDB table.

| partition | sort | attributes |
|---|---|---|
| `@balances@1/17`, 0 to 63 by hash | `account-a-1`, or its hash if it is long | version, epoch; stream if it is long |
| `@balances@1` | `slot#00000003` | slot, epoch, token of the last claim, stamp of the last save |
| | `parked#account-a-1` | parked |
| | `skipped#00001764201600000000#account-a-1@7` | skipped |
| `@active` | `balances` | version |
| `@workers` | `f3c1...` | beats |
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from hashlib import sha256
from typing import Any
from uuid import uuid4
from zlib import crc32

import msgspec

from ...errors import Fenced, StoreClosed
from ...stores.dynamodb.table import Refusal, Table
from ...stores.dynamodb.wire.attributes import number_of, text_of
from ...stores.dynamodb.wire.connection import DEADLINE, MAX_CONNECTIONS, Connection
from ...stores.dynamodb.wire.responses import Item
from ...stores.feed import Head
from ...stores.lifecycle import CallInFlight, CallsInFlight
from ...usage import Usage
from ..slice import PositionMoved, Slice
from .checkpoints import Checkpoints, Parked, Skipped, Slot

_ATTRIBUTES = {"version", "epoch", "stream", "slot", "token", "stamp", "parked", "skipped", "beats"}
_PARTITIONS = 64  # for the positions of a processor: a partition accepts 1,000 writes a second
_WORKERS, _ACTIVE = "@workers", "@active"  # partition keys
_MAX_SORT_KEY = 900  # bytes of a stream id that is used as a sort key, which holds 1,024
_MAX_ERROR = 10_000  # characters


class DynamoDBCheckpoints(Checkpoints):
    """Checkpoints in a DynamoDB table, which may also hold the rows of read models.

    - The partition key and the sort key are texts (S). Partition keys that start with '@' belong to the library.
    - The settings are those of `DynamoDBStore`.
    - A position is an item. Setting it takes one request and one write unit.
    - All reads are strongly consistent.
    - A worker that has lost a slot gets Fenced for each stream that the new owner has handled since. For other streams
      both may write; the second write raises PositionMoved, so positions stay exact.
    - `forget` makes several requests. If it fails, call it again.
    - `usage` adds up what all requests have consumed.
    """

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

    async def open(self) -> None:
        """Connect. `async with` calls it. Raises StoreClosed if it is open already, and StoreRejected."""
        if self.table.connection.client is not None:
            raise StoreClosed("DynamoDBCheckpoints is open already; open it once, and share it")
        await self.table.connection.open()
        self._calls, self._loop = CallsInFlight(), asyncio.get_running_loop()

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

    async def positions(self, processor: str, streams: Collection[str]) -> dict[str, int]:
        by_sort_key = {_to_sort_key(stream): stream for stream in streams}
        keys = [self.table.key(*_position_key(processor, stream)) for stream in by_sort_key.values()]
        items = await self.table.get_all(self.table.name, keys, [self._sort_key, "version"])
        return {by_sort_key[self.table.sort_key_of(item)]: number_of(item, "version") for item in items}

    async def all_positions(self, processor: str) -> AsyncGenerator[Sequence[Head]]:
        for partition in _position_partitions(processor):
            async with aclosing(self.table.query(partition)) as pages:
                async for page in pages:
                    yield [Head(self._stream_of(item), number_of(item, "version")) for item in page]

    def _stream_of(self, item: Item) -> str:
        return text_of(item, "stream") if "stream" in item else self.table.sort_key_of(item)

    async def advance(self, processor: str, run: Slice) -> None:
        if (refusal := await self.table.update(self.advance_request(processor, run))) is not None:
            await self.explain_failed_condition(processor, run, refusal)

    def advance_request(self, processor: str, run: Slice) -> dict[str, Any]:
        """Return the update that sets a position. It can also be an action of a transaction."""
        names, values = (
            ["version", "epoch"],
            {":reached": run.last_version, ":after": run.after, ":epoch": run.fence.epoch},
        )
        update, texts = "SET #version = :reached, #epoch = :epoch", dict[str, Any]()
        if _to_sort_key(run.stream) != run.stream:
            names.append("stream")
            update, texts = f"{update}, #stream = :stream", {":stream": {"S": run.stream}}
        return {
            "TableName": self.table.name,
            "Key": self.table.key(*_position_key(processor, run.stream)),
            "UpdateExpression": update,
            "ConditionExpression": "(attribute_not_exists(#version) OR #version = :after) "
            "AND (attribute_not_exists(#epoch) OR #epoch <= :epoch)",
            "ExpressionAttributeNames": _alias(*names),
            "ExpressionAttributeValues": _to_numbers(values) | texts,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }

    async def explain_failed_condition(self, processor: str, run: Slice, refusal: Refusal) -> None:
        """Raise Fenced or PositionMoved if a position could not be set, as the function of this name."""
        item = refusal.item or await self.table.get(self.table.key(*_position_key(processor, run.stream))) or {}
        found = (number_of(item, "version"), number_of(item, "epoch")) if item else None
        explain_failed_condition(processor, run, found, repeated=refusal.repeated)

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

    def _slot_update(self, processor: str, slot: Slot, update: str, condition: str) -> dict[str, Any]:
        self._stamp = max(self._stamp + 1, time.time_ns())
        return {
            "Key": self.table.key(f"@{processor}", f"slot#{slot.number:08}"),
            "UpdateExpression": update,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": _alias("slot", "epoch", "stamp", "token"),
            "ExpressionAttributeValues": {
                ":slot": {"S": _to_json(slot)},
                **_to_numbers({":epoch": slot.epoch, ":stamp": self._stamp}),
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

    async def park(self, processor: str, parked: Parked) -> None:
        await self.table.put(
            {**self._parked_key(processor, parked.stream), "parked": {"S": _to_json(_shorten(parked))}}
        )

    async def unpark(self, processor: str, parked: Parked) -> None:
        # With the condition, a try that arrives late, after the stream was parked again, changes nothing.
        await self.table.delete(
            self._parked_key(processor, parked.stream), only_if=("parked", _to_json(_shorten(parked)))
        )

    async def parked(self, processor: str, streams: Collection[str] | None = None) -> Sequence[Parked]:
        if streams is None:
            items: Sequence[Item] = await self.table.query_all(f"@{processor}", "parked#")
        else:
            keys = [self._parked_key(processor, stream) for stream in dict.fromkeys(streams)]
            items = await self.table.get_all(self.table.name, keys, ["parked"])
        return [_decode_parked(text_of(item, "parked")) for item in items]

    def _parked_key(self, processor: str, stream: str) -> dict[str, Any]:
        return self.table.key(f"@{processor}", f"parked#{_to_sort_key(stream)}")

    async def note_skipped(self, processor: str, skipped: Skipped) -> None:
        sort = f"skipped#{skipped.time:020}#{_to_sort_key(skipped.stream)}@{skipped.version}"
        key = self.table.key(f"@{processor}", sort)
        await self.table.put({**key, "skipped": {"S": _to_json(skipped)}})

    async def skipped(self, processor: str) -> Sequence[Skipped]:
        return [
            _decode_skipped(text_of(item, "skipped"))
            for item in await self.table.query_all(f"@{processor}", "skipped#")
        ]

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
        for partition in (*_position_partitions(processor), f"@{processor}"):
            await self.table.clear(partition)


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


def _position_partitions(processor: str) -> list[str]:
    return [f"@{processor}/{each}" for each in range(_PARTITIONS)]


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


def _to_json(value: Slot | Parked | Skipped) -> str:
    return msgspec.json.encode(value).decode()


_decode_slot = msgspec.json.Decoder(Slot).decode
_decode_parked = msgspec.json.Decoder(Parked).decode
_decode_skipped = msgspec.json.Decoder(Skipped).decode
