"""How errors of sqlite3 become errors of this library."""

from __future__ import annotations

import sqlite3

from ..errors import StoreError, StoreRejected, StoreUnavailable, Throttled

ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""The errors that sqlite3 raises. UnicodeDecodeError: the schema is damaged, and its names cannot be decoded."""

_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_READONLY: "the file is read-only; make it, its -wal and -shm files, and their folder writable",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; its folder must exist and be writable",
    sqlite3.SQLITE_PERM: "access to the file was denied; check its permissions",
    sqlite3.SQLITE_AUTH: "access to the file was denied; check its permissions",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore it from a backup",
    sqlite3.SQLITE_NOTADB: "the file is not an SQLite database",
    sqlite3.SQLITE_TOOBIG: "the commit is larger than SQLite allows; save fewer events",
}


def to_store_error(error: Exception, path: str = "") -> StoreError:
    """Return the library's error for an error of sqlite3, chosen by its primary result code.

    The text of an error without a result code is left out, because it may quote a row.
    """
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT if isinstance(error, UnicodeDecodeError) else None)
    name = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT" if code else type(error).__name__)
    primary = code & 0xFF if code is not None else None
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Throttled(f"{name}: another process held the file's write lock until the deadline")
    if primary in _ADVICE:
        return StoreRejected(name, f"{path}: {_ADVICE[primary]}" if path else _ADVICE[primary])
    return StoreUnavailable(f"{name}: {error}" if code is not None else name)
