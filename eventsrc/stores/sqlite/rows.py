"""Commits and snapshots as rows. Statements are built from constants, and every value is bound."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from contextlib import closing
from functools import lru_cache
from typing import Any
from uuid import uuid4

import msgspec

from ...errors import ConflictError, CorruptPayload
from ...log import log
from ...store import MAX_VERSION, Commit, Loaded, Receipt, Snapshot
from ...usage import Usage
from ..feed import Damaged, Head
from ..limits import check_id_and_time
from ..settle import settle
from .connection import CREATE_IDENTITY, DRAW_IDENTITY

_PAGE_BYTES = 4 * 1024 * 1024  # of payloads; a page of all streams ends after it

_COLUMNS = (
    "version, id, time, events, tags, correlation_id, causation_ids, command_id, command_digest, metadata, payload"
)
_INSERT = f"INSERT INTO commits (stream, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_STANDING = f"SELECT position, {_COLUMNS} FROM commits WHERE stream = ? AND version = ?"
_HEAD = "SELECT version FROM commits WHERE stream = ? ORDER BY version DESC LIMIT 1"
_FROM = f"SELECT position, {_COLUMNS} FROM commits WHERE stream = ? AND version >= ? ORDER BY version"
PAGE = f"SELECT position, {_COLUMNS} FROM commits WHERE stream = ? AND version BETWEEN ? AND ? ORDER BY version LIMIT ?"
PAGE_BACKWARD = PAGE.replace("ORDER BY version", "ORDER BY version DESC")
_AFTER = f"SELECT stream, position, {_COLUMNS} FROM commits WHERE position > ? ORDER BY position LIMIT ?"
_WINDOW = 20_000  # positions that are searched for commits of some categories by one statement
_WINDOW_END = "SELECT position FROM commits WHERE position > ? AND position <= ? ORDER BY position DESC LIMIT 1"
_NEXT = "SELECT position FROM commits WHERE position > ? ORDER BY position LIMIT 1"
_OF = (  # no index on `stream`: its rows would have to be sorted by position
    f"SELECT stream, position, {_COLUMNS} FROM commits WHERE position > ? AND position <= ? "
    "AND (position = ? OR {}) ORDER BY position LIMIT ?"
)
_CATEGORY = "+stream = ? OR (+stream >= ? AND +stream < ?)"
_LAST = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'commits'"
_ID = "SELECT id FROM commits WHERE position = ?"
_HEADS = (
    "SELECT stream, max(version) FROM commits WHERE stream > CAST(? AS TEXT) GROUP BY stream ORDER BY stream LIMIT ?"
)
_HAS_IDENTITY = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'identity'"
_IDENTITY = "SELECT id FROM identity"
_SNAPSHOT = "SELECT version, shape, payload FROM snapshots WHERE stream = ?"
PUT_SNAPSHOT = """
INSERT INTO snapshots (stream, version, shape, payload) VALUES (?, ?, ?, ?)
ON CONFLICT (stream) DO UPDATE SET version = excluded.version, shape = excluded.shape, payload = excluded.payload
WHERE excluded.version > snapshots.version
"""


def append(connection: sqlite3.Connection, commit: Commit, row: tuple[Any, ...], used: Usage) -> Receipt:
    found = connection.execute(_HEAD, (commit.stream,)).fetchone()
    head = found[0] if found else 0
    if head != commit.version - 1:
        standing = (
            read_commits(connection, _STANDING, (commit.stream, commit.version)) if head >= commit.version else []
        )
        if standing:
            return settle(commit, standing[0], used)
        used.conflicts = 1
        raise ConflictError(commit.stream, commit.version - 1, head)
    position = connection.execute(_INSERT, row).lastrowid
    used.bytes_written = commit.size
    return Receipt(commit.stream, commit.version, commit.id, commit.events, position, usage=used)


def load(connection: sqlite3.Connection, stream: str) -> Loaded:
    row = connection.execute(_SNAPSHOT, (stream,)).fetchone()
    snapshot = None
    if row and 0 < row[0] <= MAX_VERSION:
        snapshot = Snapshot(stream=stream, version=row[0], shape=row[1].decode(errors="replace"), payload=row[2])
    return Loaded(snapshot, read_commits(connection, _FROM, (stream, snapshot.version if snapshot else 1)))


def read_commits(connection: sqlite3.Connection, query: str, arguments: tuple[Any, ...]) -> list[Commit]:
    """Return the commits that a query finds in the stream that is its first argument.

    Raises:
        CorruptPayload: a row was altered and is not a commit any more.
    """
    commits, error = read_page(connection, query, arguments)
    if error is not None:
        raise error
    return commits


def read_page(
    connection: sqlite3.Connection, query: str, arguments: tuple[Any, ...]
) -> tuple[list[Commit], CorruptPayload | None]:
    """Return commits as `read_commits`, up to a row that is not a commit any more, and the error of that row."""
    found = connection.execute(query, arguments).fetchall()  # at once: an open cursor keeps its transaction open
    commits: list[Commit] = []
    try:
        for row in found:
            commits.append(_to_commit(arguments[0], *row))  # noqa: PERF401  # what came before an error is kept
    except CorruptPayload as error:
        return commits, error.with_traceback(None)
    return commits, None


def read_after(connection: sqlite3.Connection, position: int, limit: int) -> tuple[list[Commit | Damaged], bool]:
    """Return commits of all streams after a position, up to `limit` or _PAGE_BYTES, and whether they are all there are.

    A row that was altered, and is not a commit any more, is returned as `Damaged`.
    """
    return _read_rows(connection, _AFTER, (position, limit), limit)


def read_of(
    connection: sqlite3.Connection, position: int, limit: int, categories: Collection[str]
) -> tuple[list[Commit | Damaged], bool]:
    """Return as `read_after`, without commits of other categories, except the last row that was looked at."""
    row = connection.execute(_WINDOW_END, (position, position + _WINDOW)).fetchone()
    row = row or connection.execute(_NEXT, (position,)).fetchone()  # after many positions without a commit
    if row is None:
        return [], True
    last: int = row[0]
    ranges = [text for each in categories for text in (each, f"{each}-", f"{each}.")]  # "." is next to "-"
    query = _OF.format(" OR ".join([_CATEGORY] * len(categories)))
    rows, complete = _read_rows(connection, query, (position, last, last, *ranges, limit), limit)
    return rows, complete and connection.execute(_NEXT, (last,)).fetchone() is None


def _read_rows(
    connection: sqlite3.Connection, query: str, arguments: tuple[Any, ...], limit: int
) -> tuple[list[Commit | Damaged], bool]:
    """Return the rows of a query, up to `limit` or _PAGE_BYTES, and whether they are all that it finds."""
    found: list[tuple[Any, ...]] = []
    size, more = 0, True
    with closing(connection.execute(query, arguments)) as cursor:  # as above
        while size < _PAGE_BYTES and (more := (row := cursor.fetchone()) is not None):
            found.append(row)
            size += len(row[-1])
    is_end = not more and len(found) < limit
    try:
        return [_to_commit(stream.decode(), *row) for stream, *row in found], is_end
    except (CorruptPayload, UnicodeDecodeError):
        return [_to_commit_or_damaged(stream, row) for stream, *row in found], is_end


def read_commit_id(connection: sqlite3.Connection, position: int) -> bytes | None:
    """Return the id of the commit at a position; None if there is none, or none with an id."""
    row = connection.execute(_ID, (position,)).fetchone()
    return row[0] if row and len(row[0]) == 16 else None


def read_identity(connection: sqlite3.Connection) -> str | None:
    """Return the identity of the store; None if an older release created the file."""
    if not connection.execute(_HAS_IDENTITY).fetchone()[0]:
        return None
    row = connection.execute(_IDENTITY).fetchone()
    return row[0].decode(errors="replace") if row else None


def draw_identity(connection: sqlite3.Connection) -> str:
    """Give the store an identity unless it has one, and return the one that it has."""
    connection.execute(CREATE_IDENTITY)
    connection.execute(DRAW_IDENTITY, (uuid4().hex,))
    stored: bytes = connection.execute(_IDENTITY).fetchone()[0]
    return stored.decode(errors="replace")


def read_last_position(connection: sqlite3.Connection) -> int:
    """Return the last position that was given to a commit. Positions of deleted commits are not used again."""
    position: int = connection.execute(_LAST).fetchone()[0]
    return position


def read_heads(connection: sqlite3.Connection, after: str, limit: int) -> list[Head]:
    """Return streams after the stream `after`, by name, with their last versions.

    A name that is not UTF-8 is left out, and logged.
    """
    heads: list[Head] = []
    last, more = after.encode(), True
    while more and not heads:
        found = connection.execute(_HEADS, (last, limit)).fetchall()
        more = len(found) == limit
        for name, version in found:
            last = name
            try:
                heads.append(Head(name.decode(), version))
            except UnicodeDecodeError:
                log.warning("the name of stream %r is not UTF-8; it is not listed", name)
    return heads


def _to_commit_or_damaged(name: bytes, row: list[Any]) -> Commit | Damaged:
    try:
        return _to_commit(name.decode(), *row)
    except CorruptPayload as damaged:
        error = damaged.with_traceback(None)
    except UnicodeDecodeError:
        error = CorruptPayload(name.decode(errors="replace"), row[1], "the name of the stream is not UTF-8")
    return Damaged(error.stream, error.version, error, row[0])


def _to_commit(
    stream: str,
    position: int,
    version: int,
    id: bytes,
    time: int,
    events: int,
    tags: bytes,
    correlation_id: bytes | None,
    causation_ids: bytes | None,
    command_id: bytes | None,
    command_digest: bytes | None,
    metadata: bytes | None,
    payload: bytes,
) -> Commit:
    try:
        check_id_and_time(id, time)
        return Commit(
            position=position,
            stream=stream,
            version=version,
            id=id,
            time=time,
            events=events,
            tags=_to_tags(tags),
            correlation_id=correlation_id.decode() if correlation_id is not None else None,
            causation_ids=_to_texts(causation_ids) if causation_ids else (),
            command_id=command_id.decode() if command_id is not None else None,
            command_digest=command_digest,
            metadata=_to_mapping(metadata) if metadata else {},
            payload=payload,
        )
    except (msgspec.DecodeError, ValueError):
        pass
    raise CorruptPayload(stream, version, "the row is not a commit of this library")


def to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


_to_texts = msgspec.json.Decoder(tuple[str, ...]).decode
_to_mapping = msgspec.json.Decoder(dict[str, str]).decode
_to_tags = lru_cache(1024)(_to_texts)  # many commits have the same tags
