"""The snapshot above all commits."""

from __future__ import annotations

from ....store import Loaded, Snapshot
from ....stream_id import category_of
from .layout import ABOVE, Reader, Sort


class SnapshotLast:
    """The snapshot has one fixed key above every version: one backward query meets it, then the newest commits.

    Such a query cannot show a gap: who reads downwards and sees n+1 sees n too, because n was written before. Its
    limit is learnt per category from the loads before; where that was too low, the rest is read to its exact end.
    """

    def __init__(self) -> None:
        self._tails: dict[str, float] = {}

    def key(self, version: int) -> Sort:
        return ABOVE

    async def outdated(self, reader: Reader, snapshot: Snapshot) -> bool:
        return False

    async def load(self, reader: Reader, stream: str) -> Loaded:
        category = category_of(stream)
        limit: int | None = self.limit(category)
        page = await reader.query(stream, 1, ABOVE, newest=True, backward=True, limit=limit)
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
