"""Commits to several streams that are stored together or not at all, with guards on streams that were only read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from ..errors import ConflictError, TransactionTooLarge
from ..store import MAX_VERSION, Commit, Receipt
from ..stream_id import check_stream
from ..usage import Usage
from .limits import MAX_COMMIT_BYTES, check_commit, item_size

MAX_STREAMS = 100
"""The limit of a DynamoDB transaction, in actions. It holds in every store, so that what one store accepts is accepted
by all."""

MAX_BYTES = 4 * 1024 * 1024
"""The limit of the items of a DynamoDB transaction together."""

D_co = TypeVar("D_co", covariant=True)


class Guard(NamedTuple):
    """The condition that a stream is still at this version. Version 0: it does not exist."""

    stream: str
    version: int


@runtime_checkable
class Transacting(Protocol[D_co]):
    """A store that stores commits to several streams together. `D_co` is what it passes to inline projections."""

    async def append_all(
        self,
        commits: Sequence[Commit],
        guards: Sequence[Guard] = (),
        *,
        inline: Callable[[D_co], None] | None = None,
    ) -> Sequence[Receipt]:
        """Store all these commits if each has the next version of its stream and no guarded stream has moved.

        The outcome is exact, as that of `Store.append`: all are stored, or none is. There is a receipt for each, in
        their order; `usage` on each of them is that of the whole call.

        - On return they are stored once and durably, by this call or by an earlier one with the same commits.
        - After a cancellation the outcome is unknown. Send the same commits and guards again to learn it.
        - Without commits, only the guards are checked, all at one moment.
        - With a guard, the stream must have been read at that version. DynamoDB does not notice a guard that is ahead
          of its stream, because it looks for the next version only.
        - `inline` is called with the store's means to write a read model in the same transaction: at most once for
          commits that are stored, unless an earlier try wrote nothing.

        Raises:
            ConflictError: a stream has moved, the first of the commits or of the guards that did; nothing is stored.
            CommitTooLarge: one commit is beyond the limit; nothing was sent.
            TransactionTooLarge: there are more than 100 streams, or 4 MiB; nothing was sent.
            TransactionOutcomeUnknown: there was no definite answer before the deadline.
            TransactionsRefused: the table has no transactions.
            ValueError: a stream is given twice, or nothing is given.
        """
        ...


def check_transaction(commits: Sequence[Commit], guards: Sequence[Guard], limit: int = MAX_COMMIT_BYTES) -> None:
    """Raise unless these can be stored together; `limit` is that of each commit in bytes.

    Raises:
        CommitTooLarge, TransactionTooLarge: beyond a limit.
        InvalidStreamId, TypeError, ValueError: a stream, a version, an id or a time is invalid; a stream is given
            twice, or nothing is given.
    """
    streams = [*[commit.stream for commit in commits], *[guard.stream for guard in guards]]
    for stream in streams:
        check_stream(stream)
    for commit in commits:
        check_commit(commit, limit)
    for guard in guards:
        check_guard(guard)
    if not streams:
        raise ValueError("a transaction has neither commits nor guards; give it one at least")
    if len(set(streams)) < len(streams):
        twice = next(stream for stream in streams if streams.count(stream) > 1)
        raise ValueError(f"{twice} is in the transaction twice; give each stream one commit, or one guard")
    check_total(streams[0], len(streams), sum(map(item_size, commits)))


def check_total(stream: str, actions: int, size: int) -> None:
    """Raise TransactionTooLarge beyond the limits of all transactions. `stream` is the first one, for the message."""
    if actions > MAX_STREAMS:
        raise TransactionTooLarge(stream, actions, MAX_STREAMS, "streams")
    if size > MAX_BYTES:
        raise TransactionTooLarge(stream, size, MAX_BYTES, "bytes")


def check_guard(guard: Guard) -> None:
    """Raise TypeError or ValueError unless a stream can be at this version, and can move from it."""
    if type(guard.version) is not int:
        raise TypeError(f"the version of a guard must be an int, not {type(guard.version).__name__}")
    if not 0 <= guard.version < MAX_VERSION:
        raise ValueError(f"{guard.version} is not the version of a guard; they run from 0 to {MAX_VERSION - 1}")


def find_outcome(
    commits: Sequence[Commit],
    guards: Sequence[Guard],
    used: Usage,
    head_of: Callable[[str], int],
    commit_at: Callable[[str, int], Commit | None],
) -> list[Receipt] | None:
    """Return the receipts of commits that are stored already, or None if they may be stored now.

    For stores that can look at all streams at one moment: `head_of` returns the last version of a stream, and
    `commit_at` a commit. Adds the outcome to `used`. Raises ConflictError.
    """
    heads = {commit.stream: head_of(commit.stream) for commit in commits}
    heads |= {guard.stream: head_of(guard.stream) for guard in guards}
    if commits and all(heads[commit.stream] >= commit.version for commit in commits):
        standing = [commit_at(commit.stream, commit.version) for commit in commits]
        if all(found is not None and found.id == commit.id for commit, found in zip(commits, standing, strict=True)):
            return make_receipts([found for found in standing if found is not None], used)
    for stream, version in ((commit.stream, commit.version - 1) for commit in commits):
        check_head(stream, version, heads[stream], commit_at, used)
    for guard in guards:
        check_head(guard.stream, guard.version, heads[guard.stream], commit_at, used)
    return None


def check_head(
    stream: str, expected: int, head: int, commit_at: Callable[[str, int], Commit | None], used: Usage
) -> None:
    """Raise ConflictError unless the stream is at this version."""
    if head != expected:
        used.conflicts = 1
        winner = commit_at(stream, expected + 1) if head > expected else None
        raise ConflictError(stream, expected, winner.version if winner is not None else head, winner)


def make_receipts(commits: Sequence[Commit], used: Usage) -> list[Receipt]:
    """Return the receipts of stored commits, and add their bytes to `used`."""
    used.bytes_written = sum(commit.size for commit in commits)
    return [Receipt(each.stream, each.version, each.id, each.events, each.position, usage=used) for each in commits]
