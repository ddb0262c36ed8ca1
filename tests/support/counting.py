"""A store that counts its calls by method, and fails once if asked to."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator

from eventsrc import Commit, Loaded, MemoryStore, Receipt
from eventsrc.store import MAX_VERSION


class CountingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.read_commits = 0
        self.fails_read: Exception | None = None

    async def append(self, commit: Commit) -> Receipt:
        self.asked["append"] += 1
        return await super().append(commit)

    async def load(self, stream: str) -> Loaded:
        self.asked["load"] += 1
        return await super().load(stream)

    async def read(
        self, stream: str, *, after: int = 0, until: int = MAX_VERSION, backward: bool = False
    ) -> AsyncGenerator[Commit]:
        self.asked["read"] += 1
        if (error := self.fails_read) is not None:
            self.fails_read = None
            raise error
        async for commit in super().read(stream, after=after, until=until, backward=backward):
            self.read_commits += 1
            yield commit
