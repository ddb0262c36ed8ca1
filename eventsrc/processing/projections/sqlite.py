"""Read models in SQLite: your own tables, changed in one transaction with the positions."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..checkpoints.checkpoints import Checkpoints
from ..checkpoints.sqlite import SQLiteCheckpoints, advance, forget
from ..slice import Context, HandlerFailed, PositionMoved, Slice
from .projection import Failure, Guarantee, Projection

_ENDS_TRANSACTION = re.compile(r"\s*(BEGIN|COMMIT|END|ROLLBACK(?!\s+(TRANSACTION\s+)?TO\b))\b", re.IGNORECASE)
_FILE_ERRORS = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
}
"""Codes of errors that a handler does not cause."""


class Database:
    """The database as handlers see it: inside the transaction that also moves the position."""

    __slots__ = ("_connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> sqlite3.Cursor:
        self._check(statement)
        return self._connection.execute(statement, values)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any] | Mapping[str, Any]]) -> sqlite3.Cursor:
        self._check(statement)
        return self._connection.executemany(statement, rows)

    def _check(self, statement: str) -> None:
        """Refuse to end the transaction: it also holds the positions of streams whose handlers were not called yet."""
        if _ENDS_TRANSACTION.match(statement) or not self._connection.in_transaction:
            raise RuntimeError("a handler ends the transaction, which also holds the position; leave it open")


class SQLiteContext(Context):
    """A context with `db`, to write to the tables."""

    __slots__ = ("db",)
    db: Database


class SQLiteProjection(Projection):
    """A read model in tables of an SQLite file.

    What handlers execute on `context.db` is in one transaction with the positions. So each commit is handled exactly
    once, even if a process is killed at any moment. A handler that fails undoes only its own commit.

    Handlers are plain methods. They run in the writer thread, so they must not use objects of the event loop. `create`
    creates the tables and `drop` drops them. `table` is a name made of tag and version, so a rebuild has its own table.
    """

    guarantee = Guarantee.TRANSACTION

    def create(self, db: Database) -> None:
        """Create the tables if they do not exist: `CREATE TABLE IF NOT EXISTS ...`."""

    def drop(self, db: Database) -> None:
        """Drop the tables. By default, drop `table`."""
        db.execute(f"DROP TABLE IF EXISTS {self.table}")

    @property
    def table(self) -> str:
        """A table name for SQL, made of tag and version, as `airport_delays_2`."""
        return f"{self.tag}_{self.version}".replace("-", "_").replace(".", "_")

    def bind(self, checkpoints: Checkpoints) -> None:
        if not isinstance(checkpoints, SQLiteCheckpoints):
            raise TypeError(f"{type(self).__qualname__} needs SQLiteCheckpoints, as its tables are in the same file")
        super().bind(checkpoints)

    async def prepare(self) -> None:
        def make(db: sqlite3.Connection) -> None:
            try:
                self.create(Database(db))
            except Exception as error:
                raise HandlerFailed(error) from error

        try:
            await self._checkpoints.write(make)
        except HandlerFailed as failed:
            raise failed.error from None

    async def discard(self) -> None:
        """Drop the tables and the positions, in one transaction."""

        def work(db: sqlite3.Connection) -> None:
            self.drop(Database(db))
            forget(db, self.name)

        await self._checkpoints.write(work)

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        try:
            await self._checkpoints.write(lambda db: self._handle(db, runs))
        except (HandlerFailed, PositionMoved) as error:
            if len(runs) == 1 and len(runs[0].commits) == 1:
                return [Failure(runs[0], error)]
        else:
            return []
        # A commit failed. Handle commits one by one, so that those before it have their effect.
        return [failure for run in runs for failure in await self._one_by_one(run)]

    async def _one_by_one(self, run: Slice) -> Sequence[Failure]:
        for commit in run.commits:
            alone = run._replace(after=commit.version - 1, commits=(commit,))
            try:
                await self._checkpoints.write(lambda db: self._handle(db, [alone]))  # noqa: B023  # awaited in this iteration
            except (HandlerFailed, PositionMoved) as error:
                return [Failure(run, error)]
        return []

    def _handle(self, db: sqlite3.Connection, runs: Sequence[Slice]) -> None:
        advance(db, self.name, runs)  # first, so that a second worker gets PositionMoved, not a failing handler
        try:
            self._call(Database(db), runs)
            if not db.in_transaction:
                raise RuntimeError("a handler has ended the transaction, which also holds the position; leave it open")
        except Exception as error:
            if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _FILE_ERRORS:
                raise
            raise HandlerFailed(error) from error

    def _call(self, database: Database, runs: Sequence[Slice]) -> None:
        for run in runs:
            for handler, given, commit, index in self._handlers.calls(run.commits):
                if handler.with_context:
                    context = SQLiteContext(commit, index, run.muted)
                    context.db = database
                    handler.call(self, given, context)
                else:
                    handler.call(self, given)
