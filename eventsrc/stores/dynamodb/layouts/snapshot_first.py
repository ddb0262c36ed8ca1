"""The layout with the snapshot before all commits, as in the article."""

from __future__ import annotations

from ....store import MAX_VERSION, Commit, Loaded, Snapshot
from .layout import Partitions, SortKey


class SnapshotFirst:
    """The snapshot has sort key 0. A load makes one request for it, and one for the commits from its version on."""

    def key(self, version: int) -> SortKey:
        return 0

    async def put_snapshot(self, partitions: Partitions, snapshot: Snapshot) -> bool:
        return await partitions.put_snapshot(snapshot, self.key(snapshot.version))

    async def load(self, partitions: Partitions, stream: str) -> Loaded:
        snapshot = await partitions.get_snapshot(stream, self.key(0))
        commits: list[Commit] = []
        first, after = snapshot.version if snapshot else 1, None
        while True:
            page = await partitions.query(stream, first, MAX_VERSION, after=after)
            commits += page.commits
            if page.last_key is None:
                return Loaded(snapshot, commits)
            after = page.last_key
