"""The layout with snapshots between the commits, the article's alternative."""

from __future__ import annotations

from decimal import Decimal

from ....store import Loaded, Snapshot
from .backward import BackwardLoad
from .layout import HIGHEST, Partitions, SortKey


class Interleaved:
    """The sort key of a snapshot is the version of its commit plus one half. Old snapshots stay in the partition.

    - A load queries backward until it finds the newest snapshot.
    - Each put makes an additional query, which looks for a newer snapshot.
    """

    def __init__(self) -> None:
        self._backward = BackwardLoad(next_limit=lambda limit: limit and limit * 4)

    def key(self, version: int) -> SortKey:
        return Decimal(f"{version}.5")  # a text is exact in any decimal context; a rounded key would be a commit's

    async def put_snapshot(self, partitions: Partitions, snapshot: Snapshot) -> bool:
        if await self._has_newer(partitions, snapshot):
            return False
        return await partitions.put_snapshot(snapshot, self.key(snapshot.version))

    async def load(self, partitions: Partitions, stream: str) -> Loaded:
        return await self._backward.load(partitions, stream)

    async def _has_newer(self, partitions: Partitions, snapshot: Snapshot) -> bool:
        """Whether a newer snapshot is stored. It has another key, so the condition of a put cannot see it."""
        first, after = snapshot.version + 1, None
        while True:
            page = await partitions.query(snapshot.stream, first, HIGHEST, after=after, newest=True, backward=True)
            if page.snapshot and page.snapshot.version >= snapshot.version:
                return True
            if page.last_key is None or page.last_key <= first:
                return False
            after = page.last_key
