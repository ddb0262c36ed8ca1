"""Retrying and skipping while writers continue: no commit is passed over, and a repeated request does nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support.ledger import InSQLite, Outside, deposit, fill, ids_of, run_with_parked, running, until

from eventsrc import SQLiteStore, StoreUnavailable, StreamParked
from eventsrc.processing import Parked, Processor, Slot, SQLiteCheckpoints, status, verify, worker

Make = Callable[..., Processor[Any]]

every_kind = pytest.mark.parametrize("kind", ["sqlite", "outside"])
by_whom = pytest.mark.parametrize("by", ["worker", "other"])


class Gated(SQLiteCheckpoints):
    """Calls that change the entry of a parked stream are slow while `during` is set, which runs at the same time."""

    during: Any = None

    async def park(self, *arguments: Any, **options: Any) -> Any:
        stored = await super().park(*arguments, **options)
        await self._happen()
        return stored

    async def unpark(self, processor: str, parked: Parked) -> None:
        await self._happen()
        await super().unpark(processor, parked)
        await self._happen()

    async def _happen(self) -> None:
        if self.during is not None:
            await self.during()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "ledger.db") as store:
        yield store


@pytest.fixture
async def checkpoints(tmp_path: Path) -> AsyncIterator[Gated]:
    async with Gated(tmp_path / "model.db") as checkpoints:
        yield checkpoints


@pytest.fixture
def make(kind: str, store: SQLiteStore, checkpoints: Gated, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr(worker, "WATCH_SECONDS", 0.05)
    projection = InSQLite() if kind == "sqlite" else Outside()  # one, as handlers of all processes are repaired at once

    def made() -> Processor[Any]:
        return Processor(projection, store, checkpoints, attempts=1)

    return made


async def expect_all(store: SQLiteStore, processor: Processor[Any]) -> None:
    handled = await processor.projection.read_handled()
    assert handled == await ids_of(store)
    assert not await processor.checkpoints.parked(processor.name)
    found = await verify(processor, deliver=False)
    assert found.missing == 0


@every_kind
@by_whom
async def test_a_commit_delivered_while_a_stream_is_released_is_handled(
    store: SQLiteStore, checkpoints: Gated, make: Make, by: str
) -> None:
    """At each write of the release: the worker has read and left out that commit before the write is done."""
    await fill(store, accounts=2, deposits=1)
    processor = make()
    retrying = processor if by == "worker" else make()
    async with running(processor):
        await asyncio.wait_for(processor.caught_up.wait(), 10)
        processor.projection.poison = {66}
        await deposit(store, "a-0", 66)
        await until(lambda: processor.pipeline.parking.parked)
        processor.projection.poison = set()

        left, one_by_one = 6, asyncio.Lock()

        async def write() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                return
            async with one_by_one:
                place = f"{(await deposit(store, 'a-0', 1)).position}."
                await until(lambda: processor.pipeline.assignment.checkpoint.startswith(place))

        checkpoints.during = write
        await retrying.retry("account-a-0")
        checkpoints.during = None
        await processor.wait_for(await deposit(store, "a-1", 1))
        await asyncio.wait_for(processor.caught_up.wait(), 10)
        assert left < 5
    await expect_all(store, processor)
    again = make()
    await again.run(until_caught_up=True)
    assert again.pipeline.progress.commits == 0


@every_kind
@by_whom
@pytest.mark.parametrize("how", ["retry", "skip"])
async def test_a_writer_that_continues_while_a_stream_is_released_loses_nothing(
    store: SQLiteStore, make: Make, by: str, how: str
) -> None:
    await fill(store, accounts=1, deposits=1)
    processor = make()
    releasing = processor if by == "worker" else make()
    skipped: list[str] = []
    async with running(processor):
        for number in range(8):
            processor.projection.poison = {66}
            bad = await deposit(store, "a-0", 66)
            with pytest.raises(StreamParked):
                await processor.wait_for(bad)
            if how == "retry":
                processor.projection.poison = set()
            stopping = asyncio.Event()

            async def write(stopping: asyncio.Event = stopping) -> Any:
                last = await deposit(store, "a-0", 1)
                while not stopping.is_set():
                    await asyncio.sleep(0.001)  # each deposit loads the stream, which should not become too long
                    last = await deposit(store, "a-0", 1)
                return last

            writing = asyncio.create_task(write())
            await asyncio.sleep(number * 0.002)
            if how == "retry":
                await releasing.retry("account-a-0")
            else:
                await releasing.skip("account-a-0", "it was a mistake", version=bad.version)
                skipped.append(f"account-a-0@{bad.version}.0")
            stopping.set()
            await processor.wait_for(await writing)
    handled = (await processor.projection.read_handled())["account-a-0"]
    assert handled == [id for id in (await ids_of(store))["account-a-0"] if id not in skipped]
    assert not await processor.parked()


@every_kind
async def test_a_repeated_skip_of_a_version_skips_nothing_else(store: SQLiteStore, make: Make) -> None:
    await fill(store, accounts=1, deposits=5)  # versions 2 to 5 deposit 1 to 4
    processor = make()
    processor.projection.poison = {1, 3}
    assert await run_with_parked(processor) == ("account-a-0",)
    with pytest.raises(StreamParked) as raised:
        await processor.skip("account-a-0", "test data", version=2)
    assert raised.value.version == 4
    await processor.skip("account-a-0", "test data", version=2)  # the same request again
    [parked] = await processor.parked()
    assert parked.version == 4
    with pytest.raises(ValueError, match="has not parked account-a-0 at version 5"):
        await processor.skip("account-a-0", "test data", version=5)
    assert [each.version for each in await processor.parked()] == [4]
    await processor.skip("account-a-0", "test data", version=4)
    await processor.skip("account-a-0", "test data", version=4)  # no longer parked
    assert [each.version for each in await processor.checkpoints.skipped(processor.name)] == [2, 4]
    handled = await processor.projection.read_handled()
    assert handled["account-a-0"] == [f"account-a-0@{each}" for each in ("1.0", "1.1", "3.0", "5.0")]


@every_kind
@pytest.mark.parametrize("version", [2, None], ids=["with a version", "without"])
async def test_two_skips_at_once_skip_one_commit(store: SQLiteStore, make: Make, version: int | None) -> None:
    await fill(store, accounts=1, deposits=5)
    processor, other = make(), make()
    processor.projection.poison = {1, 3}
    await run_with_parked(processor)
    await asyncio.gather(
        processor.skip("account-a-0", "one", version=version),
        other.skip("account-a-0", "two", version=version),
        return_exceptions=True,
    )
    [skipped] = await processor.checkpoints.skipped(processor.name)
    assert skipped.version == 2
    assert [each.version for each in await processor.parked()] == [4]
    assert (await status(other)).skipped == 1


@every_kind
async def test_two_retries_at_once_have_each_effect_once(store: SQLiteStore, make: Make) -> None:
    await fill(store, accounts=1, deposits=5)
    processor, other = make(), make()
    processor.projection.poison = {1}
    await run_with_parked(processor)
    processor.projection.poison = set()
    found = await asyncio.gather(processor.retry("account-a-0"), other.retry("account-a-0"), return_exceptions=True)
    assert None in found
    await expect_all(store, processor)


@every_kind
async def test_a_retry_that_was_cancelled_is_continued_by_the_next_run(
    store: SQLiteStore, checkpoints: Gated, make: Make
) -> None:
    await fill(store, accounts=1, deposits=5)
    processor = make()
    processor.projection.poison = {1}
    await run_with_parked(processor)
    processor.projection.poison = set()
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    checkpoints.during = hang
    retrying = asyncio.create_task(processor.retry("account-a-0"))
    await reached.wait()
    retrying.cancel()
    await asyncio.wait([retrying])
    checkpoints.during = None
    again = make()
    if await again.parked():
        await again.retry("account-a-0")
    await again.run(until_caught_up=True)
    await expect_all(store, again)


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_slot_that_could_not_be_given_up_does_not_prevent_the_next_retry(
    store: SQLiteStore, checkpoints: Gated, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    await fill(store, accounts=3)
    desk = Processor(Outside(), store, checkpoints, attempts=1)
    desk.projection.poison = {1}
    await run_with_parked(desk)
    desk.projection.poison = set()
    save = checkpoints.save

    async def fail(processor: str, slot: Slot) -> None:
        if is_stored:
            await save(processor, slot)
        raise StoreUnavailable("slots")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", fail)
        with pytest.raises(StoreUnavailable):
            await desk.retry("account-a-0")
    await asyncio.wait_for(desk.retry("account-a-1"), 10)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", fail)
        desk.projection.poison = {1}
        with pytest.raises((StreamParked, StoreUnavailable)):
            await desk.retry("account-a-2")
        desk.projection.poison = set()
    other = Processor(desk.projection, store, checkpoints)
    async with running(other):
        await until(lambda: other.pipeline.assignment.held)
        await asyncio.wait_for(desk.retry("account-a-2"), 10)
    assert await desk.projection.read_handled() == await ids_of(store)


async def test_a_cancelled_retry_does_not_keep_the_slot_that_it_has_claimed(
    store: SQLiteStore, checkpoints: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store, accounts=2)
    desk = Processor(Outside(), store, checkpoints, attempts=1)
    desk.projection.poison = {1}
    await run_with_parked(desk)
    desk.projection.poison = set()
    reached, never = asyncio.Event(), asyncio.Event()

    async def hang(*_: object) -> Any:
        reached.set()
        await never.wait()

    checkpoints.during = hang
    first = asyncio.create_task(desk.retry("account-a-0"))
    await asyncio.wait_for(reached.wait(), 10)
    reached.clear()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "slots", hang)
        second = asyncio.create_task(desk.retry("account-a-1"))  # it waits for the slots
        await asyncio.wait_for(reached.wait(), 10)
        first.cancel()
        await asyncio.sleep(0)
        first.cancel()  # while it waits for the second one
        second.cancel()
        await asyncio.wait([first, second])
    checkpoints.during = None
    other = Processor(desk.projection, store, checkpoints)
    async with running(other):
        await until(lambda: other.pipeline.assignment.held)
        await asyncio.wait_for(desk.retry_all(), 10)
    assert await other.parked() == []
