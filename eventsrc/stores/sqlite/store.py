"""The embedded store: one file, in which every acknowledged commit is durable.

One thread writes. All appends that wait for it share one transaction and one fsync (group commit). The file is in WAL
mode with `synchronous=FULL`: NORMAL loses acknowledged commits when the power fails. Reads have their own connections,
and the writer never blocks them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path

from ...concurrency import wait_for_thread
from ...errors import CommitOutcomeUnknown, StoredDataError, StoreUnavailable, TransactionOutcomeUnknown
from ...store import MAX_VERSION, Commit, EventId, Loaded, Receipt, Snapshot
from ...stream_id import check_stream
from ...trace_context import check_text
from ...usage import Usage
from ..causes import Cause, parse_identity
from ..feed import Damaged, Head
from ..limits import MAX_COMMIT_BYTES, check_commit, check_deadline
from ..ordered import PAGE as FEED_PAGE
from ..ordered import OrderedStore
from ..transacting import Guard, check_transaction
from .file import FILE_MODE, DatabaseFile
from .inline import InlineDatabase, InlineFailed, run_inline
from .pages import PAGE, Page, Selection, read_page, to_row
from .rows import (
    BACKWARD,
    CORRELATED,
    EFFECTS_OF_COMMIT,
    EFFECTS_OF_EVENT,
    FORWARD,
    PUT_SNAPSHOT,
    append,
    append_all,
    load,
    read_after,
    read_commit_id,
    read_heads,
    read_identity,
    read_last_position,
    read_of,
    read_versions,
)
from .threads import Readers, Undecided, Writer
from .watcher import Watcher

_FIRST_PAGE = 256  # commits of a read, of which the caller may need no more; later pages are whole


class SQLiteStore(OrderedStore):
    """A store in an SQLite file. The file is created if it is missing; its folder must exist.

    - Several stores and processes may use one file at once. `position` numbers the commits of the whole file in the
      order in which they became visible.
    - `deadline` is the number of seconds that a call may take. Opening may take one more. An append that ends as not
      done then is never written later.
    - The file is created with the permissions `file_mode`, whatever the umask. SQLite gives them to its other files.
    - If the file is deleted or replaced while it is open, the next call raises StoreRejected with the code FILE. No
      commit is acknowledged that is not in the file at the path.
    """

    poll = 0.01  # seconds between looks for commits of other processes

    def __init__(
        self,
        path: str | Path,
        *,
        deadline: float = 10.0,
        max_commit_bytes: int = MAX_COMMIT_BYTES,
        file_mode: int = FILE_MODE,
    ) -> None:
        super().__init__()
        if str(path) in ("", ":memory:"):
            raise ValueError("SQLiteStore needs a file; for a store in memory use MemoryStore()")
        check_deadline(deadline)
        self._file = DatabaseFile(path, file_mode)
        self.deadline = self._deadline = deadline
        self._max_commit_bytes = max_commit_bytes
        self._writer: Writer | None = None
        self._readers: Readers | None = None
        self._watcher: Watcher | None = None
        self._appended: int | None = None  # the position of the last commit stored through this object
        self._identity: str | None = None  # of the file that is open

    async def append(self, commit: Commit) -> Receipt:
        check_stream(commit.stream)
        check_commit(commit, self._max_commit_bytes)
        row = to_row(commit)
        used = Usage(calls=1)
        with self.in_flight(used=used):
            assert self._writer is not None
            try:
                receipt = await self._writer.submit(lambda connection: append(connection, commit, row, used))
                self._appended = receipt.position
                self.notify()
                return receipt
            except Undecided as undecided:
                raise CommitOutcomeUnknown(commit, str(undecided)) from None

    async def append_all(
        self,
        commits: Sequence[Commit],
        guards: Sequence[Guard] = (),
        *,
        inline: Callable[[InlineDatabase], None] | None = None,
    ) -> Sequence[Receipt]:
        """Store all these commits or none, as `Transacting.append_all`.

        `inline` is called by the thread that writes, inside the transaction, with the database of the store: its tables
        and those that `inline` makes. Whatever it raises is raised here, and nothing is stored then. It holds up all
        appends while it runs.
        """
        check_transaction(commits, guards, self._max_commit_bytes)
        rows = [to_row(commit) for commit in commits]
        write = partial(run_inline, inline) if inline is not None else None
        used = Usage(calls=1)
        with self.in_flight(used=used):
            assert self._writer is not None
            try:
                receipts = await self._writer.submit(
                    lambda connection: append_all(connection, commits, rows, guards, used, write)
                )
            except Undecided as undecided:
                if not commits:
                    raise StoreUnavailable("the guards could not be checked; try again later") from None
                raise TransactionOutcomeUnknown(commits, guards, str(undecided)) from None
            except InlineFailed as failed:
                raise failed.error from None
            if receipts:
                self._appended = receipts[-1].position
                self.notify()
            return receipts

    async def load(self, stream: str) -> Loaded:
        check_stream(stream)
        with self.in_flight():
            assert self._readers is not None
            return await self._readers.run(lambda connection: load(connection, stream))

    async def read(
        self, stream: str, *, after: int = 0, until: int = MAX_VERSION, backward: bool = False
    ) -> AsyncGenerator[Commit]:
        check_stream(stream)
        low, high, limit = max(after, 0) + 1, min(until, MAX_VERSION), _FIRST_PAGE
        selection = BACKWARD if backward else FORWARD
        while low <= high:
            read = partial(read_page, selection=selection, arguments=(stream, low, high), limit=limit)
            with self.in_flight():
                assert self._readers is not None
                page = await self._readers.run(read)
            for row in page.rows:
                if isinstance(row, Damaged):
                    raise row.error
                yield row
            if page.complete:
                return
            if backward:
                high = page.rows[-1].version - 1
            else:
                low = page.rows[-1].version + 1
            limit = PAGE

    async def load_until(self, stream: str, version: int) -> list[Commit]:
        check_stream(stream)
        with self.in_flight():
            assert self._readers is not None
            return await self._readers.run(lambda connection: read_versions(connection, stream, 1, version))

    async def identity(self) -> str:
        with self.in_flight():
            assert self._readers is not None
            if self._identity is None:
                self._identity = await self._readers.run(read_identity)
            return self._identity

    async def commits_after(self, position: int) -> Page:
        with self.in_flight():
            assert self._readers is not None
            return await self._readers.run(lambda connection: read_after(connection, position, FEED_PAGE))

    async def commits_of(self, position: int, categories: Collection[str]) -> Page:
        with self.in_flight():
            assert self._readers is not None
            return await self._readers.run(lambda connection: read_of(connection, position, FEED_PAGE, categories))

    async def commit_id_at(self, position: int) -> bytes | None:
        with self.in_flight():
            assert self._readers is not None
            return await self._readers.run(lambda connection: read_commit_id(connection, position))

    async def last_position(self) -> int:
        with self.in_flight():
            assert self._readers is not None
            return await self._readers.run(read_last_position)

    async def heads_after(self, after: str) -> list[Head]:
        with self.in_flight():
            assert self._readers is not None
            return await self._readers.run(lambda connection: read_heads(connection, after, FEED_PAGE))

    async def correlated(self, correlation_id: str) -> AsyncGenerator[Commit]:
        check_text("correlation_id", correlation_id)
        if not correlation_id:
            return
        error: StoredDataError | None = None
        if (root := parse_identity(correlation_id)) is not None:
            stream, version = root
            try:
                async with aclosing(self.read(stream, after=version - 1, until=version)) as roots:
                    async for commit in roots:
                        if not commit.correlation_id:
                            yield commit
            except StoredDataError as damaged:
                error = damaged.with_traceback(None)
        async with aclosing(self._select(CORRELATED, correlation_id)) as commits:
            async for commit in commits:
                yield commit
        if error is not None:
            raise error

    async def effects_of(self, cause: EventId | str, *, correlation_id: str | None = None) -> AsyncGenerator[Commit]:
        wanted = Cause.of(cause)
        if wanted.is_commit:
            found = self._select(EFFECTS_OF_COMMIT, wanted.text, *wanted.prefix)
        else:
            found = self._select(EFFECTS_OF_EVENT, wanted.text)
        async with aclosing(found):
            async for commit in found:
                if wanted.is_of(commit):
                    yield commit

    async def _select(self, selection: Selection, *arguments: str) -> AsyncGenerator[Commit]:
        """Yield the commits of a selection, whose last argument is a position. Damaged ones are reported at the end."""
        position, complete, error = 0, False, None
        while not complete:
            read = partial(read_page, selection=selection, arguments=(*arguments, position))
            with self.in_flight():
                assert self._readers is not None
                rows, complete = await self._readers.run(read)
            for row in rows:
                assert row.position is not None
                position = row.position
                if isinstance(row, Commit):
                    yield row
                else:
                    error = error or row.error
        if error is not None:
            raise error

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
        self._identity = None
        readers = Readers(self._file, self._deadline)
        writer = Writer(self._file, self._deadline, readers)
        try:
            await writer.opened()
        except BaseException:
            writer.end()
            raise
        self._writer, self._readers = writer, readers

    async def on_close(self) -> None:
        writer, watcher = self._writer, self._watcher
        self._writer = self._readers = self._watcher = None
        if watcher is not None:
            watcher.end()  # the threads release everything, also if the wait below is cancelled
        if writer is not None:
            writer.end()
            await wait_for_thread(asyncio.to_thread(writer.join))
        if watcher is not None:
            await wait_for_thread(asyncio.to_thread(watcher.join))

    def watch(self, *, following: bool) -> None:
        if following and self._watcher is None and self._writer is not None and self.poll is not None:
            loop = asyncio.get_running_loop()

            def found(position: int | None) -> None:
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._found, position)

            self._watcher = Watcher(self._file, self._deadline, self.poll, found)
        if self._watcher is not None:
            self._watcher.follow(following=following)

    def _found(self, position: int | None) -> None:
        if position is None or position != self._appended:
            self.notify()
