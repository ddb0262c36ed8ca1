"""The optimistic loop of `execute`: decide on a known state, save, and decide again if another writer came first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from ..aggregates.aggregate import Aggregate, journal_of
from ..aggregates.commands import AppliedCommand, CommandCall, compute_digest
from ..errors import AggregateNotFound, CommandRefused, ConflictError, EventsrcError, IdempotencyError
from ..store import MAX_VERSION, Commit, Receipt, Store
from ..stores.reading import read_without_gaps
from .cache import Cache, Frozen
from .refusal import REFUSED, check_refused, is_refusal, to_metadata
from .settling import explain_cancellation
from .snapshots import Snapshots

A = TypeVar("A", bound=Aggregate)
T = TypeVar("T")

_READS = 4
"""After a conflict, as many executions on the id read first. They cost as much as the conflict: a read unit is billed
at a fifth of a write unit, and a refused write as a good one."""


class Executed(NamedTuple, Generic[T]):
    """What a command returned, and the receipt of the save: `result, receipt = executed`.

    - If the command recorded nothing, the receipt has no `commit_id`, and the version that the command saw.
    - If the command id was applied before, the receipt is a `duplicate`: it has the version, the id and the number of
      events of the commit that was stored then. `result` is None, as results are not stored; read the events of the
      commit with `history(id, after=receipt.version - 1)`, if you need more.
    """

    result: T
    receipt: Receipt

    @property
    def duplicate(self) -> bool:
        """Whether the command was applied before, and was not called now."""
        return self.receipt.duplicate


class Terms(NamedTuple):
    """How a command is executed: see `Repository.executor`."""

    command_id: str | None = None
    since: int | None = None
    create: bool = False
    final: bool = False
    content: Any = None


class Steps(msgspec.Struct, Generic[A], frozen=True):
    """The functions that an execution calls, and the cache of states between executions."""

    aggregate: Callable[..., A]  # the class: a new aggregate
    store: Store
    load: Callable[[str], Awaitable[A]]  # read the latest state of an id
    fold: Callable[[A, Sequence[Commit]], A]  # apply the next commits
    catch_up: Callable[[A], Awaitable[None]]  # read and apply newer commits
    save: Callable[[A, str | None, bytes | None, Mapping[str, str] | None], Awaitable[Receipt]]
    """Save under a command id and its digest, with metadata; with both, also if nothing was recorded."""
    snapshots: Snapshots[A]
    cache: Cache
    attempts: int  # to save


async def execute(
    steps: Steps[A],
    id: str,
    command: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    terms: Terms = Terms(),  # noqa: B008  # immutable
) -> Executed[Any]:
    """Call the command and save. Calls on the same id wait for each other. Raises as `Repository.execute`."""
    call = CommandCall(command, args, kwargs)
    digest = None
    if terms.command_id is not None:
        digest = call.compute_digest() if terms.content is None else compute_digest(terms.content)
    try:
        async with steps.cache.turn(id):
            return await Execution(steps, id, call.run, terms, digest).run()
    except asyncio.CancelledError as cancelled:
        if isinstance(cancelled.__cause__, EventsrcError):
            raise
        raise cancelled from explain_cancellation(None)


class Execution(Generic[A]):
    """One call of `execute`, with all its attempts.

    It is linearizable: it takes effect at one moment between its start and its end. It may start with a remembered
    state that is older than the stream.

    - Events that the command records are saved only if that state was the latest.
    - An error of the command, or a result without recorded events, is passed to the caller only if the state was read
      after the call began.
    - If another writer came first in one of the last executions on the id, this one reads newer commits before it
      decides. So writers that take turns on an id make one read and one write each, as without a cache.
    """

    def __init__(
        self, steps: Steps[A], id: str, decide: Callable[[A], Any], terms: Terms, digest: bytes | None
    ) -> None:
        self._steps, self._id, self._decide = steps, id, decide
        self._command_id, self._digest = terms.command_id, digest
        self._creates, self._is_final = terms.create, terms.final
        self._searched = MAX_VERSION if terms.since is None else terms.since  # no commit up to here has the command id
        known = steps.cache.take(id)
        self._base: Frozen | None = known.frozen if known else None  # the state to decide on; None to load it
        self._reads = known.reads if known else 0  # as `Entry.reads`
        self._is_current = False  # whether the state was read after the call began
        self._is_outdated = self._reads > 0  # whether it is known, or likely, not to be the latest
        self._has_followed = False

    async def run(self) -> Executed[Any]:
        """Return result and receipt. Raises the command's error, or ConflictError if every attempt ends in one."""
        try:
            return await self._attempt()
        except ConflictError:
            if self._steps.attempts < 2:
                raise
        from ..retrying import on_conflict  # here, because few calls need it and tenacity is slow to import

        return await on_conflict(self._steps.attempts - 1)(self._attempt)

    async def _attempt(self) -> Executed[Any]:
        """Decide and save. Raises the error of the command, or ConflictError, after which it may be called again."""
        while True:
            aggregate = await self._state()
            if self._command_id is not None and (applied := await self._find_applied(aggregate, self._command_id)):
                if applied.digest != self._digest:
                    raise IdempotencyError(aggregate.stream, self._command_id, applied.version)
                self._remember()
                return Executed(None, await self._read_receipt(aggregate.stream, applied.version))
            try:
                result = self._decide(aggregate)
            except Exception as error:
                if await self._has_changed():
                    continue
                if self._is_final and is_refusal(error):
                    return await self._refuse(aggregate, error)
                self._remember()
                raise
            if not journal_of(aggregate).uncommitted and await self._has_changed():
                continue
            return await self._save(aggregate, result)

    async def _state(self) -> A:
        """Return the state to decide on, a new object for each attempt."""
        if self._is_outdated:
            await self._has_changed()
        if self._base is not None and (aggregate := self._steps.snapshots.thaw(self._id, self._base)) is not None:
            return aggregate
        try:
            aggregate = await self._steps.load(self._id)
        except AggregateNotFound:
            if not self._creates:
                raise
            aggregate = self._steps.aggregate(id=self._id)
        self._is_current = True
        self._base = self._steps.snapshots.freeze(aggregate)
        return aggregate

    async def _find_applied(self, aggregate: A, command_id: str) -> AppliedCommand | None:
        """Return the command with this id, if it was applied: the aggregate remembers it, or an older commit has it.

        Each part of the stream is searched once. Of the commits since the oldest remembered one, all are remembered.
        """
        commands = journal_of(aggregate).commands
        if (applied := commands.get(command_id)) is not None:
            return applied
        oldest = next(iter(commands.values())).version if commands else aggregate.version + 1
        if self._searched < oldest - 1:
            earlier = read_without_gaps(self._steps.store, aggregate.stream, self._searched, oldest - 1)
            async with aclosing(earlier):
                async for commit in earlier:
                    if commit.command_id == command_id:
                        return AppliedCommand.of(commit)
        self._searched = max(self._searched, aggregate.version)
        return None

    async def _read_receipt(self, stream: str, version: int) -> Receipt:
        """Return the receipt of a command that was applied before, in the commit of this version."""
        [commit] = [each async for each in read_without_gaps(self._steps.store, stream, version - 1, version)]
        check_refused(commit)
        return Receipt(stream, version, commit.id, commit.events, commit.position, duplicate=True)

    async def _has_changed(self) -> bool:
        """Bring the state up to date. Return whether it was older than the stream."""
        if self._is_current or self._base is None:
            return False
        self._is_outdated, base, self._base = False, self._base, None  # on failure the next attempt loads
        aggregate = self._steps.snapshots.thaw(self._id, base)
        if aggregate is None:
            return True
        await self._steps.catch_up(aggregate)
        has_changed = aggregate.version > base.version
        self._reads = _READS if has_changed else max(self._reads - 1, 0)
        if has_changed and self._steps.snapshots.is_due(aggregate):  # another writer may have written the snapshot
            aggregate = await self._steps.load(self._id)
        self._is_current, self._base = True, self._steps.snapshots.freeze(aggregate) if has_changed else base
        return has_changed

    def _replay(self, aggregate: A) -> A:
        """Return the base state with the recorded events applied. Any other change that the command made to its object
        is dropped, so that it is not stored in the cache or in a snapshot.
        """
        if self._base is None or (clean := self._steps.snapshots.thaw(self._id, self._base)) is None:
            return aggregate
        for event in aggregate.uncommitted:
            clean.record(event)
        return clean

    async def _refuse(self, aggregate: A, error: Exception) -> Executed[Any]:
        """Store that the command has refused, as a commit without events, and raise CommandRefused.

        Nothing is stored for an aggregate that does not exist. If another delivery was applied first, return that.
        """
        metadata, stream, version = to_metadata(error), aggregate.stream, aggregate.version
        journal_of(aggregate).uncommitted.clear()
        if version:
            stored = await self._save(aggregate, None, metadata)
            if stored.duplicate:
                return stored
            version = stored.receipt.version
        kind, _, reason = next(iter(metadata.values())).partition(": ")
        raise CommandRefused(stream, self._command_id or "", version, kind, reason) from error

    async def _save(self, aggregate: A, result: Any, metadata: Mapping[str, str] | None = None) -> Executed[Any]:
        if metadata is None and self._is_final and aggregate.version:
            metadata = {REFUSED: ""}  # a commit is stored also if nothing was recorded
        if self._base is not None and not journal_of(aggregate).uncommitted and metadata is None:
            self._remember()
            return Executed(result, Receipt(aggregate.stream, aggregate.version, None))
        aggregate = self._replay(aggregate)
        base, self._base = self._base, None  # until the outcome is known, no state is
        try:
            receipt = await self._steps.save(aggregate, self._command_id, self._digest, metadata)
        except ConflictError as conflict:
            self._base, self._is_current, self._reads = base, False, _READS
            self._follow(conflict.winner)
            raise
        self._base = self._steps.snapshots.freeze(aggregate) if base is not None else None
        self._remember()
        if receipt.duplicate:  # another delivery of this command was saved first
            return Executed(None, await self._read_receipt(receipt.stream, receipt.version))
        return Executed(result, receipt)

    def _follow(self, winner: Commit | None) -> None:
        """Apply the commit that caused the conflict, if the store returned it. This needs no read. If other commits
        follow it, the next attempt ends in a conflict too, and then the rest is read.
        """
        base, self._is_outdated = self._base, True
        if base is None or winner is None or winner.version != base.version + 1 or self._has_followed:
            return
        if (aggregate := self._steps.snapshots.thaw(self._id, base)) is not None:
            self._base = self._steps.snapshots.freeze(self._steps.fold(aggregate, (winner,)))
            self._has_followed, self._is_outdated = True, False

    def _remember(self) -> None:
        if self._base is not None and self._base.version:
            self._steps.cache.put(self._id, self._base, self._reads)
