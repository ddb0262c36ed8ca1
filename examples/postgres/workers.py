"""The workers of processors in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping

from eventsrc.processing import Workers

from .pool import Pool


class PostgresWorkers(Workers):
    """The workers of the processors of one database."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def heartbeat(self, worker: str) -> None:
        await self._pool.execute(
            "INSERT INTO eventsrc_workers VALUES (%s, 1) "
            "ON CONFLICT (worker) DO UPDATE SET beats = eventsrc_workers.beats + 1",
            worker,
        )

    async def beats(self) -> Mapping[str, int]:
        rows = await self._pool.query("SELECT worker, beats FROM eventsrc_workers")
        return {row[0]: row[1] for row in rows}

    async def sign_off(self, worker: str) -> None:
        await self._pool.execute("DELETE FROM eventsrc_workers WHERE worker = %s", worker)
