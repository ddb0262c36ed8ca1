"""Read models in DynamoDB: items of the user's own, changed in one transaction with the position."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from inspect import isawaitable
from typing import Any

import msgspec

from ...errors import StoreRejected
from ...store import Commit
from ...stores.dynamodb.wire.attributes import to_item, to_value
from ...stores.dynamodb.wire.outcomes import CONDITION_FAILED
from ..checkpoints.checkpoints import Checkpoints
from ..checkpoints.dynamodb import DynamoDBCheckpoints
from ..slice import Context, HandlerFailed, Slice
from .projection import Failure, Guarantee, Projection, side_by_side

_MOST = 99  # actions of a transaction beside the position
_AT_FAULT = {"ValidationException", "ItemCollectionSizeLimitExceededException", "RequestEntityTooLarge", "413"}


class Writes:
    """What the handlers of a run want written."""

    def __init__(self) -> None:
        self._actions: list[dict[str, Any]] = []
        self._sums: dict[tuple[str, bytes], tuple[Mapping[str, Any], dict[str, int | Decimal]]] = {}

    def write(self, action: Mapping[str, Any]) -> None:
        self._actions.append(dict(action))

    def add(self, table: str, key: Mapping[str, Any], numbers: Mapping[str, int | Decimal]) -> None:
        attributes = to_item(key)
        _, sums = self._sums.setdefault((table, _identity(attributes)), (attributes, {}))
        for name, number in numbers.items():
            sums[name] = sums.get(name, 0) + number

    def actions(self) -> list[dict[str, Any]]:
        """Of a transaction. Raises ValueError if it would be none."""
        actions = [*self._actions, *(_addition(table, *each) for (table, _), each in self._sums.items())]
        if len(actions) > _MOST:
            raise ValueError(f"{len(actions)} writes; a transaction has {_MOST} beside the position")
        named = [
            (inner["TableName"], _identity(inner["Key"]))
            for each in actions
            for inner in each.values()
            if "Key" in inner
        ]
        if len(set(named)) < len(named):
            raise ValueError("two writes to one item, which a transaction cannot have; add() sums up what it is given")
        return actions


def _identity(key: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(key, order="sorted")


def _addition(table: str, key: Mapping[str, Any], sums: Mapping[str, int | Decimal]) -> dict[str, Any]:
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
    """With what the event makes of the read model; it is written together with the position, when all handlers of the
    run have returned.
    """

    __slots__ = ("_writes",)

    def __init__(self, commit: Commit, index: int, muted: bool, writes: Writes) -> None:
        super().__init__(commit, index, muted)
        self._writes = writes

    def write(self, action: Mapping[str, Any]) -> None:
        """An action of TransactWriteItems in the service's own words, as `{"Put": {"TableName": "delays", "Item":
        {"PK": {"S": "LH-400"}, "minutes": {"N": "7"}}}}`; bytes are bytes. If its condition fails, the handler has
        failed.
        """
        self._writes.write(action)

    def add(self, table: str, key: Mapping[str, str | int | Decimal | bytes], /, **numbers: int | Decimal) -> None:
        """Add to numbers of an item, which begin at 0: `context.add("totals", {"PK": "LH"}, flights=1)`. Several
        additions to an item become one write.
        """
        self._writes.add(table, key, numbers)


class DynamoDBProjection(Projection):
    """A read model in items of any tables of the same account and region: what handlers give to the context and the
    stream's position are one transaction, so each event is handled exactly once, whatever is killed when.

    Handlers may be async. They are called again when what they want written could not be, and then for fewer commits:
    a run is halved where it makes more than 99 writes or two to one item, or where it fails. Streams are handled side
    by side, `concurrency` at a time; items that many streams change make transactions collide, which are then tried
    again: with few such items let it be low. A write in a transaction costs twice the units of one by itself.
    """

    guarantee = Guarantee.TRANSACTION
    awaits = True
    _checkpoints: DynamoDBCheckpoints

    def bind(self, checkpoints: Checkpoints) -> None:
        check_kind(self, checkpoints)
        super().bind(checkpoints)

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        return await side_by_side(runs, self._by_halves, self._free)

    async def _by_halves(self, run: Slice) -> None:
        await by_halves(run, self._handle)

    async def _handle(self, run: Slice) -> None:
        try:
            writes = Writes()
            for handler, given, commit, index in self._handlers.calls(run.commits):
                context = [DynamoDBContext(commit, index, run.muted, writes)] if handler.with_context else []
                result = handler.call(self, given, *context)
                if isawaitable(result):
                    await result
            actions = writes.actions()
        except Exception as error:
            raise HandlerFailed(error) from error
        if actions:
            await self._transact(run, actions)
        else:
            await self.advance(run)

    async def _transact(self, run: Slice, actions: Sequence[Mapping[str, Any]]) -> None:
        checkpoints = self._checkpoints
        advance = {"Update": checkpoints.advance_request(self.name, run)}
        try:
            refusal = await checkpoints.table.transact([advance, *actions])
        except StoreRejected as error:
            raise HandlerFailed(error) if is_at_fault(error) else error from None
        if refusal is None:
            return
        if refusal.action == 0:
            await checkpoints.explain_failed_condition(self.name, run, refusal)
            return
        [(kind, action)] = actions[refusal.action - 1].items()
        raise HandlerFailed(
            StoreRejected(CONDITION_FAILED, f"the condition of a {kind} in {action['TableName']} failed")
        )


def is_at_fault(refused: StoreRejected) -> bool:
    """Whether what is written is wrong or too large: its handler's failure."""
    return refused.code in _AT_FAULT


def check_kind(projection: Projection, checkpoints: Checkpoints) -> None:
    """Raise TypeError for checkpoints that are elsewhere."""
    if not isinstance(checkpoints, DynamoDBCheckpoints):
        raise TypeError(f"{type(projection).__qualname__} needs DynamoDBCheckpoints: both are written together")


async def by_halves(run: Slice, handle: Callable[[Slice], Awaitable[None]]) -> None:
    """Handle a run at once; where that fails for what is in it, by halves: what comes before the culprit has its
    effect, and what is too much at once may do in two.
    """
    try:
        await handle(run)
    except HandlerFailed:
        if len(run.commits) == 1:
            raise
    else:
        return
    middle = len(run.commits) // 2
    first = run._replace(commits=run.commits[:middle])
    await by_halves(first, handle)
    await by_halves(run._replace(after=first.last_version, commits=run.commits[middle:]), handle)
