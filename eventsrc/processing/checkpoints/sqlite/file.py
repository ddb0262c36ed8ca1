"""An SQLite file with checkpoints and read models, and the threads that use it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar, get_args

from ....concurrency import wait_for_thread
from ....errors import StoreClosed
from ....stores.lifecycle import check_process
from ....stores.sqlite.connection import open_connection, start_log
from ....stores.sqlite.file import FILE_MODE, DatabaseFile
from ....stores.sqlite_errors import ERRORS, to_store_error
from .schema import check_columns, create_tables

T = TypeVar("T")

ThreadName = Literal["writer", "queries", "reader"]

_FILE_ERRORS = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}
"""Codes of errors that no statement causes by itself."""

_DENIED = {sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH}
"""Actions of statements that end the transaction, or extend it to a file that is not committed with this one."""


class SQLiteFile:
    """The file, with a thread that writes, one that reads for processors, and one that reads for users."""

    def __init__(self, path: str | Path, deadline: float, file_mode: int = FILE_MODE) -> None:
        self._file, self._deadline = DatabaseFile(path, file_mode), deadline
        self._threads: dict[ThreadName, tuple[ThreadPoolExecutor, sqlite3.Connection]] = {}
        self._process = os.getpid()
        self._is_guarded = False  # whether statements of the writer that are `_DENIED` are refused

    async def open(self) -> None:
        if self._threads:
            check_process("SQLiteCheckpoints", self._process)
            raise StoreClosed("SQLiteCheckpoints is already open; open it once, and share it")
        self._process = os.getpid()
        try:
            for name in get_args(ThreadName):
                thread = ThreadPoolExecutor(1, thread_name_prefix=f"eventsrc-checkpoints-{name}")
                opening = asyncio.get_running_loop().run_in_executor(thread, self.connect)
                connection = await wait_for_thread(opening)
                self._threads[name] = thread, connection
            await self.read(lambda db: db.execute("PRAGMA query_only = ON"))
            await self.run("writer", lambda db: db.set_authorizer(self._authorize))
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        if self._process != os.getpid():
            return  # after a fork, what is open belongs to the parent process
        threads, self._threads = list(self._threads.values()), {}
        for thread, connection in threads:
            thread.submit(connection.close)
            thread.shutdown(wait=False)
        for thread, _ in threads:
            await wait_for_thread(asyncio.to_thread(thread.shutdown))

    def connect(self) -> sqlite3.Connection:
        """Connect to the file, and create it and its tables if they are missing. A file that is refused is not changed.

        Raises:
            StoreError: the file cannot be opened, or is that of an event store or of another version.
        """
        try:
            self._file.prepare()
            check_columns(self._file.inspect().columns or frozenset(), self._file.path)
            connection = open_connection(self._file, self._deadline)
            try:
                connection.execute("PRAGMA synchronous = EXTRA")
                connection.execute("BEGIN IMMEDIATE")
                create_tables(connection, self._file.path)
                connection.commit()
                start_log(connection, self._deadline)
                connection.execute("PRAGMA synchronous = NORMAL")
                self._file.note()
            except BaseException:
                connection.close()
                raise
            return connection
        except ERRORS as error:
            failure = to_store_error(error, self._file.path)
        raise failure

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` in its own transaction, as `SQLiteCheckpoints.write`."""

        def transaction(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._is_guarded = True
                try:
                    result = work(connection)
                finally:
                    self._is_guarded = False
                if not connection.in_transaction:  # INSERT OR ROLLBACK
                    raise sqlite3.OperationalError("a statement rolled the transaction back")
                connection.commit()  # not `execute`, which would keep the statement, authorized, for `work` to execute
            except BaseException:
                connection.rollback()
                raise
            self._file.check()  # else what was written may be in a file that nobody else opens
            return result

        return await self.run("writer", transaction)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` on a read-only connection, as `SQLiteCheckpoints.read`."""
        return await self.run("reader", work)

    async def query(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` to read our own tables.

        This connection is never blocked or held at an old state by cursors of users.
        """
        return await self.run("queries", work)

    def _authorize(self, action: int, *_: str | None) -> int:
        """Say whether a statement that is compiled may be executed. SQLite calls it once for each action in it."""
        return sqlite3.SQLITE_DENY if action in _DENIED and self._is_guarded else sqlite3.SQLITE_OK

    async def run(self, name: ThreadName, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` in one of the threads, without a transaction, and return its result."""
        if name not in self._threads:
            raise StoreClosed("SQLiteCheckpoints is not open; use it inside `async with checkpoints:`")
        check_process("SQLiteCheckpoints", self._process)
        thread, connection = self._threads[name]
        try:
            running = asyncio.get_running_loop().run_in_executor(thread, self._call, work, connection)
            return await wait_for_thread(running)
        except ERRORS as error:
            if name != "queries" and not _is_of_file(error, reading=name == "reader"):
                raise
            failure = to_store_error(error)
        raise failure

    def _call(self, work: Callable[[sqlite3.Connection], T], db: sqlite3.Connection) -> T:
        self._file.check()
        try:
            return work(db)
        except StopIteration as error:  # a future cannot hold it
            raise RuntimeError(
                "the function raised StopIteration; in place of next(rows), use next(rows, None)"
            ) from error


def _is_of_file(error: Exception, *, reading: bool) -> bool:
    """Whether an error comes from the file, and not from what a statement asks for."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in _FILE_ERRORS and not (reading and code == sqlite3.SQLITE_READONLY)  # a statement that writes
