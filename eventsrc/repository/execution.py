"""Deciding: a command on the state as it is known, saved if nobody came first, and else decided anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..aggregates.aggregate import Aggregate
from ..errors import ConflictError, IdempotencyError
from ..store import Commit
from .cache import Cache, Frozen
from .snapshots import Snapshots

if TYPE_CHECKING:
    from .repository import Repository

A = TypeVar("A", bound=Aggregate)


class Execution(Generic[A]):
    """One call of `execute`, through all its attempts.

    It is linearizable, that is, as if it happened at one moment between its beginning and its end, though it may begin
    with a remembered state that is behind the stream. What it records is saved only if that state was the latest. What
    it raises, or returns without recording anything, comes out only if the state was read after the call began.
    """

    def __init__(
        self,
        repository: Repository[A],
        snapshots: Snapshots[A],
        cache: Cache,
        id: str,
        decide: Callable[[A], Any],
        command_id: str | None,
        digest: bytes | None,
    ) -> None:
        self._repository, self._snapshots, self._cache, self._id = repository, snapshots, cache, id
        self._decide, self._command_id, self._digest = decide, command_id, digest
        self._base: Frozen | None = cache.take(id)  # the state to decide on; None: it has to be loaded
        self._is_current = False  # whether it was read after the call began
        self._is_behind = False  # whether it is known not to be the latest
        self._has_followed = False

    async def run(self, attempts: int) -> Any:
        """What the command returned. Raises what it raises, and the last of so many ConflictErrors."""
        try:
            return await self._attempt()
        except ConflictError:
            if attempts < 2:
                raise
        from ..retrying import on_conflict  # here, as few calls need it: tenacity is slow to import

        return await on_conflict(attempts - 1)(self._attempt)

    async def _attempt(self) -> Any:
        """Decide and save. Raises ConflictError, ready for the next attempt; and what the command raises."""
        while True:
            aggregate = await self._aggregate()
            if self._command_id is not None and (applied := aggregate._journal.commands.get(self._command_id)):
                if applied.digest != self._digest:
                    raise IdempotencyError(aggregate.stream, self._command_id, applied.version)
                self._remember()
                return None
            try:
                result = self._decide(aggregate)
            except Exception:
                if await self._has_changed():
                    continue
                self._remember()
                raise
            if not aggregate._journal.uncommitted and await self._has_changed():
                continue
            return await self._save(aggregate, result)

    async def _aggregate(self) -> A:
        """The state to decide on, for this attempt only: what a command was called on is never used again."""
        if self._is_behind:
            await self._has_changed()
        if self._base is not None and (aggregate := self._snapshots.thaw(self._id, self._base)) is not None:
            return aggregate
        aggregate = await self._repository.load(self._id)
        self._is_current = True
        self._base = self._snapshots.freeze(aggregate)
        return aggregate

    async def _has_changed(self) -> bool:
        """Whether the state decided on was behind the stream. From now on it is not."""
        if self._is_current or self._base is None:
            return False
        self._is_behind, base, self._base = False, self._base, None  # if this fails, the state is loaded
        aggregate = self._snapshots.thaw(self._id, base)
        if aggregate is None:
            return True
        await self._repository._catch_up(aggregate)
        self._is_current, self._base = True, self._snapshots.freeze(aggregate)
        return aggregate.version > base.version

    def _by_events(self, aggregate: A) -> A:
        """What the recorded events make of the state decided on. Nothing else that the command did to its object stays,
        neither in memory nor in a snapshot.
        """
        if self._base is None or (clean := self._snapshots.thaw(self._id, self._base)) is None:
            return aggregate
        for event in aggregate.uncommitted:
            clean.record(event)
        return clean

    async def _save(self, aggregate: A, result: Any) -> Any:
        aggregate = self._by_events(aggregate)
        base, self._base = self._base, None  # whatever ends this, the state is no longer what it was
        try:
            receipt = await self._repository._save(aggregate, self._command_id, self._digest, None)
        except ConflictError as conflict:
            self._base, self._is_current = base, False
            self._follow(conflict.winner)
            raise
        self._base = self._snapshots.freeze(aggregate)
        self._remember()
        return None if receipt.duplicate else result  # another delivery of this command was first

    def _follow(self, winner: Commit | None) -> None:
        """Bring the state up to the commit that came first: it is in hand, so nothing is read. If it was not the only
        one, the next conflict shows that, and the rest is read.
        """
        base, self._is_behind = self._base, True
        if base is None or winner is None or winner.version != base.version + 1 or self._has_followed:
            return
        if (aggregate := self._snapshots.thaw(self._id, base)) is not None:
            self._base = self._snapshots.freeze(self._repository._fold(aggregate, (winner,)))
            self._has_followed, self._is_behind = True, False

    def _remember(self) -> None:
        if self._base is not None:
            self._cache.put(self._id, self._base)
