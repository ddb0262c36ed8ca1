"""A worker that was replaced has no effect any more: it writes nothing, parks nothing and does nothing outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.ledger import InSQLite, Movement, Outside, deposit, fill, ids_of, until

from eventsrc import Fenced, SQLiteStore
from eventsrc.processing import Context, Parked, Processor, Runner, SQLiteCheckpoints
from eventsrc.processing.slice import Fence


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventsrc.processing.worker.WATCH_SECONDS", 0.1)
    monkeypatch.setattr("eventsrc.processing.assignment.CONFIRM_SECONDS", 0.2)
    monkeypatch.setattr("eventsrc.retrying._LONGEST_PAUSE", 0.1)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "store.db") as store:
        yield store


class Pausable(SQLiteCheckpoints):
    """Checkpoints of a process that is stopped when it parks a stream, and continues once `resume` is set.

    The write is then carried out, whatever has become of its caller.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reached, self.resume = asyncio.Event(), asyncio.Event()
        self._writes: list[asyncio.Task[bool]] = []

    async def park(self, processor: str, parked: Parked, fence: Fence, **options: Any) -> bool:
        async def late() -> bool:
            await self.resume.wait()
            return await super(Pausable, self).park(processor, parked, fence, **options)

        self.reached.set()
        self._writes.append(asyncio.create_task(late()))
        return await asyncio.shield(self._writes[-1])

    async def end(self) -> None:
        """Resume, and wait until the writes have ended."""
        self.resume.set()
        await asyncio.gather(*self._writes, return_exceptions=True)


@pytest.fixture
async def paused(tmp_path: Path) -> AsyncIterator[Pausable]:
    async with Pausable(tmp_path / "model.db") as checkpoints:
        yield checkpoints


@pytest.fixture
async def checkpoints(tmp_path: Path) -> AsyncIterator[SQLiteCheckpoints]:
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        yield checkpoints


class Worker:
    """A processor that runs in a task."""

    def __init__(self, processor: Processor[Any]) -> None:
        self.processor = processor
        self.runner = Runner(processor, save_every=0.05, grace=1.0)
        self.task = asyncio.create_task(self.runner.run())

    async def ends_with(self, error: type[Exception]) -> None:
        with pytest.raises(error):
            async with asyncio.timeout(10):
                await self.task

    async def stop(self) -> None:
        self.runner.stop()
        async with asyncio.timeout(20):
            await self.task


async def started(processor: Processor[Any]) -> Worker:
    """Return a worker that has nothing left to do, nor to write."""
    worker, assignment = Worker(processor), processor.pipeline.assignment
    await until(processor.caught_up.is_set)
    await until(lambda: all(slot.checkpoint == assignment.checkpoint != "" for slot in assignment.held.values()))
    return worker


async def test_a_paused_worker_does_not_park_a_stream_that_its_successor_handles(
    store: SQLiteStore, paused: Pausable, checkpoints: SQLiteCheckpoints
) -> None:
    await fill(store, accounts=2)
    first: Processor[Any] = Processor(InSQLite(), store, paused, attempts=2)
    first.projection.poison = {66}
    before = await started(first)
    await deposit(store, "a-0", 66)
    await asyncio.wait_for(paused.reached.wait(), 10)
    second: Processor[Any] = Processor(InSQLite(), store, checkpoints)  # its handlers are well
    after = await started(second)
    await second.wait_for(await deposit(store, "a-0", 3))
    await paused.end()
    await before.ends_with(Fenced)
    assert not [each for each in await checkpoints.parked(second.name) if each.state == "parked"]
    await second.wait_for(await deposit(store, "a-0", 4))
    await after.stop()
    third: Processor[Any] = Processor(InSQLite(), store, checkpoints)  # a restart of the successor
    await third.run(until_caught_up=True)
    assert await third.projection.read_handled() == await ids_of(store)


async def test_a_paused_worker_does_not_store_a_stream_as_retried(
    store: SQLiteStore, paused: Pausable, checkpoints: SQLiteCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stored entry would keep the stream out of the feed of its successor."""
    monkeypatch.setattr("eventsrc.processing.checkpointer.STORE_AFTER", 0.0)
    await fill(store, accounts=1)
    first: Processor[Any] = Processor(InSQLite(), store, paused, attempts=1_000)
    first.projection.poison = {66}
    before = await started(first)
    await deposit(store, "a-0", 66)
    await asyncio.wait_for(paused.reached.wait(), 10)
    second: Processor[Any] = Processor(InSQLite(), store, checkpoints)
    after = await started(second)
    await paused.end()
    await before.ends_with(Fenced)
    assert await checkpoints.parked(second.name) == []
    await after.stop()


class Mail(Outside, tag="mail"):
    """Records in `sent` which worker has sent what."""

    def __init__(self, worker: str, sent: list[tuple[str, str]]) -> None:
        super().__init__()
        self.worker, self.sent = worker, sent

    async def handle_movement(self, event: Movement, context: Context) -> None:
        self.taste(event)
        self.sent.append((self.worker, context.id))


async def test_a_fenced_worker_that_is_idle_ends(store: SQLiteStore, checkpoints: SQLiteCheckpoints) -> None:
    first = await started(Processor(Mail("first", []), store, checkpoints))
    second = await started(Processor(Mail("second", []), store, checkpoints))
    await first.ends_with(Fenced)  # although no commit comes
    await second.stop()


async def test_a_new_owner_begins_no_act_while_the_old_one_may_begin_one(store: SQLiteStore, tmp_path: Path) -> None:
    async with SQLiteCheckpoints(tmp_path / "read.db") as checkpoints:
        old, new = (Processor(Outside(), store, checkpoints).pipeline.assignment for _ in range(2))
        await old.registrar.register(begin=True)
        await old.take_all()
        await old.confirm(0)
        await new.take_all()
        acting = asyncio.create_task(new.confirm(0))

        async def keep_acting() -> None:
            while True:
                await old.confirm(0)
                assert not acting.done()
                await asyncio.sleep(0.001)

        with pytest.raises(Fenced):
            await keep_acting()
        await acting


async def test_after_a_takeover_each_effect_is_had_once(
    store: SQLiteStore, tmp_path: Path, checkpoints: SQLiteCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former holder, which is idle, checks that it still holds its slots before each act."""
    monkeypatch.setattr("eventsrc.processing.worker.WATCH_SECONDS", 60.0)
    await fill(store, accounts=3, deposits=1)
    sent: list[tuple[str, str]] = []
    first = await started(Processor(Mail("first", sent), store, checkpoints))
    sent.clear()
    async with SQLiteCheckpoints(tmp_path / "model.db") as others:
        second = await started(Processor(Mail("second", sent), store, others))
        await asyncio.sleep(0.25)  # CONFIRM_SECONDS, the bound for acts of the former holder
        receipts = [await deposit(store, f"a-{number}", 5) for number in range(3)]
        for receipt in receipts:
            await second.processor.wait_for(receipt)
        await first.ends_with(Fenced)
        assert sorted(sent) == [("second", f"account-a-{number}@2.0") for number in range(3)]
        await second.stop()


async def test_a_fenced_worker_does_not_call_handlers_of_streams_in_back_off(
    store: SQLiteStore, tmp_path: Path, checkpoints: SQLiteCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsrc.processing.worker.WATCH_SECONDS", 60.0)  # so that only the check before each act can
    await fill(store, accounts=4, deposits=1)
    sent: list[tuple[str, str]] = []
    first: Processor[Any] = Processor(Mail("first", sent), store, checkpoints, attempts=1_000)
    first.projection.poison = {66}
    before = await started(first)
    for number in range(4):
        await deposit(store, f"a-{number}", 66)
    await until(lambda: len(first.pipeline.catch_up.entries) == 4)
    sent.clear()
    async with SQLiteCheckpoints(tmp_path / "model.db") as others:
        second = Worker(Processor(Mail("second", sent), store, others))
        await until(second.processor.caught_up.is_set)
        first.projection.poison = set()  # what it waits for answers again
        await before.ends_with(Fenced)
        await second.stop()
    assert sorted(sent) == [("second", f"account-a-{number}@2.0") for number in range(4)]


async def test_forget_fences_a_worker_that_still_runs(
    store: SQLiteStore, tmp_path: Path, checkpoints: SQLiteCheckpoints
) -> None:
    """Its next commit would otherwise be in the new read model without the ones before it."""
    await fill(store, accounts=2)
    stale = await started(Processor(InSQLite(), store, checkpoints))
    async with SQLiteCheckpoints(tmp_path / "model.db") as others:
        fresh: Processor[Any] = Processor(InSQLite(), store, others)
        await fresh.forget()
        await deposit(store, "a-0", 5)
        await stale.ends_with(Fenced)
        assert await others.positions(fresh.name, ["account-a-0", "account-a-1"]) == {}
        await fresh.run(until_caught_up=True)
        assert await fresh.projection.read_handled() == await ids_of(store)


async def test_a_worker_paused_in_a_handler_writes_nothing_after_forget(
    store: SQLiteStore, tmp_path: Path, checkpoints: SQLiteCheckpoints
) -> None:
    reached, resume = asyncio.Event(), asyncio.Event()

    class Paused(Outside, tag="paused"):
        async def handle_movement(self, event: Movement, context: Context) -> None:
            reached.set()
            await resume.wait()

    await fill(store, accounts=1, deposits=1)
    stale = Worker(Processor(Paused(), store, checkpoints))
    await asyncio.wait_for(reached.wait(), 10)
    async with SQLiteCheckpoints(tmp_path / "model.db") as others:
        other: Processor[Any] = Processor(Paused(), store, others)
        await other.forget()
        resume.set()
        await stale.ends_with(Fenced)
        assert await others.positions(other.name, ["account-a-0"]) == {}
