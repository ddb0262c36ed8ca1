"""The checkpoint of the feed always advances: streams that are aside are stored, and no restart forgets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support.ledger import InSQLite, Outside, deposit, fill, ids_of, run_with_parked, until

from eventsrc import SQLiteStore, retrying
from eventsrc.processing import Leases, Parked, Processor, Runner, SQLiteCheckpoints, checkpointer

Make = Callable[..., Processor[Any]]

every_kind = pytest.mark.parametrize("kind", ["sqlite", "outside"])


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "ledger.db") as store:
        yield store


@pytest.fixture
async def make(kind: str, store: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    monkeypatch.setattr(checkpointer, "STORE_AFTER", 0.1)
    monkeypatch.setattr(checkpointer, "WRITE_AT_LEAST", 0.3)
    projection = InSQLite() if kind == "sqlite" else Outside()
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:

        def made(attempts: int = 1_000) -> Processor[Any]:
            return Processor(projection, store, checkpoints, attempts=attempts)

        yield made


async def killed(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def checkpoints_of(processor: Processor[Any]) -> list[int]:
    slots = await processor.checkpoints.slots(processor.name)
    return [int(slot.checkpoint.partition(".")[0] or 0) for slot in slots]


async def wait_for_checkpoint(processor: Processor[Any], position: int) -> None:
    async with asyncio.timeout(10):
        while min(await checkpoints_of(processor)) < position:  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.01)


async def wait_for_entry(processor: Processor[Any]) -> Parked:
    async with asyncio.timeout(10):
        while not (found := await processor.checkpoints.parked(processor.name)):  # noqa: ASYNC110  # nor here
            await asyncio.sleep(0.01)
    return found[0]


@every_kind
async def test_the_checkpoint_advances_while_a_stream_is_retried(store: SQLiteStore, make: Make) -> None:
    await fill(store, accounts=2)
    processor = make()
    processor.projection.poison = {66}
    running = asyncio.create_task(Runner(processor, save_every=0.02).run())
    await deposit(store, "a-0", 66)
    await until(lambda: processor.pipeline.catch_up.entries)
    last = [await deposit(store, "a-1", 1) for _ in range(3)][-1]
    await wait_for_checkpoint(processor, last.position)
    assert not await processor.parked()
    await killed(running)

    processor.projection.poison = set()
    again = make()
    await again.run(until_caught_up=True)  # which reads none of the commits of a-0 from the feed
    assert await again.projection.read_handled() == await ids_of(store)
    assert not await again.checkpoints.parked(again.name)


@every_kind
async def test_the_checkpoint_advances_while_there_is_always_a_new_stream_that_fails(
    store: SQLiteStore, make: Make
) -> None:
    await fill(store, accounts=12, deposits=1)
    processor = make(attempts=2)  # each is parked after 0.1 to 0.2 seconds
    processor.projection.poison = {66}
    running = asyncio.create_task(Runner(processor, save_every=0.02).run())
    await until(lambda: processor.pipeline.assignment.held)
    seen = set[int]()
    for number in range(10):
        await deposit(store, f"a-{number}", 66)
        await until(lambda: processor.pipeline.catch_up.entries)
        await deposit(store, "a-11", 1)
        await asyncio.sleep(0.1)
        seen.update(await checkpoints_of(processor))
    assert len(seen) > 3
    await until(lambda: len(processor.pipeline.parking.parked) == 10)
    await killed(running)
    processor.projection.poison = set()
    again = make()
    assert not await again.retry_all()
    await again.run(until_caught_up=True)
    assert await again.projection.read_handled() == await ids_of(store)


@every_kind
async def test_the_attempts_of_a_stream_that_is_retried_survive_a_kill(store: SQLiteStore, make: Make) -> None:
    """So a handler that fails each time is parked at last, also if processes live for a few attempts only."""
    await fill(store, accounts=1)
    await deposit(store, "a-0", 66)
    processor = make(attempts=4)
    processor.projection.poison = {66}
    for _ in range(6):
        run = asyncio.create_task(Runner(processor := make(attempts=4), save_every=0.02).run())
        await until(lambda processor=processor: processor.pipeline.assignment.held)
        found = await wait_for_entry(processor)
        await killed(run)
        if found.state == "parked":
            break
    else:
        assert await run_with_parked(make(attempts=4)) == ("account-a-0",)
    [parked] = await make().parked()
    assert parked.version == 5
    processor.projection.poison = set()
    await make().retry("account-a-0")
    assert await processor.projection.read_handled() == await ids_of(store)


@every_kind
async def test_a_take_over_does_not_wait_for_streams_in_back_off(
    store: SQLiteStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "_LONGEST_PAUSE", 3.0)
    await fill(store, accounts=8, deposits=2)
    first, second = make(), make()
    first.projection.poison = {1}
    runner = Runner(first, leases=Leases(worker="one", slots=4, ttl=1.0))
    running = asyncio.create_task(runner.run())
    await until(lambda: len(first.pipeline.catch_up.entries) == 8)
    await until(lambda: any(entry.failures >= 3 for entry in first.pipeline.catch_up.entries.values()))  # 1.6 s pause
    loop = asyncio.get_running_loop()
    began = loop.time()
    other = Runner(second, leases=Leases(worker="two", slots=4, ttl=1.0))
    running_other = asyncio.create_task(other.run())
    await until(lambda: len(second.pipeline.assignment.held) == 2)
    assert loop.time() - began < 1.5  # less than the pause: a heartbeat, each third of the ttl
    runner.stop()
    await asyncio.wait_for(running, 5)
    await until(lambda: len(second.pipeline.assignment.held) == 4)
    first.projection.poison = set()
    await asyncio.wait_for(second.caught_up.wait(), 20)
    other.stop()
    await running_other
    assert await first.projection.read_handled() == await ids_of(store)
