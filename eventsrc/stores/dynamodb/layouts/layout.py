"""Where the snapshot lies in its partition, and how a load finds it. docs/storage.md compares the layouts."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple, Protocol

from ....store import MAX_VERSION, Commit, Loaded, Snapshot
from ....stream_id import category_of

Sort = int | Decimal
"""A sort key: a version; where snapshots are interleaved, also one and a half."""


def half_above(version: int) -> Decimal:
    """A version and a half, exact whatever the caller's decimal context is: rounded it would be a commit's key."""
    return Decimal(f"{version}.5")


def beyond(sort: Sort, *, backward: bool) -> Sort:
    """The next sort key that there can be in that direction."""
    whole = int(sort)
    if sort != whole:
        return whole if backward else whole + 1
    return half_above(whole - 1) if backward and whole else half_above(whole)


_ABOVE = MAX_VERSION + 1


def is_snapshot(sort: Sort) -> bool:
    """Whether a layout keeps snapshots at that sort key: no commit is there."""
    return not 1 <= sort <= MAX_VERSION or sort != int(sort)


class Page(NamedTuple):
    """What a query found in a range of sort keys; `rest` is the range it did not get to."""

    snapshot: Snapshot | None
    commits: list[Commit]  # in the order read
    rest: tuple[Sort, Sort] | None


class Reader(Protocol):
    """The store, as a layout sees it."""

    async def query(
        self,
        stream: str,
        low: Sort,
        high: Sort,
        *,
        newest: bool = False,
        backward: bool = False,
        limit: int | None = None,
    ) -> Page: ...

    async def get_snapshot(self, stream: str, sort: Sort) -> Snapshot | None: ...


class Layout(Protocol):
    def key(self, version: int) -> Sort:
        """The sort key of a snapshot."""
        ...

    async def outdated(self, reader: Reader, snapshot: Snapshot) -> bool:
        """Whether a newer snapshot is there at another key, where the condition of a put cannot see it."""
        ...

    async def load(self, reader: Reader, stream: str) -> Loaded: ...


class SnapshotLast:
    """The snapshot has one fixed key above every version: one backward query meets it, then the newest commits.

    Such a query cannot show a gap: who reads downwards and sees n+1 sees n too, because n was written before. Its
    limit is learnt per category from the loads before; where that was too low, the rest is read to its exact end.
    """

    def __init__(self) -> None:
        self._tails: dict[str, float] = {}

    def key(self, version: int) -> Sort:
        return _ABOVE

    async def outdated(self, reader: Reader, snapshot: Snapshot) -> bool:
        return False

    async def load(self, reader: Reader, stream: str) -> Loaded:
        category = category_of(stream)
        limit: int | None = self.limit(category)
        page = await reader.query(stream, 1, _ABOVE, newest=True, backward=True, limit=limit)
        snapshot, commits = page.snapshot, page.commits
        while page.rest and page.rest[1] >= (first := snapshot.version if snapshot else 1):
            limit = None if snapshot else self.search(limit)
            page = await reader.query(stream, first, page.rest[1], newest=not snapshot, backward=True, limit=limit)
            snapshot = snapshot or page.snapshot
            commits += page.commits
        self.learn(category, len(commits))
        return Loaded(snapshot, commits[::-1])

    def search(self, limit: int | None) -> int | None:
        """The next limit, where that many items held no snapshot: then there is none, and all are needed."""
        return None

    def limit(self, category: str) -> int:
        """How many items the first query asks for: snapshot, its own commit, and the tail expected behind it."""
        return 2 + round(self._tails.get(category, 22.0) * 1.25)

    def learn(self, category: str, tail: int) -> None:
        """A longer tail is expected at once, a shorter one slowly: a second request costs more than a few items."""
        expected = self._tails.get(category, float(tail))
        self._tails[category] = max(float(min(tail, 1000)), expected + (tail - expected) / 8)


class Interleaved(SnapshotLast):
    """A snapshot lies above its commit, half a version up, and stays there: the article's alternative.

    A load is a backward query that ends at the newest snapshot, wherever that is. Each put costs one more query, for
    what is newer.
    """

    def key(self, version: int) -> Sort:
        return half_above(version)

    async def outdated(self, reader: Reader, snapshot: Snapshot) -> bool:
        rest: tuple[Sort, Sort] | None = (snapshot.version + 1, _ABOVE)
        while rest and rest[0] <= rest[1]:
            page = await reader.query(snapshot.stream, *rest, newest=True, backward=True)
            if page.snapshot and page.snapshot.version >= snapshot.version:
                return True
            rest = page.rest
        return False

    def search(self, limit: int | None) -> int | None:
        return limit and limit * 4


class SnapshotFirst:
    """The snapshot has sort key 0, as in the article: one request for it, then one for what follows."""

    def key(self, version: int) -> Sort:
        return 0

    async def outdated(self, reader: Reader, snapshot: Snapshot) -> bool:
        return False

    async def load(self, reader: Reader, stream: str) -> Loaded:
        snapshot = await reader.get_snapshot(stream, self.key(0))
        commits: list[Commit] = []
        rest: tuple[Sort, Sort] | None = (snapshot.version if snapshot else 1, MAX_VERSION)
        while rest:
            page = await reader.query(stream, *rest)
            commits += page.commits
            rest = page.rest
        return Loaded(snapshot, commits)


LAYOUTS: dict[str, Callable[[], Layout]] = {
    "snapshot-last": SnapshotLast,
    "snapshot-first": SnapshotFirst,
    "interleaved": Interleaved,
}
