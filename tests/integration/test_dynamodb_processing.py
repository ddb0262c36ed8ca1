"""Processors of a table in DynamoDB: where they start, releases while writers continue, checkpoints that advance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from support.bank import Account
from support.ledger import InMemory, Outside, deposit, fill, ids_of, running, until
from support.tables import checkpoints_on, fresh_name, store_on

from eventsrc import DynamoDBStore, Repository, StreamParked
from eventsrc.processing import DynamoDBCheckpoints, Processor, Runner, checkpointer, positions, worker


class Tables(NamedTuple):
    store: DynamoDBStore
    checkpoints: DynamoDBCheckpoints


@pytest.fixture
async def tables(dynamodb_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tables]:
    monkeypatch.setattr(worker, "WATCH_SECONDS", 0.1)
    async with (
        store_on(dynamodb_endpoint, fresh_name()) as store,
        checkpoints_on(dynamodb_endpoint, fresh_name()) as checkpoints,
    ):
        await store.create_table(stream=True)
        await checkpoints.create_table()
        yield Tables(store, checkpoints)


async def test_start_now_beside_a_processor_that_reads_from_the_beginning(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "CLOCK_SKEW", 0)  # else commits of the last minutes are handled
    store, checkpoints = tables
    await fill(store, accounts=2)
    await asyncio.sleep(1.1)  # the service's clock has a resolution of a second
    outside = Outside()

    def from_now() -> Processor[Outside]:
        return Processor(outside, store, checkpoints, start="now")

    for _ in range(2):
        await Runner(from_now(), Processor(InMemory(), store)).run(until_caught_up=True)
    await from_now().resume_from("")
    await from_now().run(until_caught_up=True)
    assert outside.seen == {}
    await deposit(store, "a-1", 7)
    await Repository(Account, store).save(Account.open("new", owner="ann"))
    await from_now().run(until_caught_up=True)
    assert outside.seen == {"account-a-1": ["account-a-1@5.0"], "account-new": ["account-new@1.0"]}


@pytest.mark.parametrize("by", ["worker", "other"])
async def test_a_writer_that_continues_while_a_stream_is_released_loses_nothing(tables: Tables, by: str) -> None:
    store, checkpoints = tables
    await fill(store, accounts=1, deposits=1)
    outside = Outside()
    processor = Processor(outside, store, checkpoints, attempts=1)
    releasing = processor if by == "worker" else Processor(outside, store, checkpoints, attempts=1)
    async with running(processor):
        for number in range(5):
            outside.poison = {66}
            bad = await deposit(store, "a-0", 66)
            with pytest.raises(StreamParked):
                await processor.wait_for(bad)
            outside.poison = set()
            stopping = asyncio.Event()

            async def write(stopping: asyncio.Event = stopping) -> Any:
                last = await deposit(store, "a-0", 1)
                while not stopping.is_set():
                    last = await deposit(store, "a-0", 1)
                return last

            writing = asyncio.create_task(write())
            await asyncio.sleep(number * 0.004)
            retrying = asyncio.create_task(releasing.retry("account-a-0"))
            await asyncio.sleep(0.03 - number * 0.004)
            stopping.set()
            last = await writing
            await retrying
            await processor.wait_for(last)
    assert await outside.read_handled() == await ids_of(store)
    assert not await checkpoints.parked(processor.name)


async def test_the_checkpoint_advances_while_a_stream_is_retried(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would expire after a day, although the processor never lagged."""
    monkeypatch.setattr(checkpointer, "STORE_AFTER", 0.1)
    monkeypatch.setattr(checkpointer, "WRITE_AT_LEAST", 0.3)
    store, checkpoints = tables
    await fill(store, accounts=2)
    processor = Processor(Outside(), store, checkpoints, attempts=1_000)
    processor.projection.poison = {66}
    task = asyncio.create_task(Runner(processor, save_every=0.05).run())
    await deposit(store, "a-0", 66)
    await until(lambda: processor.pipeline.catch_up.entries)
    seen = set[str]()
    async with asyncio.timeout(20):
        while len(seen) < 4:
            await deposit(store, "a-1", 1)
            seen.update(slot.checkpoint for slot in await checkpoints.slots(processor.name))
            await asyncio.sleep(0.1)
    assert not await processor.parked()
    task.cancel()
    await asyncio.wait([task])
    processor.projection.poison = set()
    again = Processor(processor.projection, store, checkpoints)
    await again.run(until_caught_up=True)
    assert await again.projection.read_handled() == await ids_of(store)


async def test_pause_and_resume(tables: Tables) -> None:
    store, checkpoints = tables
    await fill(store, accounts=1)
    processor, operator = (Processor(Outside(), store, checkpoints) for _ in range(2))
    async with running(processor):
        await asyncio.wait_for(processor.caught_up.wait(), 10)
        await operator.pause()
        await until(lambda: processor.state == "paused")
        receipt = await deposit(store, "a-0", 7)
        with pytest.raises(TimeoutError):
            await processor.wait_for(receipt, timeout=0.3)
        await operator.resume()
        await operator.wait_for(receipt)
    assert await processor.projection.read_handled() == await ids_of(store)


async def test_a_repeated_skip_of_a_version_skips_nothing_else(tables: Tables) -> None:
    store, checkpoints = tables
    await fill(store, accounts=1, deposits=5)
    processor = Processor(Outside(), store, checkpoints, attempts=1)
    processor.projection.poison = {1, 3}
    async with running(processor):
        await until(lambda: processor.pipeline.parking.parked)
        with pytest.raises(StreamParked):
            await processor.skip("account-a-0", "test data", version=2)
        await processor.skip("account-a-0", "test data", version=2)
        assert [each.version for each in await processor.parked()] == [4]
        await processor.skip("account-a-0", "test data", version=4)
    assert [each.version for each in await checkpoints.skipped(processor.name)] == [2, 4]
    handled = await processor.projection.read_handled()
    assert handled["account-a-0"] == [f"account-a-0@{each}" for each in ("1.0", "1.1", "3.0", "5.0")]


async def test_a_processor_waits_for_the_receipt_of_a_command(tables: Tables) -> None:
    store, checkpoints = tables
    await fill(store, accounts=1, deposits=1)
    outside = Outside()
    processor = Processor(outside, store, checkpoints)
    here, there = Repository(Account, store), Repository(Account, store)
    await here.execute("a-0", Account.deposit, 1)
    async with running(processor):
        for accounts in (there, here):  # `here` decides on an old state first
            _, receipt = await accounts.execute_with_receipt("a-0", Account.deposit, 1)
            await processor.wait_for(receipt)
            assert outside.seen["account-a-0"][-1] == f"account-a-0@{receipt.version}.0"
    assert receipt.version == (await here.load("a-0")).version
    assert receipt.usage is not None
    assert receipt.usage.write_units > 0
