"""A store in memory whose next appends and reads fail as a script says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from eventsrc import Commit, Loaded, MemoryStore, Receipt, Snapshot
from eventsrc.store import MAX_VERSION

Fault = Exception | Callable[[Commit], Exception]


class ScriptedStore(MemoryStore):
    """Each append takes the next step of `appends`: an error to raise "before" or "after" storing, or "hang".

    A function, such as the class CommitOutcomeUnknown, makes the error from the commit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.appends: list[tuple[str, Fault | None]] = []
        self.hidden: set[int] = set()  # versions that reads do not show
        self.shown_after: int | None = None  # the number of reads after which they are shown
        self.snapshot_error: Exception | None = None
        self.hanging = asyncio.Event()
        self.appended: list[Commit] = []
        self.snapshots: list[Snapshot] = []
        self.change: Callable[[Snapshot], Snapshot] = lambda snapshot: snapshot

    async def append(self, commit: Commit) -> Receipt:
        self.appended.append(commit)
        when, error = self.appends.pop(0) if self.appends else ("", None)
        if when == "before" and error:
            raise error if isinstance(error, Exception) else error(commit)
        receipt = await super().append(commit)
        if when == "after" and error:
            raise error if isinstance(error, Exception) else error(commit)
        if when == "hang":
            self.hanging.set()
            await asyncio.Event().wait()
        return receipt

    async def load(self, stream: str) -> Loaded:
        snapshot, commits = await super().load(stream)
        return Loaded(snapshot and self.change(snapshot), self._without_hidden(list(commits)))

    async def read(
        self, stream: str, *, after: int = 0, until: int = MAX_VERSION, backward: bool = False
    ) -> AsyncGenerator[Commit]:
        commits = [commit async for commit in super().read(stream, after=after, until=until, backward=backward)]
        for commit in self._without_hidden(commits):
            yield commit

    async def put_snapshot(self, snapshot: Snapshot) -> bool:
        if self.snapshot_error:
            raise self.snapshot_error
        self.snapshots.append(snapshot)
        return await super().put_snapshot(snapshot)

    def _without_hidden(self, commits: list[Commit]) -> list[Commit]:
        if self.shown_after is not None:
            self.shown_after -= 1
            if self.shown_after < 0:
                return commits
        return [commit for commit in commits if commit.version not in self.hidden]
