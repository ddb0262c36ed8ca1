"""The snapshot below all commits."""

from __future__ import annotations

from ....store import MAX_VERSION, Commit, Loaded, Snapshot
from .layout import Reader, Sort


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
