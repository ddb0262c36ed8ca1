"""Connections to a file with the store's tables."""

from __future__ import annotations

import os
import sqlite3
from time import monotonic
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from ...errors import StoreRejected
from ..sqlite_errors import ERRORS, to_store_error

SCHEMA_VERSION = 2
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

CREATE INDEX log_by_correlation_id ON log (correlation_id) WHERE correlation_id IS NOT NULL;

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


def connect(path: str, deadline: float, *, create: bool = True) -> sqlite3.Connection:
    """Connect to a file that has the store's tables. If it is new or empty, create them; refuse it with `create=False`.

    Raises:
        StoreError: the file cannot be opened, or is not a file of this store.
    """
    try:
        url = f"file:{quote(os.fsencode(path))}?mode={'rwc' if create else 'rw'}"
        connection = sqlite3.connect(url, timeout=deadline, isolation_level=None, check_same_thread=False, uri=True)
        try:
            connection.text_factory = bytes  # sqlite3 itself would quote text that is not UTF-8 in an error
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, SCHEMA_VERSION):  # before use_wal, which changes the file
                raise StoreRejected(
                    "SCHEMA", f"{path} has schema version {found}; this library reads version {SCHEMA_VERSION}"
                )
            if found == 0 and not create:
                raise StoreRejected("SCHEMA", f"{path} was replaced by another file while it was open")
            mode = use_wal(connection, deadline)
            if mode != b"wal":
                raise StoreRejected(
                    "JOURNAL",
                    f"the file stays in journal mode {mode.decode()}; a write-ahead log is not available there",
                )
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
            if found == 0:
                _create(connection)
        except BaseException:
            connection.close()
            raise
    except ERRORS as error:
        failure = to_store_error(error, path)
    else:
        return connection
    raise failure


def use_wal(connection: sqlite3.Connection, deadline: float) -> Any:
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
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:  # else another process was first
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise StoreRejected("SCHEMA", "the file has another program's tables; use a separate file for events")
        if connection.execute("PRAGMA encoding").fetchone()[0] != b"UTF-8":
            raise StoreRejected("SCHEMA", "the file keeps texts in another encoding than UTF-8; use a new file")
        for statement in SCHEMA.split("\n\n"):
            connection.execute(statement)
        connection.execute("INSERT INTO identity VALUES (1, ?)", (uuid4().hex,))
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")
