"""Handlers that misbehave: nothing is lost, and the error is reported."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import sqlite3
import threading
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support.bank import Deposited, Opened
from support.ledger import (
    InSQLite,
    Movement,
    Outside,
    commits_of,
    deposit,
    fill,
    ids_of,
    run_with_parked,
    running,
    until,
)

from eventsrc import MemoryStore, StoreRejected, Throttled
from eventsrc.processing import (
    Context,
    Effects,
    MemoryCheckpoints,
    MemoryProjection,
    Processor,
    SQLiteCheckpoints,
    SQLiteContext,
    SQLiteProjection,
)
from eventsrc.processing.projections.sqlite import Database


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


@pytest.fixture
async def checkpoints(tmp_path: Path) -> AsyncIterator[SQLiteCheckpoints]:
    async with SQLiteCheckpoints(tmp_path / "model.db", deadline=0.2) as checkpoints:
        yield checkpoints


class Dropped(Outside, tag="dropped"):
    async def handle_movement(self, event: Movement, context: Context) -> None:
        if context.stream == "account-a-1" and not self.seen[context.stream]:
            self.seen[context.stream].append("nothing yet")
            other = asyncio.create_task(asyncio.sleep(60))
            other.cancel()
            await other  # as a connection does that its pool has closed
        await Outside.handle_movement(self, event, context)


async def test_a_cancelled_task_inside_a_handler_counts_as_a_failure(store: MemoryStore) -> None:
    await fill(store)
    processor = Processor(Dropped(), store, MemoryCheckpoints())
    await processor.run(until_caught_up=True)
    told = await processor.projection.read_handled()
    assert told["account-a-1"].pop(0) == "nothing yet"
    assert told == await ids_of(store)


def passing_on(function: Any) -> Any:
    @functools.wraps(function)
    def passed(*arguments: Any) -> Any:
        return function(*arguments)

    return passed


class Decorated(Effects, tag="decorated"):
    def __init__(self) -> None:
        self.seen: list[str] = []

    @passing_on
    async def handle_movement(self, event: Movement, context: Context) -> None:
        self.seen.append(context.id)


async def test_the_awaitable_of_a_decorated_handler_is_awaited(store: MemoryStore) -> None:
    await fill(store, accounts=1)
    processor = Processor(Decorated(), store, MemoryCheckpoints())
    await processor.run(until_caught_up=True)
    assert processor.projection.seen == (await ids_of(store))["account-a-0"]


class Ends(InSQLite, tag="ends"):
    statement = ""

    def handle_movement(self, event: Movement, context: SQLiteContext) -> None:
        if isinstance(event, Opened) and context.stream == "account-a-1":
            with contextlib.suppress(sqlite3.IntegrityError):
                context.db.execute(self.statement)
        InSQLite.handle_movement(self, event, context)


@pytest.mark.parametrize(
    "statement",
    [
        *(
            "COMMIT",
            " end",
            "rollback",
            "-- done\nCOMMIT",
            ";COMMIT",
            "/* done */ end transaction",
            "ATTACH '' AS other",
        ),
        "INSERT OR ROLLBACK INTO ends_1 (number, stream) VALUES (1, 1), (1, 1)",
    ],
)
async def test_a_handler_that_ends_the_transaction_parks_only_its_own_stream(
    store: MemoryStore, checkpoints: SQLiteCheckpoints, statement: str
) -> None:
    await fill(store)
    processor = Processor(Ends(), store, checkpoints, attempts=1)
    processor.projection.statement = statement
    assert await run_with_parked(processor) == ("account-a-1",)
    [parked] = await processor.parked()
    assert (parked.stream, parked.version) == ("account-a-1", 1)
    assert "transaction" in parked.error
    expected = await ids_of(store)
    del expected["account-a-1"]
    assert await processor.projection.read_handled() == expected


async def test_handlers_can_use_savepoints(store: MemoryStore, checkpoints: SQLiteCheckpoints) -> None:
    class Careful(InSQLite, tag="careful"):
        def handle_movement(self, event: Movement, context: SQLiteContext) -> None:
            context.db.execute("SAVEPOINT mine")
            context.db.execute(f"DELETE FROM {self.table}")
            context.db.execute("ROLLBACK TO mine")
            context.db.execute("RELEASE mine")
            InSQLite.handle_movement(self, event, context)

    await fill(store)
    processor = Processor(Careful(), store, checkpoints, attempts=1)
    await processor.run(until_caught_up=True)
    assert await processor.projection.read_handled() == await ids_of(store)


class Misspelt(InSQLite, tag="misspelt"):
    def create(self, db: Database) -> None:
        db.execute("CRATE TABLE misspelt")


async def test_an_error_in_create_is_raised_at_once(store: MemoryStore, checkpoints: SQLiteCheckpoints) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(sqlite3.OperationalError, match="CRATE"):
            await Processor(Misspelt(), store, checkpoints).run(until_caught_up=True)


async def test_a_locked_file_is_waited_for_once_per_batch(
    store: MemoryStore, checkpoints: SQLiteCheckpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store, accounts=10)
    processor = Processor(InSQLite(), store, checkpoints)
    await processor.pipeline.prepare()
    await processor.pipeline.assignment.take_all()
    tries: list[object] = []
    write = checkpoints.write

    async def counted(work: Any) -> Any:
        tries.append(work)
        return await write(work)

    monkeypatch.setattr(checkpoints, "write", counted)
    other = sqlite3.connect(tmp_path / "model.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Throttled):
        await processor.pipeline.handle(await commits_of(store))
    assert len(tries) == 1
    other.close()
    await processor.pipeline.handle(await commits_of(store))
    assert await processor.projection.read_handled() == await ids_of(store)


class Full(InSQLite, tag="full"):
    def handle_movement(self, event: Movement, context: SQLiteContext) -> None:
        InSQLite.handle_movement(self, event, context)
        context.db.execute(f"INSERT INTO {self.table} (event) VALUES (zeroblob(1000000))")


async def test_a_full_disk_does_not_count_as_a_handlers_failure(
    store: MemoryStore, checkpoints: SQLiteCheckpoints
) -> None:
    await fill(store, accounts=1)
    processor = Processor(Full(), store, checkpoints)
    await processor.pipeline.prepare()
    pages = await checkpoints.read(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    await checkpoints.file.run("writer", lambda db: db.execute(f"PRAGMA max_page_count = {pages + 20}"))
    with pytest.raises(StoreRejected, match="SQLITE_FULL"):
        await processor.run(until_caught_up=True)
    assert not await processor.parked()


async def test_reads_of_the_read_model_do_not_delay_the_processor(
    store: MemoryStore, checkpoints: SQLiteCheckpoints
) -> None:
    await fill(store)
    processor = Processor(InSQLite(), store, checkpoints)
    reading, resume = threading.Event(), threading.Event()

    def report(db: sqlite3.Connection) -> None:
        reading.set()
        resume.wait()

    async with running(processor):
        await asyncio.wait_for(processor.caught_up.wait(), 10)
        cursor = await checkpoints.read(lambda db: db.execute("SELECT * FROM in_sqlite_1"))
        next(cursor)  # the cursor stays open
        await processor.wait_for(await deposit(store, "a-0", 1))
        slow = asyncio.create_task(checkpoints.read(report))
        try:
            await until(reading.is_set)
            await processor.wait_for(await deposit(store, "a-0", 1))
        finally:
            resume.set()
            await slow
            cursor.close()


async def work(event: Deposited) -> None: ...


class AwaitsInMemory(MemoryProjection, tag="awaits-in-memory"):
    def handle_deposited(self, event: Deposited) -> Coroutine[Any, Any, None]:
        return work(event)


class AwaitsInSQLite(SQLiteProjection, tag="awaits-in-sqlite"):
    def handle_deposited(self, event: Deposited, context: SQLiteContext) -> Coroutine[Any, Any, None]:
        return work(event)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [AwaitsInMemory, AwaitsInSQLite])
async def test_a_plain_handler_that_returns_a_coroutine_has_failed(
    store: MemoryStore, checkpoints: SQLiteCheckpoints, kind: type[MemoryProjection | SQLiteProjection]
) -> None:
    await fill(store, accounts=1)
    processor = Processor(kind(), store, checkpoints if kind is AwaitsInSQLite else None, attempts=1)
    assert await run_with_parked(processor) == ("account-a-0",)
    [parked] = await processor.parked()
    assert "handle_deposited returned coroutine" in parked.error
    gc.collect()  # a coroutine that was not closed would warn here
