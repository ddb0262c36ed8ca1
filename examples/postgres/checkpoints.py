"""The durable state of processors in PostgreSQL, next to the tables of read models."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString, TypeVar

import msgspec
from psycopg import AsyncConnection, Error, InterfaceError, OperationalError
from psycopg_pool import AsyncConnectionPool

from eventsrc import Fenced, StoreClosed, StoreError, StoreRejected, StoreUnavailable
from eventsrc.processing import (
    Checkpoints,
    Fence,
    Parked,
    Position,
    PositionMoved,
    Registration,
    Skipped,
    Slice,
    Slot,
    tombstone,
)
from eventsrc.stores import Head

T = TypeVar("T")

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
SCHEMA_LOCK = 0x6576656E7473  # a number of our own: two processes that create tables at the same time fail otherwise
PAGE = 1_000


class PostgresCheckpoints(Checkpoints):
    """Checkpoints in a PostgreSQL database. The tables are created if missing; their names start with `eventsrc_`.

    - `conninfo` is a connection string of libpq, `connections` the largest number of connections.
    - `deadline` is the number of seconds that a call waits for a connection.
    """

    def __init__(self, conninfo: str, *, connections: int = 8, deadline: float = 10.0) -> None:
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
                await db.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
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

    async def write(self, work: Callable[[Database], Awaitable[T]]) -> T:
        """Await `work` in a transaction of its own, and return its result. If it raises, nothing is written."""
        async with self.transaction() as db:
            return await work(db)

    async def _query(self, query: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        async with self.transaction() as db:
            return await (await db.execute(query, values)).fetchall()

    async def _execute(self, statement: LiteralString, *values: object) -> int:
        """Return the number of rows that the statement has changed."""
        async with self.transaction() as db:
            return (await db.execute(statement, values)).rowcount

    # Registrations

    async def registration(self, processor: str) -> Registration | None:
        rows = await self._query("SELECT registration FROM eventsrc_registrations WHERE processor = %s", processor)
        return msgspec.json.decode(rows[0][0], type=Registration) if rows else None

    async def register(self, processor: str, new: Registration, *, instead_of: Registration | None) -> bool:
        if instead_of is None:
            insert = "INSERT INTO eventsrc_registrations VALUES (%s, %s) ON CONFLICT DO NOTHING"
            written = await self._execute(insert, processor, to_text(new))
        else:
            update = "UPDATE eventsrc_registrations SET registration = %s WHERE processor = %s AND registration = %s"
            written = await self._execute(update, to_text(new), processor, to_text(instead_of))
        return bool(written) or await self.registration(processor) == new

    async def processors(self) -> Sequence[str]:
        rows = await self._query("SELECT processor FROM eventsrc_registrations")
        return sorted(processor for (processor,) in rows)

    # Positions

    async def positions(self, processor: str, streams: Collection[str]) -> dict[str, Position]:
        query = "SELECT stream, version, id, time FROM eventsrc_positions WHERE processor = %s AND stream = ANY(%s)"
        return {stream: Position(*row) for stream, *row in await self._query(query, processor, list(streams))}

    async def all_positions(self, processor: str) -> AsyncGenerator[Sequence[Head]]:
        query = (
            "SELECT stream, version FROM eventsrc_positions WHERE processor = %s AND stream > %s "
            "ORDER BY stream LIMIT %s"
        )
        after = ""
        while page := await self._query(query, processor, after, PAGE):
            yield [Head(*row) for row in page]
            after = page[-1][0]

    async def advance(self, processor: str, run: Slice) -> None:
        await self.write(lambda db: advance(db, processor, run))

    async def delete_position(self, processor: str, stream: str, fence: Fence) -> None:
        async with self.transaction() as db:
            await check_fence(db, processor, fence)
            await db.execute("DELETE FROM eventsrc_positions WHERE processor = %s AND stream = %s", (processor, stream))

    # Slots

    async def slots(self, processor: str) -> Sequence[Slot]:
        rows = await self._query("SELECT slot FROM eventsrc_slots WHERE processor = %s ORDER BY number", processor)
        return [msgspec.json.decode(row[0], type=Slot) for row in rows]

    async def claim(self, processor: str, slot: Slot) -> None:
        put = (
            "INSERT INTO eventsrc_slots (processor, number, epoch, slot) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (processor, number) DO UPDATE SET epoch = excluded.epoch, slot = excluded.slot "
            "WHERE eventsrc_slots.epoch < excluded.epoch"
        )
        if not await self._execute(put, processor, slot.number, slot.epoch, to_text(slot)):
            raise Fenced(processor, slot.number)

    async def save(self, processor: str, slot: Slot) -> None:
        update = "UPDATE eventsrc_slots SET slot = %s WHERE processor = %s AND number = %s AND epoch = %s"
        if not await self._execute(update, to_text(slot), processor, slot.number, slot.epoch):
            raise Fenced(processor, slot.number)

    # Workers

    async def heartbeat(self, worker: str) -> None:
        await self._execute(
            "INSERT INTO eventsrc_workers VALUES (%s, 1) "
            "ON CONFLICT (worker) DO UPDATE SET beats = eventsrc_workers.beats + 1",
            worker,
        )

    async def beats(self) -> Mapping[str, int]:
        rows = await self._query("SELECT worker, beats FROM eventsrc_workers")
        return {row[0]: row[1] for row in rows}

    async def sign_off(self, worker: str) -> None:
        await self._execute("DELETE FROM eventsrc_workers WHERE worker = %s", worker)

    # Parked streams

    async def park(self, processor: str, parked: Parked, fence: Fence) -> None:
        async with self.transaction() as db:
            await check_fence(db, processor, fence)
            await db.execute(
                "INSERT INTO eventsrc_parked VALUES (%s, %s, %s) "
                "ON CONFLICT (processor, stream) DO UPDATE SET parked = excluded.parked",
                (processor, parked.stream, to_text(parked)),
            )

    async def unpark(self, processor: str, parked: Parked) -> None:
        delete = "DELETE FROM eventsrc_parked WHERE processor = %s AND stream = %s AND parked = %s"
        await self._execute(delete, processor, parked.stream, to_text(parked))

    async def parked(self, processor: str, streams: Collection[str] | None = None) -> Sequence[Parked]:
        query: LiteralString = "SELECT parked FROM eventsrc_parked WHERE processor = %s"
        if streams is None:
            rows = await self._query(f"{query} ORDER BY stream", processor)
        else:
            rows = await self._query(f"{query} AND stream = ANY(%s) ORDER BY stream", processor, list(streams))
        return [msgspec.json.decode(row[0], type=Parked) for row in rows]

    async def note_skipped(self, processor: str, skipped: Skipped) -> None:
        await self._execute(
            "INSERT INTO eventsrc_skipped VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (processor, stream, version) DO UPDATE SET skipped = excluded.skipped",
            processor,
            skipped.stream,
            skipped.version,
            to_text(skipped),
        )

    async def skipped(self, processor: str) -> Sequence[Skipped]:
        rows = await self._query("SELECT skipped FROM eventsrc_skipped WHERE processor = %s", processor)
        return sorted((msgspec.json.decode(row[0], type=Skipped) for row in rows), key=lambda skipped: skipped.time)

    # Versions

    async def active(self, tag: str) -> int | None:
        rows = await self._query("SELECT version FROM eventsrc_active WHERE tag = %s", tag)
        return rows[0][0] if rows else None

    async def activate(self, tag: str, version: int, *, instead_of: int | None) -> bool:
        if instead_of is None:
            insert = "INSERT INTO eventsrc_active VALUES (%s, %s) ON CONFLICT DO NOTHING"
            written = await self._execute(insert, tag, version)
        else:
            update = "UPDATE eventsrc_active SET version = %s WHERE tag = %s AND version = %s"
            written = await self._execute(update, version, tag, instead_of)
        return bool(written) or await self.active(tag) == version

    async def forget(self, processor: str) -> None:
        await self.write(lambda db: forget(db, processor))


async def advance(db: Database, processor: str, run: Slice) -> None:
    """Within a transaction: move the position of a stream. Raises Fenced and PositionMoved; roll back then."""
    await check_fence(db, processor, run.fence)
    version, id, time = run.position
    if run.is_first:
        moved = await db.execute(
            "INSERT INTO eventsrc_positions (processor, stream, version, id, time) VALUES (%s, %s, %s, %s, %s) "
            "ON CONFLICT DO NOTHING",
            (processor, run.stream, version, id, time),
        )
    else:
        moved = await db.execute(
            "UPDATE eventsrc_positions SET version = %s, id = %s, time = %s "
            "WHERE processor = %s AND stream = %s AND version = %s",
            (version, id, time, processor, run.stream, run.after),
        )
    if not moved.rowcount:
        raise PositionMoved(run.stream)


async def forget(db: Database, processor: str) -> None:
    """Within a transaction: drop everything stored for a processor, and leave tombstones of its slots."""
    query = "SELECT slot FROM eventsrc_slots WHERE processor = %s ORDER BY number FOR UPDATE"
    for (text,) in await (await db.execute(query, (processor,))).fetchall():
        slot = tombstone(msgspec.json.decode(text, type=Slot))
        await db.execute(
            "UPDATE eventsrc_slots SET epoch = %s, slot = %s WHERE processor = %s AND number = %s",
            (slot.epoch, to_text(slot), processor, slot.number),
        )
    for table in ("registrations", "positions", "parked", "skipped"):
        await db.execute(f"DELETE FROM eventsrc_{table} WHERE processor = %s", (processor,))


async def check_fence(db: Database, processor: str, fence: Fence) -> None:
    """Within a transaction: raise Fenced if the slot has another epoch. Nobody can claim the slot until it ends."""
    query = "SELECT epoch FROM eventsrc_slots WHERE processor = %s AND number = %s FOR SHARE"
    row = await (await db.execute(query, (processor, fence.slot))).fetchone()
    if row is not None and row[0] != fence.epoch:
        raise Fenced(processor, fence.slot)


def to_text(value: Registration | Slot | Parked | Skipped) -> str:
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
