"""Loading a stream backward, from its newest commit on."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from math import inf

from ....store import Loaded
from ....stream_id import category_of
from .layout import HIGHEST, Partitions

_REMEMBERED = 32  # loads of a category
_RECONSIDERED = 8  # loads after which the expected tail may fall
_UNKNOWN = 25  # commits expected before the first load
_MAX_EXPECTED = 1000  # commits
_REQUEST = 16_384  # bytes


class BackwardLoad:
    """Query backward until the newest snapshot and the commits from its version on have been read.

    - A backward query cannot show a gap. If it sees version n+1 it also sees n, because n was written before.
    - The limit of the first query is learned per category, from earlier loads.
    - `next_limit` is given the limit of a query that found no snapshot. It returns the limit of the next query, or None
      to read to the end.
    """

    def __init__(self, next_limit: Callable[[int | None], int | None]) -> None:
        self._next_limit = next_limit
        self._tails: defaultdict[str, Tails] = defaultdict(Tails)  # by category

    async def load(self, partitions: Partitions, stream: str) -> Loaded:
        tails = self._tails[category_of(stream)]
        # The snapshot, its own commit, the commits expected after it, and an eighth more, as streams grow.
        limit: int | None = 2 + tails.expected * 9 // 8
        page = await partitions.query(stream, 1, HIGHEST, newest=True, backward=True, limit=limit)
        snapshot, commits = page.snapshot, page.commits
        while page.last_key is not None and page.last_key > (first := snapshot.version if snapshot else 1):
            limit = None if snapshot else self._next_limit(limit)
            page = await partitions.query(
                stream, first, HIGHEST, after=page.last_key, newest=not snapshot, backward=True, limit=limit
            )
            snapshot = snapshot or page.snapshot
            commits += page.commits
        if commits:
            tails.add(len(commits), commits[0].size, snapshot.size if snapshot else 0)
        return Loaded(snapshot, commits[::-1])


class Tails:
    """The tails of the latest loads of a category, and the number of commits to expect that suits them best.

    - It is the number that would have made these loads cheapest: a load with a shorter tail reads the difference in
      vain, and one with a longer tail needs a second request. So a few streams with long tails do not make the loads of
      all others dearer.
    - A request is worth 16 KB, or the mean size of these loads if that is more.
    """

    def __init__(self) -> None:
        self.expected = _UNKNOWN
        self._latest: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)  # commits, and those that a request is worth
        self._count = 0

    def add(self, commits: int, size: int, snapshot: int) -> None:
        """Add the tail of a load: its commits, bytes of one of them, and bytes of the snapshot."""
        worth = max(_REQUEST, snapshot + commits * size) / size
        self._latest.append((min(commits, _MAX_EXPECTED), worth))
        self._count += 1
        if commits > self.expected or self._count < _RECONSIDERED or self._count % _RECONSIDERED == 0:
            self.expected = self._find_cheapest()

    def _find_cheapest(self) -> int:
        loads = len(self._latest)
        worth = sum(each for _, each in self._latest) / loads
        cheapest, least, total = 0, inf, 0
        for count, (commits, _) in enumerate(sorted(self._latest), 1):
            total += commits
            cost = count * commits - total + (loads - count) * worth
            if cost <= least:
                cheapest, least = commits, cost
        return cheapest
