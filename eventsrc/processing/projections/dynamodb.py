"""Read models in DynamoDB: your own items, written in one transaction with the position."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

import msgspec

from ...errors import Fenced, StoreRejected
from ...store import Commit, EventIndex, Store
from ...stores.dynamodb.wire.attributes import to_item, to_value
from ...stores.dynamodb.wire.outcomes import CONDITION_FAILED
from ..checkpoints.checkpoints import Checkpoints
from ..checkpoints.dynamodb.checkpoints import DynamoDBCheckpoints
from ..slice import Context, Fence, HandlerFailed, Slice
from .actions import check_action, check_owner
from .calling import call_handler
from .clearing import delete_version
from .projection import Failure, Guarantee, Projection, catch

_MAX_ACTIONS = 98  # of a transaction, in addition to the position and the check that it may be the first one
_HANDLER_ERRORS = {
    "ValidationException",
    "SerializationException",
    "ItemCollectionSizeLimitExceededException",
    "RequestEntityTooLarge",
    "413",
}


class Writes:
    """Writes that are stored together with a position. `write` and `add` are those of DynamoDBContext."""

    def __init__(self) -> None:
        self._actions: list[dict[str, Any]] = []
        self._sums: dict[tuple[str, bytes], tuple[Mapping[str, Any], dict[str, int | Decimal]]] = {}

    def write(self, action: Mapping[str, Any]) -> None:
        check_action(action)
        self._actions.append(dict(action))

    def add(self, table: str, key: Mapping[str, str | int | Decimal | bytes], /, **numbers: int | Decimal) -> None:
        attributes = to_item(key)
        _, sums = self._sums.setdefault((table, _encode_key(attributes)), (attributes, {}))
        for name, number in numbers.items():
            sums[name] = sums.get(name, 0) + number

    def actions(self) -> list[dict[str, Any]]:
        """Return the actions of the transaction. Raises ValueError if a transaction cannot hold them."""
        actions = [*self._actions, *(_to_update(table, *each) for (table, _), each in self._sums.items())]
        if len(actions) > _MAX_ACTIONS:
            raise ValueError(f"{len(actions)} writes; a transaction holds {_MAX_ACTIONS} and what the library adds")
        keys = [
            (inner["TableName"], _encode_key(inner["Key"]))
            for each in actions
            for inner in each.values()
            if "Key" in inner
        ]
        if len(set(keys)) < len(keys):
            raise ValueError("two writes to one item, which a transaction cannot hold; use add(), which combines them")
        return actions


def _encode_key(key: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(key, order="sorted")


def _to_update(table: str, key: Mapping[str, Any], sums: Mapping[str, int | Decimal]) -> dict[str, Any]:
    numbers = range(len(sums))
    return {
        "Update": {
            "TableName": table,
            "Key": key,
            "UpdateExpression": "ADD " + ", ".join(f"#{each} :{each}" for each in numbers),
            "ExpressionAttributeNames": {f"#{each}": name for each, name in zip(numbers, sums, strict=True)},
            "ExpressionAttributeValues": {
                f":{each}": to_value(value) for each, value in zip(numbers, sums.values(), strict=True)
            },
        }
    }


class DynamoDBContext(Context):
    """A context that collects writes. They are stored together with the position, after all handlers of the slice have
    returned.
    """

    __slots__ = ("_writes",)

    def __init__(self, commit: Commit, index: EventIndex, muted: bool, writes: Writes) -> None:
        super().__init__(commit, index, muted)
        self._writes = writes

    def write(self, action: Mapping[str, Any]) -> None:
        """Add an action of TransactWriteItems, in the service's own JSON: `{"Put": {"TableName": "delays", "Item":
        {"PK": {"S": "LH-400"}, "minutes": {"N": "7"}}}}`. Binary values are bytes. If its condition fails, the handler
        counts as failed.

        Raises TypeError or ValueError if it does not have this form. The message names the place, not the value.
        """
        self._writes.write(action)

    def add(self, table: str, key: Mapping[str, str | int | Decimal | bytes], /, **numbers: int | Decimal) -> None:
        """Add to numbers of an item: `context.add("totals", {"PK": "LH"}, flights=1)`. Missing numbers count as 0.
        Several additions to one item become one write.
        """
        self._writes.add(table, key, **numbers)


class DynamoDBProjection(Projection):
    """A read model in items of any tables of the same account and region.

    What handlers write with the context is in one transaction with the stream's position. So each event is handled
    exactly once, even if a process is killed at any moment. Handlers may be async.

    - A slice is split in half if it makes more than 98 writes or two writes to one item, or if a handler fails. Then
      handlers are called again, for fewer commits.
    - Streams are handled concurrently, `concurrency` at a time. Transactions that change the same item conflict and are
      tried again: if many streams change few items, set `concurrency` low.
    - A write in a transaction costs twice the units of a single write. The first position of a stream costs two more:
      its transaction checks that the processor was not forgotten since.
    - `tables` declares the tables whose items `Processor.forget` may delete: each item whose partition key starts with
      `self.name`, as `delays@2` or `delays@2#LH`, belongs to this version. It reads these tables as a whole.
    - Plain handlers run in the event loop, so they must not block. A handler that exceeds the processor's
      `handler_timeout` fails, if it is async.
    """

    guarantee = Guarantee.TRANSACTION
    awaits = True
    tables: ClassVar[Sequence[str]] = ()
    _checkpoints: DynamoDBCheckpoints

    async def forget_stream(self, writes: Writes, stream: str) -> None:
        """Undo, with `writes.write` and `writes.add`, what events of `stream` have written: `reset` needs it.

        The writes are in one transaction with the deletion of the stream's position.
        """
        name = f"{type(self).__qualname__}.forget_stream"
        raise TypeError(f"{name} is not written, so the events of one stream cannot be undone; write it")

    def bind(self, checkpoints: Checkpoints, store: Store, *, handler_timeout: float = 30.0) -> None:
        check_checkpoints(self, checkpoints)
        super().bind(checkpoints, store, handler_timeout=handler_timeout)

    async def discard(self) -> None:
        """Forget the processor, and delete the items of this version from `tables`.

        Workers may run: they get Fenced until it is done. If it fails, they do until it is called again.

        Raises TypeError if the class does not declare them: then nothing is dropped.
        """
        kind = type(self).__qualname__
        if not self.tables:
            raise TypeError(
                f"{kind} does not declare its tables, so its items cannot be deleted; raise its version, which starts "
                f"with new items, or declare {kind}.tables and start partition keys with self.name"
            )

        async def drop() -> None:
            for table in self.tables:
                await delete_version(self._checkpoints.table, table, self.name)

        await self._checkpoints.forget(self.name, drop=drop)

    async def reset(self, stream: str, fence: Fence) -> None:
        """Carry out what `forget_stream` writes and delete the stream's position, in one transaction."""
        writes = Writes()
        await self.forget_stream(writes, stream)
        await self._checkpoints.position_items.delete(self.name, stream, fence, actions=writes.actions())

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        [run] = runs
        return await catch(run, handle_by_halves(run, self._handle))

    async def _handle(self, run: Slice) -> None:
        writes = Writes()
        for call in self._read_calls(run.commits):
            context = DynamoDBContext(call.commit, call.event_index, run.muted, writes)
            attempt = run.attempt_at(call.first_commit)
            await call_handler(self, call, context, self._handler_timeout, attempt=attempt)
        try:
            actions = writes.actions()
            check_owner(actions, self._checkpoints.table.name, self._checkpoints.table.partition_key)
        except Exception as error:
            raise HandlerFailed(error) from error
        if run.is_first:
            await run.confirm()  # there is no position yet, whose epoch would fence a stale worker
        await self._store_with(run, actions)

    async def advance(self, run: Slice) -> None:
        await self._store_with(run, [])

    async def _store_with(self, run: Slice, actions: Sequence[Mapping[str, Any]]) -> None:
        """Store the position after a slice, in one transaction with `actions`."""
        if run.is_first:
            starts = self._checkpoints.starts
            async with starts.turn(self.name, run.stream):
                await self._transact(run, actions, starts.check(self.name, run.stream, run.fence.epoch))
        elif actions:
            await self._transact(run, actions)
        else:
            await self._checkpoints.advance(self.name, run)

    async def _transact(self, run: Slice, actions: Sequence[Mapping[str, Any]], *checks: Mapping[str, Any]) -> None:
        checkpoints = self._checkpoints
        advance = {"Update": checkpoints.position_items.advance_request(self.name, run)}
        try:
            refusal = await checkpoints.table.transact([advance, *checks, *actions])
        except StoreRejected as error:
            raise HandlerFailed(error) if is_handler_error(error) else error from None
        except (TypeError, ValueError) as error:  # a value that cannot be encoded, such as a lone surrogate
            raise HandlerFailed(error) from error
        if refusal is None:
            return
        if refusal.action == 0:
            await checkpoints.position_items.explain_failed_condition(self.name, run, refusal)
            return
        if refusal.action <= len(checks):
            raise Fenced(self.name, run.fence.slot)
        [(kind, action)] = actions[refusal.action - 1 - len(checks)].items()
        raise HandlerFailed(
            StoreRejected(CONDITION_FAILED, f"the condition of a {kind} in {action['TableName']} failed")
        )


def is_handler_error(refused: StoreRejected) -> bool:
    """Whether a write was refused because of what the handler wrote: it is not valid, or too large."""
    return refused.code in _HANDLER_ERRORS


def check_checkpoints(projection: Projection, checkpoints: Checkpoints) -> None:
    """Raise TypeError if the checkpoints are not in DynamoDB."""
    if not isinstance(checkpoints, DynamoDBCheckpoints):
        raise TypeError(f"{type(projection).__qualname__} needs DynamoDBCheckpoints, as both are written together")


async def handle_by_halves(run: Slice, handle: Callable[[Slice], Awaitable[None]]) -> None:
    """Handle a slice. If a handler fails or the writes do not fit into one transaction, handle each half by itself.

    So the commits before the one that fails are handled.
    """
    try:
        await handle(run)
    except HandlerFailed:
        if len(run.commits) == 1:
            raise
    else:
        return
    middle = len(run.commits) // 2
    await handle_by_halves(run.part(0, middle), handle)
    await handle_by_halves(run.part(middle, len(run.commits)), handle)
