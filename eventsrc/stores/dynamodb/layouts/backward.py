"""Loading a stream backward, from its newest commit on."""

from __future__ import annotations

from collections.abc import Callable

from ....store import Loaded
from ....stream_id import category_of
from .layout import HIGHEST, Partitions


class BackwardLoad:
    """Query backward until the newest snapshot and the commits from its version on have been read.

    - A backward query cannot show a gap. If it sees version n+1 it also sees n, because n was written before.
    - The limit of the first query is learned per category, from earlier loads.
    - `next_limit` is given the limit of a query that found no snapshot. It returns the limit of the next query, or None
      to read to the end.
    """

    def __init__(self, next_limit: Callable[[int | None], int | None]) -> None:
        self._next_limit = next_limit
        self._tails: dict[str, float] = {}  # category -> number of commits expected after the snapshot

    async def load(self, partitions: Partitions, stream: str) -> Loaded:
        category = category_of(stream)
        limit: int | None = self._first_limit(category)
        page = await partitions.query(stream, 1, HIGHEST, newest=True, backward=True, limit=limit)
        snapshot, commits = page.snapshot, page.commits
        while page.last_key is not None and page.last_key > (first := snapshot.version if snapshot else 1):
            limit = None if snapshot else self._next_limit(limit)
            page = await partitions.query(
                stream, first, HIGHEST, after=page.last_key, newest=not snapshot, backward=True, limit=limit
            )
            snapshot = snapshot or page.snapshot
            commits += page.commits
        self._learn(category, len(commits))
        return Loaded(snapshot, commits[::-1])

    def _first_limit(self, category: str) -> int:
        """Return the limit of the first query: the snapshot, its own commit, and the commits expected after it."""
        return 2 + round(self._tails.get(category, 22.0) * 1.25)

    def _learn(self, category: str, tail: int) -> None:
        """Raise the expected number at once and lower it slowly: a second request costs more than a few items."""
        expected = self._tails.get(category, float(tail))
        self._tails[category] = max(float(min(tail, 1000)), expected + (tail - expected) / 8)
