"""The read side as type checkers see it: never run, as public_api.py."""

# pyright: reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import assert_type

from support.bank import Deposited, Opened, Withdrawn

from eventsrc import Batch, DynamoDBStore, Feed, Head, MemoryStore, Receipt, SQLiteStore
from eventsrc.processing import (
    Checkpoints,
    Context,
    DynamoDBCheckpoints,
    DynamoDBContext,
    DynamoDBProjection,
    DynamoDBRows,
    Effects,
    Leases,
    MemoryProjection,
    Mirror,
    Parked,
    Position,
    Processor,
    RegisteredProcessor,
    RowContext,
    Runner,
    SQLiteCheckpoints,
    SQLiteContext,
    SQLiteProjection,
    Status,
    Verified,
    health,
    lambda_handler,
    open_checkpoints,
    rebuild,
    status,
    verify,
)
from eventsrc.processing import processors as list_processors
from eventsrc.publishing import PublishedEvent, events_api
from eventsrc.stores import Export


class Balances(MemoryProjection, tag="balances"):
    def __init__(self) -> None:
        self.balances: dict[str, int] = {}

    def handle_deposited(self, event: Deposited, context: Context) -> None:
        self.balances[context.stream] = event.amount


class InSQLite(SQLiteProjection, tag="balances"):
    version = 2

    def handle_movements(self, events: Sequence[Deposited | Withdrawn], context: SQLiteContext) -> None:
        context.db.execute("INSERT INTO balances VALUES (?, ?)", (context.stream, len(events)))


class InDynamoDB(DynamoDBProjection, tag="balances-in-dynamodb"):
    async def handle_deposited(self, event: Deposited, context: DynamoDBContext) -> None:
        context.add("read-models", {"PK": self.name, "SK": context.stream}, amount=event.amount)


class InRows(DynamoDBRows, tag="balances-in-rows"):
    table = "read-models"

    def key(self, stream: str) -> dict[str, str]:
        return {"PK": self.name, "SK": stream}

    def handle_opened(self, event: Opened, context: RowContext) -> None:
        context.set(owner=event.owner)


class Mails(Effects, tag="mails"):
    async def handle_opened(self, event: Opened, context: Context) -> None:
        assert_type(context.id, str)


async def feeds(store: DynamoDBStore, export: Export) -> None:
    for feed in (store, MemoryStore(), SQLiteStore("ledger.db"), export):
        one: Feed = feed
        assert_type(one.feed(after="", follow=False, report_damaged=True), AsyncGenerator[Batch])
        assert_type(one.feed(categories=("account",)), AsyncGenerator[Batch])
        assert_type(await one.identity(), str)
        assert_type(await one.clock(), int)
        assert_type(await one.behind(""), float | None)
        assert_type(await one.end(), str)
        assert_type(await one.remaining(""), int | None)
        assert_type(one.heads(), AsyncGenerator[Sequence[Head]])


async def checkpoints() -> None:
    async with open_checkpoints("memory://") as opened, SQLiteCheckpoints("model.db") as model:
        assert_type(opened, Checkpoints)
        assert_type(await opened.processors(), Sequence[str])
        assert_type(await list_processors(opened), list[RegisteredProcessor])
        assert_type(await opened.active("balances"), int | None)
        assert_type(await opened.positions("balances@1", ["account-1"]), dict[str, Position])
        assert_type(await model.read(lambda db: len(db.execute("SELECT 1").fetchall())), int)


async def processors(store: SQLiteStore, table: DynamoDBStore, receipt: Receipt) -> None:
    memory = Processor(Balances(), store, start="now")
    assert_type(memory.projection.balances, dict[str, int])
    await memory.run(until_caught_up=True)
    await memory.wait_for(receipt, timeout=1.0)
    async with SQLiteCheckpoints("model.db") as checkpoints, DynamoDBCheckpoints("models") as models:
        processor = Processor(InSQLite(), store, checkpoints, attempts=3, on_error="stop")
        rows = [Processor(each, table, models) for each in (InDynamoDB(), InRows(), Mails(), Mirror(store))]
        await Runner(processor, memory, leases=Leases(slots=8), save_every=0.5).run(on_sigterm=True)
        assert_type(await processor.parked(), Sequence[Parked])
        await processor.skip("account-a-1", "why", version=7)
        await processor.pause()
        await processor.resume()
        await processor.reset("account-a-1")
        assert_type(await status(processor), Status)
        assert_type(await verify(processor, deliver=False), Verified)
        assert_type(health(processor, *rows), dict[str, str])
        await rebuild(processor, progress=lambda done, total: print(done / total), on_error="park")
        Processor(Balances(), store, start="yesterday")  # type: ignore[arg-type]
        Processor(Balances(), store, on_error="ignore")  # type: ignore[arg-type]
        Processor(Balances, store)  # type: ignore[type-var]
        await rebuild(InSQLite())  # type: ignore[arg-type]
    events_api(
        store, [PublishedEvent(Deposited, type="deposited", data=lambda event: {"cents": event.amount})], source="/l"
    )
    lambda_handler(lambda: store)  # type: ignore[arg-type,return-value]
