"""Bare loops over SQLite: programs by hand that find the same answers as the library, and do nothing else.

They keep events in a table of their own, whose rows hold what such a program needs. So they do not depend on the format
of the library's files, and each loop reads only the columns that its answer needs.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
from support.bank import Account, Deposited, Opened, Withdrawn

from eventsrc import SQLiteStore
from eventsrc.aggregates.codec import unpack

PAGE = 1_000
"""Rows in one transaction of a loop that writes: as many as the library's feed delivers at a time."""

_SCHEMA = """
CREATE TABLE events (
    position INTEGER PRIMARY KEY, stream TEXT NOT NULL, version INTEGER NOT NULL, id BLOB NOT NULL,
    time INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (stream, version)
)
"""
_INSERT = "INSERT INTO events (stream, version, id, time, body) VALUES (?, ?, ?, ?, ?)"
_ALL = "SELECT stream, body FROM events ORDER BY position"
_OF_STREAM = "SELECT body FROM events WHERE stream = ? ORDER BY version"
_ADD = "INSERT INTO balances VALUES (?, ?) ON CONFLICT DO UPDATE SET balance = balance + excluded.balance"
_MOVE = "UPDATE place SET position = ?"

decode = msgspec.msgpack.Decoder(list[Opened | Deposited | Withdrawn]).decode
encode = msgspec.msgpack.Encoder().encode

BODY = slice(1, -4)
"""The MessagePack in a payload that is not compressed, between its format and its checksum."""

APPLY: dict[type[Any], Callable[[Account, Any], None]] = {
    Opened: Account.apply_opened,
    Deposited: Account.apply_movement,
    Withdrawn: Account.apply_movement,
}
"""The handlers of the account by type."""


class Model(Protocol):
    """A read model in memory with the handlers of `models.Balances`."""

    def handle_opened(self, event: Opened, context: Any) -> None: ...

    def handle_deposited(self, event: Deposited, context: Any) -> None: ...


class _Context:
    """What a handler needs to know of its event."""

    stream = ""


@contextmanager
def open_file(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file with the settings of the library, and with the table if the file is new. Close it after the block."""
    is_new = not path.exists()
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if is_new:
            connection.execute(_SCHEMA)
        yield connection
    finally:
        connection.close()


async def copy(store: SQLiteStore, connection: sqlite3.Connection) -> None:
    """Copy all events of a store in the order of its feed."""
    connection.execute("BEGIN")
    async for batch in store.feed(follow=False):
        for commit in batch.commits:
            body = unpack(commit.payload, commit.stream, commit.version)
            connection.execute(_INSERT, (commit.stream, commit.version, commit.id, commit.time, body))
    connection.execute("COMMIT")


def save(connection: sqlite3.Connection, stream: str, version: int, events: Iterable[Any]) -> None:
    """Store events as one row, in one transaction with one fsync."""
    row = (stream, version, os.urandom(16), time.time_ns() // 1000, encode(list(events)))
    connection.execute(_INSERT, row).close()


def load(connection: sqlite3.Connection, id: str) -> Account:
    """Return the account after all of its events."""
    account = Account(id=id)
    for (body,) in connection.execute(_OF_STREAM, (account.stream,)):
        for event in decode(body):
            APPLY[type(event)](account, event)
    return account


def project(connection: sqlite3.Connection, model: Model) -> None:
    """Call the handlers of a read model in memory for all events, in order."""
    handle(model, connection.execute(_ALL))


def handle(model: Model, rows: Iterable[tuple[str, bytes]]) -> None:
    """Call the handlers of a read model in memory for the events in these bodies, each with its stream."""
    opened, deposited = model.handle_opened, model.handle_deposited
    handlers: dict[type[Any], Callable[[Any, Any], None]] = {Opened: opened, Deposited: deposited}
    context = _Context()
    for context.stream, body in rows:
        for event in decode(body):
            handlers[type(event)](event, context)


def create_balances(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE balances (stream TEXT PRIMARY KEY, balance INTEGER) WITHOUT ROWID")
    connection.execute("CREATE TABLE place (position INTEGER)")
    connection.execute("INSERT INTO place VALUES (0)")


def project_each(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Store balances exactly once: one statement for each event, and one position for each page, in one transaction."""
    for rows in _pages(source):
        target.execute("BEGIN IMMEDIATE")
        for _, stream, body in rows:
            for event in decode(body):
                target.execute(_ADD, (stream, getattr(event, "amount", 0)))
        target.execute(_MOVE, (rows[-1][0],))
        target.execute("COMMIT")


def project_batches(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Store balances exactly once: one statement for each stream of a page, and one position, in one transaction."""
    for rows in _pages(source):
        sums: dict[str, int] = {}
        for _, stream, body in rows:
            sums[stream] = sums.get(stream, 0) + sum(getattr(event, "amount", 0) for event in decode(body))
        target.execute("BEGIN IMMEDIATE")
        target.executemany(_ADD, sums.items())
        target.execute(_MOVE, (rows[-1][0],))
        target.execute("COMMIT")


def _pages(source: sqlite3.Connection) -> Iterator[list[tuple[int, str, bytes]]]:
    cursor = source.execute("SELECT position, stream, body FROM events ORDER BY position")
    while rows := cursor.fetchmany(PAGE):
        yield rows
