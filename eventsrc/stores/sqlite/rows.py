"""Append, load and read commits and snapshots. Statements are built from constants, and every value is bound."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache

from ...errors import ConflictError, StoreRejected
from ...log import log
from ...store import MAX_VERSION, Commit, Loaded, Receipt, Snapshot
from ...usage import Usage
from ..feed import Head
from ..ordered import separate
from ..settle import settle
from ..transacting import Guard, find_outcome
from .pages import JOINED, PAGE, Page, Selection, read_page, set_position, to_page

FORWARD = Selection("stream = ? AND version BETWEEN ? AND ?", "version", "log")
BACKWARD = Selection("stream = ? AND version BETWEEN ? AND ?", "version DESC", "log")
CORRELATED = Selection("correlation_id = ? AND position > ?", "position", "log INDEXED BY log_by_correlation_id")
EFFECTS_OF_EVENT = Selection(
    "effects.cause = ? AND effects.position > ?",
    "effects.position",
    "effects CROSS JOIN log INDEXED BY log_by_position ON log.position = effects.position",
)
EFFECTS_OF_COMMIT = Selection(
    "position IN (SELECT position FROM effects WHERE cause = ? OR (cause >= ? AND cause < ?)) AND position > ?",
    "position",
    "log",
)
"""It may also return commits with other causes that begin in the same way."""
_AFTER = Selection("place.position > ?", "place.position")

_LAST = "max(coalesce((SELECT last FROM deleted), 0), coalesce((SELECT max(position) FROM log), 0))"
_BEFORE = f"SELECT {_LAST}, (SELECT version FROM log WHERE stream = ? ORDER BY version DESC LIMIT 1)"
_INSERT = "INSERT INTO log (stream, version, position, correlation_id, fields, record) VALUES (?, ?, ?, ?, ?, ?)"
_INSERT_EFFECT = "INSERT OR IGNORE INTO effects (cause, position) VALUES (?, ?)"  # a cause may be given twice
_WINDOW = 20_000  # positions that are searched for commits of some categories by one statement
_WINDOW_END = "SELECT max(position) FROM log WHERE position > ? AND position <= ?"
_NEXT = "SELECT min(position) FROM log WHERE position > ?"
_CATEGORY = "place.stream = ? OR (place.stream >= ? AND place.stream < ?)"
_AT = Selection("place.position = ?", "place.position")
_HEADS = """
SELECT group_concat(hex(stream)), group_concat(version) FROM (
WITH RECURSIVE streams (stream) AS (
    SELECT min(stream) FROM log WHERE stream > CAST(? AS TEXT)
    UNION ALL
    SELECT (SELECT min(stream) FROM log WHERE stream > streams.stream) FROM streams WHERE stream IS NOT NULL
)
SELECT stream, (SELECT max(version) FROM log WHERE stream = streams.stream) AS version
FROM streams WHERE stream IS NOT NULL LIMIT ?
)
"""  # it steps from stream to stream; GROUP BY would read all commits
_IDENTITY = "SELECT id FROM identity"
_OF_SNAPSHOT = f"FROM snapshots WHERE stream = :stream AND version BETWEEN 1 AND {MAX_VERSION}"
_LOAD = f"""
SELECT {JOINED},
    (SELECT version {_OF_SNAPSHOT}), (SELECT shape {_OF_SNAPSHOT}), (SELECT payload {_OF_SNAPSHOT})
FROM (
    SELECT record FROM log WHERE stream = :stream AND version >= coalesce((SELECT version {_OF_SNAPSHOT}), 1)
    ORDER BY version LIMIT {PAGE}
)
"""
PUT_SNAPSHOT = """
INSERT INTO snapshots (stream, version, shape, payload) VALUES (?, ?, ?, ?)
ON CONFLICT (stream) DO UPDATE SET version = excluded.version, shape = excluded.shape, payload = excluded.payload
WHERE excluded.version > snapshots.version
"""


def append(connection: sqlite3.Connection, commit: Commit, row: tuple[str | None, str, bytes], used: Usage) -> Receipt:
    """Append a commit. `row` has the columns that `to_row` returns."""
    last, head = connection.execute(_BEFORE, (commit.stream,)).fetchone()
    head = head or 0
    if head != commit.version - 1:
        standing = read_versions(connection, commit.stream, commit.version, commit.version)
        if standing and head >= commit.version:
            return settle(commit, standing[0], used)
        used.conflicts = 1
        raise ConflictError(commit.stream, commit.version - 1, head)
    correlation_id, fields, record = row
    record = set_position(record, last + 1)
    connection.execute(_INSERT, (commit.stream, commit.version, last + 1, correlation_id, fields, record))
    for cause in commit.causation_ids:
        connection.execute(_INSERT_EFFECT, (cause, last + 1))
    used.bytes_written = commit.size
    return Receipt(commit.stream, commit.version, commit.id, commit.events, last + 1, usage=used)


def append_all(
    connection: sqlite3.Connection,
    commits: Sequence[Commit],
    rows: Sequence[tuple[str | None, str, bytes]],
    guards: Sequence[Guard],
    used: Usage,
    inline: Callable[[sqlite3.Connection], None] | None,
) -> Sequence[Receipt]:
    """Append commits together. `rows` has the columns of each. What fails leaves nothing in the open transaction."""

    def head_of(stream: str) -> int:
        return connection.execute(_BEFORE, (stream,)).fetchone()[1] or 0

    def commit_at(stream: str, version: int) -> Commit | None:
        return next(iter(read_versions(connection, stream, version, version)), None)

    receipts = find_outcome(commits, guards, used, head_of, commit_at)
    if receipts is not None or not commits:
        return receipts or ()
    connection.execute("SAVEPOINT append_all")
    try:
        each = [append(connection, commit, row, Usage()) for commit, row in zip(commits, rows, strict=True)]
        if inline is not None:
            inline(connection)
    except BaseException:
        if connection.in_transaction:  # else SQLite has rolled back all of it
            connection.execute("ROLLBACK TO append_all")
            connection.execute("RELEASE append_all")
        raise
    connection.execute("RELEASE append_all")
    used.bytes_written = sum(commit.size for commit in commits)
    return [receipt._replace(usage=used) for receipt in each]


def load(connection: sqlite3.Connection, stream: str) -> Loaded:
    """Return the snapshot and the commits from its version on.

    One statement reads both, up to PAGE commits. More commits are read after it, which is as good as one moment: a
    commit is never changed, and versions are only added after the last.
    """
    count, joined, version, shape, payload = connection.execute(_LOAD, {"stream": stream}).fetchone()
    snapshot = None
    if version is not None:
        snapshot = Snapshot(stream=stream, version=version, shape=shape.decode(errors="replace"), payload=payload)
    page = to_page(connection, FORWARD, (stream, version or 1, MAX_VERSION), PAGE, count, joined)
    commits = _take_commits(page)
    if not page.complete:
        commits += read_versions(connection, stream, commits[-1].version + 1, MAX_VERSION)
    return Loaded(snapshot, commits)


def read_versions(connection: sqlite3.Connection, stream: str, low: int, high: int) -> list[Commit]:
    """Return the commits of a stream in this range of versions.

    Raises:
        CorruptPayload: a row was altered and is not a commit any more.
    """
    commits: list[Commit] = []
    while True:
        page = read_page(connection, FORWARD, (stream, low, high))
        commits += _take_commits(page)
        if page.complete:
            return commits
        low = commits[-1].version + 1


def _take_commits(page: Page) -> list[Commit]:
    commits, damaged = separate(page.rows)
    if damaged:
        raise damaged[0].error
    return list(commits)


def read_after(connection: sqlite3.Connection, position: int, limit: int) -> Page:
    """Return commits of all streams after a position."""
    return read_page(connection, _AFTER, (position,), limit)


def read_of(connection: sqlite3.Connection, position: int, limit: int, categories: Collection[str]) -> Page:
    """Return as `read_after`, without commits of other categories, except the last row that was looked at."""
    last = connection.execute(_WINDOW_END, (position, position + _WINDOW)).fetchone()[0]
    last = last or connection.execute(_NEXT, (position,)).fetchone()[0]  # after many positions without a commit
    if last is None:
        return Page([], complete=True)
    ranges = [text for each in categories for text in (each, f"{each}-", f"{each}.")]  # "." is next to "-"
    page = read_page(connection, _of(len(categories)), (position, last, last, *ranges), limit)
    return page._replace(complete=page.complete and connection.execute(_NEXT, (last,)).fetchone()[0] is None)


@lru_cache(64)
def _of(categories: int) -> Selection:
    """Return the commits of so many categories between two positions, and the last one, of any category."""
    either = " OR ".join(["place.position = ?", *[_CATEGORY] * categories])
    return Selection(f"place.position > ? AND place.position <= ? AND ({either})", "place.position")


def read_commit_id(connection: sqlite3.Connection, position: int) -> bytes | None:
    """Return the id of the commit at a position; None if there is none, or if its row was altered."""
    row = next(iter(read_page(connection, _AT, (position,), 1).rows), None)
    return row.id if isinstance(row, Commit) else None


def read_identity(connection: sqlite3.Connection) -> str:
    """Return the identity of the store."""
    if (row := connection.execute(_IDENTITY).fetchone()) is None:
        raise StoreRejected("SCHEMA", "the file has lost its identity; restore it from a backup")
    identity: bytes = row[0]
    return identity.decode(errors="replace")


def read_last_position(connection: sqlite3.Connection) -> int:
    """Return the last position that was given to a commit. Positions of deleted commits are not used again."""
    position: int = connection.execute(f"SELECT {_LAST}").fetchone()[0]
    return position


def read_heads(connection: sqlite3.Connection, after: str, limit: int) -> list[Head]:
    """Return streams after the stream `after`, by name, with their last versions.

    A name that is not UTF-8 is left out, and logged.
    """
    heads: list[Head] = []
    last, more = after.encode(), True
    while more and not heads:
        names, versions = connection.execute(_HEADS, (last, limit)).fetchone()
        found = [bytes.fromhex(name) for name in names.decode().split(",")] if names else []
        more = len(found) == limit
        for name, version in zip(found, (versions or b"").split(b","), strict=False):
            last = name
            try:
                heads.append(Head(name.decode(), int(version)))
            except UnicodeDecodeError:
                log.warning("the name of stream %r is not UTF-8; it is not listed", name)
    return heads
