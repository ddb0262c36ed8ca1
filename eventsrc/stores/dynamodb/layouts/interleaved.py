"""Snapshots between the commits: the article's alternative."""

from __future__ import annotations

from decimal import Decimal

from ....store import Loaded, Snapshot
from .backward import BackwardLoad
from .layout import HIGHEST, Partitions, SortKey


class Interleaved:
    """A snapshot has the key half a version above its commit, and stays there.

    A load is a backward query that ends at the newest snapshot, wherever that is. Each put costs one more query, which
    looks for a newer snapshot.
    """

    def __init__(self) -> None:
        self._backward = BackwardLoad(next_limit=lambda limit: limit and limit * 4)

    def key(self, version: int) -> SortKey:
        return Decimal(f"{version}.5")  # exact in any decimal context; rounded, it would be a commit's key

    async def put_snapshot(self, partitions: Partitions, snapshot: Snapshot) -> bool:
        if await self._has_newer(partitions, snapshot):
            return False
        return await partitions.put_snapshot(snapshot, self.key(snapshot.version))

    async def load(self, partitions: Partitions, stream: str) -> Loaded:
        return await self._backward.load(partitions, stream)

    async def _has_newer(self, partitions: Partitions, snapshot: Snapshot) -> bool:
        """Whether a newer snapshot is stored at another key, where the condition of a put cannot see it."""
        first, beyond = snapshot.version + 1, None
        while True:
            page = await partitions.query(snapshot.stream, first, HIGHEST, beyond=beyond, newest=True, backward=True)
            if page.snapshot and page.snapshot.version >= snapshot.version:
                return True
            if page.reached is None or page.reached <= first:
                return False
            beyond = page.reached
