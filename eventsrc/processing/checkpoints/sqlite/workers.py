"""Workers in an SQLite file."""

from __future__ import annotations

from collections.abc import Mapping

from ..workers import Workers
from .file import SQLiteFile


class SQLiteWorkers(Workers):
    """The workers of the processors of one file."""

    def __init__(self, file: SQLiteFile) -> None:
        self._file = file

    async def heartbeat(self, worker: str) -> None:
        beat = "INSERT INTO eventsrc_workers VALUES (?, 1) ON CONFLICT DO UPDATE SET beats = beats + 1"
        await self._file.write(lambda db: db.execute(beat, (worker,)))

    async def beats(self) -> Mapping[str, int]:
        query = "SELECT worker, beats FROM eventsrc_workers"
        return dict(await self._file.query(lambda db: db.execute(query).fetchall()))

    async def sign_off(self, worker: str) -> None:
        await self._file.write(lambda db: db.execute("DELETE FROM eventsrc_workers WHERE worker = ?", (worker,)))
