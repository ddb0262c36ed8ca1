"""Where the snapshot lies in its partition, and how a load finds it. docs/storage.md compares the layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from ..store import MAX_VERSION, Commit, Loaded, Snapshot
from ..stream import category_of


class Page(NamedTuple):
    """What a query found in a range of sort keys; `rest` is the range it did not get to."""

    snapshot: Snapshot | None
    commits: list[Commit]  # in the order read
    rest: tuple[int, int] | None


class Reader(Protocol):
    """The store, as a layout sees it."""

    async def query(
        self, stream: str, low: int, high: int, *, backward: bool = False, limit: int | None = None
    ) -> Page: ...

    async def get_snapshot(self, stream: str) -> Snapshot | None: ...


class Layout(Protocol):
    snapshot_key: int

    async def load(self, reader: Reader, stream: str) -> Loaded: ...


class SnapshotLast:
    """The snapshot has one fixed key above every version: one backward query meets it, then the newest commits.

    Such a query cannot show a gap: who reads downwards and sees n+1 sees n too, because n was written before. Its
    limit is learnt per category from the loads before; where that was too low, the rest is read to its exact end.
    """

    snapshot_key = MAX_VERSION + 1

    def __init__(self) -> None:
        self._tails: dict[str, float] = {}

    async def load(self, reader: Reader, stream: str) -> Loaded:
        category = category_of(stream)
        page = await reader.query(stream, 1, self.snapshot_key, backward=True, limit=self.limit(category))
        snapshot = page.snapshot
        first = snapshot.version if snapshot else 1
        commits, rest = page.commits, page.rest
        while rest and rest[1] >= first:
            more = await reader.query(stream, first, min(rest[1], MAX_VERSION), backward=True)
            commits += more.commits
            rest = more.rest
        self.learn(category, len(commits))
        return Loaded(snapshot, commits[::-1])

    def limit(self, category: str) -> int:
        """How many items the first query asks for: snapshot, its own commit, and the tail expected behind it."""
        return 2 + round(self._tails.get(category, 22.0) * 1.25)

    def learn(self, category: str, tail: int) -> None:
        """A longer tail is expected at once, a shorter one slowly: a second request costs more than a few items."""
        expected = self._tails.get(category, float(tail))
        self._tails[category] = max(float(min(tail, 1000)), expected + (tail - expected) / 8)


class SnapshotFirst:
    """The snapshot has sort key 0, as in the article: one request for it, then one for what follows."""

    snapshot_key = 0

    async def load(self, reader: Reader, stream: str) -> Loaded:
        snapshot = await reader.get_snapshot(stream)
        commits: list[Commit] = []
        rest: tuple[int, int] | None = (snapshot.version if snapshot else 1, MAX_VERSION)
        while rest:
            page = await reader.query(stream, *rest)
            commits += page.commits
            rest = page.rest
        return Loaded(snapshot, commits)


LAYOUTS: dict[str, Callable[[], Layout]] = {"snapshot-last": SnapshotLast, "snapshot-first": SnapshotFirst}
