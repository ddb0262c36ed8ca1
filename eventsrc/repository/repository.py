"""The repository: load, fold and save aggregates, execute commands, read the history."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, TypeVarTuple, cast, overload

from ..aggregates.aggregate import Aggregate, journal_of
from ..aggregates.declaration import declaration_of, describe_other
from ..concurrency import load_all
from ..errors import AggregateNotFound, CommitOutcomeUnknown, EventsrcError, IdempotencyError, StreamCorrupt, kind_of
from ..log import log
from ..store import OVERHEAD, Commit, Receipt, Store
from ..stores.reading import check_contiguous, read_without_gaps
from ..stream_id import stream_id
from .cache import Cache, CachePolicy, CacheUse
from .drafting import make_draft, note_stored
from .execution import Executed, Steps, Terms
from .executor import Executor
from .folding import fold_in_parts
from .settling import append, check_store, explain_cancellation, find_applied, resolve_duplicate, settle
from .snapshots import SnapshotPolicy, Snapshots
from .time_travel import Recorded, load_as_of, read_history

A = TypeVar("A", bound=Aggregate)
T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")

_DECODED_AT_ONCE = 128  # commits; larger runs are not faster


class Repository(Generic[A]):
    """Load and save the aggregates of one class, `aggregate_class`. It has nothing to close; the store has.

    `attempts` is how often `execute` tries to save before it raises ConflictError.
    """

    def __init__(
        self,
        aggregate: type[A],
        store: Store,
        *,
        snapshots: SnapshotPolicy = SnapshotPolicy(),  # noqa: B008  # frozen
        cache: CachePolicy = CachePolicy(),  # noqa: B008  # frozen
        attempts: int = 10,
    ) -> None:
        self._declaration = declaration_of(aggregate)
        if not isinstance(given := cast(object, store), Store):
            raise TypeError(f"{kind_of(given)} is not a store; give an object, such as SQLiteStore('bank.db')")
        if type(attempts) is not int or attempts < 1:
            raise ValueError(f"attempts is {attempts!r}; it must be an int of at least 1")
        self.aggregate_class = aggregate
        self.store = store
        self._snapshots = Snapshots(aggregate, store, snapshots)
        self._cache = Cache(cache, store.deadline)
        calls = self.load, self._fold, self._catch_up, self._save
        self._steps = Steps(aggregate, store, *calls, self._snapshots, self._cache, attempts)

    @property
    def cache_use(self) -> CacheUse:
        """Hits and misses of the cache of `execute`, and its size."""
        return self._cache.use

    async def load(self, id: str, *, version: int | None = None, at: datetime | None = None) -> A:
        """Return the aggregate as it is now, or as it was at a version or at a time with a zone, inclusive.

        Raises AggregateNotFound if there is no such commit, StoredDataError and StoreError.
        """
        stream = stream_id(self._declaration.category, id)
        if version is not None or at is not None:
            return await load_as_of(self.aggregate_class(id=id), self._fold, self.store, version, at)
        snapshot, commits = await self.store.load(stream)
        try:
            if snapshot is None:
                return await fold_in_parts(self._fold, self.aggregate_class(id=id), commits)
            if (aggregate := self._snapshots.restore(id, snapshot, commits)) is not None:
                return await fold_in_parts(self._fold, aggregate, commits[1:])
        except Exception as error:
            if not (gap := isinstance(error, StreamCorrupt)) and (snapshot is None or isinstance(error, EventsrcError)):
                raise
            reason = "a version is missing" if gap else f"a handler raised {type(error).__name__} after a snapshot"
            log.warning("%s: %s; reading all commits", stream, reason)
        commits = [commit async for commit in read_without_gaps(self.store, stream)]
        aggregate = await fold_in_parts(self._fold, self.aggregate_class(id=id), commits)
        return self._snapshots.mark_unused(snapshot, commits, aggregate)

    async def load_many(self, ids: Iterable[str], *, concurrency: int = 32) -> dict[str, A]:
        """Return the aggregates by id, in the order of `ids`, without ids that do not exist. An error cancels all."""
        return await load_all(self.load, ids, concurrency)

    async def save(
        self, aggregate: A, *, command_id: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Receipt:
        """Store the recorded events as one commit, with an exact outcome.

        - If nothing was recorded, nothing is written.
        - After any error the aggregate still has its events. A conflict is not retried: the caller has old state.
        - After CommitOutcomeUnknown or a cancellation, saving the same object again first settles that commit. Events
          recorded since then become a second commit.
        - If the `command_id` was applied before, nothing is written; the object gets the stored state (`duplicate`).

        Raises:
            ConflictError: another commit has the version.
            CommitOutcomeUnknown: the commit may or may not be stored; save the same object again.
            IdempotencyError: the command id was applied with other events.
            WrongStore: the object was loaded from, or saved to, another store or tenant.
            CommitTooLarge, StoreError: the events that are still `uncommitted` were not written.
        """
        return await self._save(aggregate, command_id, None, metadata)

    async def settle(self, error: BaseException) -> Receipt | None:
        """Settle a failed `save` or `execute`: return the receipt of its commit, or None if it is not stored.

        The commit is sent again under its id, so it is stored once, unless another commit has its version. After None
        it never will be stored: call `execute` again. `error` is what the call raised: an error of this library, the
        CancelledError of a cancelled call, or the TimeoutError that asyncio has made of that one.

        Raises:
            CommitOutcomeUnknown: there was no definite answer again; call `settle` again.
            IdempotencyError: the command id was applied with other content; this commit is not stored.
            CommandRefused: the commit is stored, and says that the command was refused for good.
            WrongStore: the commit was sent to another store; nothing was written.
            ValueError: the error does not say what was sent, or its commit is of another class.
        """
        return await settle(self.store, self._declaration.category, error)

    @overload
    async def execute(
        self, id: str, command: Callable[[A, *Ts], T], /, *args: *Ts, command_id: str
    ) -> Executed[T | None]: ...

    @overload
    async def execute(
        self, id: str, command: Callable[Concatenate[A, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    async def execute(  # type: ignore[misc]  # mypy finds no *args that take both P.args and *Ts
        self, id: str, command: Callable[..., Any], /, *args: Any, command_id: Any = None, **kwargs: Any
    ) -> Any:
        """Call `command(aggregate, *args)`, save, and return what the command returned.

        - It is linearizable (repository/execution.py). If another writer comes first, the command is called again on
          the new state, so it must have no effects except recording events. Each call sees the same arguments: copies.
        - The state is loaded, or remembered from the last call. With a remembered state the call takes one request.
        - Within a process, commands on the same id run one at a time.
        - With a `command_id` it returns `Executed`. A command that was applied before is not called again: the receipt
          is that of its commit, a `duplicate`. A stream remembers the latest 64 ids (`Aggregate.remembered_commands`);
          `executor(since=...)` finds older ones. One that raised, or recorded nothing, is decided again.

        Raises:
            Exception: the error that the command raised; nothing was saved.
            ConflictError: another writer came first in each of the `attempts`.
            IdempotencyError: the command id was applied with another command, or with other encoded arguments.
            Throttled, StoreError: as `save`; also if commands before it on this id took the store's deadline.
            TypeError: the command is not a function, awaits or yields, or is a method of one object; or an argument is
                an iterator, such as a generator.
        """
        executed = await self.executor(command_id=command_id).execute(id, command, *args, **kwargs)
        return executed.result if command_id is None else executed

    async def execute_with_receipt(
        self, id: str, command: Callable[Concatenate[A, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Executed[T]:
        """Do as `execute`, and return the command's result together with the receipt of the save."""
        return await self.executor().execute(id, command, *args, **kwargs)  # type: ignore[return-value]  # no command id

    def executor(
        self,
        *,
        command_id: str | None = None,
        since: int | None = None,
        create: bool = False,
        final: bool = False,
        content: Any = None,
    ) -> Executor[A]:
        """Return what executes commands on these terms, which `Executor` explains; ValueError if they contradict."""
        return Executor(self._steps, Terms(command_id, since, create, final, content))

    def history(self, id: str, *, after: int = 0, backward: bool = False) -> AsyncGenerator[Recorded]:
        """Yield commits above version `after` and their events, page by page. Raises StoredDataError, StoreError."""
        stream = stream_id(self._declaration.category, id)
        return read_history(self.store, self._declaration.codec, stream, after, backward)

    def _fold(self, aggregate: A, commits: Sequence[Commit]) -> A:
        """Apply the next commits. Raises StreamCorrupt if a version is missing, and StoredDataError."""
        journal, handlers = journal_of(aggregate), self._declaration.handlers
        check_contiguous(journal.stream, journal.version, commits)
        start = 0
        while start < len(commits):
            decoded, size = self._declaration.codec.decode_run(commits[start : start + _DECODED_AT_ONCE])
            run = commits[start : start + len(decoded)]
            start += len(run)
            with journal.handlers_running():
                for commit, events in zip(run, decoded, strict=True):
                    for event in events:
                        handlers[type(event)](aggregate, event)
                    if commit.command_id is not None:
                        journal.remember(commit, self.aggregate_class.remembered_commands)
            journal.advance_to(run[-1])
            journal.tail += size + OVERHEAD * len(run)
        journal.store = self.store
        if not journal.version:
            raise AggregateNotFound(journal.stream)
        return aggregate

    async def _save(
        self, aggregate: A, command_id: str | None, digest: bytes | None, metadata: Mapping[str, str] | None = None
    ) -> Receipt:
        if (given := type(aggregate)) is not self.aggregate_class:
            kind = self.aggregate_class
            raise TypeError(f"this repository saves {kind.__qualname__}, not {describe_other(kind, given)}")
        journal = journal_of(aggregate)
        if journal.saving:
            raise RuntimeError(f"{journal.stream} is being saved by another task; load one object per task")
        journal.saving, sent = True, journal.draft
        try:
            await check_store(self.store, journal)
            if (earlier := sent) is not None:  # its outcome is unknown, so it is settled first
                receipt = await self._append(aggregate, earlier)
                if receipt.duplicate or not journal.uncommitted:
                    return receipt
            elif not journal.uncommitted and (digest is None or metadata is None):
                return Receipt(journal.stream, journal.version, None)
            draft = make_draft(aggregate, command_id, digest, metadata)
            if command_id is not None and (applied := journal.commands.get(command_id)):
                if earlier is not None and earlier.command_id == command_id:  # later events are other content
                    raise IdempotencyError(journal.stream, command_id, applied.version)
                return await resolve_duplicate(self.load, aggregate, applied, draft)
            journal.draft, journal.sent_to, journal.ambiguous, sent = draft, self.store, False, draft
            return await self._append(aggregate, draft)
        except CancelledError as cancelled:
            raise cancelled from explain_cancellation(sent, self.store)
        finally:
            journal.saving = False

    async def _append(self, aggregate: A, draft: Commit) -> Receipt:
        """Append the draft. It stays in the journal as long as its outcome is unknown."""
        journal = journal_of(aggregate)
        ambiguous, journal.ambiguous = journal.ambiguous, True  # stays so if this is cancelled
        try:
            receipt = await append(self.store, draft, ambiguous)
        except CommitOutcomeUnknown:
            raise
        except EventsrcError as error:
            journal.draft = None
            if (applied := find_applied(draft, error)) is None:
                raise
            return await resolve_duplicate(self.load, aggregate, applied, draft)
        note_stored(aggregate, draft, self.store)
        await self._snapshots.after_save(aggregate)
        return receipt

    async def _catch_up(self, aggregate: A) -> None:
        newer = read_without_gaps(self.store, aggregate.stream, aggregate.version)
        await fold_in_parts(self._fold, aggregate, [commit async for commit in newer])


def steps_of(repository: Repository[A]) -> Steps[A]:
    """Return what a repository is made of. Other modules reach it only through this function."""
    return repository._steps  # noqa: SLF001  # this file owns it
