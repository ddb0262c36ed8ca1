"""Processors: each commit handled once and in order, whatever is repeated, dropped, restarted, or fails."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec import structs
from support.ledger import (
    InMemory,
    InSQLite,
    Outside,
    commits_of,
    deposit,
    fill,
    ids_of,
    run_with_parked,
    running,
    until,
)

from eventsrc import Fenced, MemoryStore, NotActive, SQLiteStore, StreamParked
from eventsrc.processing import Checkpoints, Effects, Guarantee, MemoryCheckpoints, Processor, SQLiteCheckpoints, status
from eventsrc.processing.checkpoints.checkpoints import now

KINDS = ["memory", "sqlite", "outside"]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_durable_kind = pytest.mark.parametrize("kind", ["sqlite", "outside"])

Make = Callable[..., Processor[Any]]


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


@pytest.fixture
async def make(kind: str, store: MemoryStore, tmp_path: Path) -> AsyncIterator[Make]:
    """Creates processors of this kind. Each has its own projection; all share checkpoints, as processes do."""
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:

        def made(projection: Any = None, **options: Any) -> Processor[Any]:
            if kind == "memory":
                return Processor(projection or InMemory(), store, **options)
            return Processor(
                projection or (InSQLite() if kind == "sqlite" else Outside()), store, checkpoints, **options
            )

        yield made


@every_kind
async def test_every_commit_is_handled_once_and_in_order(store: MemoryStore, make: Make) -> None:
    await fill(store)
    processor = make()
    await processor.run(until_caught_up=True)
    assert await processor.projection.read_handled() == await ids_of(store)
    assert processor.pipeline.progress.commits == 12


@every_kind
async def test_new_commits_are_handled_while_it_runs(store: MemoryStore, make: Make) -> None:
    processor = make()
    async with running(processor):
        await fill(store)
        await processor.wait_for(await deposit(store, "a-1", 7))
        await asyncio.wait_for(processor.caught_up.wait(), 10)
        assert await processor.projection.read_handled() == await ids_of(store)


@every_kind
async def test_an_empty_store_is_caught_up(make: Make) -> None:
    processor = make()
    await processor.run(until_caught_up=True)
    assert processor.pipeline.progress.commits == 0


@every_durable_kind
async def test_another_process_resumes_where_the_first_one_stopped(store: MemoryStore, make: Make) -> None:
    await fill(store)
    first = make()
    await first.run(until_caught_up=True)
    await deposit(store, "a-0", 7)
    second = make()
    await second.run(until_caught_up=True)
    assert (first.pipeline.progress.commits, second.pipeline.progress.commits) == (12, 1)


@every_durable_kind
async def test_positions_keep_it_exact_without_a_checkpoint(store: MemoryStore, make: Make) -> None:
    """As after a kill before the first checkpoint."""
    await fill(store)
    first = make()
    await first.pipeline.prepare()
    await first.pipeline.assignment.take_all()
    await first.pipeline.handle(await commits_of(store))
    second = make()
    await second.run(until_caught_up=True)
    assert (first.pipeline.progress.commits, second.pipeline.progress.commits) == (12, 0)


@every_kind
@pytest.mark.parametrize("seed", range(5))
async def test_hints_may_repeat_and_come_in_any_order(store: MemoryStore, make: Make, seed: int) -> None:
    dice = Random(seed)
    await fill(store, accounts=5, deposits=30)
    processor = make()
    await processor.pipeline.prepare()
    await processor.pipeline.assignment.take_all()
    commits = await commits_of(store)
    last = {commit.stream: commit for commit in commits}
    hints = dice.sample(commits, 100) + dice.sample(commits, 40)
    dice.shuffle(hints)
    for start in range(0, len(hints), 20):
        await processor.pipeline.handle(hints[start : start + 20])
    await processor.pipeline.handle(last.values())
    await processor.pipeline.wait_until_idle()
    assert await processor.projection.read_handled() == await ids_of(store)


@every_kind
async def test_a_stream_that_misses_many_commits_catches_up_in_its_own_task(store: MemoryStore, make: Make) -> None:
    await fill(store, accounts=2, deposits=350)
    processor = make()
    await processor.pipeline.prepare()
    await processor.pipeline.assignment.take_all()
    commits = await commits_of(store)
    await processor.pipeline.handle([commits[349], commits[350]])
    assert processor.pipeline.catch_up.entries.keys() == {"account-a-0"}
    await processor.pipeline.handle([commits[348], commits[699]])  # the first is dropped while its stream catches up
    await processor.pipeline.wait_until_idle()
    assert await processor.projection.read_handled() == await ids_of(store)


@every_kind
async def test_start_now_handles_only_newer_commits(store: MemoryStore, make: Make) -> None:
    await fill(store, accounts=2)
    processor = make(start="now")
    async with running(processor):
        await until(lambda: processor.pipeline.assignment.held)
        receipt = await deposit(store, "a-1", 7)
        await processor.wait_for(receipt)
    assert await processor.projection.read_handled() == {"account-a-1": ["account-a-1@5.0"]}


@every_kind
async def test_a_handler_that_fails_for_a_while_is_called_again(store: MemoryStore, make: Make) -> None:
    await fill(store)
    processor = make()
    processor.projection.poison = {2}
    async with running(processor):
        await until(lambda: processor.pipeline.catch_up.entries)
        processor.projection.poison = set()
        await asyncio.wait_for(processor.caught_up.wait(), 10)
    assert not await processor.parked()
    assert await processor.projection.read_handled() == await ids_of(store)


@every_kind
async def test_a_stream_whose_handler_fails_is_parked_and_others_continue(store: MemoryStore, make: Make) -> None:
    await fill(store)
    await deposit(store, "a-1", 66)
    await deposit(store, "a-1", 1)
    processor = make(attempts=2)
    processor.projection.poison = {66}
    assert await run_with_parked(processor) == ("account-a-1",)
    [parked] = await processor.parked()
    assert (parked.stream, parked.version, parked.attempts) == ("account-a-1", 5, 2)
    assert "Refused: 66 is refused" in parked.error
    assert "ledger.py" in parked.error
    assert abs(parked.since - now()) < 60_000_000
    expected = await ids_of(store)
    assert expected["account-a-1"][-2:] == ["account-a-1@5.0", "account-a-1@6.0"]
    expected["account-a-1"] = expected["account-a-1"][:-2]
    assert await processor.projection.read_handled() == expected


@every_kind
async def test_commits_after_a_parked_one_wait(store: MemoryStore, make: Make) -> None:
    await fill(store, accounts=2)
    processor = make(attempts=1)
    processor.projection.poison = {66}
    async with running(processor):
        await deposit(store, "a-1", 66)
        await until(lambda: processor.pipeline.parking.parked)
        receipt = await deposit(store, "a-1", 1)
        with pytest.raises(StreamParked, match="account-a-1"):
            await processor.wait_for(receipt)
        await processor.wait_for(await deposit(store, "a-0", 1))  # other streams continue
        processor.projection.poison = set()
        await processor.retry("account-a-1")
        await processor.wait_for(receipt)
        await processor.wait_for(await deposit(store, "a-1", 2))  # and now this one, too
    assert await processor.projection.read_handled() == await ids_of(store)
    assert not await processor.parked()


@every_kind
async def test_a_stream_that_fails_again_stays_parked(store: MemoryStore, make: Make) -> None:
    await fill(store, accounts=1)
    processor = make(attempts=1)
    processor.projection.poison = {2}
    assert await run_with_parked(processor) == ("account-a-0",)
    with pytest.raises(StreamParked) as raised:
        await processor.retry("account-a-0")
    assert raised.value.version == 3
    [parked] = await processor.parked()
    assert parked.attempts == 2
    with pytest.raises(ValueError, match="not parked"):
        await processor.retry("account-a-1")


@every_kind
async def test_a_commit_can_be_skipped_with_a_reason(store: MemoryStore, make: Make) -> None:
    await fill(store, accounts=1)
    processor = make(attempts=1)
    processor.projection.poison = {2}
    assert await run_with_parked(processor) == ("account-a-0",)
    with pytest.raises(ValueError, match="why"):
        await processor.skip("account-a-0", " ")
    await processor.skip("account-a-0", "was refunded by hand")
    assert not await processor.parked()
    [skipped] = await processor.checkpoints.skipped(processor.name)
    assert (skipped.stream, skipped.version, skipped.reason) == ("account-a-0", 3, "was refunded by hand")
    expected = await ids_of(store)
    expected["account-a-0"].remove("account-a-0@3.0")
    assert await processor.projection.read_handled() == expected


@every_kind
async def test_a_damaged_commit_can_be_skipped(store: MemoryStore, make: Make) -> None:
    await fill(store, accounts=1)
    damaged = structs.replace((await commits_of(store))[2], payload=b"damaged")
    store._streams["account-a-0"][2] = store._all[2] = damaged
    processor = make(attempts=1)
    assert await run_with_parked(processor) == ("account-a-0",)
    [parked] = await processor.parked()
    assert (parked.version, parked.error.partition(":")[0]) == (3, "CorruptPayload")
    await processor.skip("account-a-0", "the disk was bad")
    expected = await ids_of(store)
    expected["account-a-0"].remove("account-a-0@3.0")
    assert await processor.projection.read_handled() == expected


@every_durable_kind
async def test_another_process_can_retry_while_one_runs(store: MemoryStore, make: Make) -> None:
    await fill(store, accounts=2)
    processor = make(attempts=1)
    processor.projection.poison = {3}
    async with running(processor):
        await until(lambda: len(processor.pipeline.parking.parked) == 2)
        await deposit(store, "a-0", 9)
        projection: Any = processor.projection
        other = make(projection if isinstance(projection, Effects) else None)
        processor.projection.poison = set()
        await other.retry("account-a-0")
        await processor.wait_for(await deposit(store, "a-0", 7))
        await other.retry("account-a-1")
    assert await processor.projection.read_handled() == await ids_of(store)


@every_kind
async def test_on_error_stop_raises_the_handlers_error(store: MemoryStore, make: Make) -> None:
    await fill(store)
    processor = make(attempts=2, on_error="stop")
    processor.projection.poison = {2}
    with pytest.raises(Exception, match="2 is refused"):
        await processor.run(until_caught_up=True)
    assert processor.state == "failed"
    assert not await processor.parked()
    processor.projection.poison = set()
    await processor.run(until_caught_up=True)  # it continues once the handler works
    assert await processor.projection.read_handled() == await ids_of(store)


async def test_in_memory_no_event_of_a_failed_commit_is_handled_twice(store: MemoryStore) -> None:
    """The first event of the commit keeps its effect."""
    await fill(store, accounts=1)
    processor = Processor(InMemory(), store)
    processor.projection.poison = {100}
    async with running(processor):
        await until(lambda: processor.pipeline.catch_up.entries)
        processor.projection.poison = set()
        await asyncio.wait_for(processor.caught_up.wait(), 10)
    assert await processor.projection.read_handled() == await ids_of(store)


@every_durable_kind
async def test_two_processes_without_leases_stay_exact(store: MemoryStore, make: Make) -> None:
    """Positions let only one of them change the read model; outside effects may happen in both."""
    await fill(store, accounts=4, deposits=20)
    commits, processors = await commits_of(store), [make(), make()]
    for processor in processors:
        await processor.pipeline.prepare()
        await processor.pipeline.assignment.join()
    for start in range(0, len(commits), 10):
        await asyncio.gather(*(each.pipeline.handle(commits[start : start + 10]) for each in processors))
    for processor in processors:
        await processor.pipeline.wait_until_idle()
    both = [await processor.projection.read_handled() for processor in processors]
    expected = await ids_of(store)
    for stream, ids in expected.items():
        assert {id for told in both for id in told.get(stream, ())} == set(ids)
    if processors[0].projection.guarantee is Guarantee.TRANSACTION:
        assert both[0] == expected


@every_durable_kind
async def test_a_later_run_fences_the_earlier_one(store: MemoryStore, make: Make) -> None:
    first, second = make(), make()
    async with running(second):
        pass
    running_first = asyncio.create_task(first.run())
    await until(lambda: first.pipeline.assignment.held)
    async with running(second):
        await until(lambda: second.pipeline.assignment.held)
        await fill(store, accounts=1)
        with pytest.raises(Fenced):
            await asyncio.wait_for(running_first, 10)
        await second.wait_for(await deposit(store, "a-0", 1))
    told = await second.projection.read_handled()
    assert {stream: sorted(set(ids)) for stream, ids in told.items()} == await ids_of(store)


@every_kind
async def test_wait_for_times_out(store: MemoryStore, make: Make) -> None:
    await fill(store, accounts=1)
    processor = make()
    await processor.pipeline.prepare()
    with pytest.raises(TimeoutError):
        await processor.wait_for(await deposit(store, "a-0", 1), timeout=0.05)
    assert not processor._waiting._events


async def test_arguments_that_do_not_fit_together_are_refused(store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="needs checkpoints"):
        Processor(Outside(), store)
    with pytest.raises(TypeError, match="SQLiteCheckpoints"):
        Processor(InSQLite(), store, MemoryCheckpoints())
    with pytest.raises(TypeError, match="in memory"):
        Processor(InMemory(), store, MemoryCheckpoints())
    with pytest.raises(ValueError, match="start is"):
        Processor(InMemory(), store, start="yesterday")  # type: ignore[arg-type]


async def test_a_version_that_is_not_active_does_not_run(store: MemoryStore) -> None:
    class Second(Outside, tag="outside"):
        version = 2

    checkpoints: Checkpoints = MemoryCheckpoints()
    await Processor(Outside(), store, checkpoints).run(until_caught_up=True)
    with pytest.raises(NotActive) as raised:
        await Processor(Second(), store, checkpoints).run(until_caught_up=True)
    assert (raised.value.version, raised.value.active) == (2, 1)


async def test_many_streams_in_sqlite(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "ledger.db") as store, SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        await fill(store, accounts=300, deposits=5)  # more than a page of commits, and of positions
        processor = Processor(InSQLite(), store, checkpoints)
        await processor.run(until_caught_up=True)
        assert await processor.projection.read_handled() == await ids_of(store)
        again = Processor(InSQLite(), store, checkpoints)
        await again.pipeline.prepare()
        await again.pipeline.assignment.take_all()
        await again.pipeline.handle(await commits_of(store))
        assert again.pipeline.progress.commits == 0


@every_durable_kind
async def test_resume_from_delivers_again_and_handled_commits_are_dropped(store: MemoryStore, make: Make) -> None:
    await fill(store)
    processor = make()
    await processor.run(until_caught_up=True)
    other = make()
    running_on = asyncio.create_task(other.run())
    await until(lambda: other.pipeline.assignment.held)
    with pytest.raises(ValueError, match="not a checkpoint"):
        await processor.resume_from("nowhere")
    await processor.resume_from("")
    await deposit(store, "a-0", 7)
    with pytest.raises(Fenced):
        await asyncio.wait_for(running_on, 10)
    [slot] = await processor.checkpoints.slots(processor.name)
    assert slot.checkpoint == ""
    again = make()
    await again.run(until_caught_up=True)
    assert again.pipeline.progress.commits <= 1
    [slot] = await processor.checkpoints.slots(processor.name)
    assert slot.checkpoint == await store.end()


async def test_forget_drops_the_read_model_with_its_positions(store: MemoryStore, tmp_path: Path) -> None:
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        await fill(store)
        processor = Processor(InSQLite(), store, checkpoints)
        await processor.run(until_caught_up=True)
        async with running(processor):
            await until(lambda: processor.pipeline.assignment.held)
            with pytest.raises(RuntimeError, match="is running"):
                await processor.forget()
        await processor.forget()
        [slot] = await checkpoints.slots(processor.name)
        assert (slot.checkpoint, slot.owner, slot.open) == ("", "", False)  # it stays, to fence what still runs
        assert processor.name not in await checkpoints.processors()
        assert not await processor.positions(["account-a-0"])
        await processor.run(until_caught_up=True)  # builds it again, with nothing twice
        assert await processor.projection.read_handled() == await ids_of(store)
    with pytest.raises(TypeError, match="in memory"):
        await Processor(InMemory(), store).forget()


@every_kind
async def test_retry_all_retries_every_parked_stream(store: MemoryStore, make: Make) -> None:
    await fill(store, accounts=5)
    await deposit(store, "a-3", 66)
    processor = make(attempts=1)
    processor.projection.poison = {2, 66}
    assert await run_with_parked(processor) == tuple(f"account-a-{number}" for number in range(5))
    assert len(await processor.parked()) == 5
    processor.projection.poison = {66}
    assert [parked.stream for parked in await processor.retry_all()] == ["account-a-3"]
    processor.projection.poison = set()
    assert not await processor.retry_all()
    assert await processor.projection.read_handled() == await ids_of(store)


@every_kind
async def test_a_run_that_ended_caught_up_has_no_lag(store: MemoryStore, make: Make) -> None:
    await fill(store)
    processor = make()
    await processor.run(until_caught_up=True)
    assert processor.caught_up.is_set()
    assert processor.lag == 0.0
    assert (await status(processor)).lag_commits == 0


async def test_reads_of_a_read_model_cannot_write(tmp_path: Path) -> None:
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        await checkpoints.write(lambda db: db.execute("CREATE TABLE mine (x)"))
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await checkpoints.read(lambda db: db.execute("INSERT INTO mine VALUES (1)"))


def test_an_object_that_is_not_a_projection_is_refused(store: MemoryStore) -> None:
    with pytest.raises(TypeError, match="give an object"):
        Processor(InMemory, store)  # type: ignore[type-var]
