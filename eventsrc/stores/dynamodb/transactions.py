"""One TransactWriteItems that stores commits to several streams, and its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, NoReturn
from uuid import UUID

import msgspec

from ...errors import (
    ConflictError,
    StoreError,
    StoreRejected,
    StoreUnavailable,
    TransactionOutcomeUnknown,
    TransactionsRefused,
)
from ...store import Commit, Receipt
from ...usage import Usage
from ..transacting import Guard, check_total, make_receipts
from .items import Items, Stored
from .partitions import TablePartitions
from .table import Table
from .wire.client import Reply
from .wire.outcomes import ConditionNotMet
from .wire.responses import TransactResponse

Action = Mapping[str, Any]
"""An action of TransactWriteItems: a Put, an Update or a Delete, in the form of the service's JSON."""

_INLINE = {"Put", "Update", "Delete"}
_FIRST_PAUSE = 0.05  # seconds; each pause is twice the last one
_NOT_OFFERED = {"ValidationException", "UnknownOperationException"}


class TableTransaction:
    """A transaction of commits, guards, and actions of an inline projection. Each object is run once.

    The put of a commit has the condition that its version is free. A guard is the condition that the version after its
    own is free: versions have no gaps and are never removed, so a stream that was read at a version is still at it, or
    has the next one. Both conditions, once not met, can never be met again. So a failed one is a definite answer about
    all earlier tries too, except if they have landed, which the commit id of a member shows.

    Raises CommitTooLarge, TransactionTooLarge, InvalidStreamId or ValueError.
    """

    def __init__(
        self,
        table: Table,
        items: Items,
        commits: Sequence[Commit],
        guards: Sequence[Guard],
        inline: Sequence[Action],
        used: Usage,
    ) -> None:
        self._table, self._items, self._used = table, items, used
        self._commits, self._guards, self._has_inline = commits, guards, bool(inline)
        self._partitions = TablePartitions(table, items, used)
        _check_inline(inline)
        first: Commit | Guard = commits[0] if commits else guards[0]
        check_total(first.stream, len(commits) + len(guards) + len(inline), 0)
        puts = [{"Put": {"Item": items.from_commit(commit), **self._condition()}} for commit in commits]
        checks = [
            {"ConditionCheck": {"Key": items.key(guard.stream, guard.version + 1), **self._condition()}}
            for guard in guards
        ]
        actions = [*puts, *checks, *inline]
        self._request: dict[str, Any] = {"TransactItems": actions, "ReturnConsumedCapacity": "TOTAL"}
        if commits:
            # Without commits it would be wrong: the answer of ten minutes ago says nothing about the guards now.
            self._request["ClientRequestToken"] = _make_token(actions)

    async def run(self) -> Sequence[Receipt]:
        """Send the transaction until its outcome is definite. Raises as `Transacting.append_all`."""
        now, pause = asyncio.get_running_loop().time, _FIRST_PAUSE
        end = now() + self._table.connection.limits.deadline
        while True:
            try:
                await self._send()
            except ConditionNotMet as failed:
                reply = failed.reply
            else:
                return make_receipts(self._commits, self._used)
            if (receipts := await self._find_outcome(reply)) is not None:  # outside the handler: the reply may have
                return receipts  # another writer's payload
            if now() + pause > end:
                raise self._unknown("TransactionConflict")
            await asyncio.sleep(pause)
            pause *= 2

    async def _send(self) -> None:
        try:
            await self._table.send(
                "TransactWriteItems",
                self._request,
                TransactResponse,
                self._used,
                unknown=self._unknown if self._commits else None,
                quoting=self._has_inline,
            )
        except ConditionNotMet:
            raise
        except StoreRejected as error:
            if error.code not in _NOT_OFFERED:
                raise
            raise TransactionsRefused(error.code, error.advice if self._has_inline else "") from None

    async def _find_outcome(self, reply: Reply | None) -> Sequence[Receipt] | None:
        """Return the receipts of commits that an earlier try has stored. Otherwise raise the conflict.

        A condition was not met. The transaction is atomic, so one of its commits that is stored shows that all are, and
        one whose version another commit has shows that none is, and that none will be. None: it must be sent again.
        """
        commits, guards = self._commits, self._guards
        places = [(commit.stream, commit.version) for commit in commits]
        places += [(guard.stream, guard.version + 1) for guard in guards]
        if not (reasons := self._items.read_reasons(reply, places)):
            return await self._search(places)
        for commit, reason in zip(commits, reasons, strict=False):
            if reason.is_failed_condition:
                return self._settle(commit, reason.Item or await self._require(commit.stream, commit.version))
        # Only a guard has moved, perhaps after an earlier try has stored the commits.
        if commits and (item := await self._read(*places[0])) is not None:
            return self._settle(commits[0], item)
        if any(reason.Code != "None" for reason in reasons[: len(commits)]):
            return None  # an item is being written, perhaps by an earlier try of this transaction
        for guard, reason in zip(guards, reasons[len(commits) :], strict=True):
            if reason.is_failed_condition:
                version = guard.version + 1
                self._raise_conflict(guard.stream, version, reason.Item or await self._require(guard.stream, version))
        return await self._search(places)

    def _settle(self, commit: Commit, standing: Stored) -> Sequence[Receipt]:
        if commit.id != standing.id.B:
            self._raise_conflict(commit.stream, commit.version, standing)
        return make_receipts(self._commits, self._used)

    async def _search(self, places: Sequence[tuple[str, int]]) -> Sequence[Receipt]:
        """Do as `_find_outcome` for a reply that does not say which condition was not met. Commits come first."""
        for number, (stream, version) in enumerate(places):
            if (item := await self._read(stream, version)) is not None:
                if number < len(self._commits):
                    return self._settle(self._commits[number], item)
                self._raise_conflict(stream, version, item)
        raise self._unknown("a condition was not met, and it is not known which")

    async def _require(self, stream: str, version: int) -> Stored:
        """Return the item that a condition has met, if the endpoint did not return it."""
        if (item := await self._read(stream, version)) is None:
            raise self._unknown("the stored item is not found")
        return item

    async def _read(self, stream: str, version: int) -> Stored | None:
        try:
            return await self._partitions.get(stream, version)
        except StoreError as error:  # not a definite failure: the commits may be stored
            raise self._unknown(type(error).__name__) from error

    def _raise_conflict(self, stream: str, version: int, item: Stored) -> NoReturn:
        self._used.conflicts = 1
        raise ConflictError(stream, version - 1, version, self._items.to_commit(item, stream))

    def _unknown(self, reason: str) -> StoreError:
        if not self._commits:
            return StoreUnavailable(f"the guards could not be checked ({reason}); try again later")
        return TransactionOutcomeUnknown(self._commits, self._guards, reason)

    def _condition(self) -> dict[str, Any]:
        return {
            "TableName": self._table.name,
            "ConditionExpression": "attribute_not_exists(#pk)",
            "ExpressionAttributeNames": {"#pk": self._items.partition_key},
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }


def _make_token(actions: Sequence[Action]) -> str:
    """Return a token that is the same for the same actions, and has the commit ids in it.

    The service answers a repetition of it within ten minutes with the outcome of the first one. It saves a look at the
    stored items, and nothing depends on it.
    """
    return str(UUID(bytes=sha256(msgspec.json.encode(actions)).digest()[:16]))


def _check_inline(actions: Sequence[Action]) -> None:
    """Raise ValueError for an action that is not a Put, an Update or a Delete, or that has a condition.

    A condition that is not met now may be met later. So it would prove nothing about an earlier try.
    """
    for action in actions:
        [(kind, request)] = action.items() if len(action) == 1 else [("", {})]
        if kind not in _INLINE or "ConditionExpression" in request:
            raise ValueError(
                f"an inline action is a dict with one of {', '.join(sorted(_INLINE))}, without a condition"
            )
