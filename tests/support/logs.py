"""Read models for the contract of projections: the ids of the events of each stream, in the order of handling."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import ClassVar

from support.tables import checkpoints_on, fresh_name

from eventsrc.processing import (
    Context,
    Database,
    DynamoDBContext,
    DynamoDBProjection,
    DynamoDBRows,
    Effects,
    MemoryCheckpoints,
    MemoryProjection,
    RowContext,
    SQLiteCheckpoints,
    SQLiteContext,
    SQLiteProjection,
    Writes,
)
from eventsrc.stores.dynamodb.wire.attributes import number_of, text_of, to_item
from eventsrc.testing.contract.projections import Bench, Happened, interfere

_calls = count(1)


class MemoryLog(MemoryProjection, tag="log"):
    def __init__(self) -> None:
        self.ids: dict[str, list[str]] = {}

    def handle_happened(self, event: Happened, context: Context) -> None:
        self.ids.setdefault(context.stream, []).append(context.id)
        interfere(context)

    def forget_stream(self, stream: str) -> None:
        self.ids.pop(stream, None)


@asynccontextmanager
async def memory_bench() -> AsyncIterator[Bench[MemoryLog]]:
    async def read(projection: MemoryLog, stream: str) -> Sequence[str]:
        return projection.ids.get(stream, [])

    yield Bench(MemoryLog, read)


class SQLiteLog(SQLiteProjection, tag="log"):
    def create(self, db: Database) -> None:
        columns = "place INTEGER PRIMARY KEY, stream TEXT NOT NULL, event TEXT NOT NULL"
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({columns})")

    def handle_happened(self, event: Happened, context: SQLiteContext) -> None:
        context.db.execute(f"INSERT INTO {self.table} (stream, event) VALUES (?, ?)", (context.stream, context.id))
        interfere(context)

    def forget_stream(self, db: Database, stream: str) -> None:
        db.execute(f"DELETE FROM {self.table} WHERE stream = ?", (stream,))


@asynccontextmanager
async def sqlite_bench(path: Path) -> AsyncIterator[Bench[SQLiteLog]]:
    async with SQLiteCheckpoints(path) as checkpoints:

        async def read(projection: SQLiteLog, stream: str) -> Sequence[str]:
            query = f"SELECT event FROM {projection.table} WHERE stream = ? ORDER BY place"
            found: list[str] = await checkpoints.read(lambda db: [event for (event,) in db.execute(query, (stream,))])
            return found

        yield Bench(SQLiteLog, read, checkpoints)


class EffectsLog(Effects, tag="log"):
    def __init__(self, outside: list[tuple[str, str, str]]) -> None:
        self.outside = outside

    def handle_happened(self, event: Happened, context: Context) -> None:
        self.outside.append((self.name, context.stream, context.id))
        interfere(context)


@asynccontextmanager
async def effects_bench() -> AsyncIterator[Bench[EffectsLog]]:
    outside: list[tuple[str, str, str]] = []

    async def read(projection: EffectsLog, stream: str) -> Sequence[str]:
        return [each[2] for each in outside if each[:2] == (projection.name, stream)]

    yield Bench(lambda: EffectsLog(outside), read, MemoryCheckpoints())


class ItemsLog(DynamoDBProjection, tag="log"):
    """An item for each event, which counts how often it was handled."""

    tables: ClassVar[Sequence[str]] = ()

    def __init__(self, table: str) -> None:
        self.tables = (table,)  # type: ignore[misc]  # where it is known only now

    async def handle_happened(self, event: Happened, context: DynamoDBContext) -> None:
        key = {"PK": self.partition(context.stream), "SK": context.id[len(context.stream) :]}
        context.add(self.tables[0], key, times=1, place=next(_calls))
        interfere(context)

    def partition(self, stream: str) -> str:
        return f"{self.name}#{sha256(stream.encode()).hexdigest()}"

    async def forget_stream(self, writes: Writes, stream: str) -> None:
        for item in await self._checkpoints.table.query_all(self.partition(stream)):
            key = {name: item[name] for name in ("PK", "SK")}
            writes.write({"Delete": {"TableName": self.tables[0], "Key": key}})


@asynccontextmanager
async def items_bench(endpoint: str) -> AsyncIterator[Bench[ItemsLog]]:
    async with checkpoints_on(endpoint, fresh_name()) as checkpoints:
        await checkpoints.create_table()

        async def read(projection: ItemsLog, stream: str) -> Sequence[str]:
            items = await checkpoints.table.query_all(projection.partition(stream))
            handled = [(number_of(each, "place"), number_of(each, "times"), text_of(each, "SK")) for each in items]
            return [stream + event for _, times, event in sorted(handled) for _ in range(times)]

        yield Bench(lambda: ItemsLog(checkpoints.table.name), read, checkpoints)


class RowsLog(DynamoDBRows, tag="log"):
    """Two attributes for each event: how often it was handled, and when."""

    def __init__(self, table: str) -> None:
        self.table = table  # type: ignore[misc]  # where it is known only now

    def key(self, stream: str) -> Mapping[str, str]:
        return {"PK": f"{self.name}#{stream}", "SK": "log"}

    def handle_happened(self, event: Happened, context: RowContext) -> None:
        event_id = context.id[len(context.stream) :]
        context.add(**{f"times{event_id}": 1})
        context.set(**{f"place{event_id}": next(_calls)})
        interfere(context)


@asynccontextmanager
async def rows_bench(endpoint: str) -> AsyncIterator[Bench[RowsLog]]:
    async with checkpoints_on(endpoint, fresh_name()) as checkpoints:
        await checkpoints.create_table()

        async def read(projection: RowsLog, stream: str) -> Sequence[str]:
            row = await checkpoints.table.get(to_item(projection.key(stream))) or {}
            events = [name.removeprefix("place") for name in row if name.startswith("place")]
            handled = sorted((number_of(row, f"place{each}"), number_of(row, f"times{each}"), each) for each in events)
            return [stream + event for _, times, event in handled for _ in range(times)]

        yield Bench(lambda: RowsLog(checkpoints.table.name), read, checkpoints)
