"""The durable state of processors in PostgreSQL, next to the tables of read models."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import LiteralString, TypeVar

import msgspec

from eventsrc import Fenced
from eventsrc.processing import (
    Checkpoints,
    Fence,
    Parked,
    Position,
    PositionMoved,
    Skipped,
    Slice,
    Slot,
    tombstone,
)
from eventsrc.stores import Head

from .pool import Database, Pool, to_text
from .registry import PostgresRegistry
from .workers import PostgresWorkers

T = TypeVar("T")

PAGE = 1_000


class PostgresCheckpoints(Checkpoints):
    """Checkpoints in a PostgreSQL database. The tables are created if missing; their names start with `eventsrc_`.

    - `conninfo` is a connection string of libpq, `connections` the largest number of connections.
    - `deadline` is the number of seconds that a call waits for a connection.
    """

    def __init__(self, conninfo: str, *, connections: int = 8, deadline: float = 10.0) -> None:
        self._pool = Pool(conninfo, connections, deadline)
        self.registry, self.workers = PostgresRegistry(self._pool), PostgresWorkers(self._pool)

    async def open(self) -> None:
        await self._pool.open()

    async def aclose(self) -> None:
        await self._pool.aclose()

    def transaction(self) -> AbstractAsyncContextManager[Database]:
        """Return a block that has a connection in a transaction. Its end commits it, an error rolls it back."""
        return self._pool.transaction()

    async def write(self, work: Callable[[Database], Awaitable[T]]) -> T:
        """Await `work` in a transaction of its own, and return its result. If it raises, nothing is written."""
        async with self.transaction() as db:
            return await work(db)

    # Positions

    async def positions(self, processor: str, streams: Collection[str]) -> dict[str, Position]:
        query = "SELECT stream, version, id, time FROM eventsrc_positions WHERE processor = %s AND stream = ANY(%s)"
        return {stream: Position(*row) for stream, *row in await self._pool.query(query, processor, list(streams))}

    async def all_positions(self, processor: str) -> AsyncGenerator[Sequence[Head]]:
        query = (
            "SELECT stream, version FROM eventsrc_positions WHERE processor = %s AND stream > %s "
            "ORDER BY stream LIMIT %s"
        )
        after = ""
        while page := await self._pool.query(query, processor, after, PAGE):
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
        rows = await self._pool.query("SELECT slot FROM eventsrc_slots WHERE processor = %s ORDER BY number", processor)
        return [msgspec.json.decode(row[0], type=Slot) for row in rows]

    async def claim(self, processor: str, slot: Slot) -> None:
        put = (
            "INSERT INTO eventsrc_slots (processor, number, epoch, slot) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (processor, number) DO UPDATE SET epoch = excluded.epoch, slot = excluded.slot "
            "WHERE eventsrc_slots.epoch < excluded.epoch"
        )
        if not await self._pool.execute(put, processor, slot.number, slot.epoch, to_text(slot)):
            raise Fenced(processor, slot.number)

    async def save(self, processor: str, slot: Slot) -> None:
        update = "UPDATE eventsrc_slots SET slot = %s WHERE processor = %s AND number = %s AND epoch = %s"
        if not await self._pool.execute(update, to_text(slot), processor, slot.number, slot.epoch):
            raise Fenced(processor, slot.number)

    # Parked streams

    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        key, new = (processor, parked.stream), to_text(parked)
        async with self.transaction() as db:
            await check_fence(db, processor, fence)
            if instead_of is not None:
                update = (
                    "UPDATE eventsrc_parked SET parked = %s WHERE processor = %s AND stream = %s AND parked IN (%s, %s)"
                )
                return bool((await db.execute(update, (new, *key, to_text(instead_of), new))).rowcount)
            await db.execute(
                "INSERT INTO eventsrc_parked VALUES (%s, %s, %s) "
                "ON CONFLICT (processor, stream) DO UPDATE SET parked = excluded.parked",
                (*key, new),
            )
            return True

    async def unpark(self, processor: str, parked: Parked) -> None:
        delete = "DELETE FROM eventsrc_parked WHERE processor = %s AND stream = %s AND parked = %s"
        await self._pool.execute(delete, processor, parked.stream, to_text(parked))

    async def parked(self, processor: str, streams: Collection[str] | None = None) -> Sequence[Parked]:
        query: LiteralString = "SELECT parked FROM eventsrc_parked WHERE processor = %s"
        if streams is None:
            rows = await self._pool.query(f"{query} ORDER BY stream", processor)
        else:
            rows = await self._pool.query(f"{query} AND stream = ANY(%s) ORDER BY stream", processor, list(streams))
        return [msgspec.json.decode(row[0], type=Parked) for row in rows]

    async def note_skipped(self, processor: str, skipped: Skipped) -> None:
        await self._pool.execute(
            "INSERT INTO eventsrc_skipped VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (processor, stream, version) DO UPDATE SET skipped = excluded.skipped",
            processor,
            skipped.stream,
            skipped.version,
            to_text(skipped),
        )

    async def skipped(self, processor: str) -> Sequence[Skipped]:
        rows = await self._pool.query("SELECT skipped FROM eventsrc_skipped WHERE processor = %s", processor)
        return sorted((msgspec.json.decode(row[0], type=Skipped) for row in rows), key=lambda skipped: skipped.time)

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
