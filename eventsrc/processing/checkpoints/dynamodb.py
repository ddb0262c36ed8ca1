"""What processors must not forget, in a DynamoDB table:

| partition | sort | attributes |
|---|---|---|
| `@balances@1/17`, by a hash | `account-a-1`, or its hash if it is long | version, epoch; stream if it is long |
| `@balances@1` | `slot#00000003` | slot, epoch, token of who took it, stamp of the last save |
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
from ...stores.opening import CallInFlight, CallsInFlight
from ...usage import Usage
from ..slice import PositionMoved, Slice
from .checkpoints import Checkpoints, Parked, Skipped, Slot

_NAMES = {"version", "epoch", "stream", "slot", "token", "stamp", "parked", "skipped", "beats"}
_PARTITIONS = 64  # of a processor's positions: a partition takes 1,000 writes a second
_WORKERS, _ACTIVE = "@workers", "@active"  # partition keys
_MAX_SORT = 900  # bytes of a stream that can be in a sort key, which holds 1,024
_MAX_ERROR = 10_000  # characters


class DynamoDBCheckpoints(Checkpoints):
    """In a DynamoDB table of their own or beside rows of read models: partition key and sort key are texts (S), and
    partition keys that begin with '@' are taken.

    Settings are those of DynamoDBStore. A position is an item, written with one request for one unit of write
    capacity; all reads are strongly consistent. Whoever has lost a slot is fenced for each stream that its successor
    has handled since, and for the others PositionMoved keeps it exact. `forget` is several requests: where it fails,
    call it again. `usage` is what all of it has consumed.
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
        if partition_key == sort_key or not partition_key or not sort_key or {partition_key, sort_key} & _NAMES:
            taken = ", ".join(sorted(_NAMES))
            raise ValueError(f"key names {partition_key!r}, {sort_key!r}: two different ones, none of {taken}")
        connection = Connection(
            region_name=region_name,
            endpoint_url=endpoint_url,
            session=session,
            client=client,
            plain_http=plain_http,
            deadline=deadline,
            max_connections=max_connections,
        )
        self.usage = Usage()  # of all requests, writes of read models included
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
        """Create the table, billed on demand, and wait until it can be used. False if it was there already."""
        return await self.table.create(
            point_in_time_recovery=point_in_time_recovery, deletion_protection=deletion_protection
        )

    async def positions(self, processor: str, streams: Collection[str]) -> dict[str, int]:
        asked = {_sort(stream): stream for stream in streams}
        keys = [self.table.key(*_place(processor, stream)) for stream in asked.values()]
        items = await self.table.get_all(self.table.name, keys, [self._sort_key, "version"])
        return {asked[self.table.sort_key_of(item)]: number_of(item, "version") for item in items}

    async def all_positions(self, processor: str) -> AsyncGenerator[Sequence[Head]]:
        for partition in _partitions(processor):
            async with aclosing(self.table.query(partition)) as pages:
                async for page in pages:
                    yield [Head(self._stream_of(item), number_of(item, "version")) for item in page]

    def _stream_of(self, item: Item) -> str:
        return text_of(item, "stream") if "stream" in item else self.table.sort_key_of(item)

    async def advance(self, processor: str, run: Slice) -> None:
        if (refusal := await self.table.update(self.advance_request(processor, run))) is not None:
            await self.explain_failed_condition(processor, run, refusal)

    def advance_request(self, processor: str, run: Slice) -> dict[str, Any]:
        """The update that sets a position: also an action of a transaction."""
        names, values = (
            ["version", "epoch"],
            {":reached": run.last_version, ":after": run.after, ":epoch": run.fence.epoch},
        )
        update, texts = "SET #version = :reached, #epoch = :epoch", dict[str, Any]()
        if _sort(run.stream) != run.stream:
            names.append("stream")
            update, texts = f"{update}, #stream = :stream", {":stream": {"S": run.stream}}
        return {
            "TableName": self.table.name,
            "Key": self.table.key(*_place(processor, run.stream)),
            "UpdateExpression": update,
            "ConditionExpression": "(attribute_not_exists(#version) OR #version = :after) "
            "AND (attribute_not_exists(#epoch) OR #epoch <= :epoch)",
            "ExpressionAttributeNames": _named(*names),
            "ExpressionAttributeValues": _numbers(values) | texts,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }

    async def explain_failed_condition(self, processor: str, run: Slice, refusal: Refusal) -> None:
        """Raise Fenced or PositionMoved, as the function of this name, for a position that could not be set."""
        item = refusal.item or await self.table.get(self.table.key(*_place(processor, run.stream))) or {}
        found = (number_of(item, "version"), number_of(item, "epoch")) if item else None
        explain_failed_condition(processor, run, found, again=refusal.repeated)

    async def slots(self, processor: str) -> Sequence[Slot]:
        found = [_slot(text_of(item, "slot")) for item in await self.table.query_all(f"@{processor}", "slot#")]
        return sorted(found, key=lambda slot: slot.number)

    async def claim(self, processor: str, slot: Slot) -> None:
        # The token is of this call: a try of it that has landed without an answer is not taken for somebody quicker.
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
        # The stamp: a try that the network has held back until a later save has landed changes nothing any more.
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
            "ExpressionAttributeNames": _named("slot", "epoch", "stamp", "token"),
            "ExpressionAttributeValues": {
                ":slot": {"S": _json(slot)},
                **_numbers({":epoch": slot.epoch, ":stamp": self._stamp}),
            },
        }

    async def heartbeat(self, worker: str) -> None:
        await self.table.update(
            {
                "Key": self.table.key(_WORKERS, worker),
                "UpdateExpression": "ADD #beats :one",
                "ExpressionAttributeNames": _named("beats"),
                "ExpressionAttributeValues": _numbers({":one": 1}),
            }
        )

    async def beats(self) -> Mapping[str, int]:
        return {self.table.sort_key_of(item): number_of(item, "beats") for item in await self.table.query_all(_WORKERS)}

    async def sign_off(self, worker: str) -> None:
        await self.table.delete(self.table.key(_WORKERS, worker))

    async def park(self, processor: str, parked: Parked) -> None:
        await self.table.put({**self._parked_key(processor, parked.stream), "parked": {"S": _json(_short(parked))}})

    async def unpark(self, processor: str, parked: Parked) -> None:
        # So a try that the network has held back does not undo that it is parked anew, either.
        await self.table.delete(self._parked_key(processor, parked.stream), only_if=("parked", _json(_short(parked))))

    async def parked(self, processor: str, streams: Collection[str] | None = None) -> Sequence[Parked]:
        if streams is None:
            items: Sequence[Item] = await self.table.query_all(f"@{processor}", "parked#")
        else:
            keys = [self._parked_key(processor, stream) for stream in dict.fromkeys(streams)]
            items = await self.table.get_all(self.table.name, keys, ["parked"])
        return [_parked(text_of(item, "parked")) for item in items]

    def _parked_key(self, processor: str, stream: str) -> dict[str, Any]:
        return self.table.key(f"@{processor}", f"parked#{_sort(stream)}")

    async def note_skipped(self, processor: str, skipped: Skipped) -> None:
        place = f"{skipped.time:020}#{_sort(skipped.stream)}@{skipped.version}"
        key = self.table.key(f"@{processor}", f"skipped#{place}")
        await self.table.put({**key, "skipped": {"S": _json(skipped)}})

    async def skipped(self, processor: str) -> Sequence[Skipped]:
        return [_skipped(text_of(item, "skipped")) for item in await self.table.query_all(f"@{processor}", "skipped#")]

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
            "ExpressionAttributeNames": _named("version"),
            "ExpressionAttributeValues": _numbers(values),
        }
        return await self.table.update(update) is None

    async def forget(self, processor: str) -> None:
        for partition in (*_partitions(processor), f"@{processor}"):
            await self.table.clear(partition)


def explain_failed_condition(processor: str, run: Slice, found: tuple[int, int] | None, *, again: bool) -> None:
    """A position is not where the run begins, but at this version and epoch: raise Fenced or PositionMoved, unless that
    is where the run ends and this was tried `again`.

    A try that has had no answer may have landed, so it can be our own doing. It may be another worker's as well, and
    need not be told apart: whoever has moved the position there has handled these very commits together with it.
    """
    version, epoch = found or (0, 0)
    if epoch > run.fence.epoch:
        raise Fenced(processor, run.fence.slot)
    if not (again and version == run.last_version):
        raise PositionMoved(run.stream)


def _partitions(processor: str) -> list[str]:
    return [f"@{processor}/{each}" for each in range(_PARTITIONS)]


def _place(processor: str, stream: str) -> tuple[str, str]:
    """Where its position stands."""
    return f"@{processor}/{crc32(stream.encode()) % _PARTITIONS}", _sort(stream)


def _sort(stream: str) -> str:
    """The stream as a sort key, or its hash if it is too long for one. No stream has a '|'."""
    encoded = stream.encode()
    return stream if len(encoded) <= _MAX_SORT else f"|{sha256(encoded).hexdigest()}"


def _named(*names: str) -> dict[str, str]:
    return {f"#{name}": name for name in names}


def _numbers(values: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    return {name: {"N": str(value)} for name, value in values.items()}


def _short(parked: Parked) -> Parked:
    """It has to fit into an item."""
    return msgspec.structs.replace(parked, error=parked.error[:_MAX_ERROR])


def _json(value: Slot | Parked | Skipped) -> str:
    return msgspec.json.encode(value).decode()


_slot = msgspec.json.Decoder(Slot).decode
_parked = msgspec.json.Decoder(Parked).decode
_skipped = msgspec.json.Decoder(Skipped).decode
