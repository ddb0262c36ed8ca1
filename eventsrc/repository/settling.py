"""Outcomes of appends: those that stay unknown, and how to settle them."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import msgspec

from ..aggregates.aggregate import Aggregate, Journal, adopt, journal_of
from ..aggregates.commands import AppliedCommand
from ..errors import (
    CommitOutcomeUnknown,
    ConflictError,
    EventsrcError,
    IdempotencyError,
    StoreClosed,
    StoredDataError,
    StoreError,
    StoreUnavailable,
    TransactionOutcomeUnknown,
    WrongStore,
)
from ..store import Commit, Receipt, Store
from ..stores.feed import Feed
from ..stores.reading import check_commit
from ..stores.transacting import Guard
from ..stream_id import category_of
from .refusal import check_refused

A = TypeVar("A", bound=Aggregate)


class SentTogether(msgspec.Struct, frozen=True):
    """A transaction, in the place of the store in `Journal.sent_to`: its drafts must not be sent one by one."""

    commits: tuple[Commit, ...]
    guards: tuple[Guard, ...]
    sent_by: object  # can settle it

    def to_error(self, reason: str = "", has_inline: bool = False) -> TransactionOutcomeUnknown:
        """Return the error for the outcome that is not known."""
        error = TransactionOutcomeUnknown(self.commits, self.guards, reason, has_inline)
        error.sent_to = self.sent_by
        return error


async def append(store: Store, commit: Commit, ambiguous: bool) -> Receipt:
    """Append a commit. If `ambiguous`, an earlier try may have stored it, and a failure of the store proves nothing.

    Raises as `Store.append`.
    """
    try:
        return await store.append(commit)
    except CommitOutcomeUnknown as unknown:
        unknown.sent_to = store
        raise
    except StoreError as error:
        if ambiguous:
            raise _unknown(commit, store) from error
        raise


async def check_store(store: Store, journal: Journal) -> None:
    """Raise WrongStore unless an object, and its commit of unknown outcome, are of this store.

    Raises TransactionOutcomeUnknown if that commit is one of a transaction, which is settled as a whole.
    """
    if journal.draft is not None and isinstance(journal.sent_to, SentTogether):
        raise journal.sent_to.to_error("the object was not saved")
    if journal.store is not None and journal.store is not store:
        await check_commit(store, journal.stream, journal.version, journal.commit_id)
    if journal.draft is not None:
        await _check_sent(store, journal.draft, journal.sent_to)


async def _check_sent(store: Store, commit: Commit, sent_to: object) -> None:
    """Raise WrongStore if a commit was sent to another store, or to a closed one that may be another."""
    if sent_to is None or sent_to is store:
        return
    if isinstance(store, Feed) and isinstance(sent_to, Feed):
        with suppress(StoreClosed):
            if await sent_to.identity() == await store.identity():
                return
    raise WrongStore(commit.stream, commit.version, sent=True)


def _unknown(commit: Commit, store: Store | None, reason: str = "") -> CommitOutcomeUnknown:
    found = CommitOutcomeUnknown(commit, reason)
    found.sent_to = store
    return found


def find_applied(commit: Commit, error: EventsrcError) -> AppliedCommand | None:
    """Return the command of the winner of a conflict if it has the command id of this commit, otherwise None.

    Raises CommandRefused if that command has refused for good.
    """
    winner = error.winner if isinstance(error, ConflictError) else None
    if winner is None or winner.command_id is None or winner.command_id != commit.command_id:
        return None
    if winner.command_digest == commit.command_digest:
        check_refused(winner)
    return AppliedCommand.of(winner)


def explain_cancellation(sent: Commit | None, store: Store | None = None) -> StoreError:
    """Return the cause of a CancelledError: what `settle` needs to know about the call that was cancelled."""
    if sent is None:
        return StoreUnavailable("cancelled before a commit was sent")
    return _unknown(sent, store, "cancelled")


async def resolve_duplicate(
    load: Callable[[str], Awaitable[A]], aggregate: A, applied: AppliedCommand, draft: Commit
) -> Receipt:
    """Check that the applied command is the one in the draft, and give the object the stored state."""
    receipt = _to_receipt(draft, applied)
    stored = await load(aggregate.id)
    if len(journal_of(aggregate).uncommitted) > draft.events:  # `adopt` would lose later events
        raise ConflictError(draft.stream, draft.version - 1, stored.version)
    adopt(aggregate, stored)
    return receipt


def _to_receipt(commit: Commit, applied: AppliedCommand) -> Receipt:
    """Return the receipt of a commit whose command was applied by another one. Raises IdempotencyError."""
    if applied.digest != commit.command_digest:
        raise IdempotencyError(commit.stream, commit.command_id or "", applied.version)
    return Receipt(commit.stream, applied.version, None, duplicate=True)


async def settle(store: Store, category: str, error: BaseException) -> Receipt | None:
    """Settle the outcome of the call that raised this error. Raises as `Repository.settle`, and CommandRefused."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, EventsrcError):
        cause = cause.__cause__  # TimeoutError, then CancelledError
    if cause is None:
        raise ValueError(f"{type(error).__name__} has no outcome; pass the error that `save` or `execute` raised")
    if not isinstance(cause, CommitOutcomeUnknown):
        return None
    if isinstance(cause, TransactionOutcomeUnknown):
        raise ValueError("the error is of a transaction; call `await eventsrc.transactions.settle(store, error)`")
    if category_of((commit := cause.commit).stream) != category:
        raise ValueError(f"{commit.stream} is not of the category {category}; call `settle` of its own repository")
    await _check_sent(store, commit, cause.sent_to)
    try:
        receipt = await append(store, commit, ambiguous=True)
    except (ConflictError, StoredDataError) as other:  # another commit has the version
        if (applied := find_applied(commit, other)) is None:
            return None
        return _to_receipt(commit, applied)
    except CancelledError as cancelled:
        raise cancelled from cause
    check_refused(commit)
    return receipt
