"""Positions as items of a DynamoDB table."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from ....errors import Fenced, StoreRejected
from ....stores.dynamodb.table import Refusal, Table
from ....stores.dynamodb.wire.attributes import bytes_of, number_of, text_of
from ....stores.dynamodb.wire.outcomes import CONDITION_FAILED
from ....stores.dynamodb.wire.responses import Item
from ....stores.feed import Head
from ...slice import Fence, Position, PositionMoved, Slice
from .expressions import alias, to_numbers
from .keys import position_key, position_partitions, to_sort_key
from .slots import SlotItems
from .stamps import Stamps

_IS_NOT_DELETED_SINCE = (
    "(attribute_not_exists(#epoch) OR #epoch < :epoch"
    " OR (#epoch = :epoch AND (attribute_not_exists(#stamp) OR #stamp <= :stamp)))"
)


class PositionItems:
    """The items of positions. Its methods are those of `Checkpoints`.

    The update of a position can also be an action of a transaction that writes a read model.
    """

    def __init__(self, table: Table, sort_key: str, stamps: Stamps, slots: SlotItems) -> None:
        self._table, self._sort_key, self._stamps, self._slots = table, sort_key, stamps, slots

    async def read(self, processor: str, streams: Collection[str]) -> dict[str, Position]:
        by_sort_key = {to_sort_key(stream): stream for stream in streams}
        keys = [self._table.key(*position_key(processor, stream)) for stream in by_sort_key.values()]
        items = await self._table.get_all(self._table.name, keys, [self._sort_key, "version", "id", "time"])
        stored = {self._table.sort_key_of(item): item for item in items if "version" in item}
        return {by_sort_key[sort_key]: decode_position(item) for sort_key, item in stored.items()}

    async def read_all(self, processor: str) -> AsyncGenerator[Sequence[Head]]:
        for partition in position_partitions(processor):
            async with aclosing(self._table.query(partition)) as pages:
                async for page in pages:
                    stored = [item for item in page if "version" in item]
                    yield [Head(self._stream_of(item), number_of(item, "version")) for item in stored]

    def _stream_of(self, item: Item) -> str:
        return text_of(item, "stream") if "stream" in item else self._table.sort_key_of(item)

    async def advance(self, processor: str, run: Slice) -> None:
        """Set a position. Raises Fenced and PositionMoved."""
        if (refusal := await self._table.update(self.advance_request(processor, run))) is not None:
            await self.explain_failed_condition(processor, run, refusal)

    def advance_request(self, processor: str, run: Slice) -> dict[str, Any]:
        """Return the update that sets a position. It can also be an action of a transaction."""
        names = ["version", "id", "time", "epoch", "stamp"]
        version, id, time = run.position
        values = {":version": version, ":time": time, ":epoch": run.fence.epoch, ":stamp": self._stamps.next()}
        update = "SET #version = :version, #id = :id, #time = :time, #epoch = :epoch"
        others: dict[str, Any] = {":id": {"B": id}}
        if run.is_first:
            condition = "attribute_not_exists(#version)"
        else:
            condition, values[":after"] = "#version = :after", run.after
        if to_sort_key(run.stream) != run.stream:
            names.append("stream")
            update, others[":stream"] = f"{update}, #stream = :stream", {"S": run.stream}
        return {
            "TableName": self._table.name,
            "Key": self._table.key(*position_key(processor, run.stream)),
            "UpdateExpression": update,
            "ConditionExpression": f"{condition} AND {_IS_NOT_DELETED_SINCE}",
            "ExpressionAttributeNames": alias(*names),
            "ExpressionAttributeValues": to_numbers(values) | others,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }

    async def explain_failed_condition(self, processor: str, run: Slice, refusal: Refusal) -> None:
        """Raise Fenced or PositionMoved if a position could not be set, as the function of this name."""
        item = refusal.item or await self._table.get(self._table.key(*position_key(processor, run.stream))) or {}
        found = (number_of(item, "version"), number_of(item, "epoch")) if "version" in item else None
        self._stamps.note(item)  # of a deletion
        try:
            explain_failed_condition(processor, run, found, repeated=refusal.repeated)
        except PositionMoved:
            await self._slots.check_fence(processor, run.fence)
            raise

    async def delete(
        self, processor: str, stream: str, fence: Fence, *, actions: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Delete a position, in one transaction with `actions`. If there is none, nothing is done.

        Raises:
            Fenced: another worker has taken over the slot.
            StoreRejected: the condition of one of the actions failed.
        """
        await self._slots.check_fence(processor, fence)
        key = self._table.key(*position_key(processor, stream))
        while (item := await self._table.get(key)) is not None and "version" in item:
            numbers = {":seen": number_of(item, "version"), ":epoch": fence.epoch, ":stamp": self._stamps.next()}
            delete = {
                "TableName": self._table.name,
                "Key": key,
                "UpdateExpression": "SET #epoch = :epoch, #stamp = :stamp REMOVE #version, #id, #time",
                "ConditionExpression": f"#version = :seen AND {_IS_NOT_DELETED_SINCE}",
                "ExpressionAttributeNames": alias("version", "id", "time", "epoch", "stamp"),
                "ExpressionAttributeValues": to_numbers(numbers),
            }
            check = self._slots.fence_check(processor, fence)
            refusal = await self._table.transact([check, {"Update": delete}, *actions])
            if refusal is None:
                return
            if refusal.action > 1:
                raise StoreRejected(CONDITION_FAILED, "the condition of one of the actions failed")
            if refusal.action == 0 or number_of(item, "epoch") > fence.epoch:
                raise Fenced(processor, fence.slot)
            self._stamps.note(item)


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
