"""Pages of commits, which SQLite joins into one row.

The sqlite3 module gives up the interpreter lock whenever SQLite steps to a row, and then waits for it again. Threads
that read row by row fight for it, and a thread that computes holds up each of their rows. So a page is one row: an
aggregate joins the values of each column.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import accumulate, pairwise
from typing import Annotated, Any, NamedTuple

import msgspec

from ...errors import CorruptPayload
from ...store import Commit
from ..feed import Damaged
from ..limits import MAX_TIME

PAGE = 1024  # commits
_PAGE_BYTES = 4 * 1024 * 1024  # of large bodies; a page ends after it
_SMALL = 4096  # bytes of a body that is not counted: PAGE of them have no more than _PAGE_BYTES
_LEAST = 2  # commits of a page, whatever their size: a feed reads the commit at its checkpoint, and needs one more
_ID = 16  # bytes of the id of a commit, with which a body begins

_ROW = "log.stream, log.version, log.position, log.fields, log.body"
_BY_POSITION = "log AS place INDEXED BY log_by_position CROSS JOIN log USING (stream, version)"
"""Commits by `place.position`. A condition of `place` is checked in the index, before a commit is looked up."""
_JOINED = (
    "count(*), group_concat(version), group_concat(position), group_concat(fields), group_concat(length(body)), "
    f"CAST(group_concat(CASE WHEN length(body) <= {_SMALL} THEN body ELSE x'' END, '') AS BLOB)"
)
"""A page as one row. SQLite joins blobs as the bytes they are if the encoding of the file is UTF-8."""

_NOT_A_COMMIT = (ValueError, RecursionError)  # of msgspec, and ValueError of a text that is not UTF-8, too


class Fields(msgspec.Struct, omit_defaults=True, gc=False):
    """The column `fields` of a commit."""

    time: Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME)]
    events: int
    tags: tuple[str, ...]
    correlation_id: str | None = None
    causation_ids: tuple[str, ...] = ()
    command_id: str | None = None
    command_digest: bytes | None = None
    metadata: dict[str, str] = {}


class Page(NamedTuple):
    """Commits, and whether there are no more. A row that was altered, and is not a commit any more, is a Damaged."""

    rows: Sequence[Commit | Damaged]
    complete: bool


class Selection:
    """The commits that meet a condition, in an order. The last argument of each statement is the number of rows."""

    def __init__(self, condition: str, order: str, *, of_one_stream: bool = False) -> None:
        self.of_one_stream = of_one_stream  # its name is the first argument
        names = "NULL" if of_one_stream else "group_concat(stream, char(10))"
        table = "log" if of_one_stream else _BY_POSITION
        found = f"FROM {table} WHERE {condition}"
        self.columns = f"{names}, {_JOINED}"
        self.rows = f"SELECT {_ROW} {found} ORDER BY {order} LIMIT ?"
        self.joined = f"SELECT {self.columns} FROM ({self.rows})"
        self.large = (
            "SELECT CAST(group_concat(body, '') AS BLOB) FROM "
            f"(SELECT log.body {found} AND length(log.body) > {_SMALL} ORDER BY {order} LIMIT ?)"
        )


def read_page(
    connection: sqlite3.Connection, selection: Selection, arguments: tuple[Any, ...], limit: int = PAGE
) -> Page:
    """Return up to `limit` commits. A page of large commits ends after some megabytes."""
    joined = connection.execute(selection.joined, (*arguments, limit)).fetchone()
    return to_page(connection, selection, arguments, limit, joined)


def to_page(
    connection: sqlite3.Connection, selection: Selection, arguments: tuple[Any, ...], limit: int, joined: Sequence[Any]
) -> Page:
    """Return the page that was read as `joined`, the columns of the selection."""
    names, count, versions, positions, fields, lengths, small = joined
    if not count:
        return Page([], complete=True)
    try:
        sizes = _to_numbers(b"[%b]" % lengths)
        bodies = _read_bodies(connection, selection, arguments, sizes, small)
        columns = (
            [arguments[0]] * count if selection.of_one_stream else names.decode().split("\n"),
            _to_numbers(b"[%b]" % versions),
            _to_numbers(b"[%b]" % positions),
            _to_all_fields(b"[%b]" % fields),
        )
        if min(sizes) >= _ID and all(len(column) == count for column in columns):
            return Page(list(map(_to_commit, *columns, bodies)), complete=len(bodies) == count < limit)
    except _NOT_A_COMMIT:
        pass
    return _read_rows(connection, selection, arguments, limit)


def _read_bodies(
    connection: sqlite3.Connection, selection: Selection, arguments: tuple[Any, ...], sizes: list[int], small: bytes
) -> list[bytes]:
    """Return the bodies of the first commits of a page: `small` has the small ones, and the large ones are read.

    Raises ValueError if they were altered since their sizes were read.
    """
    if max(sizes) <= _SMALL:
        return _split(small, sizes)
    ends = list(accumulate(size if size > _SMALL else 0 for size in sizes))
    sizes = sizes[: max(_LEAST, bisect_right(ends, _PAGE_BYTES))]
    wanted = [size for size in sizes if size > _SMALL]
    large = connection.execute(selection.large, (*arguments, len(wanted))).fetchone()[0] or b""
    if len(large) != sum(wanted):
        raise ValueError
    of_small, of_large = iter(_split(small, [n for n in sizes if n <= _SMALL])), iter(_split(large, wanted))
    return [next(of_small if size <= _SMALL else of_large) for size in sizes]


def _split(joined: bytes, sizes: Iterable[int]) -> list[bytes]:
    return [joined[start:end] for start, end in pairwise(accumulate(sizes, initial=0))]


def _read_rows(connection: sqlite3.Connection, selection: Selection, arguments: tuple[Any, ...], limit: int) -> Page:
    """Return a page as `read_page`, but row by row, which finds the damaged ones."""
    found: list[tuple[bytes, int, int, bytes, bytes]] = []
    size, more = 0, True
    with closing(connection.execute(selection.rows, (*arguments, limit))) as cursor:  # open, it keeps its transaction
        while (size < _PAGE_BYTES or len(found) < _LEAST) and (more := (row := cursor.fetchone()) is not None):
            found.append(row)
            size += len(row[-1])
    return Page([_to_commit_or_damaged(*row) for row in found], complete=not more and len(found) < limit)


def _to_commit_or_damaged(name: bytes, version: int, position: int, fields: bytes, body: bytes) -> Commit | Damaged:
    try:
        if len(body) >= _ID:
            return _to_commit(name.decode(), version, position, _to_fields(fields), body)
    except _NOT_A_COMMIT:
        pass
    stream = name.decode(errors="replace")
    return Damaged(
        stream, version, CorruptPayload(stream, version, "the row is not a commit of this library"), position
    )


def _to_commit(stream: str, version: int, position: int, fields: Fields, body: bytes) -> Commit:
    return Commit(
        stream=stream,
        version=version,
        id=body[:_ID],
        time=fields.time,
        events=fields.events,
        tags=fields.tags,
        payload=body[_ID:],
        correlation_id=fields.correlation_id,
        causation_ids=fields.causation_ids,
        command_id=fields.command_id,
        command_digest=fields.command_digest,
        metadata=fields.metadata,
        position=position,
    )


def to_row(commit: Commit) -> tuple[str | None, str, bytes]:
    """Return the columns `correlation_id`, `fields` and `body` of a commit."""
    fields = Fields(
        time=commit.time,
        events=commit.events,
        tags=commit.tags,
        correlation_id=commit.correlation_id,
        causation_ids=commit.causation_ids,
        command_id=commit.command_id,
        command_digest=commit.command_digest,
        metadata=dict(commit.metadata),
    )
    return commit.correlation_id, msgspec.json.encode(fields).decode(), commit.id + commit.payload


_to_fields = msgspec.json.Decoder(Fields).decode
_to_all_fields = msgspec.json.Decoder(list[Fields]).decode
_to_numbers = msgspec.json.Decoder(list[int]).decode
