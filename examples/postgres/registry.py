"""The registry of processors in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventsrc.processing import Registration, Registry

from .pool import Pool, to_text


class PostgresRegistry(Registry):
    """The processors of one database, and which version of each readers use."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def registration(self, processor: str) -> Registration | None:
        rows = await self._pool.query("SELECT registration FROM eventsrc_registrations WHERE processor = %s", processor)
        return msgspec.json.decode(rows[0][0], type=Registration) if rows else None

    async def register(self, processor: str, new: Registration, *, instead_of: Registration | None) -> bool:
        if instead_of is None:
            insert = "INSERT INTO eventsrc_registrations VALUES (%s, %s) ON CONFLICT DO NOTHING"
            written = await self._pool.execute(insert, processor, to_text(new))
        else:
            update = "UPDATE eventsrc_registrations SET registration = %s WHERE processor = %s AND registration = %s"
            written = await self._pool.execute(update, to_text(new), processor, to_text(instead_of))
        return bool(written) or await self.registration(processor) == new

    async def processors(self) -> Sequence[str]:
        rows = await self._pool.query("SELECT processor FROM eventsrc_registrations")
        return sorted(processor for (processor,) in rows)

    async def active(self, tag: str) -> int | None:
        rows = await self._pool.query("SELECT version FROM eventsrc_active WHERE tag = %s", tag)
        return rows[0][0] if rows else None

    async def activate(self, tag: str, version: int, *, instead_of: int | None) -> bool:
        if instead_of is None:
            insert = "INSERT INTO eventsrc_active VALUES (%s, %s) ON CONFLICT DO NOTHING"
            written = await self._pool.execute(insert, tag, version)
        else:
            update = "UPDATE eventsrc_active SET version = %s WHERE tag = %s AND version = %s"
            written = await self._pool.execute(update, version, tag, instead_of)
        return bool(written) or await self.active(tag) == version
