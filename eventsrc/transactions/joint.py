"""A transaction: aggregates that are loaded, changed and committed together."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar, cast, overload

from ..aggregates.aggregate import Aggregate, journal_of
from ..aggregates.commands import check_has_run
from ..aggregates.declaration import declaration_of, describe_other
from ..aggregates.event import Event
from ..errors import (
    AggregateNotFound,
    CommitOutcomeUnknown,
    ConflictError,
    TransactionOutcomeUnknown,
    WrongStore,
    kind_of,
)
from ..repository.drafting import make_draft, note_stored
from ..repository.execution import Steps
from ..repository.repository import Repository, steps_of
from ..repository.settling import SentTogether, check_store
from ..repository.time_travel import Recorded
from ..store import Receipt, Store
from ..stores.transacting import Guard, Transacting
from ..stream_id import stream_id

A = TypeVar("A", bound=Aggregate)
D = TypeVar("D")

Inline = Callable[[D, Sequence[Recorded]], None]
"""An inline projection: it is called with the store's means to write, and the commits with their events."""


class Member(NamedTuple):
    """An aggregate of a transaction, and the parts of its repository."""

    aggregate: Aggregate
    steps: Steps[Any]


class Transaction:
    """Aggregates of one store that are loaded through it, and committed together. `transaction(store)` makes one.

    - What was recorded on the aggregates of a transaction is stored as one commit for each stream: all or nothing.
    - Aggregates that were loaded and have not changed are guarded: nothing is stored if one of their streams has moved.
      So is the absence of an aggregate that was not found. Hence two transactions never decide on each other's past.
    - An object of a transaction belongs to one task at a time, as any aggregate. Several may be loaded concurrently.

    `receipts` are those of the commits, once they are stored, in the order in which aggregates were loaded or added.
    """

    def __init__(self, store: object, inline: Inline[Any] | None = None) -> None:
        if not isinstance(store, Transacting) or not isinstance(store, Store):
            raise TypeError(f"{kind_of(store)} has no transactions; give a store, such as SQLiteStore('bank.db')")
        self.receipts: Sequence[Receipt] = ()
        self._store: Any = store
        self._inline = inline
        self._members: dict[str, Member] = {}
        self._absent: set[str] = set()
        self._sent: tuple[SentTogether, list[Member], list[list[Event]]] | None = None  # of unknown outcome
        self._is_open = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            await self.commit()
        self.close()

    async def load(self, repository: Repository[A], id: str) -> A:
        """Return the aggregate as it is now, always the same object for an id.

        Raises:
            AggregateNotFound: there is no such aggregate. If the transaction commits, this was so at its moment.
            ValueError: the repository is of another store than the transaction.
            StoredDataError, StoreError: as `Repository.load`.
        """
        stream = self._check(repository, id)
        if stream not in self._members:
            if stream in self._absent:
                raise AggregateNotFound(stream)
            try:
                aggregate = await repository.load(id)
            except AggregateNotFound:
                self._absent.add(stream)
                raise
            if stream in self._absent:  # another task looked for it before it was created
                raise AggregateNotFound(stream)
            self._members.setdefault(stream, Member(aggregate, steps_of(repository)))
        return self._find(repository, stream)

    async def find(self, repository: Repository[A], id: str) -> A | None:
        """Do as `load`, but return None if there is no such aggregate."""
        try:
            return await self.load(repository, id)
        except AggregateNotFound:
            return None

    def add(self, repository: Repository[A], aggregate: A) -> A:
        """Add a new aggregate, or one that was loaded elsewhere, and return it.

        Raises:
            TypeError: the repository is of another aggregate class.
            ValueError: the transaction has another object of this stream, or the repository is of another store.
        """
        if (given := type(aggregate)) is not (kind := repository.aggregate_class):
            raise TypeError(f"this repository saves {kind.__qualname__}, not {describe_other(kind, given)}")
        stream = self._check(repository, aggregate.id)
        if self._members.setdefault(stream, Member(aggregate, steps_of(repository))).aggregate is not aggregate:
            raise ValueError(f"the transaction has another object of {stream}; use that one: `await tx.load(...)`")
        return aggregate

    async def commit(self) -> Sequence[Receipt]:
        """Store what was recorded, and end the transaction. `transaction` and `transact` call it.

        - If nothing was recorded, nothing is written. If several streams were read, they are checked: what was read was
          true at one moment.
        - After any error the aggregates still have their events.

        Raises:
            ConflictError: a stream has moved since it was read: load again, and decide again.
            TransactionOutcomeUnknown: all of it may be stored, or nothing; call `settle`. It is the cause of a
                CancelledError, too.
            WrongStore: an aggregate that was added is of another store.
            CommitTooLarge, TransactionTooLarge, TransactionsRefused, StoreError: nothing was written.
        """
        self.close()
        changed = [member for member in self._members.values() if journal_of(member.aggregate).uncommitted]
        if not changed:
            await self.check()
            return self.receipts
        for member in changed:
            if journal_of(member.aggregate).saving:
                stream = member.aggregate.stream
                raise RuntimeError(f"{stream} is being saved by another task; load one object per task")
        try:
            for member in changed:
                journal_of(member.aggregate).saving = True
            await self._prepare(changed)
            return await self._send()
        finally:
            for member in changed:
                journal_of(member.aggregate).saving = False

    async def check(self) -> None:
        """Check that all that was read was true at one moment. It needs no request if one stream was read at most.

        Nothing was read of a new aggregate that was added, unless it was looked for before.

        Raises ConflictError if a stream has moved, TransactionTooLarge if too many were read, and StoreError.
        """
        items = self._members.items()
        guards = self._guards([each for stream, each in items if each.aggregate.version or stream in self._absent])
        if len(guards) > 1:
            await self._store.append_all((), guards)

    async def settle(self) -> Sequence[Receipt] | None:
        """Settle a commit whose outcome is not known, by sending it again: return its receipts, or None.

        The aggregates are then as after a commit, or as after a conflict. None: it is not stored, and never will be.

        Raises:
            TransactionOutcomeUnknown: there was no definite answer again; call `settle` again.
            ValueError: it was not committed yet.
        """
        if self._is_open:
            raise ValueError("the transaction has not been committed; there is nothing to settle")
        if self._sent is None:
            return self.receipts or None
        try:
            return await self._send(is_ambiguous=True)
        except ConflictError:
            return None

    def close(self) -> None:
        """End the transaction: aggregates cannot be loaded any more."""
        self._is_open = False

    def _check(self, repository: Repository[Any], id: str) -> str:
        """Return the stream of an aggregate."""
        if not self._is_open:
            raise RuntimeError("the transaction has ended; begin a new one, and load the aggregates again")
        if steps_of(repository).store is not self._store:
            name = repository.aggregate_class.__qualname__
            raise ValueError(f"the repository of {name} has another store object than the transaction; use one for all")
        return stream_id(declaration_of(repository.aggregate_class).category, id)

    def _find(self, repository: Repository[A], stream: str) -> A:
        aggregate = self._members[stream].aggregate
        if type(aggregate) is not (kind := repository.aggregate_class):
            found = type(aggregate).__qualname__
            raise TypeError(f"{stream} is a {found} in this transaction, not {kind.__qualname__}")
        return aggregate

    def _guards(self, members: Sequence[Member]) -> list[Guard]:
        """Return the guards of these members, and of what was not found."""
        guards = [Guard(each.aggregate.stream, each.aggregate.version) for each in members]
        return guards + [Guard(stream, 0) for stream in sorted(self._absent - self._members.keys())]

    async def _prepare(self, changed: list[Member]) -> None:
        """Make the drafts. The journals keep them until the outcome is known."""
        for aggregate, _ in changed:
            await check_store(self._store, journal := journal_of(aggregate))
            if journal.draft is not None:
                raise CommitOutcomeUnknown(journal.draft, "an earlier save of the object")
        drafts = [make_draft(aggregate) for aggregate, _ in changed]
        events = [list(aggregate.uncommitted) for aggregate, _ in changed]
        unchanged = [member for member in self._members.values() if member not in changed]
        together = SentTogether(tuple(drafts), tuple(self._guards(unchanged)), self)
        for (aggregate, _), draft in zip(changed, drafts, strict=True):
            journal = journal_of(aggregate)
            journal.draft, journal.sent_to, journal.ambiguous = draft, together, True
        self._sent = together, changed, events

    async def _send(self, is_ambiguous: bool = False) -> Sequence[Receipt]:
        """Send the drafts. If `is_ambiguous`, an earlier try may have stored them."""
        assert self._sent is not None
        together, members, events = self._sent
        inline = self._inline
        recorded = [Recorded(commit, each) for commit, each in zip(together.commits, events, strict=True)]
        options: dict[str, Any] = {"inline": partial(_call, inline, recorded)} if inline is not None else {}
        try:
            receipts: Sequence[Receipt] = await self._store.append_all(together.commits, together.guards, **options)
        except CancelledError as cancelled:
            raise cancelled from together.to_error("cancelled", inline is not None)
        except TransactionOutcomeUnknown as unknown:
            raise together.to_error(unknown.reason, inline is not None) from unknown.__cause__
        except Exception as error:
            if is_ambiguous and not isinstance(error, ConflictError):
                raise together.to_error(type(error).__name__, inline is not None) from error
            for aggregate, _ in members:
                journal_of(aggregate).draft = None
            self._sent = None
            raise
        self._sent, self.receipts = None, receipts
        for (aggregate, _), draft in zip(members, together.commits, strict=True):
            note_stored(aggregate, draft, self._store)
        try:
            for aggregate, steps in members:
                await steps.snapshots.after_save(aggregate)
        except CancelledError as cancelled:
            raise cancelled from together.to_error("cancelled", inline is not None)
        return receipts


def _call(inline: Inline[Any], recorded: Sequence[Recorded], writes: Any) -> None:
    """Call an inline projection. Raises its error, or TypeError if it has not run because it awaits."""
    check_has_run(inline, cast(object, inline(writes, recorded)), "an inline projection")


@overload
def transaction(store: Store) -> Transaction: ...


@overload
def transaction(store: Transacting[D], *, inline: Inline[D]) -> Transaction: ...


def transaction(store: object, *, inline: Inline[Any] | None = None) -> Transaction:
    """Commit what a block records on several aggregates of this store, at its end, all of it or nothing.

    ```python
    async with transaction(store) as tx:
        source, target = await tx.load(accounts, "a-1"), await tx.load(accounts, "a-2")
        source.withdraw(30)
        target.deposit(30)
    ```

    After an exception in the block, nothing is stored. `inline` writes a read model in the same transaction:
    docs/transactions.md. Raises as `Transaction.commit`. `transact` decides again after a conflict.

    Raises TypeError if the store has no transactions. MemoryStore, SQLiteStore and DynamoDBStore have them.
    """
    return Transaction(store, inline)


async def settle(store: Store, error: BaseException) -> Sequence[Receipt] | None:
    """Settle a transaction that failed: return its receipts, or None if it is not stored.

    The same commits and guards are sent again, so all are stored once, or none. After None they never will be stored.
    `error` is what `transact` or `transaction` raised, or its cause, also from another process.

    Raises:
        TransactionOutcomeUnknown: there was no definite answer again; call `settle` again.
        WrongStore: it was sent to another store of this process.
        ValueError: the error is not of a transaction, or the inline projection of it is in another process.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, TransactionOutcomeUnknown):
        cause = cause.__cause__
    if cause is None:
        raise ValueError(f"{type(error).__name__} is not of a transaction whose outcome is not known")
    if isinstance(tx := cause.sent_to, Transaction):
        return await _settle_own(tx, store, cause)
    if cause.has_inline:
        raise ValueError("the inline projection of the transaction is in another process; settle it there")
    if not isinstance(store, Transacting):
        raise TypeError(f"{kind_of(store)} has no transactions; give the store that the transaction was sent to")
    try:
        receipts: Sequence[Receipt] = await store.append_all(cause.commits, [Guard(*guard) for guard in cause.guards])
        return receipts
    except ConflictError:
        return None
    except TransactionOutcomeUnknown:
        raise
    except Exception as failure:
        raise TransactionOutcomeUnknown(cause.commits, cause.guards, type(failure).__name__) from failure


async def _settle_own(tx: Transaction, store: object, unknown: TransactionOutcomeUnknown) -> Sequence[Receipt] | None:
    if store is not tx._store:  # noqa: SLF001  # of this file
        raise WrongStore(unknown.stream, unknown.version, sent=True)
    return await tx.settle()
