"""The registry in an SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from ..checkpoints import to_text
from ..registry import Registration, Registry
from .file import SQLiteFile


class SQLiteRegistry(Registry):
    """The processors of one file, and which version of each readers use."""

    def __init__(self, file: SQLiteFile) -> None:
        self._file = file

    async def registration(self, processor: str) -> Registration | None:
        return await self._file.query(lambda db: _find_registration(db, processor))

    async def register(self, processor: str, new: Registration, *, instead_of: Registration | None) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            if _find_registration(db, processor) not in (instead_of, new):
                return False
            db.execute("INSERT OR REPLACE INTO eventsrc_registrations VALUES (?, ?)", (processor, to_text(new)))
            return True

        return await self._file.write(work)

    async def processors(self) -> Sequence[str]:
        query = "SELECT processor FROM eventsrc_registrations ORDER BY processor"
        return [row[0] for row in await self._file.query(lambda db: db.execute(query).fetchall())]

    async def active(self, tag: str) -> int | None:
        query = "SELECT version FROM eventsrc_active WHERE tag = ?"
        row = await self._file.query(lambda db: db.execute(query, (tag,)).fetchone())
        return row[0] if row else None

    async def activate(self, tag: str, version: int, *, instead_of: int | None) -> bool:
        put = (
            "INSERT INTO eventsrc_active SELECT :tag, :version "
            "WHERE :instead_of IS NULL OR EXISTS (SELECT 1 FROM eventsrc_active WHERE tag = :tag) "
            "ON CONFLICT DO UPDATE SET version = :version WHERE version = :instead_of OR version = :version"
        )
        values = {"tag": tag, "version": version, "instead_of": instead_of}
        return bool(await self._file.write(lambda db: db.execute(put, values).rowcount))


def _find_registration(db: sqlite3.Connection, processor: str) -> Registration | None:
    query = "SELECT registration FROM eventsrc_registrations WHERE processor = ?"
    row = db.execute(query, (processor,)).fetchone()
    return msgspec.json.decode(row[0], type=Registration) if row else None
