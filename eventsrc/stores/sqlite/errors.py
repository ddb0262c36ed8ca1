"""The library's errors for SQLite's."""

from __future__ import annotations

import sqlite3

from ...errors import StoreError, StoreRejected, StoreUnavailable, Throttled

ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What sqlite3 raises: the second for a damaged schema, whose name it fails to put into a message."""

_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_READONLY: "the file is read-only; let the process write it, its -wal and -shm, and their folder",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; its folder must exist and be writable",
    sqlite3.SQLITE_PERM: "the file may not be used; check its permissions",
    sqlite3.SQLITE_AUTH: "the file may not be used; check its permissions",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore it from a backup",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database",
    sqlite3.SQLITE_TOOBIG: "the commit is larger than SQLite takes; save fewer events",
}


def typed(error: Exception, path: str = "") -> StoreError:
    """The library's error for an SQLite one, by its primary result code, never by its text, which may quote a row."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT if isinstance(error, UnicodeDecodeError) else None)
    name = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT" if code else type(error).__name__)
    primary = code & 0xFF if code is not None else None
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Throttled(f"{name}: another process held the file's write lock until the deadline")
    if primary in _ADVICE:
        return StoreRejected(name, f"{path}: {_ADVICE[primary]}" if path else _ADVICE[primary])
    return StoreUnavailable(f"{name}: {error}" if code is not None else name)
