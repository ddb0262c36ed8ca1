"""Snapshots between the commits."""

from __future__ import annotations

from ....store import Snapshot
from .layout import ABOVE, Reader, Sort, half_above
from .snapshot_last import SnapshotLast


class Interleaved(SnapshotLast):
    """A snapshot lies above its commit, half a version up, and stays there: the article's alternative.

    A load is a backward query that ends at the newest snapshot, wherever that is. Each put costs one more query, for
    what is newer.
    """

    def key(self, version: int) -> Sort:
        return half_above(version)

    async def outdated(self, reader: Reader, snapshot: Snapshot) -> bool:
        rest: tuple[Sort, Sort] | None = (snapshot.version + 1, ABOVE)
        while rest and rest[0] <= rest[1]:
            page = await reader.query(snapshot.stream, *rest, newest=True, backward=True)
            if page.snapshot and page.snapshot.version >= snapshot.version:
                return True
            rest = page.rest
        return False

    def search(self, limit: int | None) -> int | None:
        return limit and limit * 4
