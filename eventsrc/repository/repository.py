"""Load, save, execute: the one module that knows aggregates, the codec and a store."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, TypeVarTuple, overload

from ..aggregates.aggregate import Aggregate
from ..aggregates.codec import join, pack
from ..aggregates.commands import AppliedCommand, check_command_id, content_of, digest_of, has_run
from ..aggregates.declaration import declaration_of
from ..aggregates.event import Event, tag_of
from ..concurrency import load_all
from ..errors import (
    AggregateNotFound,
    CommitOutcomeUnknown,
    ConflictError,
    EventsrcError,
    IdempotencyError,
    StoreError,
    StreamCorrupt,
)
from ..log import log
from ..store import OVERHEAD, Commit, Receipt, Store
from ..stores.reading import check_contiguous, read_backward_without_gaps, read_without_gaps
from ..stream_id import stream_id
from ..tracing import current_trace
from ..uuid7 import uuid7
from .cache import Cache, CachePolicy, CacheUse
from .execution import Execution
from .snapshots import SnapshotPolicy, Snapshots
from .time_travel import load_as_of

A = TypeVar("A", bound=Aggregate)
T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")

_RUN = 128  # commits decoded at once; more saves nothing


class Recorded(NamedTuple):
    """A stored commit with its events, upcast."""

    commit: Commit
    events: list[Event]


class Repository(Generic[A]):
    """Loads and saves the aggregates of one class. It holds no connection and needs no closing; the store does.

    `attempts` bounds how often `execute` decides anew when other writers come first.
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
        if type(attempts) is not int or attempts < 1:
            raise ValueError(f"attempts is {attempts!r}; it is a number from 1 on")
        self._class = aggregate
        self._store = store
        self._attempts = attempts
        self._snapshots = Snapshots(aggregate, store, snapshots)
        self._cache = Cache(cache)

    @property
    def cache_use(self) -> CacheUse:
        """How often `execute` found the state it needed in memory, and what is held there."""
        return self._cache.use

    async def load(self, id: str, *, version: int | None = None, at: datetime | None = None) -> A:
        """The aggregate as it is now, or as it was at a version or a time (with a zone; commits up to and including).

        Raises AggregateNotFound if there is no such commit, and StoredDataError or StoreError.
        """
        stream = stream_id(self._declaration.category, id)
        if version is not None or at is not None:
            return await load_as_of(self._class(id=id), self._fold, self._store, version, at)
        snapshot, commits = await self._store.load(stream)
        try:
            if snapshot is None:
                return self._fold(self._class(id=id), commits)
            if (aggregate := self._snapshots.restore(id, snapshot, commits)) is not None:
                return self._fold(aggregate, commits[1:])
        except StreamCorrupt:
            log.warning("%s: a version is missing; reading it again", stream)
        commits = [commit async for commit in read_without_gaps(self._store, stream)]
        return self._snapshots.pass_over(snapshot, commits, self._fold(self._class(id=id), commits))

    async def load_many(self, ids: Iterable[str], *, concurrency: int = 32) -> dict[str, A]:
        """The aggregates with these ids, in their order, so many loads at once; ids that have none are left out.

        Raises what `load` raises beside AggregateNotFound; the loads under way are then cancelled.
        """
        return await load_all(self.load, ids, concurrency)

    async def save(
        self, aggregate: A, *, command_id: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Receipt:
        """Store what the aggregate recorded as one commit, with an exact outcome.

        Nothing recorded, nothing written. Conflicts are raised, never retried: the caller holds stale state. After
        any error the aggregate still holds its events. After CommitOutcomeUnknown or a cancellation, saving the same
        object again settles the outcome first; events recorded since then make a second commit.

        With a `command_id` that the stream has applied before, nothing is written, the object takes on the stored
        state, and the receipt says `duplicate`; IdempotencyError if the events are not those it was applied with.
        """
        return await self._save(aggregate, command_id, None, metadata)

    @overload
    async def execute(
        self, id: str, command: Callable[Concatenate[A, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    @overload
    async def execute(self, id: str, command: Callable[[A, *Ts], T], /, *args: *Ts, command_id: str) -> T | None: ...

    async def execute(  # type: ignore[misc]  # mypy finds no *args that take both P.args and *Ts
        self, id: str, command: Callable[..., Any], /, *args: Any, command_id: Any = None, **kwargs: Any
    ) -> Any:
        """Call `command(aggregate, *args)` and save; decide anew on a conflict. Returns what the command returned.

        The state is loaded, or remembered from the last call: then all this takes one request. It is linearizable all
        the same (repository/execution.py). Within a process, commands on one id are decided one after the other.

        The command may run several times, so it must have no effects of its own; async ones and generators are
        refused with TypeError. What it raises comes out, with nothing saved. After `attempts` conflicts ConflictError
        comes out.

        With a `command_id`, a command that was applied before is not run again: the result is None. A stream knows the
        latest ids (Aggregate.remembered_commands). Under one id, other content is an IdempotencyError: the command's
        name and its arguments, given by position; those that msgspec cannot encode count by their type.
        """
        digest = digest_of(content_of(command, args, kwargs)) if command_id is not None else None

        def decide(aggregate: A) -> Any:
            return has_run(command, command(aggregate, *args, **kwargs))

        async with self._cache.turn(stream_id(self._declaration.category, id)):
            decision = Execution(self, self._snapshots, self._cache, id, decide, command_id, digest)
            return await decision.run(self._attempts)

    async def history(self, id: str, *, after: int = 0, backward: bool = False) -> AsyncGenerator[Recorded]:
        """The commits of an aggregate with their events, oldest first (newest first if `backward`), paged.

        `after` leaves out versions up to and including it. Raises StoredDataError or StoreError.
        """
        stream = stream_id(self._declaration.category, id)
        commits = (read_backward_without_gaps if backward else read_without_gaps)(self._store, stream, max(after, 0))
        async with aclosing(commits):
            async for commit in commits:
                yield Recorded(commit, self._declaration.codec.decode(commit.payload, stream, commit.version))

    def _fold(self, aggregate: A, commits: Sequence[Commit]) -> A:
        """Apply the commits that follow. Raises StreamCorrupt where one is missing, and StoredDataError."""
        journal, handlers = aggregate._journal, self._declaration.handlers
        check_contiguous(journal.stream, journal.version, commits)
        for start in range(0, len(commits), _RUN):
            run = commits[start : start + _RUN]
            decoded, size = self._declaration.codec.decode_run(run)
            with journal.apply():
                for commit, events in zip(run, decoded, strict=True):
                    for event in events:
                        handlers[type(event)](aggregate, event)
                    if commit.command_id is not None:
                        journal.remember(commit, self._class.remembered_commands)
            journal.advance_to(run[-1])
            journal.tail += size + OVERHEAD * len(run)
        if not journal.version:
            raise AggregateNotFound(journal.stream)
        return aggregate

    async def _save(
        self, aggregate: A, command_id: str | None, digest: bytes | None, metadata: Mapping[str, str] | None
    ) -> Receipt:
        if type(aggregate) is not self._class:
            raise TypeError(f"this repository saves {self._class.__qualname__}, not {type(aggregate).__qualname__}")
        journal = aggregate._journal
        if journal.saving:
            raise RuntimeError(f"{journal.stream} is being saved by another task; an object belongs to one at a time")
        journal.saving = True
        try:
            return await self._settle(aggregate, command_id, digest, metadata)
        finally:
            journal.saving = False

    async def _settle(
        self, aggregate: A, command_id: str | None, digest: bytes | None, metadata: Mapping[str, str] | None
    ) -> Receipt:
        journal = aggregate._journal
        receipt = Receipt(journal.stream, journal.version, None)
        if (settled := journal.draft) is not None:
            receipt = await self._append(aggregate, settled)
            journal = aggregate._journal
        if not journal.uncommitted:
            return receipt
        draft = self._draft(aggregate, command_id, digest, metadata)
        if command_id is not None and (applied := journal.commands.get(command_id)):
            if settled is not None and settled.command_id == command_id:  # what was recorded since is other content
                raise IdempotencyError(journal.stream, command_id, applied.version)
            return await self._already(aggregate, command_id, applied, draft)
        journal.draft, journal.unsure = draft, False
        return await self._append(aggregate, draft)

    def _draft(
        self, aggregate: A, command_id: str | None, digest: bytes | None, metadata: Mapping[str, str] | None
    ) -> Commit:
        journal, trace = aggregate._journal, current_trace().merged(metadata)
        events, version = aggregate.uncommitted, journal.version + 1
        if command_id is not None:
            check_command_id(command_id)
            digest = digest or digest_of(events)
        return Commit(
            stream=journal.stream,
            version=version,
            id=uuid7(),
            time=max(time.time_ns() // 1000, journal.time),
            events=len(events),
            tags=tuple(dict.fromkeys(tag_of(type(event)) for event in events)),
            payload=pack(join(journal.uncommitted), journal.stream, version),
            correlation_id=trace.correlation_id,
            causation_ids=trace.causation_ids,
            command_id=command_id,
            command_digest=digest,
            metadata=trace.metadata,
        )

    async def _append(self, aggregate: A, draft: Commit) -> Receipt:
        """Append the draft, which stays with the aggregate exactly as long as its outcome is unknown."""
        journal = aggregate._journal
        unsure, journal.unsure = journal.unsure, True  # a cancellation leaves it so
        try:
            receipt = await self._store.append(draft)
        except ConflictError as conflict:
            journal.draft = None
            winner = conflict.winner
            if winner is None or winner.command_id is None or winner.command_id != draft.command_id:
                raise
            return await self._already(aggregate, winner.command_id, AppliedCommand.of(winner), draft)
        except CommitOutcomeUnknown:
            raise
        except EventsrcError as error:
            if unsure and isinstance(error, StoreError):
                raise CommitOutcomeUnknown(draft.stream, draft.version, str(draft.uuid)) from error
            journal.draft = None
            raise
        journal.draft = None
        del journal.uncommitted[: draft.events]
        journal.advance_to(draft)
        journal.tail += draft.size
        journal.remember(draft, self._class.remembered_commands)
        await self._snapshots.after_save(aggregate)
        return receipt

    async def _already(self, aggregate: A, command_id: str, applied: AppliedCommand, draft: Commit) -> Receipt:
        """The command had been applied: check that it was this one, and give the object the stored state."""
        if applied.digest != draft.command_digest:
            raise IdempotencyError(draft.stream, command_id, applied.version)
        stored = await self.load(aggregate.id)
        if len(aggregate._journal.uncommitted) > draft.events:  # recorded since; taking on that state would lose them
            raise ConflictError(draft.stream, draft.version - 1, stored.version)
        for name in aggregate.__struct_fields__:
            setattr(aggregate, name, getattr(stored, name))
        aggregate._journal = stored._journal
        return Receipt(draft.stream, applied.version, None, duplicate=True)

    async def _catch_up(self, aggregate: A) -> None:
        """Fold what is newer than the aggregate."""
        journal = aggregate._journal
        self._fold(
            aggregate, [commit async for commit in read_without_gaps(self._store, journal.stream, journal.version)]
        )
