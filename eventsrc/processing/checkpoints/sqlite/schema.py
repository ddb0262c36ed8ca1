"""The tables of checkpoints in an SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Set
from contextlib import closing
from functools import cache

from ....errors import StoreRejected
from ....stores.sqlite.file import read_columns

SCHEMA = """
CREATE TABLE IF NOT EXISTS eventsrc_registrations (
    processor TEXT PRIMARY KEY, registration TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS eventsrc_positions (
    processor TEXT, stream TEXT, version INTEGER NOT NULL, id BLOB NOT NULL, time INTEGER NOT NULL,
    epoch INTEGER NOT NULL, PRIMARY KEY (processor, stream)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS eventsrc_slots (
    processor TEXT, number INTEGER, epoch INTEGER NOT NULL, slot TEXT NOT NULL, PRIMARY KEY (processor, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS eventsrc_parked (
    processor TEXT, stream TEXT, parked TEXT NOT NULL, PRIMARY KEY (processor, stream)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS eventsrc_skipped (
    processor TEXT, stream TEXT, version INTEGER, skipped TEXT NOT NULL, PRIMARY KEY (processor, stream, version)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS eventsrc_workers (worker TEXT PRIMARY KEY, beats INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS eventsrc_active (tag TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""
_OF_A_STORE = {"log", "deleted", "identity"}
"""Tables of an event store."""


def create_tables(db: sqlite3.Connection, path: str) -> None:
    """Create the tables that are missing.

    Raises StoreRejected if there are tables of another version, or those of an event store.
    """
    check_columns(read_columns(db), path)
    for statement in SCHEMA.split(";"):
        db.execute(statement)
    check_columns(read_columns(db), path)


@cache
def _own_columns() -> frozenset[str]:
    with closing(sqlite3.connect(":memory:")) as new:
        new.executescript(SCHEMA)
        return read_columns(new)


def check_columns(found: Set[str], path: str) -> None:
    """Raise StoreRejected if these columns, as `table.column`, are those of another version, or of an event store."""
    tables = {each.partition(".")[0] for each in found}
    if tables >= _OF_A_STORE:
        raise StoreRejected(
            "SCHEMA", f"{path} is the file of an event store; use a file of its own for checkpoints and read models"
        )
    missing = sorted(each for each in _own_columns() - found if each.partition(".")[0] in tables)
    if missing:
        raise StoreRejected(
            "SCHEMA",
            f"{path} has checkpoints of another version of this library, without {missing[0]}; "
            "use a new file, so that processors build their read models again",
        )
