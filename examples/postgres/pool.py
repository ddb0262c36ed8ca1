"""The connections to a PostgreSQL database, with the tables of checkpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import msgspec
from psycopg import AsyncConnection, Error, InterfaceError, OperationalError
from psycopg_pool import AsyncConnectionPool

from eventsrc import StoreClosed, StoreError, StoreRejected, StoreUnavailable

Database = AsyncConnection[tuple[Any, ...]]

# Texts are compared byte by byte, so that pages of streams have one order in every database.
SCHEMA = """
CREATE TABLE IF NOT EXISTS eventsrc_registrations (processor TEXT PRIMARY KEY, registration TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS eventsrc_positions (
    processor TEXT, stream TEXT COLLATE "C", version BIGINT NOT NULL, id BYTEA NOT NULL, time BIGINT NOT NULL,
    PRIMARY KEY (processor, stream)
);
CREATE TABLE IF NOT EXISTS eventsrc_slots (
    processor TEXT, number INTEGER, epoch BIGINT NOT NULL, slot TEXT NOT NULL, PRIMARY KEY (processor, number)
);
CREATE TABLE IF NOT EXISTS eventsrc_workers (worker TEXT PRIMARY KEY, beats BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS eventsrc_parked (
    processor TEXT, stream TEXT COLLATE "C", parked TEXT NOT NULL, PRIMARY KEY (processor, stream)
);
CREATE TABLE IF NOT EXISTS eventsrc_skipped (
    processor TEXT, stream TEXT COLLATE "C", version BIGINT, skipped TEXT NOT NULL,
    PRIMARY KEY (processor, stream, version)
);
CREATE TABLE IF NOT EXISTS eventsrc_active (tag TEXT PRIMARY KEY, version BIGINT NOT NULL);
"""
SCHEMA_LOCK = 0x6576656E7473  # a number of our own


class Pool:
    """The connections. Errors of the database are raised as errors of stores."""

    def __init__(self, conninfo: str, connections: int, deadline: float) -> None:
        self._conninfo, self._connections, self._deadline = conninfo, connections, deadline
        self._pool: AsyncConnectionPool[Database] | None = None

    async def open(self) -> None:
        if self._pool is not None:
            raise StoreClosed("PostgresCheckpoints is already open; open it once, and share it")
        self._pool = AsyncConnectionPool(
            self._conninfo, min_size=1, max_size=self._connections, timeout=self._deadline, open=False
        )
        try:
            async with _store_errors():
                await self._pool.open(wait=True, timeout=self._deadline)
            async with self.transaction() as db:
                await lock_schema(db)
                await db.execute(SCHEMA)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Database]:
        """Yield a connection in a transaction. The end of the block commits it, an error rolls it back."""
        if self._pool is None:
            raise StoreClosed("PostgresCheckpoints is not open; use it inside `async with checkpoints:`")
        async with _store_errors(), self._pool.connection() as db:
            yield db

    async def query(self, query: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        async with self.transaction() as db:
            return await (await db.execute(query, values)).fetchall()

    async def execute(self, statement: LiteralString, *values: object) -> int:
        """Return the number of rows that the statement has changed."""
        async with self.transaction() as db:
            return (await db.execute(statement, values)).rowcount


async def lock_schema(db: Database) -> None:
    """Wait for others that create tables: of two that create one at the same time, PostgreSQL refuses one."""
    await db.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))


def to_text(value: msgspec.Struct) -> str:
    """Return the JSON of a value. Equal values have equal texts, so SQL can compare them."""
    return msgspec.json.encode(value).decode()


@asynccontextmanager
async def _store_errors() -> AsyncIterator[None]:
    """Raise the errors of the database as errors of stores, which processors know: they wait for some of them."""
    failure: StoreError
    try:
        yield
        return
    except (OperationalError, InterfaceError) as error:
        failure = StoreUnavailable(f"PostgreSQL is not available: {error}")
    except Error as error:
        failure = StoreRejected(error.sqlstate or type(error).__name__, f"PostgreSQL refused a statement: {error}")
    raise failure
