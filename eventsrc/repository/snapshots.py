"""Snapshots: when to write one, how to encode it, and whether a stored one can be used.

A snapshot is a cache of the log. No fault of a snapshot may fail a load or a save.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from types import GenericAlias
from typing import Any, Generic, TypeVar

import msgspec

from ..aggregates.aggregate import Aggregate, journal_of
from ..aggregates.codec import pack, unpack
from ..aggregates.commands import AppliedCommand
from ..aggregates.custom_types import ConversionError, decode_custom, encode_custom
from ..aggregates.declaration import declaration_of
from ..aggregates.differences import find_difference
from ..aggregates.shape import shape_of
from ..aggregates.state import Inexact
from ..errors import CorruptPayload, EventsrcError
from ..log import log
from ..store import Commit, Snapshot, Store
from .cache import Frozen

A = TypeVar("A", bound=Aggregate)

_MAX_POSTPONED = 10_000  # streams


class SnapshotPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When to write a snapshot.

    - `ratio`: a snapshot is written when the commits since the last one have `ratio` times its size. With `ratio=1` a
      load reads at most 2.25 times the state and one commit, and all snapshots ever written have at most the size
      of all commits. docs/storage.md has the arithmetic, and what changes with racing writers.
    - `floor`: nothing is written before these commits have `floor` bytes. Up to 4 KB are one read unit of DynamoDB,
      with or without a snapshot.
    - `inline=True`: the save waits for the write. AWS Lambda needs this, because it freezes background work. By default
      the store writes in a background task.
    - `enabled=False`: no snapshots are written. Existing ones are still used.
    """

    ratio: float = 1.0
    floor: int = 4096
    inline: bool = False
    enabled: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.ratio < inf:
            raise ValueError(f"ratio is {self.ratio}; it must be above 0 and finite")
        if self.floor < 0:
            raise ValueError(f"floor is {self.floor}; it must not be negative")

    def should_encode(self, tail: int, threshold: int) -> bool:
        """Return whether to encode a snapshot, when `tail` bytes of commits follow the last one."""
        return self.enabled and tail >= self.floor and tail > threshold

    def should_write(self, tail: int, size: int) -> bool:
        """Return whether to write a snapshot of `size` bytes."""
        return tail >= self.ratio * size

    def next_threshold(self, tail: int, size: int) -> int:
        """Return the `tail` that must be exceeded before the next try, after a snapshot of `size` bytes was too large.

        It is at least a quarter longer than the current one, so that the cost of encoding stays in proportion to the
        cost of saving, however the state grows.
        """
        return max(int(self.ratio * size), tail + tail // 4)


class SnapshotCodec(Generic[A]):
    """Encodes and decodes the snapshots of one aggregate class: its state and the command ids that it remembers."""

    def __init__(self, aggregate: type[A]) -> None:
        declaration = declaration_of(aggregate)
        state = declaration.snapshot_type
        self._class, self._state = aggregate, declaration.state
        self._must_be_restored = state is not aggregate or self._state.has_hooks
        self.shape = shape_of(state, f"{aggregate.__module__}.{aggregate.__qualname__}:{_salt_of(aggregate)}")
        kind: Any = GenericAlias(tuple, (bytes, dict[str, AppliedCommand], state))
        decoder = msgspec.msgpack.Decoder(kind, dec_hook=decode_custom)
        self._encode = msgspec.msgpack.Encoder(enc_hook=encode_custom).encode
        self.decode_state: Callable[[bytes], tuple[bytes, dict[str, AppliedCommand], Any]] = decoder.decode

    def encode_state(self, aggregate: Aggregate) -> bytes:
        """Return the bytes for `decode_state`: the id of the last commit, the command ids, and the state.

        Raises Inexact if an aggregate with other types or values would be restored, and what msgspec raises.
        """
        journal, state = journal_of(aggregate), aggregate.to_snapshot()
        self._state.check(state)
        body = self._encode((journal.commit_id, journal.commands, state))
        if self._must_be_restored:
            try:
                restored = self.restore(aggregate.id, self.decode_state(body)[2])
            except msgspec.ValidationError as error:
                raise self._explain(error) from None
            if (place := find_difference(aggregate, restored)) is not None:
                raise Inexact(f"{self._class.__qualname__}{place}", "is restored with another type or value")
        return body

    def _explain(self, error: msgspec.ValidationError) -> Inexact:
        """Return what a value that msgspec refuses is not. The text of another's error may quote the value."""
        text, _, place = str(error).partition(" - at `$[2]")
        expected = f" ({text})" if text.startswith("Expected `") else ""
        reason = f"holds a value that its own declaration refuses{expected}; check it before you record an event"
        return Inexact(f"{self._class.__qualname__}{place.rstrip('`')}", reason)

    def encode(self, aggregate: Aggregate) -> Snapshot:
        """Return the snapshot of an aggregate without uncommitted events. Raises as `encode_state`."""
        journal = journal_of(aggregate)
        payload = pack(self.encode_state(aggregate), journal.stream, journal.version)
        return Snapshot(stream=journal.stream, version=journal.version, shape=self.shape, payload=payload)

    def decode(self, snapshot: Snapshot) -> tuple[bytes, dict[str, AppliedCommand], Any]:
        """Return the id of the commit that the snapshot was made at, the command ids, and the state.

        Raises CorruptPayload, also for another shape, and what msgspec raises.
        """
        if snapshot.shape != self.shape:
            raise CorruptPayload(snapshot.stream, snapshot.version, "it has another shape than the class has now")
        return self.decode_state(unpack(snapshot.payload, snapshot.stream, snapshot.version))

    def restore(self, id: str, state: Any) -> A:
        """Return the aggregate of a decoded state, without its version. Raises Inexact, and what the class raises."""
        aggregate, name = self._class.from_snapshot(id, state), self._class.__qualname__
        if type(aggregate) is not self._class or aggregate.id != id:
            raise Inexact(f"{name}.from_snapshot", "returned another aggregate; return cls(id=id)")
        if journal_of(aggregate).uncommitted:
            raise Inexact(f"{name}.from_snapshot", "recorded events; record them only in commands")
        return aggregate


class Snapshots(Generic[A]):
    """The snapshots of one aggregate class in one store."""

    def __init__(self, aggregate: type[A], store: Store, policy: SnapshotPolicy) -> None:
        self._store = store
        self._policy = policy
        self._codec = SnapshotCodec(aggregate)
        # Thresholds by stream and the version of its last snapshot. `execute` has a new object for each call.
        self._postponed: dict[tuple[str, int], int] = {}

    def restore(self, id: str, snapshot: Snapshot, commits: Sequence[Commit]) -> A | None:
        """Return the aggregate of a snapshot, or None after a warning if it cannot be used and all must be replayed.

        The first of `commits` must be the commit that the snapshot was made at. Otherwise the snapshot is ahead of the
        log, or was made from a log that no longer exists.
        """
        try:
            if not commits or commits[0].version != snapshot.version:
                raise CorruptPayload(snapshot.stream, snapshot.version, "it is ahead of the log")
            commit_id, commands, state = self._codec.decode(snapshot)
            if commit_id != commits[0].id:
                raise CorruptPayload(snapshot.stream, snapshot.version, "it was made at another commit")
            aggregate = self._codec.restore(id, state)
        except Exception as error:  # noqa: BLE001  # a user's from_snapshot may raise anything
            log.warning("snapshot %s@%d is ignored: %s", snapshot.stream, snapshot.version, _describe_error(error))
            return None
        journal = journal_of(aggregate)
        journal.advance_to(commits[0])
        journal.commands = commands
        journal.snapshot, journal.threshold = snapshot.version, int(self._policy.ratio * snapshot.size)
        return aggregate

    def mark_unused(self, snapshot: Snapshot | None, commits: Sequence[Commit], aggregate: A) -> A:
        """Note in an aggregate, folded from all commits, that its snapshot could not be used. Return the aggregate.

        The snapshot still counts as the last one for the policy. Otherwise two releases that cannot use each other's
        snapshots would each write one with every save.
        """
        if snapshot is not None:
            journal = journal_of(aggregate)
            journal.snapshot = snapshot.version
            journal.tail = sum(commit.size for commit in commits[snapshot.version :])
        return aggregate

    def freeze(self, aggregate: A) -> Frozen | None:
        """Return an aggregate without uncommitted events as bytes, or None if they would not restore its state."""
        journal = journal_of(aggregate)
        try:
            body = self._codec.encode_state(aggregate)
        except Exception as error:  # noqa: BLE001  # a user's to_snapshot may raise anything
            log.warning("%s@%d is not remembered: %s", journal.stream, journal.version, _describe_error(error))
            return None
        return Frozen(body, journal.version, journal.time, journal.snapshot, journal.tail, journal.threshold)

    def thaw(self, id: str, frozen: Frozen) -> A | None:
        """Return a new aggregate object, or None if its state cannot be restored."""
        try:
            commit_id, commands, state = self._codec.decode_state(frozen.body)
            aggregate = self._codec.restore(id, state)
        except Exception as error:  # noqa: BLE001  # a user's from_snapshot may raise anything
            log.warning("the remembered state of %s is ignored: %s", id, _describe_error(error))
            return None
        journal = journal_of(aggregate)
        journal.commit_id, journal.commands = commit_id, commands
        journal.version, journal.time = frozen.version, frozen.time
        journal.snapshot, journal.tail, journal.threshold = frozen.snapshot, frozen.tail, frozen.threshold
        return aggregate

    def is_due(self, aggregate: A) -> bool:
        """Return whether the policy says to encode a snapshot."""
        journal = journal_of(aggregate)
        threshold = max(journal.threshold, self._postponed.get((journal.stream, journal.snapshot), 0))
        return self._policy.should_encode(journal.tail, threshold)

    async def after_save(self, aggregate: A) -> None:
        """Write a snapshot if the policy says so. The commit is stored, so no failure here may fail the save."""
        journal = journal_of(aggregate)
        if journal.uncommitted or journal.version <= journal.snapshot:
            return  # the state is not the one at a version, or the store has a snapshot of it or of a later one
        if not self.is_due(aggregate):
            return
        try:
            snapshot = self._codec.encode(aggregate)
        except Exception as error:  # noqa: BLE001  # a user's to_snapshot may raise anything
            log.warning("snapshot %s@%d was not written: %s", journal.stream, journal.version, _describe_error(error))
            self._postpone(journal.stream, journal.snapshot, journal.tail, journal.tail)
            return
        if not self._policy.should_write(journal.tail, snapshot.size):
            self._postpone(journal.stream, journal.snapshot, journal.tail, snapshot.size)
            return
        writing = self._write(snapshot, journal.snapshot, journal.tail)
        journal.snapshot, journal.tail = snapshot.version, 0
        journal.threshold = int(self._policy.ratio * snapshot.size)
        if self._policy.inline:
            await writing
        else:
            self._store.spawn(writing)

    def _postpone(self, stream: str, after: int, tail: int, size: int) -> None:
        """Remember when to encode again, until the stream has a newer snapshot than the one at version `after`.

        Beyond `_MAX_POSTPONED` streams the oldest threshold is forgotten. That costs one encoding.
        """
        self._postponed.pop((stream, after), None)
        self._postponed[stream, after] = self._policy.next_threshold(tail, size)
        if len(self._postponed) > _MAX_POSTPONED:
            del self._postponed[next(iter(self._postponed))]

    async def _write(self, snapshot: Snapshot, after: int, tail: int) -> None:
        try:
            await self._store.put_snapshot(snapshot)
        except EventsrcError as error:
            for version in (after, snapshot.version):  # the saved object continues from the second
                self._postpone(snapshot.stream, version, tail, snapshot.size)
            log.warning("snapshot %s@%d was not written: %s", snapshot.stream, snapshot.version, error)


def _salt_of(aggregate: type[Aggregate]) -> object:
    """Return what shapes differ in beyond the state. A snapshot may lack command ids that are to be remembered now."""
    version, remembered = aggregate.snapshot_version, aggregate.remembered_commands
    return version if remembered == Aggregate.remembered_commands else (version, remembered)


def _describe_error(error: Exception) -> str:
    """Return the text to log. The library's errors never quote a state; of others, only the type is logged."""
    return str(error) if isinstance(error, (ConversionError, EventsrcError, Inexact)) else type(error).__name__
