"""The shards of a table's stream, and their lineage: what has been read, and what may be read next.

A shard is closed after some hours, or when its partition is split, and its children go on. What is in a parent is older
than what is in its children, so a shard is read only after its parent. A shard that is no longer listed has been
trimmed: its children need not wait for it. See "DynamoDB Streams: reading and processing a stream" in the Amazon
DynamoDB Developer Guide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

Parents = Mapping[str, str | None]


class Range(msgspec.Struct):
    EndingSequenceNumber: str | None = None


class Shard(msgspec.Struct):
    """As the service lists it. Only a closed one has a last sequence number."""

    ShardId: str
    ParentShardId: str | None = None
    SequenceNumberRange: Range = msgspec.field(default_factory=Range)

    @property
    def closed(self) -> bool:
        return self.SequenceNumberRange.EndingSequenceNumber is not None


class Cursor(msgspec.Struct, omit_defaults=True):
    """How far a stream has been read: what comes before these shards has been, what comes behind them has not.

    `at` has the sequence number of the last record that was read of a shard, empty before the first. `done` are those
    that have been read to their end, as far as none behind them has been begun.
    """

    at: dict[str, str] = {}
    done: list[str] = []


def parents_of(shards: Iterable[Shard]) -> dict[str, str | None]:
    return {shard.ShardId: shard.ParentShardId for shard in shards}


def ancestors(ids: Iterable[str], parents: Parents) -> set[str]:
    """All that come before these, as far as they are listed."""
    found: set[str] = set()
    for id in ids:
        parent = parents.get(id)
        while parent is not None and parent in parents and parent not in found:
            found.add(parent)
            parent = parents[parent]
    return found


def from_now(shards: Sequence[Shard]) -> Cursor:
    """Behind it is all that is stored from now on, with what the open shards hold: no place within one is durable that
    no record has. What is in the closed ones is older.
    """
    inner = ancestors((shard.ShardId for shard in shards), parents_of(shards))
    last = [shard for shard in shards if shard.ShardId not in inner]
    return Cursor({each.ShardId: "" for each in last if not each.closed}, [e.ShardId for e in last if e.closed])


def from_before(shards: Sequence[Shard]) -> Cursor:
    """Behind it is also what was stored a moment ago, which a scan that begins now may not see yet: one more shard
    back.
    """
    parents = parents_of(shards)
    inner = ancestors(parents, parents)
    begin = {parent if parent and parent in parents else id for id, parent in parents.items() if id not in inner}
    return Cursor({id: "" for id in begin if not ancestors([id], parents) & begin})


class Lineage:
    """How far the shards have been read, of those that are listed and those that are being read.

    Of several cursors it takes, shard by shard, the one that is furthest behind.
    """

    def __init__(self, cursors: Sequence[Cursor], shards: Iterable[Shard]) -> None:
        self._parents = parents = parents_of(shards)
        before = [{*cursor.done, *ancestors([*cursor.at, *cursor.done], parents)} for cursor in cursors]
        self._read = {id for id in parents if all(id in read for read in before)}
        places = list(zip((cursor.at for cursor in cursors), before, strict=True))
        self._lost = {*parents.values()} - parents.keys()
        self.at: dict[str, str] = {}
        for id in {id for at, _ in places for id in at}:
            # One that is not listed stays: that it is gone must be noticed. One that another cursor has not come to
            # is left to its turn.
            if id not in parents or all(id in at or id in read for at, read in places):
                self.at[id] = min((at[id] for at, _ in places if id in at), key=order)
        self._look()

    def listed(self, shards: Iterable[Shard]) -> None:
        """These are there now. A parent that never was is still to be listed, and its children wait for it."""
        before, self._parents = self._parents, parents_of(shards)
        self._lost = {*self._parents.values()} & (self._lost | before.keys()) - self._parents.keys()
        self._read &= self._parents.keys()
        self._look()

    def ended(self, id: str) -> None:
        """This one has been read to its end."""
        del self.at[id]
        if id in self._parents:
            self._read.add(id)
        self._look()

    def begin(self) -> list[str]:
        """Those that may be read from now on: from their beginning, as `at` has them."""
        begun = [id for id in self._waiting() if self._is_free(self._parents[id])]
        self.at.update(dict.fromkeys(begun, ""))
        self._look()
        return begun

    @property
    def done(self) -> Sequence[str]:
        """Those that have been read to their end, with no child that has been begun."""
        return self._done

    @property
    def waiting(self) -> bool:
        """Whether there are some that have not been begun."""
        return bool(self._waiting())

    def cursor(self) -> Cursor:
        return Cursor(dict(self.at), self._done)

    def _waiting(self) -> list[str]:
        return [id for id in self._parents if id not in self.at and id not in self._read]

    def _is_free(self, parent: str | None) -> bool:
        """Whether a parent has been read, or can be no longer."""
        return parent not in self.at and (parent is None or parent in self._read or parent in self._lost)

    def _look(self) -> None:
        before = ancestors([*self.at, *self._read], self._parents)
        self._done = [id for id in self._parents if id in self._read and id not in before]


def order(sequence: str) -> int:
    """Sequence numbers are compared as numbers; a shard's beginning comes first."""
    return int(sequence) if sequence else -1
