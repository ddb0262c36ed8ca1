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

SCHEMA_VERSION = 1

CREATE_IDENTITY = """
CREATE TABLE IF NOT EXISTS identity (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id TEXT NOT NULL
) STRICT
"""  # older releases created files without it
DRAW_IDENTITY = "INSERT INTO identity VALUES (1, ?) ON CONFLICT DO NOTHING"

SCHEMA = f"""
CREATE TABLE commits (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    stream TEXT NOT NULL,
    version INTEGER NOT NULL,
    id BLOB NOT NULL,
    time INTEGER NOT NULL,
    events INTEGER NOT NULL,
    tags TEXT NOT NULL,
    correlation_id TEXT,
    causation_ids TEXT,
    command_id TEXT,
    command_digest BLOB,
    metadata TEXT,
    payload BLOB NOT NULL,
    UNIQUE (stream, version)
) STRICT;
CREATE INDEX commits_by_correlation_id ON commits (correlation_id) WHERE correlation_id IS NOT NULL;
CREATE TABLE snapshots (
    stream TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    shape TEXT NOT NULL,
    payload BLOB NOT NULL
) STRICT;
{CREATE_IDENTITY};
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
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(DRAW_IDENTITY, (uuid4().hex,))
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")
