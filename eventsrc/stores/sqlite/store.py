"""The embedded store: one file, durable on every acknowledged commit.

One thread writes. All appends waiting when it comes round share one transaction and one fsync (group commit). The
file is in WAL mode with `synchronous=FULL`: NORMAL loses acknowledged commits when the power fails. Reads run on
connections of their own and are never blocked by the writer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

from ...errors import CommitOutcomeUnknown, StoreUnavailable
from ...store import MAX_VERSION, Commit, Loaded, Receipt, Snapshot
from ...stream_id import check_stream
from ...usage import Usage
from ..feed import Head
from ..limits import MAX_COMMIT_BYTES, check_commit, check_deadline
from ..ordered import PAGE as FEED_PAGE
from ..ordered import OrderedStore
from .connection import connect
from .rows import PAGE, PAGE_BACKWARD, PUT_SNAPSHOT, append, behind, commits, heads, last, load, to_json
from .threads import Readers, Undecided, Writer

PAGE_COMMITS = 256


class SQLiteStore(OrderedStore):
    """Streams in an SQLite file, which is created with its folder's consent: the folder must exist.

    Several stores and processes may use one file at once. `deadline` is how many seconds a call waits for another
    process's transaction. `position` counts the commits of the whole file in the order they were made visible.
    """

    poll = 0.05  # for what other processes have stored

    def __init__(self, path: str | Path, *, deadline: float = 10.0, max_commit_bytes: int = MAX_COMMIT_BYTES) -> None:
        super().__init__()
        if str(path) in ("", ":memory:"):
            raise ValueError("SQLiteStore needs a file; for a store in memory use MemoryStore()")
        check_deadline(deadline)
        self._path = os.path.abspath(path)  # now: the folder that a process works in may change
        self._deadline = deadline
        self._max_commit_bytes = max_commit_bytes
        self._writer: Writer | None = None
        self._readers: Readers | None = None

    async def append(self, commit: Commit) -> Receipt:
        check_stream(commit.stream)
        check_commit(commit, self._max_commit_bytes)
        row = (
            commit.stream,
            commit.version,
            commit.id,
            commit.time,
            commit.events,
            to_json(commit.tags),
            commit.correlation_id,
            to_json(commit.causation_ids) if commit.causation_ids else None,
            commit.command_id,
            commit.command_digest,
            to_json(commit.metadata) if commit.metadata else None,
            commit.payload,
        )
        used = Usage(calls=1)
        with self.in_flight(used=used):
            assert self._writer is not None
            try:
                receipt = await self._writer.submit(lambda connection: append(connection, commit, row, used))
                self.notify()
                return receipt
            except Undecided:
                raise CommitOutcomeUnknown(commit.stream, commit.version, str(commit.uuid)) from None

    async def load(self, stream: str) -> Loaded:
        check_stream(stream)
        with self.in_flight():
            assert self._readers is not None
            return await self._readers.run(lambda connection: load(connection, stream))

    async def read(
        self, stream: str, *, after: int = 0, until: int = MAX_VERSION, backward: bool = False
    ) -> AsyncGenerator[Commit]:
        check_stream(stream)
        low, high = max(after, 0) + 1, min(until, MAX_VERSION)
        query = PAGE_BACKWARD if backward else PAGE
        while low <= high:
            arguments = (stream, low, high, PAGE_COMMITS)
            with self.in_flight():
                assert self._readers is not None
                page = await self._readers.run(partial(commits, query=query, arguments=arguments))
            for commit in page:
                yield commit
            if len(page) < PAGE_COMMITS:
                return
            if backward:
                high = page[-1].version - 1
            else:
                low = page[-1].version + 1

    async def commits_after(self, position: int) -> tuple[list[Commit], bool]:
        with self.in_flight():
            assert self._readers is not None
            return await self._readers.run(lambda connection: behind(connection, position, FEED_PAGE))

    async def last_position(self) -> int:
        with self.in_flight():
            assert self._readers is not None
            return await self._readers.run(last)

    async def heads_after(self, after: str) -> list[Head]:
        with self.in_flight():
            assert self._readers is not None
            return await self._readers.run(lambda connection: heads(connection, after, FEED_PAGE))

    async def put_snapshot(self, snapshot: Snapshot) -> bool:
        check_stream(snapshot.stream)
        row = (snapshot.stream, snapshot.version, snapshot.shape, snapshot.payload)
        with self.in_flight(closing=True):
            assert self._writer is not None
            try:
                return await self._writer.submit(lambda connection: connection.execute(PUT_SNAPSHOT, row).rowcount > 0)
            except Undecided:
                raise StoreUnavailable("the snapshot may not have been written") from None

    async def on_open(self) -> None:
        connection = await asyncio.to_thread(connect, self._path, self._deadline)
        self._readers = Readers(self._path, self._deadline)
        self._writer = Writer(connection, self._readers)

    async def on_close(self) -> None:
        writer, self._writer, self._readers = self._writer, None, None
        if writer is not None:
            writer.end()  # its thread releases everything, also if this is cancelled while it waits for that
            await asyncio.to_thread(writer.join)
