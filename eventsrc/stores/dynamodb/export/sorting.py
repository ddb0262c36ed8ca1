"""Sorting the commits of exports by stream and version, in a file. An export has them in any order.

SQLite merges sorted runs on disk, so memory stays flat for any number of commits. While it sorts, it needs disk space
for three copies. Two of them are temporary files of SQLite (in SQLITE_TMPDIR, TMPDIR, /var/tmp or /tmp).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Any, Self, TypeVar

import msgspec

from ....concurrency import wait_for_thread
from ....errors import CorruptPayload, StoreClosed, StoreRejected
from ....store import Commit
from ...feed import Damaged, Head
from ...ordered import PAGE
from ...sqlite_errors import ERRORS, to_store_error
from .data_file import Row

T = TypeVar("T")
CommitKey = tuple[str, int]
"""The stream and the version of a commit. ("", 0) is before all commits."""

_PAGE_BYTES = 8 * 1024 * 1024  # of commits, after which a page of the feed ends
_FILE_PAGE_SIZE = 16 * 1024  # bytes; with SQLite's default of 4 KB, sorting commits of 2 KB takes four times as long
_CACHE_KB = 16 * 1024  # memory for each of SQLite's two files
_STEPS = 100_000  # of SQLite, which take some milliseconds, between checks whether to stop

_SCHEMA = """
CREATE TABLE export (source TEXT);
CREATE TABLE commits (stream TEXT, version INTEGER, body BLOB, PRIMARY KEY (stream, version)) WITHOUT ROWID;
CREATE TEMP TABLE unsorted (stream TEXT, version INTEGER, export INTEGER, body BLOB);
"""
_SORT = """
INSERT INTO commits SELECT stream, version, body FROM (
    SELECT stream, version, body, max(export) FROM unsorted GROUP BY stream, version  -- the body of the last export
) WHERE body IS NOT NULL ORDER BY stream, version
"""


class SortedCommits:
    """A sorted file of commits. `open` it; unless it is `complete`, `add` commits and `sort` once; then read.

    - With `path`, the file is kept there. If it exists already, it is used, and `complete` is true.
    - `source` identifies the exports and the settings with which they were read.
    - It has its own connection and thread, because SQLite blocks.
    - Close it even if `open` fails.

    Raises ValueError if the file at `path` has another `source`, and StoreError.
    """

    def __init__(self, path: Path | None, source: str) -> None:
        self._path, self._source = path, source
        self._incomplete: str | None = None
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, "eventsrc-export")
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Commit | str).decode  # a text says why a commit cannot be read
        self._closing = False
        self.complete = False

    async def open(self) -> Self:
        await self._run(self._open)
        return self

    async def add(self, rows: Iterable[Row], export: int) -> None:
        """Add rows of the export with this number. If several exports have the same commit, the last one counts."""
        await self._run(self._add, rows, export)

    async def sort(self) -> None:
        await self._run(self._sort)

    async def page(self, after: CommitKey) -> tuple[list[Commit | Damaged], bool]:
        """Return up to PAGE commits after a key, and whether they are the last."""
        return await self._run(self._page, after)

    async def heads(self, after: str) -> Sequence[Head]:
        """Return the heads of up to PAGE streams after that one."""
        query = "SELECT stream, max(version) FROM commits WHERE stream > ? GROUP BY stream ORDER BY stream LIMIT ?"
        return [Head(*row) for row in await self._run(self._rows, query, (after, PAGE))]

    async def end(self) -> CommitKey:
        """Return the key of the last commit."""
        query = "SELECT stream, version FROM commits ORDER BY stream DESC, version DESC LIMIT 1"
        rows: list[CommitKey] = await self._run(self._rows, query, ())
        return rows[0] if rows else ("", 0)

    async def remaining(self, after: CommitKey) -> int:
        """Return the number of commits after a key."""
        query = "SELECT count(*) FROM commits WHERE (stream, version) > (?, ?)"
        return int((await self._run(self._rows, query, after))[0][0])

    async def aclose(self) -> None:
        """Stop and close, and delete an incomplete file. If it is cancelled, the thread still finishes that."""
        self._closing = True
        closed = self._thread.submit(self._close)
        self._thread.shutdown(wait=False)
        await wait_for_thread(asyncio.shield(asyncio.wrap_future(closed)))
        self._thread.shutdown()  # the thread has no work left

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            running = loop.run_in_executor(self._thread, self._call, function, arguments)
        except RuntimeError:  # the thread was shut down
            raise _closed() from None
        return await wait_for_thread(running)

    def _call(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        where = str(self._path or "a temporary file")
        try:
            return function(*arguments)
        except ERRORS as error:
            failure = _closed() if self._closing else to_store_error(error, where)
        except msgspec.MsgspecError as error:
            failure = StoreRejected(type(error).__name__, f"{where} is damaged; delete it")
        except OSError as error:
            failure = StoreRejected(type(error).__name__, f"{where}: {error.strerror}")
        raise failure

    def _open(self) -> None:
        if self._path is not None and self._path.exists():
            self._connection = self._open_existing(self._path)
            self.complete = True
            return
        if self._path is not None:  # made under another name, so that the file at `path` is always complete
            handle, self._incomplete = mkstemp(prefix=f"{self._path.name}.", suffix=".part", dir=self._path.parent)
            os.close(handle)
        self._connection = sqlite3.connect(self._incomplete or "", isolation_level=None, check_same_thread=False)
        self._connection.set_progress_handler(lambda: self._closing, _STEPS)  # stops a sort when `aclose` is called
        self._connection.execute("PRAGMA temp_store = FILE")
        for schema in ("main", "temp"):
            self._connection.execute(f"PRAGMA {schema}.page_size = {_FILE_PAGE_SIZE}")
            self._connection.execute(f"PRAGMA {schema}.journal_mode = OFF")
            self._connection.execute(f"PRAGMA {schema}.synchronous = OFF")
            self._connection.execute(f"PRAGMA {schema}.cache_size = -{_CACHE_KB}")
        self._connection.executescript(_SCHEMA)
        self._connection.execute("INSERT INTO export VALUES (?)", (self._source,))
        self._connection.execute("BEGIN")

    def _open_existing(self, path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            source = connection.execute("SELECT source FROM export").fetchone()
        except sqlite3.OperationalError:
            source = None  # a database of another program
        except BaseException:
            connection.close()
            raise
        if source != (self._source,):
            connection.close()
            raise ValueError(f"{path} is of other exports, or of a store with other settings; sort into another file")
        return connection

    def _add(self, rows: Iterable[Row], export: int) -> None:
        values = (
            (row.stream, row.version, export, None if row.commit is None else self._encode(row.commit)) for row in rows
        )
        self._opened.executemany("INSERT INTO unsorted VALUES (?, ?, ?, ?)", values)

    def _sort(self) -> None:
        connection = self._opened
        connection.execute(_SORT)
        connection.execute("COMMIT")
        if self._path is None or self._incomplete is None:
            connection.execute("DROP TABLE unsorted")
        else:
            connection.close()
            with open(self._incomplete, "rb") as file:
                os.fsync(file.fileno())
            os.replace(self._incomplete, self._path)
            self._incomplete = None
            self._connection = self._open_existing(self._path)
        self.complete = True

    def _page(self, after: CommitKey) -> tuple[list[Commit | Damaged], bool]:
        query = (
            "SELECT stream, version, body FROM commits WHERE (stream, version) > (?, ?) "
            "ORDER BY stream, version LIMIT ?"
        )
        commits: list[Commit | Damaged] = []
        size = 0
        for stream, version, body in self._opened.execute(query, (*after, PAGE + 1)):
            if len(commits) == PAGE or size > _PAGE_BYTES:
                return commits, False
            found = self._decode(body)
            if isinstance(found, Commit):
                commits.append(found)
            else:
                commits.append(Damaged(stream, version, CorruptPayload(stream, version, found)))
            size += len(body)
        return commits, True

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        return self._opened.execute(query, values).fetchall()

    @property
    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._incomplete is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._incomplete)


def _closed() -> StoreClosed:
    return StoreClosed("the export was closed; keep it open while it is used")
