"""Snapshots: when one is worth writing, how it is made, and whether a stored one can be used.

A snapshot is a cache behind the log. Nothing that is wrong with one may fail a load or a save.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Generic, TypeVar

import msgspec

from ..aggregates.aggregate import Aggregate, journal_of
from ..aggregates.codec import pack, unpack
from ..aggregates.commands import AppliedCommand
from ..aggregates.declaration import declaration_of
from ..aggregates.shape import shape_of
from ..errors import CorruptPayload, EventsrcError
from ..log import log
from ..store import Commit, Snapshot, Store
from .cache import Frozen

A = TypeVar("A", bound=Aggregate)

_ANSWERS = 10_000  # streams whose thresholds are remembered


class SnapshotPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot is written once the commits since the last one weigh `ratio` times as much as it does.

    With `ratio=1` a load reads at most 2.25 times the state and one commit, and all snapshots ever written weigh no
    more than all commits (docs/storage.md has the arithmetic, and what racing writers change). Nothing is written
    before the commits weigh `floor` bytes: up to 4 KB are one read unit of DynamoDB with or without a snapshot.

    The write happens behind the save, as a task that the store owns. `inline=True` makes the save wait for it, as AWS
    Lambda needs, which freezes what runs behind. `enabled=False` writes none; existing ones are still used.
    """

    ratio: float = 1.0
    floor: int = 4096
    inline: bool = False
    enabled: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.ratio < inf:
            raise ValueError(f"ratio is {self.ratio}; it must be above 0, and finite")
        if self.floor < 0:
            raise ValueError(f"floor is {self.floor}; it must not be negative")

    def weighs(self, tail: int, threshold: int) -> bool:
        """Whether it is time to encode a snapshot and weigh it; `tail` bytes of commits follow the last one."""
        return self.enabled and tail >= self.floor and tail > threshold

    def writes(self, tail: int, size: int) -> bool:
        """Whether a snapshot of `size` bytes is worth writing."""
        return tail >= self.ratio * size

    def next_threshold(self, tail: int, size: int) -> int:
        """What the tail must outgrow before a snapshot is encoded again, after one of `size` bytes was too large.

        It grows by at least a quarter, so that encoding stays a constant share of saving whatever the state does.
        """
        return max(int(self.ratio * size), tail + tail // 4)


class SnapshotCodec:
    """Turns the state of one aggregate class, and the command ids it remembers, into snapshots and back."""

    def __init__(self, state: Any, version: int) -> None:
        self.shape = shape_of(state, version)
        decoder = msgspec.msgpack.Decoder(tuple[bytes, dict[str, AppliedCommand], state])
        self.state: Callable[[bytes], tuple[bytes, dict[str, AppliedCommand], Any]] = decoder.decode

    def body(self, aggregate: Aggregate) -> bytes:
        """What `state` reads back: the id of the commit it was made at, command ids, and state."""
        journal = journal_of(aggregate)
        return msgspec.msgpack.encode((journal.commit_id, journal.commands, aggregate.to_snapshot()))

    def encode(self, aggregate: Aggregate) -> Snapshot:
        """The snapshot of an aggregate without uncommitted events. Raises what msgspec raises."""
        journal = journal_of(aggregate)
        payload = pack(self.body(aggregate), journal.stream, journal.version)
        return Snapshot(stream=journal.stream, version=journal.version, shape=self.shape, payload=payload)

    def decode(self, snapshot: Snapshot) -> tuple[bytes, dict[str, AppliedCommand], Any]:
        """The id of the commit it was made at, command ids, and state.

        Raises CorruptPayload, also for another shape, and what msgspec raises.
        """
        if snapshot.shape != self.shape:
            raise CorruptPayload(snapshot.stream, snapshot.version, "it has another shape than the class has now")
        return self.state(unpack(snapshot.payload, snapshot.stream, snapshot.version))


class Snapshots(Generic[A]):
    """The snapshots of one aggregate class in one store."""

    def __init__(self, aggregate: type[A], store: Store, policy: SnapshotPolicy) -> None:
        self._class = aggregate
        self._store = store
        self._policy = policy
        self._codec = SnapshotCodec(declaration_of(aggregate).snapshot_type, aggregate.snapshot_version)
        # Thresholds by stream and the version of its snapshot then: `execute` has a new object each time.
        self._refused: dict[tuple[str, int], int] = {}

    def restore(self, id: str, snapshot: Snapshot, commits: Sequence[Commit]) -> A | None:
        """The aggregate of a usable snapshot; any other is told in a warning, and None says: replay all.

        The first of `commits` must be the very one the snapshot was made at, else the snapshot is ahead of the log, or
        of a log that is no more.
        """
        try:
            if not commits or commits[0].version != snapshot.version:
                raise CorruptPayload(snapshot.stream, snapshot.version, "it is ahead of the log")
            commit_id, commands, state = self._codec.decode(snapshot)
            if commit_id != commits[0].id:
                raise CorruptPayload(snapshot.stream, snapshot.version, "it was made at another commit")
            aggregate = self._class.from_snapshot(id, state)
            if type(aggregate) is not self._class or aggregate.id != id:
                raise CorruptPayload(snapshot.stream, snapshot.version, "it is another aggregate's")
            if aggregate.uncommitted:
                raise CorruptPayload(snapshot.stream, snapshot.version, "from_snapshot recorded events")
        except Exception as error:  # noqa: BLE001  # a user's from_snapshot may raise anything
            log.warning("snapshot %s@%d is ignored: %s", snapshot.stream, snapshot.version, _reason(error))
            return None
        journal = journal_of(aggregate)
        journal.advance_to(commits[0])
        journal.commands = commands
        journal.snapshot, journal.threshold = snapshot.version, int(self._policy.ratio * snapshot.size)
        return aggregate

    def pass_over(self, snapshot: Snapshot | None, commits: Sequence[Commit], aggregate: A) -> A:
        """Note in the aggregate, folded from all commits, that this snapshot was not used. The next has to be paid for
        by the commits since, as if it had been: else two releases, neither of which can use the other's, would write
        one with each save.
        """
        if snapshot is not None:
            journal = journal_of(aggregate)
            journal.snapshot = snapshot.version
            journal.tail = sum(commit.size for commit in commits[snapshot.version :])
        return aggregate

    def freeze(self, aggregate: A) -> Frozen | None:
        """The aggregate, which has no uncommitted events, as bytes; None if it makes no snapshot."""
        journal = journal_of(aggregate)
        try:
            body = self._codec.body(aggregate)
        except Exception as error:  # noqa: BLE001  # a user's to_snapshot may raise anything
            log.warning("%s@%d is not remembered: %s", journal.stream, journal.version, _reason(error))
            return None
        return Frozen(body, journal.version, journal.time, journal.snapshot, journal.tail, journal.threshold)

    def thaw(self, id: str, frozen: Frozen) -> A | None:
        """An aggregate of its own for each call; None if the snapshot of the class cannot be restored."""
        try:
            commit_id, commands, state = self._codec.state(frozen.body)
            aggregate = self._class.from_snapshot(id, state)
        except Exception as error:  # noqa: BLE001  # a user's from_snapshot may raise anything
            log.warning("%s is loaded again: %s", id, _reason(error))
            return None
        journal = journal_of(aggregate)
        journal.commit_id, journal.commands = commit_id, commands
        journal.version, journal.time = frozen.version, frozen.time
        journal.snapshot, journal.tail, journal.threshold = frozen.snapshot, frozen.tail, frozen.threshold
        return aggregate

    async def after_save(self, aggregate: A) -> None:
        """Write a snapshot if it is worth it. The save is durable already: no failure here may fail it."""
        journal = journal_of(aggregate)
        threshold = max(journal.threshold, self._refused.get((journal.stream, journal.snapshot), 0))
        if journal.uncommitted or journal.version <= journal.snapshot:
            return  # the state is not that of a version, or the store would refuse a snapshot of it
        if not self._policy.weighs(journal.tail, threshold):
            return
        try:
            snapshot = self._codec.encode(aggregate)
        except Exception as error:  # noqa: BLE001  # a user's to_snapshot may raise anything
            log.warning("no snapshot %s@%d: %s", journal.stream, journal.version, _reason(error))
            self._refuse(journal.stream, journal.snapshot, journal.tail, journal.tail)
            return
        if not self._policy.writes(journal.tail, snapshot.size):
            self._refuse(journal.stream, journal.snapshot, journal.tail, snapshot.size)
            return
        writing = self._put(snapshot, journal.snapshot, journal.tail)
        journal.snapshot, journal.tail = snapshot.version, 0
        journal.threshold = int(self._policy.ratio * snapshot.size)
        if self._policy.inline:
            await writing
        else:
            self._store.spawn(writing)

    def _refuse(self, stream: str, after: int, tail: int, size: int) -> None:
        """Remember when to ask again, until there is a newer snapshot than the one at version `after`.

        Of many the oldest answer is forgotten: that costs one encoding.
        """
        self._refused.pop((stream, after), None)
        self._refused[stream, after] = self._policy.next_threshold(tail, size)
        if len(self._refused) > _ANSWERS:
            del self._refused[next(iter(self._refused))]

    async def _put(self, snapshot: Snapshot, after: int, tail: int) -> None:
        try:
            await self._store.put_snapshot(snapshot)
        except EventsrcError as error:
            for version in (after, snapshot.version):  # the second is where the object that was saved goes on from
                self._refuse(snapshot.stream, version, tail, snapshot.size)
            log.warning("no snapshot %s@%d: %s", snapshot.stream, snapshot.version, error)


def _reason(error: Exception) -> str:
    """What to log: a foreign error may quote the state, ours do not."""
    return str(error) if isinstance(error, EventsrcError) else type(error).__name__
