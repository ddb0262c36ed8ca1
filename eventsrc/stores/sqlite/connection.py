"""Connections to a file with the store's tables."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from functools import cache
from time import monotonic
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from ...errors import StoreRejected
from ..sqlite_errors import ERRORS, to_store_error
from .file import Content, DatabaseFile, read_columns

SCHEMA_VERSION = 3
LOG_BYTES = 64 * 1024 * 1024  # of a write-ahead log that is reported, and cut back when it starts again
CACHE_KB = 16 * 1024  # of a connection, at most: a feed goes from stream to stream, each in pages of its own

SCHEMA = """
CREATE TABLE log (
    stream TEXT NOT NULL,
    version INTEGER NOT NULL,
    position INTEGER NOT NULL,
    correlation_id TEXT,
    fields TEXT NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (stream, version)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX log_by_position ON log (position);

CREATE INDEX log_by_correlation_id ON log (correlation_id, position) WHERE correlation_id IS NOT NULL;

CREATE TABLE effects (
    cause TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (cause, position)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER delete_effects AFTER DELETE ON log WHEN json_valid(old.fields) BEGIN
    DELETE FROM effects
    WHERE cause IN (SELECT value FROM json_each(old.fields, '$.causation_ids')) AND position = old.position;
END;

CREATE TABLE deleted (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    last INTEGER NOT NULL
) STRICT;

INSERT INTO deleted VALUES (1, 0);

CREATE TRIGGER keep_last_position AFTER DELETE ON log BEGIN
    UPDATE deleted SET last = max(last, old.position);
END;

CREATE TABLE snapshots (
    stream TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    shape TEXT NOT NULL,
    payload BLOB NOT NULL
) STRICT;

CREATE TABLE identity (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id TEXT NOT NULL
) STRICT;

CREATE VIEW commits AS SELECT
    position,
    stream,
    version,
    substr(record, 4, 16) AS id,
    json_extract(fields, '$.time') AS time,
    json_extract(fields, '$.events') AS events,
    json_extract(fields, '$.tags') AS tags,
    correlation_id,
    json_extract(fields, '$.causation_ids') AS causation_ids,
    json_extract(fields, '$.command_id') AS command_id,
    json_extract(fields, '$.command_digest') AS command_digest,
    json_extract(fields, '$.metadata') AS metadata,
    substr(record, CASE WHEN size < 256 THEN 22 WHEN size < 65536 THEN 23 ELSE 25 END, size) AS payload
FROM (SELECT *, json_extract(fields, '$.size') AS size FROM log)
"""


def connect(file: DatabaseFile, deadline: float) -> sqlite3.Connection:
    """Connect to a file of a store. If it is missing or empty, create the store's tables.

    A file that is not one of this store is left as it is, and so is its folder.

    Raises:
        StoreError: the file cannot be opened, or is not a file of this store.
    """
    try:
        file.prepare()
        _check(file.inspect(), file.path)
        connection = open_connection(file, deadline)
        try:
            connection.text_factory = bytes  # sqlite3 itself would quote text that is not UTF-8 in an error
            if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
                _create(connection)
            start_log(connection, deadline)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
            file.note()
        except BaseException:
            connection.close()
            raise
    except ERRORS as error:
        failure = to_store_error(error, file.path)
    else:
        return connection
    raise failure


def connect_again(file: DatabaseFile, deadline: float) -> sqlite3.Connection:
    """Make another connection to a file that is open.

    Raises:
        StoreError: the file cannot be opened, or another one is at its path.
    """
    try:
        file.check()
        connection = open_connection(file, deadline)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
            connection.execute("PRAGMA user_version").fetchone()
            file.check()
        except BaseException:
            connection.close()
            raise
    except ERRORS as error:
        failure = to_store_error(error, file.path)
    else:
        return connection
    raise failure


def open_connection(file: DatabaseFile, deadline: float) -> sqlite3.Connection:
    """Return a connection to a file that exists. Nothing is read or written yet."""
    url = f"file:{quote(os.fsencode(file.path))}?mode=rw"
    return sqlite3.connect(url, timeout=deadline, isolation_level=None, check_same_thread=False, uri=True)


def start_log(connection: sqlite3.Connection, deadline: float) -> None:
    """Switch the file to WAL mode, durably, and read it once, so that all its files exist.

    Raises:
        StoreRejected: a write-ahead log is not available there.
    """
    connection.execute("PRAGMA synchronous = EXTRA")  # else a journal that is deleted may be back after a power cut
    mode = _use_wal(connection, deadline)
    if mode not in ("wal", b"wal"):
        found = mode.decode() if isinstance(mode, bytes) else mode
        raise StoreRejected(
            "JOURNAL", f"the file stays in journal mode {found}; a write-ahead log is not available there"
        )
    connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
    connection.execute("PRAGMA user_version").fetchone()


def _check(content: Content, path: str) -> None:
    """Raise StoreRejected unless the file is new, or one of this store."""
    if content.version not in (0, SCHEMA_VERSION):
        raise StoreRejected(
            "SCHEMA", f"{path} has schema version {content.version}; this library reads version {SCHEMA_VERSION}"
        )
    if content.is_empty or (content.version and content.columns is None):
        return  # the latter was torn by a power cut, and is whole in the log; or it is damaged, which SQLite finds
    if not content.version or not (content.columns or frozenset()) >= _own_columns():
        raise StoreRejected("SCHEMA", f"{path} has another program's tables; use a separate file for events")


@cache
def _own_columns() -> frozenset[str]:
    with closing(sqlite3.connect(":memory:")) as new:
        for statement in SCHEMA.split("\n\n"):
            new.execute(statement)
        return read_columns(new)


def _use_wal(connection: sqlite3.Connection, deadline: float) -> Any:
    """Switch the file to WAL mode, and return the mode it has now. While another connection switches or writes, SQLite
    fails this without waiting; then it is tried again until the deadline.
    """
    until = monotonic() + deadline
    while True:
        try:
            return connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or monotonic() >= until:
                raise
            connection.execute("BEGIN IMMEDIATE")  # waits for the other connection
            connection.execute("COMMIT")


def _create(connection: sqlite3.Connection) -> None:
    """Create the tables under a rollback journal, so that from then on the file itself says what it is."""
    connection.execute("PRAGMA synchronous = EXTRA")
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:  # else another process was first
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise StoreRejected("SCHEMA", "the file has another program's tables; use a separate file for events")
        if connection.execute("PRAGMA encoding").fetchone()[0] != b"UTF-8":
            raise StoreRejected("SCHEMA", "the file keeps texts in another encoding than UTF-8; use a new file")
        for statement in SCHEMA.split("\n\n"):
            connection.execute(statement)
        connection.execute("INSERT INTO identity VALUES (1, ?)", (uuid4().hex,))
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")
