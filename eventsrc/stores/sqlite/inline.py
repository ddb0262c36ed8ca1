"""The database as an inline projection sees it: inside the transaction that appends the commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_OWN = {"log", "effects", "deleted", "snapshots", "identity", "commits"}
_WRITES = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE, sqlite3.SQLITE_DROP_TABLE}
_REFUSED = {
    sqlite3.SQLITE_TRANSACTION,
    sqlite3.SQLITE_SAVEPOINT,
    sqlite3.SQLITE_ATTACH,
    sqlite3.SQLITE_DETACH,
    sqlite3.SQLITE_PRAGMA,
}
_FILE_ERRORS = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
}
_NOT_AUTHORIZED = (
    "an inline projection begins or ends a transaction, attaches a file, sets a pragma, or writes to a table of the "
    "store; write only to tables of its own, and leave the transaction open"
)


class InlineFailed(Exception):
    """An inline projection raised `error`. It is not one of the file, so other calls of the transaction continue."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class InlineDatabase:
    """The tables of the store's file, for an inline projection while it runs.

    It may create tables of its own and write to them. It may read the store's tables, but not change them.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection: sqlite3.Connection | None = connection

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> sqlite3.Cursor:
        """Execute one statement. Raises sqlite3.Error, and RuntimeError for one that is not allowed."""
        return _explained(lambda: self._open().execute(statement, values))

    def executemany(self, statement: str, rows: Iterable[Sequence[Any] | Mapping[str, Any]]) -> sqlite3.Cursor:
        """Execute a statement for each row. Raises as `execute`."""
        return _explained(lambda: self._open().executemany(statement, rows))

    def close(self) -> None:
        """Refuse later statements: they would be in the transaction of others."""
        self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise RuntimeError("the inline projection has ended; do not keep its database")
        return self._connection


def run_inline(inline: Callable[[InlineDatabase], None], connection: sqlite3.Connection) -> None:
    """Call an inline projection. Raises InlineFailed with its error, and the errors of the file."""
    database, factory = InlineDatabase(connection), connection.text_factory
    connection.text_factory = str
    connection.set_authorizer(_authorize)
    try:
        inline(database)
    except Exception as error:
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _FILE_ERRORS:
            raise
        raise InlineFailed(error) from error
    finally:
        database.close()
        connection.set_authorizer(None)
        connection.text_factory = factory


def _authorize(action: int, first: str | None, _second: str | None, _file: str | None, _source: str | None) -> int:
    is_own = action in _WRITES and first in _OWN
    return sqlite3.SQLITE_DENY if action in _REFUSED or is_own else sqlite3.SQLITE_OK


def _explained(execute: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
    try:
        return execute()
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_AUTH:
            raise RuntimeError(_NOT_AUTHORIZED) from error
        raise
