"""What processors cost: writes of checkpoints, reads of the store, and time that one takes from another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.ledger import InMemory, InSQLite, Movement, Outside, deposit, fill, ids_of, running, until

from eventsrc import MemoryStore
from eventsrc.processing import (
    Context,
    Leases,
    MemoryCheckpoints,
    Processor,
    Runner,
    Slot,
    SQLiteCheckpoints,
    rebuild,
    verify,
)


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


class Blocked(Outside, tag="blocked"):
    """Handlers that wait for `resume`."""

    def __init__(self) -> None:
        super().__init__()
        self.resume = asyncio.Event()

    async def handle_movement(self, event: Movement, context: Context) -> None:
        await self.resume.wait()
        self.seen[context.stream].append(context.id)


async def test_a_new_processor_does_not_hold_up_one_that_is_live(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsrc.processing.worker.FAR_BEHIND", 10)
    monkeypatch.setattr("eventsrc.processing.worker.WATCH_SECONDS", 0.1)
    monkeypatch.setattr("eventsrc.processing.applying.PATIENCE", 600.0)  # it does not step aside by itself
    await fill(store, accounts=4, deposits=5)
    checkpoints = MemoryCheckpoints()
    live = Processor(Outside(), store, checkpoints)
    await live.run(until_caught_up=True)
    new = Processor(Blocked(), store, checkpoints)
    async with running(live, new):
        for amount in range(1, 6):
            await live.wait_for(await deposit(store, "a-0", amount), timeout=5)
        assert new.pipeline.progress.commits == 0
        new.projection.resume.set()
        await until(new.caught_up.is_set)
        await deposit(store, "a-1", 7)  # from here on they share a reader again
        await until(lambda: new.pipeline.progress.commits == live.pipeline.progress.commits == 26)
    for processor in (live, new):
        assert await processor.projection.read_handled() == await ids_of(store)


async def test_a_new_processor_does_not_hold_up_a_live_one_with_leases(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsrc.processing.worker.FAR_BEHIND", 10)
    monkeypatch.setattr("eventsrc.processing.applying.PATIENCE", 600.0)
    await fill(store, accounts=4, deposits=5)
    checkpoints = MemoryCheckpoints()
    live, new = Processor(Outside(), store, checkpoints), Processor(Blocked(), store, checkpoints)
    await Runner(live, leases=Leases(slots=4, ttl=5.0)).run(until_caught_up=True)
    runner = Runner(live, new, leases=Leases(slots=4, ttl=5.0))
    task = asyncio.create_task(runner.run())
    for amount in range(1, 6):
        await live.wait_for(await deposit(store, "a-0", amount), timeout=5)
    assert new.pipeline.progress.commits == 0
    new.projection.resume.set()
    await new.wait_for(await deposit(store, "a-0", 6))
    await until(new.caught_up.is_set)
    runner.stop()
    await asyncio.wait_for(task, 20)
    assert await new.projection.read_handled() == await ids_of(store)


class Counting(MemoryCheckpoints):
    def __init__(self) -> None:
        super().__init__()
        self.saves = 0

    async def save(self, processor: str, slot: Slot) -> None:
        self.saves += 1
        await super().save(processor, slot)


async def test_sixteen_slots_do_not_cost_sixteen_writes_of_each_checkpoint(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsrc.processing.assignment.WRITE_SECONDS", 0.05)
    await fill(store, accounts=16, deposits=1)
    checkpoints, interval = Counting(), 0.1
    processor = Processor(Outside(), store, checkpoints)
    runner = Runner(processor, leases=Leases(slots=16, ttl=5.0), save_every=interval)
    task = asyncio.create_task(runner.run())
    await until(processor.caught_up.is_set)
    clock = asyncio.get_running_loop().time
    began, before, amount = clock(), checkpoints.saves, 0
    while clock() - began < 10 * interval:
        amount += 1
        await processor.wait_for(await deposit(store, f"a-{amount % 16}", amount))
        await asyncio.sleep(0.005)
    written = checkpoints.saves - before
    assert 0 < written <= (clock() - began) / 0.05 + 16  # all of them at once, and then none for a while
    runner.stop()
    await asyncio.wait_for(task, 20)
    assert {slot.checkpoint.partition(".")[0] for slot in await checkpoints.slots(processor.name)} == {str(16 + amount)}


@pytest.mark.parametrize("what", ["verify", "rebuild"])
async def test_the_rate_of_reading_a_whole_store_is_limited(store: MemoryStore, tmp_path: Path, what: str) -> None:
    class Newer(InSQLite, tag="in-sqlite"):
        version = 2

    await fill(store, accounts=20, deposits=1)
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        old = Processor(InSQLite(), store, checkpoints)
        await old.run(until_caught_up=True)
        began = asyncio.get_running_loop().time()
        if what == "verify":
            await verify(old, rate=50.0)
        else:
            await rebuild(Processor(Newer(), store, checkpoints), rate=50.0)
        assert asyncio.get_running_loop().time() - began >= 20 / 50.0


class Scans(MemoryStore):
    """Counts how often the feed is read from the beginning."""

    scans = 0

    def feed(self, *, after: str = "", **options: Any) -> Any:
        self.scans += not after
        return super().feed(after=after, **options)


@pytest.mark.parametrize("parked", [False, True])
async def test_a_rebuild_reads_the_store_once(tmp_path: Path, *, parked: bool) -> None:
    """Also if the old version has parked a stream."""

    class Newer(InSQLite, tag="in-sqlite"):
        version = 2

    async with Scans() as store, SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        await fill(store, accounts=5)
        old = Processor(InSQLite(), store, checkpoints, attempts=1)
        async with running(old):
            await until(old.caught_up.is_set)
            old.projection.poison = {66}
            await deposit(store, "a-1", 66 if parked else 5)
            await deposit(store, "a-2", 5)
            await until(lambda: old.pipeline.progress.commits + len(old.pipeline.parking.parked) == 22)
        store.scans = 0
        new = Processor(Newer(), store, checkpoints)
        await rebuild(new)
        assert store.scans == 1
        assert await new.projection.read_handled() == await ids_of(store)


async def test_processors_that_are_equally_far_share_one_reader() -> None:
    class Other(InMemory, tag="other"): ...

    async with Scans() as store:
        await fill(store)
        pair: list[Processor[Any]] = [Processor(kind(), store) for kind in (InMemory, Other)]
        async with running(*pair):
            for processor in pair:
                await until(processor.caught_up.is_set)
        assert store.scans == 1
