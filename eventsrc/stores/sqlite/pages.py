"""Pages of commits, which SQLite joins into one row.

The sqlite3 module gives up the interpreter lock whenever SQLite steps to a row, and then waits for it again. Threads
that read row by row fight for it, and a thread that computes holds up each of their rows. So a page is one row: an
aggregate joins its records to a list in MessagePack, which is decoded at once.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import accumulate, takewhile
from typing import Any, NamedTuple

import msgspec

from ...errors import CorruptPayload
from ...store import Commit
from ..feed import Damaged

PAGE = 1024  # commits
_PAGE_BYTES = 4 * 1024 * 1024  # of large records; a page ends after it
_SMALL = 4096  # bytes of a record that is not counted: PAGE of them have no more than _PAGE_BYTES
_LEAST = 2  # commits of a page, whatever their size: a feed reads the commit at its checkpoint, and needs one more

_BY_POSITION = "log AS place INDEXED BY log_by_position CROSS JOIN log USING (stream, version)"
"""Commits by `place.position`. A condition of `place` is checked in the index, before a commit is looked up."""
JOINED = f"count(*), CAST(group_concat(CASE WHEN length(record) <= {_SMALL} THEN record ELSE x'c0' END, '') AS BLOB)"
"""A page as one row, with nil in the place of each large record. SQLite joins blobs as they are if texts are UTF-8."""
_NOT_A_COMMIT = (ValueError, RecursionError)  # of msgspec, too


class Fields(msgspec.Struct, omit_defaults=True, gc=False):
    """The column `fields`: a copy of what the record has, as JSON for other programs. This library does not read it."""

    size: int  # bytes of the payload
    time: int
    events: int
    tags: tuple[str, ...]
    causation_ids: tuple[str, ...] = ()
    command_id: str | None = None
    command_digest: bytes | None = None
    metadata: Mapping[str, str] = {}


class Page(NamedTuple):
    """Commits, and whether there are no more. A row that was altered, and is not a commit any more, is a Damaged."""

    rows: Sequence[Commit | Damaged]
    complete: bool


class Selection:
    """The commits that meet a condition, in an order. The last argument of each statement is the number of rows."""

    def __init__(self, condition: str, order: str, table: str = _BY_POSITION) -> None:
        found, end = f"FROM {table} WHERE {condition}", f"ORDER BY {order} LIMIT ?"
        large = f"(SELECT log.record {found} AND length(log.record) > {_SMALL} {end})"
        self.rows = f"SELECT log.stream, log.version, log.position, log.record {found} {end}"
        self.joined = f"SELECT {JOINED} FROM (SELECT log.record {found} {end})"
        self.large_lengths = f"SELECT group_concat(length(record)) FROM {large}"
        self.large = f"SELECT count(*), CAST(group_concat(record, '') AS BLOB) FROM {large}"


def read_page(
    connection: sqlite3.Connection, selection: Selection, arguments: tuple[Any, ...], limit: int = PAGE
) -> Page:
    """Return up to `limit` commits. A page of large commits ends after some megabytes."""
    count, joined = connection.execute(selection.joined, (*arguments, limit)).fetchone()
    return to_page(connection, selection, arguments, limit, count, joined)


def to_page(
    connection: sqlite3.Connection,
    selection: Selection,
    arguments: tuple[Any, ...],
    limit: int,
    count: int,
    joined: bytes | None,
) -> Page:
    """Return the page that was read as JOINED."""
    if not count:
        return Page([], complete=True)
    try:
        commits = _to_commits(count, joined)
        if None in commits:
            commits = _read_large(connection, selection, arguments, limit, commits)
        return Page(commits, complete=len(commits) == count < limit)  # type: ignore[arg-type]
    except _NOT_A_COMMIT:
        return _read_rows(connection, selection, arguments, limit)


def _read_large(
    connection: sqlite3.Connection,
    selection: Selection,
    arguments: tuple[Any, ...],
    limit: int,
    commits: list[Commit | None],
) -> list[Commit | None]:
    """Return the commits with the large ones in their places, up to _PAGE_BYTES.

    Raises ValueError if rows were altered or deleted in between.
    """
    lengths = connection.execute(selection.large_lengths, (*arguments, limit)).fetchone()[0] or b""
    ends = list(accumulate(map(int, lengths.split(b","))))
    wanted = max(_LEAST, bisect_right(ends, _PAGE_BYTES))
    large = _to_commits(*connection.execute(selection.large, (*arguments, wanted)).fetchone())
    if len(ends) != commits.count(None) or len(large) != min(wanted, len(ends)):
        raise ValueError
    rest = iter(large)
    return list(takewhile(lambda commit: commit is not None, (each or next(rest, None) for each in commits)))


def _to_commits(count: int, joined: bytes | None) -> list[Commit | None]:
    return _decode_list(b"\xdd" + count.to_bytes(4, "big") + (joined or b""))


def _read_rows(connection: sqlite3.Connection, selection: Selection, arguments: tuple[Any, ...], limit: int) -> Page:
    """Return a page as `read_page`, but row by row, which finds the damaged ones."""
    found: list[tuple[bytes, int, int, bytes]] = []
    size, more = 0, True
    with closing(connection.execute(selection.rows, (*arguments, limit))) as cursor:  # open, it keeps its transaction
        while (size < _PAGE_BYTES or len(found) < _LEAST) and (more := (row := cursor.fetchone()) is not None):
            found.append(row)
            size += len(row[-1])
    return Page([to_commit(*row) for row in found], complete=not more and len(found) < limit)


def to_commit(name: bytes, version: int, position: int, record: bytes) -> Commit | Damaged:
    """Return the commit of a row; a Damaged if it was altered, and is not a commit any more."""
    try:
        return _decode(record)
    except _NOT_A_COMMIT:
        pass
    stream = name.decode(errors="replace")
    error = CorruptPayload(stream, version, "the row is not a commit of this library")
    return Damaged(stream, version, error, position)


def to_row(commit: Commit) -> tuple[str | None, str, bytes]:
    """Return the columns `correlation_id`, `fields` and `record` of a commit; the record without its position."""
    if commit.position is not None:
        commit = msgspec.structs.replace(commit, position=None)
    fields = Fields(
        size=len(commit.payload),
        time=commit.time,
        events=commit.events,
        tags=commit.tags,
        causation_ids=commit.causation_ids,
        command_id=commit.command_id,
        command_digest=commit.command_digest,
        metadata=commit.metadata,
    )
    return commit.correlation_id, _to_json(fields).decode(), _encode(commit)


def set_position(record: bytes, position: int) -> bytes:
    """Return the record with the position, which is the last element of the list."""
    return record[:-1] + _encode(position)


_to_json = msgspec.json.Encoder().encode
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Commit).decode
_decode_list = msgspec.msgpack.Decoder(list[Commit | None]).decode
