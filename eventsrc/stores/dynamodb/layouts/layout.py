"""The protocol of a layout, which chooses the sort key of a snapshot and how a load finds it."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple, Protocol

from ....errors import CorruptPayload
from ....store import MAX_VERSION, Commit, Loaded, Snapshot

SortKey = int | Decimal
"""The sort key of a commit is its version. A layout may choose any other number for a snapshot."""

HIGHEST = MAX_VERSION + 1
"""The highest sort key that a layout uses."""


def commit_version(key: SortKey) -> int | None:
    """Return the version of the commit at this sort key, or None if the key cannot be a commit's."""
    if not 1 <= key <= MAX_VERSION:
        return None
    if isinstance(key, int):
        return key
    version = int(key)
    return version if version == key else None


class Page(NamedTuple):
    """The result of one query. `last_key` is the last sort key that it read, or None if it read the whole range."""

    snapshot: Snapshot | None
    commits: list[Commit]  # in the order of the query
    last_key: SortKey | None
    error: CorruptPayload | None = None  # of the item after these commits, if the query was to stop there


class Partitions(Protocol):
    """The requests that layouts make. A partition holds one stream, and each method sends one request."""

    async def query(
        self,
        stream: str,
        low: SortKey,
        high: SortKey,
        *,
        after: SortKey | None = None,
        newest: bool = False,
        backward: bool = False,
        limit: int | None = None,
    ) -> Page:
        """Query the sort keys from `low` to `high`, both included.

        - With `after`, start after that key, in the order of the query.
        - With `newest`, return the newest snapshot and the commits from its version on. This needs `backward`.
        - Otherwise return all commits and no snapshot.
        """
        ...

    async def get_snapshot(self, stream: str, key: SortKey) -> Snapshot | None: ...

    async def put_snapshot(self, snapshot: Snapshot, key: SortKey) -> bool:
        """Store a snapshot; False if the key has a commit, or a snapshot of this version or a later one."""
        ...


class Layout(Protocol):
    async def put_snapshot(self, partitions: Partitions, snapshot: Snapshot) -> bool:
        """Store a snapshot; False if a snapshot of this version or a later one is stored already."""
        ...

    async def load(self, partitions: Partitions, stream: str) -> Loaded: ...
