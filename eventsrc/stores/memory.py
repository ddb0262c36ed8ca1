"""A store in memory, for tests and experiments. It keeps every promise of the other stores except durability."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from heapq import nsmallest
from types import coroutine
from uuid import uuid4

import msgspec

from ..errors import ConflictError
from ..store import MAX_VERSION, Commit, Loaded, Receipt, Snapshot
from ..stream_id import check_stream
from ..usage import Usage
from .causes import MemoryLookup
from .feed import Head
from .limits import MAX_COMMIT_BYTES, check_commit
from .ordered import PAGE, OrderedStore
from .settle import settle
from .transacting import Guard, check_transaction, find_outcome, make_receipts


class MemoryStore(OrderedStore):
    """Streams in a dictionary. They live as long as the object, also after it was closed and opened again."""

    def __init__(self, *, max_commit_bytes: int = MAX_COMMIT_BYTES) -> None:
        super().__init__()
        self._max_commit_bytes = max_commit_bytes
        self._streams: dict[str, list[Commit]] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._all: list[Commit] = []
        self._identity = uuid4().hex
        self._lookup = MemoryLookup(self.commits_after)

    async def append(self, commit: Commit) -> Receipt:
        check_stream(commit.stream)
        check_commit(commit, self._max_commit_bytes)
        used = Usage(calls=1)
        with self.in_flight(used=used):
            await _yield_to_others()
            commits = self._streams.get(commit.stream, [])
            if commit.version <= len(commits):
                return settle(commit, commits[commit.version - 1], used)
            if commit.version > len(commits) + 1:
                used.conflicts += 1
                raise ConflictError(commit.stream, commit.version - 1, len(commits))
            [stored] = self._store((commit,))
            await _yield_to_others()  # a cancellation here leaves it stored
            return settle(commit, stored, used)

    async def append_all(
        self, commits: Sequence[Commit], guards: Sequence[Guard] = (), *, inline: Callable[[None], None] | None = None
    ) -> Sequence[Receipt]:
        check_transaction(commits, guards, self._max_commit_bytes)
        used = Usage(calls=1)
        with self.in_flight(used=used):
            await _yield_to_others()
            streams = self._streams
            receipts = find_outcome(
                commits, guards, used, lambda name: len(streams.get(name, ())), lambda name, at: streams[name][at - 1]
            )
            if receipts is not None or not commits:
                return receipts or ()
            if inline is not None:
                inline(None)
            stored = self._store(commits)
            await _yield_to_others()  # as above
            return make_receipts(stored, used)

    def _store(self, commits: Sequence[Commit]) -> list[Commit]:
        last = len(self._all)
        stored = [msgspec.structs.replace(each, position=last + number) for number, each in enumerate(commits, 1)]
        for commit in stored:
            self._streams.setdefault(commit.stream, []).append(commit)
        self._all += stored
        self.notify()
        return stored

    async def load(self, stream: str) -> Loaded:
        check_stream(stream)
        with self.in_flight():
            await _yield_to_others()
            snapshot = self._snapshots.get(stream)
            commits = self._streams.get(stream, [])
            return Loaded(snapshot, commits[snapshot.version - 1 :] if snapshot else commits[:])

    async def read(
        self, stream: str, *, after: int = 0, until: int = MAX_VERSION, backward: bool = False
    ) -> AsyncGenerator[Commit]:
        check_stream(stream)
        with self.in_flight():
            await _yield_to_others()
            commits = self._streams.get(stream, [])[max(after, 0) : max(until, 0)]
        for commit in reversed(commits) if backward else commits:
            yield commit

    async def put_snapshot(self, snapshot: Snapshot) -> bool:
        check_stream(snapshot.stream)
        with self.in_flight(closing=True):
            await _yield_to_others()
            stored = self._snapshots.get(snapshot.stream)
            if stored and stored.version >= snapshot.version:
                return False
            self._snapshots[snapshot.stream] = snapshot
            return True

    async def identity(self) -> str:
        return self._identity

    async def commits_after(self, position: int) -> tuple[list[Commit], bool]:
        with self.in_flight():
            await _yield_to_others()
            return self._all[position : position + PAGE], len(self._all) <= position + PAGE

    async def last_position(self) -> int:
        with self.in_flight():
            await _yield_to_others()
            return len(self._all)

    async def heads_after(self, after: str) -> list[Head]:
        with self.in_flight():
            await _yield_to_others()
            heads = [Head(stream, len(commits)) for stream, commits in self._streams.items() if commits]
            return nsmallest(PAGE, (head for head in heads if head.stream > after))

    async def on_open(self) -> None: ...
    async def on_close(self) -> None: ...


@coroutine
def _yield_to_others() -> Generator[None]:
    """Let other tasks run, as a call to a real store does, so that races and cancellations occur here too."""
    yield
