"""Read models in DynamoDB with one row per stream. The row also holds the stream's position."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from decimal import Decimal
from hashlib import sha256
from typing import Any, ClassVar

import msgspec

from ...errors import DeclarationError, Fenced, StoreChanged, StoreRejected
from ...store import Commit, EventIndex, Store
from ...stores.dynamodb.wire.attributes import number_of, text_of, to_item, to_value
from ...stores.dynamodb.wire.responses import Item
from ..checkpoints.checkpoints import Checkpoints
from ..checkpoints.dynamodb.checkpoints import DynamoDBCheckpoints
from ..checkpoints.dynamodb.positions import decode_position, explain_failed_condition
from ..slice import Context, Fence, HandlerFailed, Position, PositionMoved, Slice
from .calling import call_handler
from .clearing import delete_matches
from .dynamodb import check_checkpoints, handle_by_halves, is_handler_error
from .projection import Failure, Guarantee, Projection, catch

_IS_OURS = "#p.#stream = :stream AND #p.#processor = :processor AND #p.#store = :store"


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

    def __init__(self, commit: Commit, index: EventIndex, muted: bool, changes: Changes) -> None:
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
    - The attribute `eventsrc`, or the name in `position_attribute`, belongs to the library. It is a map with the
      position, the stream, the processor and a hash of the store's identity. A row of another stream, processor, store
      or tenant is refused with DeclarationError or StoreChanged.
    - `Processor.forget` reads the whole table and deletes the rows that this version has written for this store.
    - Streams are handled concurrently, `concurrency` at a time. Plain handlers run in the event loop, so they must not
      block. A handler that exceeds the processor's `handler_timeout` fails, if it is async.
    """

    guarantee = Guarantee.ROW
    awaits = True
    table: ClassVar[str] = ""
    position_attribute: ClassVar[str] = "eventsrc"
    _checkpoints: DynamoDBCheckpoints

    @abstractmethod
    def key(self, stream: str) -> Mapping[str, str | int | Decimal | bytes]:
        """Return the key of a stream's row, as `{"PK": self.name, "SK": stream}`.

        It must differ for each stream, and for each version of the projection: a rebuild writes rows of its own. If
        several stores or tenants have rows in the table, it must differ for these, too.
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
        self._store_hash: str | None = None  # once it is known; "" if the store has no identity

    async def discard(self) -> None:
        """Forget the processor, and delete the rows that this version has written for this store, wherever they are."""
        await super().discard()
        names = {"#p": self.position_attribute, "#processor": "processor", "#store": "store"}
        values = to_item({":processor": self.name, ":store": await self._hash_store()})
        condition = "#p.#processor = :processor AND #p.#store = :store"
        keys = list(self.key("probe"))
        await delete_matches(self._checkpoints.table, self.table, keys, condition, names, values)

    async def reset(self, stream: str, fence: Fence) -> None:
        """Delete the row of the stream. Its position is in it."""
        await self._checkpoints.slot_items.check_fence(self.name, fence)
        names = {"#p": self.position_attribute}
        names |= {f"#{name}": name for name in ("stream", "processor", "store", "epoch")}
        owner = {":stream": stream, ":processor": self.name, ":store": await self._hash_store()}
        delete = {
            "TableName": self.table,
            "Key": to_item(self.key(stream)),
            "ConditionExpression": f"attribute_not_exists(#p) OR ({_IS_OURS} AND #p.#epoch <= :epoch)",
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": to_item({**owner, ":epoch": fence.epoch}),
        }
        if await self._checkpoints.table.transact([{"Delete": delete}]) is not None:
            if (found := self._position_of(await self._read(stream))) is not None:
                self._check_owner(found, stream, owner[":store"])
            raise Fenced(self.name, fence.slot)

    async def _hash_store(self) -> str:
        """Return a short hash of the store's identity; "" if it has none."""
        if self._store_hash is None:
            identity = getattr(self._store, "identity", None)  # a store that is not a feed has none
            text: str = await identity() if identity is not None else ""
            self._store_hash = sha256(text.encode()).hexdigest()[:16] if text else ""
        return self._store_hash

    async def positions(self, streams: Collection[str]) -> dict[str, Position]:
        by_key: dict[bytes, str] = {}
        keys: list[Item] = []
        for stream in dict.fromkeys(streams):
            keys.append(key := to_item(self.key(stream)))
            if by_key.setdefault(msgspec.json.encode(key, order="sorted"), stream) != stream:
                raise self._shared_row_error()
        found: dict[str, Position] = {}
        store = await self._hash_store()
        for item in await self._checkpoints.table.get_all(self.table, keys, [self.position_attribute]):
            if (position := self._position_of(item)) is not None:
                self._check_owner(position, stream := text_of(position, "stream"), store)
                found[stream] = decode_position(position)
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
            attempt = run.attempt_at(call.first_commit)
            await call_handler(self, call, context, self._handler_timeout, attempt=attempt)
        await self._write(run, changes)

    async def _write(self, run: Slice, changes: Changes) -> None:
        version, id, time = run.position
        owner = {"stream": run.stream, "processor": self.name, "store": await self._hash_store()}
        position = {"version": version, "id": id, "time": time, "epoch": run.fence.epoch, **owner}
        names, values = {"#p": self.position_attribute}, {":p": to_value(position)}
        condition = "attribute_not_exists(#p)"
        if run.is_first:
            await run.confirm()  # there is no row yet, whose epoch would fence a stale worker
        else:
            condition = f"#p.#version = :after AND #p.#epoch <= :epoch AND {_IS_OURS}"
            names |= {f"#{name}": name for name in ("version", "epoch", *owner)}
            values |= to_item({":after": run.after, ":epoch": run.fence.epoch})
            values |= to_item({f":{name}": value for name, value in owner.items()})
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
        except (TypeError, ValueError) as error:  # a value that cannot be encoded, such as a lone surrogate
            raise HandlerFailed(error) from error
        if refusal is None:
            return
        found = self._position_of(refusal.item or await self._read(run.stream))
        if found is None:
            await self._checkpoints.slot_items.check_fence(self.name, run.fence)
            raise PositionMoved(run.stream)
        self._check_owner(found, run.stream, owner["store"])
        stored = number_of(found, "version"), number_of(found, "epoch")
        explain_failed_condition(self.name, run, stored, repeated=refusal.repeated)

    async def _read(self, stream: str) -> Item:
        """Read the row's position, for services that do not return it with a failed condition."""
        keys = [to_item(self.key(stream))]
        found = await self._checkpoints.table.get_all(self.table, keys, [self.position_attribute])
        return found[0] if found else {}

    def _position_of(self, item: Item) -> Item | None:
        position: Item | None = item.get(self.position_attribute, {}).get("M")
        return position

    def _check_owner(self, position: Item, stream: str, store: str) -> None:
        """Raise DeclarationError or StoreChanged if the row belongs to another stream, processor or store."""
        if (processor := text_of(position, "processor")) != self.name:
            raise DeclarationError(
                f"{type(self).__qualname__}.key", f"gives a row that belongs to {processor}; put self.name into it"
            )
        if text_of(position, "stream") != stream:
            raise self._shared_row_error()
        if text_of(position, "store") != store:
            raise StoreChanged(
                self.name,
                f"{type(self).__qualname__}.key gives a row that holds events of another store or tenant; put the "
                "tenant into the key",
            )

    def _shared_row_error(self) -> DeclarationError:
        return DeclarationError(
            f"{type(self).__qualname__}.key", "gives two streams the same row; return a different key for each stream"
        )
