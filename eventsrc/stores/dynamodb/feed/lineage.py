"""The lineage of the shards of a table's stream: which shards have been read, and which may be read next.

A shard is closed after some hours, or when its partition is split. Later records go to its children. The records of a
parent are older than those of its children, so a shard is read only after its parent. A shard that is no longer listed
has been trimmed, and its children do not wait for it.

See "DynamoDB Streams: reading and processing a stream" in the Amazon DynamoDB Developer Guide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

Parents = Mapping[str, str | None]


class Range(msgspec.Struct):
    EndingSequenceNumber: str | None = None


class Shard(msgspec.Struct):
    """A shard as the service lists it. Only a closed shard has an ending sequence number."""

    ShardId: str
    ParentShardId: str | None = None
    SequenceNumberRange: Range = msgspec.field(default_factory=Range)

    @property
    def is_closed(self) -> bool:
        return self.SequenceNumberRange.EndingSequenceNumber is not None


class Cursor(msgspec.Struct, omit_defaults=True):
    """How far a stream has been read. Ancestors of the shards named here have been read, descendants have not.

    `at` maps each shard that is being read to the sequence number of its last record that was read, or to an empty text
    at its beginning. `done` are the shards that have been read to their end and of which no descendant was started.
    """

    at: dict[str, str] = {}
    done: list[str] = []


def parents_of(shards: Iterable[Shard]) -> dict[str, str | None]:
    return {shard.ShardId: shard.ParentShardId for shard in shards}


def ancestors_of(ids: Iterable[str], parents: Parents) -> set[str]:
    """Return all ancestors of these shards that are listed."""
    found: set[str] = set()
    for id in ids:
        parent = parents.get(id)
        while parent is not None and parent in parents and parent not in found:
            found.add(parent)
            parent = parents[parent]
    return found


def cursor_from_now(shards: Sequence[Shard]) -> Cursor:
    """Return a cursor after which all records that are written from now on follow.

    Older records of the open shards follow too, because only a record's sequence number can name a point within a
    shard. They are left out by their time. Records of closed shards do not follow.
    """
    inner = ancestors_of((shard.ShardId for shard in shards), parents_of(shards))
    leaves = [shard for shard in shards if shard.ShardId not in inner]
    return Cursor(
        {leaf.ShardId: "" for leaf in leaves if not leaf.is_closed}, [leaf.ShardId for leaf in leaves if leaf.is_closed]
    )


def cursor_before_scan(shards: Sequence[Shard]) -> Cursor:
    """Return a cursor for a scan that starts now. It starts one shard earlier than `cursor_from_now`.

    So commits that were stored a moment ago, which the scan may not see yet, follow too.
    """
    parents = parents_of(shards)
    inner = ancestors_of(parents, parents)
    first = {parent if parent and parent in parents else id for id, parent in parents.items() if id not in inner}
    return Cursor({id: "" for id in first if not ancestors_of([id], parents) & first})


class Lineage:
    """How far the shards have been read that are listed or being read.

    If there are several cursors, each shard is read from the earliest of them.
    """

    def __init__(self, cursors: Sequence[Cursor], shards: Iterable[Shard]) -> None:
        self._parents = parents = parents_of(shards)
        before = [{*cursor.done, *ancestors_of([*cursor.at, *cursor.done], parents)} for cursor in cursors]
        self._read = {id for id in parents if all(id in read for read in before)}
        cursors_at = list(zip((cursor.at for cursor in cursors), before, strict=True))
        self._gone = {*parents.values()} - parents.keys()  # parents that are not listed any more
        self.at: dict[str, str] = {}
        for id in {id for at, _ in cursors_at for id in at}:
            # A shard that is not listed is kept, because reading it reports that it is gone. A shard that another
            # cursor has not reached is started later, after its parent.
            if id not in parents or all(id in at or id in read for at, read in cursors_at):
                self.at[id] = min((at[id] for at, _ in cursors_at if id in at), key=to_number)
        self._update_done()

    def update(self, shards: Iterable[Shard]) -> None:
        """Replace the list of shards. The children of a parent that was never listed wait until it is."""
        before, self._parents = self._parents, parents_of(shards)
        self._gone = {*self._parents.values()} & (self._gone | before.keys()) - self._parents.keys()
        self._read &= self._parents.keys()
        self._update_done()

    def finish(self, id: str) -> None:
        """Note that a shard has been read to its end."""
        del self.at[id]
        if id in self._parents:
            self._read.add(id)
        self._update_done()

    def start_ready(self) -> list[str]:
        """Start all shards that may be read now, at their beginning, and return them."""
        ready = [id for id in self._find_waiting() if self._is_finished(self._parents[id])]
        self.at.update(dict.fromkeys(ready, ""))
        self._update_done()
        return ready

    @property
    def done(self) -> Sequence[str]:
        """The shards that have been read to their end and of which no child was started."""
        return self._done

    @property
    def has_waiting(self) -> bool:
        """Whether there are shards that were not started."""
        return bool(self._find_waiting())

    def cursor(self) -> Cursor:
        return Cursor(dict(self.at), self._done)

    def _find_waiting(self) -> list[str]:
        return [id for id in self._parents if id not in self.at and id not in self._read]

    def _is_finished(self, parent: str | None) -> bool:
        """Whether a parent has been read to its end, or cannot be read any more."""
        return parent not in self.at and (parent is None or parent in self._read or parent in self._gone)

    def _update_done(self) -> None:
        before = ancestors_of([*self.at, *self._read], self._parents)
        self._done = [id for id in self._parents if id in self._read and id not in before]


def to_number(sequence: str) -> int:
    """Return a sequence number as an int, for comparison. The beginning of a shard is less than all others."""
    return int(sequence) if sequence else -1
