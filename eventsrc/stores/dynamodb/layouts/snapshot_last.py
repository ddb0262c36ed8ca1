"""The layout with the snapshot after all commits."""

from __future__ import annotations

from ....store import Loaded, Snapshot
from .backward import BackwardLoad
from .layout import HIGHEST, Partitions, SortKey


class SnapshotLast:
    """The snapshot has a fixed key above every version. One backward query reads it and then the newest commits."""

    def __init__(self) -> None:
        # A query whose first item is not a snapshot shows that the stream has none, so all commits are needed.
        self._backward = BackwardLoad(next_limit=lambda limit: None)

    def key(self, version: int) -> SortKey:
        return HIGHEST

    async def put_snapshot(self, partitions: Partitions, snapshot: Snapshot) -> bool:
        return await partitions.put_snapshot(snapshot, self.key(snapshot.version))

    async def load(self, partitions: Partitions, stream: str) -> Loaded:
        return await self._backward.load(partitions, stream)
