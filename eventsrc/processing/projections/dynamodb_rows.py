"""Read models in DynamoDB with one row per stream. The row also holds the stream's position."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from decimal import Decimal
from typing import Any, ClassVar

import msgspec

from ...errors import DeclarationError, StoreRejected
from ...store import Commit, Store
from ...stores.dynamodb.wire.attributes import number_of, text_of, to_item, to_value
from ...stores.dynamodb.wire.responses import Item
from ..checkpoints.checkpoints import Checkpoints
from ..checkpoints.dynamodb import DynamoDBCheckpoints, explain_failed_condition
from ..slice import Context, HandlerFailed, Position, Slice
from .calling import call_handler
from .dynamodb import check_checkpoints, handle_by_halves, is_handler_error
from .projection import Failure, Guarantee, Projection, catch


class Changes:
    """The changes that the handlers of a slice make to the stream's row, combined to one per attribute."""

    def __init__(self) -> None:
        self._set: dict[str, Any] = {}
        self._added: dict[str, int | Decimal] = {}
        self._removed: dict[str, None] = {}

    def set(self, name: str, value: Any) -> None:
        self._added.pop(name, None)
        self._removed.pop(name, None)
        self._set[name] = value

    def add(self, name: str, value: int | Decimal) -> None:
        if name in self._set:
            self._set[name] += value
        elif name in self._removed:
            self.set(name, value)
        else:
            self._added[name] = self._added.get(name, 0) + value

    def remove(self, name: str) -> None:
        self._set.pop(name, None)
        self._added.pop(name, None)
        self._removed[name] = None

    def expression(self, names: dict[str, str], values: dict[str, Any]) -> str:
        """Return what follows a first SET in an update expression. Add its placeholders to `names` and `values`."""

        def refer(name: str, *value: object) -> str:
            alias = f"{len(names)}"
            names[f"#{alias}"] = name
            for each in value:
                values[f":{alias}"] = to_value(each)
            return alias

        text = "".join(f", #{alias} = :{alias}" for alias in [refer(*each) for each in self._set.items()])
        if self._added:
            text += " ADD " + ", ".join(f"#{alias} :{alias}" for alias in [refer(*e) for e in self._added.items()])
        if self._removed:
            text += " REMOVE " + ", ".join(f"#{refer(name)}" for name in self._removed)
        return text


class RowContext(Context):
    """A context that changes the stream's row.

    Values are str, int, Decimal, bool, bytes or None, or lists and dicts of these.
    """

    __slots__ = ("_changes",)

    def __init__(self, commit: Commit, index: int, muted: bool, changes: Changes) -> None:
        super().__init__(commit, index, muted)
        self._changes = changes

    def set(self, /, **values: Any) -> None:
        """Set attributes."""
        for name, value in values.items():
            self._changes.set(name, value)

    def add(self, /, **numbers: int | Decimal) -> None:
        """Add to numbers. Missing ones count as 0."""
        for name, value in numbers.items():
            self._changes.add(name, value)

    def remove(self, *names: str) -> None:
        """Remove attributes. Missing ones are ignored."""
        for name in names:
            self._changes.remove(name)


class DynamoDBRows(Projection):
    """A read model with one row per stream, in a `table` of the same account and region.

    The row also holds the stream's position, so one write changes both: each event is handled exactly once, for the
    units of the row alone. Handlers may be async; they are called again if a write fails.

    - Each stream of the feed gets a row, even if handlers write nothing to it.
    - If you delete a row, the events of its stream are handled again.
    - The attribute `eventsrc`, or the name in `position_attribute`, belongs to the library. It is a map with `version`,
      `epoch` and `stream`.
    - Streams are handled concurrently, `concurrency` at a time.
    """

    guarantee = Guarantee.ROW
    awaits = True
    table: ClassVar[str] = ""
    position_attribute: ClassVar[str] = "eventsrc"
    _checkpoints: DynamoDBCheckpoints

    @abstractmethod
    def key(self, stream: str) -> Mapping[str, str | int | Decimal | bytes]:
        """Return the key of a stream's row, as `{"PK": self.name, "SK": stream}`.

        It must differ for each stream, and for each version of the projection: a rebuild writes rows of its own.
        """

    def bind(self, checkpoints: Checkpoints, store: Store, *, handler_timeout: float = 30.0) -> None:
        check_checkpoints(self, checkpoints)
        if not self.table:
            raise DeclarationError(
                f"{type(self).__qualname__}.table", "is not set; set it to the name of the table that holds the rows"
            )
        other = self._with_version(self.version + 1)
        if (self.table, self.key("probe-1")) == (other.table, other.key("probe-1")):
            raise DeclarationError(
                f"{type(self).__qualname__}.key", "is the same for all versions; put self.name into it"
            )
        super().bind(checkpoints, store, handler_timeout=handler_timeout)

    async def positions(self, streams: Collection[str]) -> dict[str, Position]:
        by_key: dict[bytes, str] = {}
        keys: list[Item] = []
        for stream in dict.fromkeys(streams):
            keys.append(key := to_item(self.key(stream)))
            if by_key.setdefault(msgspec.json.encode(key, order="sorted"), stream) != stream:
                raise self._shared_row_error()
        found: dict[str, Position] = {}
        for item in await self._checkpoints.table.get_all(self.table, keys, [self.position_attribute]):
            if (position := self._position_of(item)) is not None:
                found[text_of(position, "stream")] = _decode_position(position)
        return found

    async def positions_of(self, name: str, streams: Collection[str]) -> dict[str, Position]:
        return await self._with_version(int(name.rpartition("@")[2])).positions(streams)

    def _with_version(self, version: int) -> DynamoDBRows:
        """Return a copy with the keys of another version."""
        other = copy(self)
        vars(other)["version"] = version
        return other

    async def advance(self, run: Slice) -> None:
        await self._write(run, Changes())

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        [run] = runs
        return await catch(run, handle_by_halves(run, self._handle))

    async def _handle(self, run: Slice) -> None:
        changes = Changes()
        for call in self._read_calls(run.commits):
            context = RowContext(call.commit, call.event_index, run.muted, changes)
            await call_handler(self, call, context, self._handler_timeout)
        await self._write(run, changes)

    async def _write(self, run: Slice, changes: Changes) -> None:
        version, id, time = run.position
        position = {"version": version, "id": id, "time": time, "epoch": run.fence.epoch, "stream": run.stream}
        names, values = {"#p": self.position_attribute}, {":p": to_value(position)}
        condition = "attribute_not_exists(#p)"
        if not run.is_first:
            condition = "#p.#version = :after AND #p.#epoch <= :epoch AND #p.#stream = :stream"
            names |= {f"#{name}": name for name in ("version", "epoch", "stream")}
            values |= to_item({":after": run.after, ":epoch": run.fence.epoch, ":stream": run.stream})
        try:
            update = "SET #p = :p" + changes.expression(names, values)
        except Exception as error:
            raise HandlerFailed(error) from error
        request = {
            "TableName": self.table,
            "Key": to_item(self.key(run.stream)),
            "UpdateExpression": update,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
        }
        try:
            refusal = await self._checkpoints.table.update(request, quoting=True)
        except StoreRejected as error:
            raise HandlerFailed(error) if is_handler_error(error) else error from None
        if refusal is None:
            return
        found = self._position_of(refusal.item or await self._read(run.stream))
        if found is not None and text_of(found, "stream") != run.stream:
            raise self._shared_row_error()
        stored = (number_of(found, "version"), number_of(found, "epoch")) if found is not None else None
        explain_failed_condition(self.name, run, stored, repeated=refusal.repeated)

    async def _read(self, stream: str) -> Item:
        """Read the row's position, for services that do not return it with a failed condition."""
        keys = [to_item(self.key(stream))]
        found = await self._checkpoints.table.get_all(self.table, keys, [self.position_attribute])
        return found[0] if found else {}

    def _position_of(self, item: Item) -> Item | None:
        position: Item | None = item.get(self.position_attribute, {}).get("M")
        return position

    def _shared_row_error(self) -> DeclarationError:
        return DeclarationError(
            f"{type(self).__qualname__}.key", "gives two streams the same row; return a different key for each stream"
        )


def _decode_position(position: Item) -> Position:
    id = position.get("id", {}).get("B", b"")
    return Position(number_of(position, "version"), id, number_of(position, "time"))
