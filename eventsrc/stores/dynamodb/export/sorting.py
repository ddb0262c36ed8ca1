"""Commits sorted by stream and version in a file, however many: an export has them in no order.

SQLite sorts what it is given by merging, so memory stays flat. What is sorted needs room for three copies meanwhile:
two are temporary, where SQLite keeps such files (SQLITE_TMPDIR, TMPDIR, /var/tmp or /tmp).
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

from ....errors import StoreClosed, StoreRejected
from ....store import Commit
from ...feed import Head
from ...ordered import PAGE
from ...sqlite_errors import ERRORS, to_store_error
from .data_file import Row

T = TypeVar("T")
Place = tuple[str, int]
"""Behind a stream's version; ("", 0) is before the first."""

_PAGE_BYTES = 8 * 1024 * 1024  # after so many a page ends
_PAGE_SIZE = 16 * 1024  # of SQLite's files: with its usual 4 KB sorting commits of 2 KB takes four times as long
_CACHE_KB = 16 * 1024  # of memory for each of SQLite's two files
_STEPS = 100_000  # of SQLite, some milliseconds

_SCHEMA = """
CREATE TABLE export (about TEXT);
CREATE TABLE commits (stream TEXT, version INTEGER, body BLOB, PRIMARY KEY (stream, version)) WITHOUT ROWID;
CREATE TEMP TABLE told (stream TEXT, version INTEGER, export INTEGER, body BLOB);
"""
_SORT = """
INSERT INTO commits SELECT stream, version, body FROM (
    SELECT stream, version, body, max(export) FROM told GROUP BY stream, version  -- of these, the body of the last
) WHERE body IS NOT NULL ORDER BY stream, version
"""


class Sorted:
    """Commits to be sorted: `add` them, then `sort` once, then read. Close it in any case.

    It has a connection and a thread of its own, as SQLite blocks. With `path` the result is kept there, and used again
    if it is there already: `about` says what it is of. Raises ValueError if that is of another, and StoreError.
    """

    def __init__(self, path: Path | None, about: str) -> None:
        self._path, self._about = path, about
        self._part: str | None = None
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, "eventsrc-export")
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Commit).decode
        self._closing = False
        self.complete = False

    async def open(self) -> Self:
        await self._run(self._open)
        return self

    async def add(self, rows: Iterable[Row], export: int) -> None:
        """What an export says, and its number: of what several say of a commit, the last one counts."""
        await self._run(self._add, rows, export)

    async def sort(self) -> None:
        await self._run(self._sort)

    async def page(self, after: Place) -> tuple[list[Commit], bool]:
        """Up to PAGE commits behind a place, and whether they are the last."""
        return await self._run(self._page, after)

    async def heads(self, after: str) -> Sequence[Head]:
        """Up to PAGE streams behind that one."""
        query = "SELECT stream, max(version) FROM commits WHERE stream > ? GROUP BY stream ORDER BY stream LIMIT ?"
        return [Head(*row) for row in await self._run(self._rows, query, (after, PAGE))]

    async def end(self) -> Place:
        """The last place."""
        query = "SELECT stream, version FROM commits ORDER BY stream DESC, version DESC LIMIT 1"
        rows: list[Place] = await self._run(self._rows, query, ())
        return rows[0] if rows else ("", 0)

    async def remaining(self, after: Place) -> int:
        """How many commits are behind a place."""
        query = "SELECT count(*) FROM commits WHERE (stream, version) > (?, ?)"
        return int((await self._run(self._rows, query, after))[0][0])

    async def aclose(self) -> None:
        """Also when cancelled it ends, in its thread, and leaves nothing half made behind."""
        self._closing = True
        closed = self._thread.submit(self._close)
        self._thread.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(closed))
        self._thread.shutdown()  # it has nothing left to do

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            running = loop.run_in_executor(self._thread, self._typed, function, arguments)
        except RuntimeError:  # the thread takes no more
            raise _closed() from None
        return await running

    def _typed(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
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
            self._connection = self._kept(self._path)
            self.complete = True
            return
        if self._path is not None:  # whoever finds the file finds it whole, so it is made under another name
            handle, self._part = mkstemp(prefix=f"{self._path.name}.", suffix=".part", dir=self._path.parent)
            os.close(handle)
        self._connection = sqlite3.connect(self._part or "", isolation_level=None, check_same_thread=False)
        self._connection.set_progress_handler(lambda: self._closing, _STEPS)  # ends a sort that nobody waits for
        self._connection.execute("PRAGMA temp_store = FILE")
        for schema in ("main", "temp"):
            self._connection.execute(f"PRAGMA {schema}.page_size = {_PAGE_SIZE}")
            self._connection.execute(f"PRAGMA {schema}.journal_mode = OFF")
            self._connection.execute(f"PRAGMA {schema}.synchronous = OFF")
            self._connection.execute(f"PRAGMA {schema}.cache_size = -{_CACHE_KB}")
        self._connection.executescript(_SCHEMA)
        self._connection.execute("INSERT INTO export VALUES (?)", (self._about,))
        self._connection.execute("BEGIN")

    def _kept(self, path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            about = connection.execute("SELECT about FROM export").fetchone()
        except sqlite3.OperationalError:
            about = None  # another program's
        except BaseException:
            connection.close()
            raise
        if about != (self._about,):
            connection.close()
            raise ValueError(f"{path} is of other exports, or of other settings of the store; sort into another file")
        return connection

    def _add(self, rows: Iterable[Row], export: int) -> None:
        told = (
            (row.stream, row.version, export, None if row.commit is None else self._encode(row.commit)) for row in rows
        )
        self._open_one.executemany("INSERT INTO told VALUES (?, ?, ?, ?)", told)

    def _sort(self) -> None:
        connection = self._open_one
        connection.execute(_SORT)
        connection.execute("COMMIT")
        if self._path is None or self._part is None:
            connection.execute("DROP TABLE told")
        else:
            connection.close()
            with open(self._part, "rb") as file:
                os.fsync(file.fileno())
            os.replace(self._part, self._path)
            self._part = None
            self._connection = self._kept(self._path)
        self.complete = True

    def _page(self, after: Place) -> tuple[list[Commit], bool]:
        query = "SELECT body FROM commits WHERE (stream, version) > (?, ?) ORDER BY stream, version LIMIT ?"
        commits: list[Commit] = []
        size = 0
        for (body,) in self._open_one.execute(query, (*after, PAGE + 1)):
            if len(commits) == PAGE or size > _PAGE_BYTES:
                return commits, False
            commits.append(self._decode(body))
            size += len(body)
        return commits, True

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        return self._open_one.execute(query, values).fetchall()

    @property
    def _open_one(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._part is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._part)


def _closed() -> StoreClosed:
    return StoreClosed("the export was closed meanwhile; keep it open around all that uses it")
