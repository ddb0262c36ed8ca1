"""Timers in the SQLite file of checkpoints, in a table that is sorted by time."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from ...processing.checkpoints.sqlite.checkpoints import SQLiteCheckpoints
from .timers import Due, Timers

_SCHEMA = """
CREATE TABLE IF NOT EXISTS eventsrc_timers (
    processor TEXT, due INTEGER, stream TEXT, number INTEGER, name TEXT NOT NULL, cause TEXT NOT NULL,
    correlation_id TEXT NOT NULL, PRIMARY KEY (processor, due, stream, number)
) STRICT, WITHOUT ROWID
"""


class SQLiteTimers(Timers):
    """Timers in the file of checkpoints. The first ones are found by the primary key, however many there are."""

    parts = 1

    def __init__(self, checkpoints: SQLiteCheckpoints) -> None:
        self._file = checkpoints.file

    async def prepare(self) -> None:
        await self._file.write(lambda db: db.execute(_SCHEMA))

    async def put(self, processor: str, timer: Due) -> None:
        row = (processor, timer.due, timer.stream, timer.number, timer.name, timer.cause, timer.correlation_id)
        put = "INSERT OR REPLACE INTO eventsrc_timers VALUES (?, ?, ?, ?, ?, ?, ?)"
        await self._file.write(lambda db: db.execute(put, row))

    async def remove(self, processor: str, timer: Due) -> None:
        key = (processor, timer.due, timer.stream, timer.number)
        delete = "DELETE FROM eventsrc_timers WHERE processor = ? AND due = ? AND stream = ? AND number = ?"
        await self._file.write(lambda db: db.execute(delete, key))

    async def first(self, processor: str, part: int, limit: int, after: Due | None = None) -> Sequence[Due]:
        key = (after.due, after.stream, after.number) if after is not None else (-(2**63), "", 0)
        query = (
            "SELECT due, stream, number, name, cause, correlation_id FROM eventsrc_timers WHERE processor = ? "
            "AND (due, stream, number) > (?, ?, ?) ORDER BY due, stream, number LIMIT ?"
        )

        def read(db: sqlite3.Connection) -> list[Due]:
            return [Due(*row) for row in db.execute(query, (processor, *key, limit))]

        return await self._file.query(read)

    async def count(self, processor: str) -> int:
        query = "SELECT count(*) FROM eventsrc_timers WHERE processor = ?"
        found: int = await self._file.query(lambda db: db.execute(query, (processor,)).fetchone()[0])
        return found
