"""What operators do with a processor: pause and resume it, replay a stream, forget it, list all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support.bank import Deposited, Opened, Withdrawn
from support.ledger import InMemory, InSQLite, Outside, deposit, fill, ids_of, run_with_parked, running, until

from eventsrc import Fenced, SQLiteStore
from eventsrc.processing import (
    Context,
    Effects,
    Leases,
    MemoryCheckpoints,
    MemoryProjection,
    Processor,
    Runner,
    SQLiteCheckpoints,
    SQLiteContext,
    SQLiteProjection,
    health,
    status,
    worker,
)
from eventsrc.processing.projections.sqlite import Database

KINDS = ["memory", "sqlite", "outside"]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_durable_kind = pytest.mark.parametrize("kind", KINDS[1:])

Make = Callable[..., Processor[Any]]


class Replayed(InSQLite, tag="replayed"):
    def forget_stream(self, db: Database, stream: str) -> None:
        db.execute(f"DELETE FROM {self.table} WHERE stream = ?", (stream,))


@pytest.fixture(autouse=True)
def watch_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "WATCH_SECONDS", 0.05)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "ledger.db") as store:
        yield store


@pytest.fixture
async def checkpoints(tmp_path: Path) -> AsyncIterator[SQLiteCheckpoints]:
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        yield checkpoints


@pytest.fixture
def make(kind: str, store: SQLiteStore, checkpoints: SQLiteCheckpoints) -> Make:
    def made(projection: Any = None, **options: Any) -> Processor[Any]:
        if kind == "memory":
            return Processor(projection or InMemory(), store, **options)
        return Processor(projection or (Replayed() if kind == "sqlite" else Outside()), store, checkpoints, **options)

    return made


# Pause and resume.


@every_kind
async def test_a_paused_processor_handles_nothing_until_it_is_resumed(store: SQLiteStore, make: Make) -> None:
    await fill(store)
    processor = make()
    async with running(processor):
        await asyncio.wait_for(processor.caught_up.wait(), 10)
        await processor.pause()
        await until(lambda: processor.state == "paused")
        assert (await status(processor)).paused
        assert health(processor) == {}
        before = await processor.projection.read_handled()
        receipt = await deposit(store, "a-0", 7)
        with pytest.raises(TimeoutError):
            await processor.wait_for(receipt, timeout=0.3)
        assert await processor.projection.read_handled() == before
        await processor.resume()
        await processor.wait_for(receipt)
    assert await processor.projection.read_handled() == await ids_of(store)
    assert not (await status(processor)).paused


@every_durable_kind
async def test_any_process_can_pause_and_resume(store: SQLiteStore, make: Make) -> None:
    await fill(store)
    processor, operator = make(), make()
    async with running(processor):
        await asyncio.wait_for(processor.caught_up.wait(), 10)
        await operator.pause()
        await operator.pause()  # again
        await until(lambda: processor.state == "paused")
        receipt = await deposit(store, "a-0", 7)
        await operator.resume()
        await operator.wait_for(receipt)


@every_durable_kind
async def test_a_pause_survives_restarts(store: SQLiteStore, make: Make) -> None:
    await fill(store)
    await make().pause()  # before its first run
    processor = make()
    async with running(processor):
        await until(lambda: processor.state == "paused")
        await asyncio.sleep(0.2)
        assert processor.pipeline.progress.commits == 0
    again = make()
    async with running(again):
        await until(lambda: again.state == "paused")
        await again.resume()
        await asyncio.wait_for(again.caught_up.wait(), 10)
    assert await again.projection.read_handled() == await ids_of(store)


@every_durable_kind
async def test_a_paused_processor_does_not_hold_up_the_others_of_its_runner(store: SQLiteStore, make: Make) -> None:
    await fill(store)
    paused, other = make(), Processor(InMemory(), store)
    await paused.pause()
    async with running(paused, other):
        await other.wait_for(await deposit(store, "a-1", 7))
        assert paused.pipeline.progress.commits == 0
        await paused.resume()
        await asyncio.wait_for(paused.caught_up.wait(), 10)
    assert await paused.projection.read_handled() == await other.projection.read_handled() == await ids_of(store)


@every_durable_kind
async def test_a_pause_reaches_all_workers(store: SQLiteStore, make: Make) -> None:
    await fill(store, accounts=8)
    processors = [make(), make()]
    runners = [Runner(each, leases=Leases(slots=4, ttl=1.0)) for each in processors]
    tasks = [asyncio.create_task(runner.run()) for runner in runners]
    await until(lambda: all(len(each.pipeline.assignment.held) == 2 for each in processors))
    await make().pause()
    await until(lambda: all(each.state == "paused" for each in processors))
    handled = sum(each.pipeline.progress.commits for each in processors)
    receipts = [await deposit(store, f"a-{number}", 7) for number in range(8)]
    await asyncio.sleep(0.2)
    assert sum(each.pipeline.progress.commits for each in processors) == handled
    await make().resume()
    for receipt in receipts:
        await processors[0].wait_for(receipt)
    for runner in runners:
        runner.stop()
    await asyncio.gather(*tasks)


# Replaying one stream.


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.parametrize("where", ["stopped", "running here", "running elsewhere"])
async def test_reset_handles_one_stream_again(store: SQLiteStore, make: Make, where: str) -> None:
    await fill(store)
    processor = make()
    await processor.run(until_caught_up=True)
    query = f"DELETE FROM {processor.projection.table} WHERE stream = 'account-a-1' AND event LIKE '%@3.0'"
    checkpoints: Any = processor.checkpoints
    await checkpoints.write(lambda db: db.execute(query))  # a mistake, repaired by a replay
    if where == "stopped":
        await processor.reset("account-a-1")
        await make().run(until_caught_up=True)
    else:
        async with running(processor):
            await asyncio.wait_for(processor.caught_up.wait(), 10)
            before = processor.pipeline.progress.commits
            await (processor if where == "running here" else make()).reset("account-a-1")
            receipt = await deposit(store, "a-1", 7)
            await processor.wait_for(receipt)
            assert processor.pipeline.progress.commits - before == 5  # of no other stream
            async with asyncio.timeout(20):
                while await processor.checkpoints.parked(processor.name):  # noqa: ASYNC110  # deleted after the position
                    await asyncio.sleep(0.01)
    assert await processor.projection.read_handled() == await ids_of(store)
    assert not await processor.checkpoints.parked(processor.name)


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_reset_while_a_writer_continues(store: SQLiteStore, make: Make) -> None:
    await fill(store, accounts=1)
    processor = make()
    async with running(processor):
        for _ in range(5):
            writing = asyncio.create_task(deposit_often(store, 6))
            await asyncio.sleep(0.01)
            await reset_once_it_is_not_retried(processor)
            await processor.wait_for(await writing)
    assert await processor.projection.read_handled() == await ids_of(store)


async def reset_once_it_is_not_retried(processor: Processor[Any]) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                return await processor.reset("account-a-0")
            except ValueError:  # a busy machine has left it aside for a moment
                await asyncio.sleep(0.01)


async def deposit_often(store: SQLiteStore, times: int) -> Any:
    return [await deposit(store, "a-0", 1) for _ in range(times)][-1]


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_a_parked_stream_is_not_reset(store: SQLiteStore, make: Make) -> None:
    await fill(store)
    processor = make(attempts=1)
    processor.projection.poison = {2}
    await run_with_parked(processor)
    with pytest.raises(ValueError, match="account-a-1 is parked or is being retried; retry or skip it first"):
        await processor.reset("account-a-1")
    assert len(await processor.parked()) == 3


@pytest.mark.parametrize("kind", ["outside"])
async def test_effects_are_not_replayed(store: SQLiteStore, make: Make) -> None:
    await fill(store)
    processor = make()
    await processor.run(until_caught_up=True)
    with pytest.raises(TypeError, match="effects outside"):
        await processor.reset("account-a-1")
    await processor.run(until_caught_up=True)  # nothing is left of the attempt
    assert await processor.projection.read_handled() == await ids_of(store)
    assert not await processor.checkpoints.parked(processor.name)


# Forgetting.


class Wealth(SQLiteProjection, tag="wealth"):
    """With a second table, which its tags name."""

    def create(self, db: Database) -> None:
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} (owner TEXT PRIMARY KEY, amount INTEGER)")
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table}_owners (account TEXT PRIMARY KEY, owner TEXT)")

    def handle_opened(self, event: Opened, context: SQLiteContext) -> None:
        context.db.execute(f"INSERT INTO {self.table}_owners VALUES (?, ?)", (context.stream, event.owner))

    def handle_deposited(self, event: Deposited, context: SQLiteContext) -> None:
        context.db.execute(
            f"INSERT INTO {self.table} SELECT owner, ? FROM {self.table}_owners WHERE account = ? "
            "ON CONFLICT DO UPDATE SET amount = amount + excluded.amount",
            (event.amount, context.stream),
        )


async def test_forget_and_a_run_build_a_read_model_of_several_tables_anew(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints
) -> None:
    await fill(store, accounts=2)
    for _ in range(3):
        processor = Processor(Wealth(), store, checkpoints, attempts=1)
        await processor.run(until_caught_up=True)
        rows = await checkpoints.read(lambda db: db.execute("SELECT * FROM wealth_1").fetchall())
        assert rows == [("ann", 212)]
        await processor.forget()
        tables = await checkpoints.read(
            lambda db: db.execute("SELECT name FROM sqlite_schema WHERE name LIKE 'wealth%'").fetchall()
        )
        assert tables == []


@every_durable_kind
async def test_a_worker_that_runs_is_fenced_by_forget(store: SQLiteStore, make: Make) -> None:
    await fill(store)
    stale = make()
    task = asyncio.create_task(stale.run())
    await asyncio.wait_for(stale.caught_up.wait(), 10)
    await make().forget()
    with pytest.raises(Fenced):
        await asyncio.wait_for(task, 10)
    assert not await stale.positions(["account-a-0"])
    again = make()
    await again.run(until_caught_up=True)
    assert await again.projection.read_handled() == await ids_of(store)


@every_durable_kind
async def test_forget_drops_what_was_parked_and_skipped(store: SQLiteStore, make: Make) -> None:
    await fill(store, accounts=2)
    processor = make(attempts=1)
    processor.projection.poison = {1, 2}
    await run_with_parked(processor)
    await processor.forget()
    assert not await processor.parked()
    processor.projection.poison = set()
    again = make()
    await again.run(until_caught_up=True)
    assert await again.projection.read_handled() == await ids_of(store)


# Declarations and lists.


async def test_a_handler_added_without_raising_the_version_is_logged(
    store: SQLiteStore, caplog: pytest.LogCaptureFixture
) -> None:
    def declare(more: bool) -> type[MemoryProjection] | Any:
        class Mails(Effects, tag="mails"):
            async def handle_deposited(self, event: Deposited, context: Context) -> None: ...

            if more:

                async def handle_withdrawn(self, event: Withdrawn, context: Context) -> None: ...

        return Mails

    checkpoints = MemoryCheckpoints()
    await Processor(declare(more=False)(), store, checkpoints).run(until_caught_up=True)
    await Processor(declare(more=False)(), store, checkpoints).run(until_caught_up=True)
    assert not caplog.records
    await Processor(declare(more=True)(), store, checkpoints).run(until_caught_up=True)
    [record] = caplog.records
    assert record.getMessage() == (
        "mails@1: handlers of account.withdrawn were added without raising its version: events of the past are not "
        "handled"
    )
    await Processor(declare(more=True)(), store, checkpoints).run(until_caught_up=True)
    assert len(caplog.records) == 1  # said once


async def test_checkpoints_list_all_processors(store: SQLiteStore, checkpoints: SQLiteCheckpoints) -> None:
    for projection in (Wealth(), Outside(), InSQLite()):
        await Processor(projection, store, checkpoints).run(until_caught_up=True)
    assert await checkpoints.processors() == ["in-sqlite@1", "outside@1", "wealth@1"]
    await Processor(Outside(), store, checkpoints).forget()
    assert await checkpoints.processors() == ["in-sqlite@1", "wealth@1"]
