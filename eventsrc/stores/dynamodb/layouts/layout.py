"""What a layout is: it chooses the sort key of a snapshot, and how a load finds it."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple, Protocol

from ....store import MAX_VERSION, Commit, Loaded, Snapshot

SortKey = int | Decimal
"""A commit's is its version. Every other number may be a snapshot's: the layout chooses it."""

HIGHEST = MAX_VERSION + 1
"""The highest sort key that a layout uses."""


def commit_version(key: SortKey) -> int | None:
    """Return the version of the commit at this sort key, or None if the key cannot be a commit's."""
    if not 1 <= key <= MAX_VERSION:
        return None
    version = int(key)
    return version if version == key else None


class Page(NamedTuple):
    """What one query found in a range of sort keys. `reached` is the last key it read, None at the range's end."""

    snapshot: Snapshot | None
    commits: list[Commit]  # in the order read
    reached: SortKey | None


class Partitions(Protocol):
    """The requests that a layout may make, one each: a partition holds one stream."""

    async def query(
        self,
        stream: str,
        low: SortKey,
        high: SortKey,
        *,
        beyond: SortKey | None = None,
        newest: bool = False,
        backward: bool = False,
        limit: int | None = None,
    ) -> Page:
        """Query the sort keys from `low` to `high`, both included, or what follows the key `beyond` in that range.

        Returns all commits. With `newest`, which needs `backward`: the newest snapshot, and the commits from its
        version on.
        """
        ...

    async def get_snapshot(self, stream: str, key: SortKey) -> Snapshot | None: ...

    async def put_snapshot(self, snapshot: Snapshot, key: SortKey) -> bool:
        """Store a snapshot; False if a commit, or a snapshot of this version or a later one, is stored at the key."""
        ...


class Layout(Protocol):
    async def put_snapshot(self, partitions: Partitions, snapshot: Snapshot) -> bool:
        """Store a snapshot; False if one of this version or a later one is stored already."""
        ...

    async def load(self, partitions: Partitions, stream: str) -> Loaded: ...
