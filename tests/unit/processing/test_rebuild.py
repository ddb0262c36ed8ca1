"""`rebuild` builds a read model while the old one is in use: no outside effect happens twice, then readers switch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from support.ledger import InSQLite, Movement, Refused, deposit, fill, ids_of, running, until

from eventsrc import MemoryStore, NotActive, StreamsParked
from eventsrc.processing import Context, Processor, Slot, SQLiteCheckpoints, SQLiteContext, rebuild

OUTSIDE: list[str] = []


class First(InSQLite, tag="model"):
    version = 1

    def handle_movement(self, event: Movement, context: SQLiteContext) -> None:
        InSQLite.handle_movement(self, event, context)
        act_outside(context)


class Second(First, tag="model"):
    version = 2


def act_outside(context: Context) -> None:
    if not context.muted:
        OUTSIDE.append(context.id)


@pytest.fixture(autouse=True)
def nothing_outside() -> None:
    OUTSIDE.clear()


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


@pytest.fixture
async def checkpoints(tmp_path: Path) -> AsyncIterator[SQLiteCheckpoints]:
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        yield checkpoints


async def outside(store: MemoryStore) -> list[str]:
    return sorted(id for ids in (await ids_of(store)).values() for id in ids)


async def test_while_the_old_version_runs_each_outside_effect_happens_once(
    store: MemoryStore, checkpoints: SQLiteCheckpoints
) -> None:
    await fill(store, accounts=5, deposits=20)
    old, new = Processor(First(), store, checkpoints), Processor(Second(), store, checkpoints)
    steps: list[tuple[int, int]] = []
    writing = asyncio.create_task(write_on(store))
    running_old = asyncio.create_task(old.run())
    await until(lambda: old.pipeline.progress.commits > 50)
    await rebuild(new, progress=lambda done, total: steps.append((done, total)))
    assert await checkpoints.active("model") == 2
    with pytest.raises(NotActive):
        await asyncio.wait_for(running_old, 10)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    async with running(new):
        await new.wait_for(await deposit(store, "a-0", 1))
        await asyncio.wait_for(new.caught_up.wait(), 10)
    assert await new.projection.read_handled() == await ids_of(store)
    assert sorted(OUTSIDE) == await outside(store)
    assert steps[-1][0] == steps[-1][1]
    assert all(done <= total for done, total in steps)
    assert sorted(steps) == steps
    with pytest.raises(NotActive):
        await old.run()


async def write_on(store: MemoryStore) -> None:
    number = 0
    while True:
        await deposit(store, f"a-{number % 5}", 1)
        await asyncio.sleep(0.002)
        number += 1


async def test_commits_parked_by_the_old_version_are_handled_by_the_new_one_not_muted(
    store: MemoryStore, checkpoints: SQLiteCheckpoints
) -> None:
    await fill(store, accounts=2, deposits=5)
    old, new = Processor(First(), store, checkpoints, attempts=1), Processor(Second(), store, checkpoints)
    old.projection.poison = {3}
    with pytest.raises(StreamsParked):
        await old.run(until_caught_up=True)
    assert len(await old.parked()) == 2
    had = set(OUTSIDE)  # a set, as a batch with a poisoned commit is rolled back and repeated
    assert len(had) == 8
    OUTSIDE.clear()
    await rebuild(new)
    assert await new.projection.read_handled() == await ids_of(store)
    assert sorted(OUTSIDE) == sorted(set(await outside(store)) - had)


@pytest.mark.parametrize("moment", range(12))
async def test_a_cancelled_rebuild_continues_when_called_again(
    store: MemoryStore, checkpoints: SQLiteCheckpoints, moment: int
) -> None:
    await fill(store, accounts=5, deposits=40)
    await Processor(First(), store, checkpoints).run(until_caught_up=True)
    await deposit(store, "a-1", 1)  # not handled by the old version
    rebuilding = asyncio.create_task(rebuild(Processor(Second(), store, checkpoints)))
    for _ in range(moment * 3):
        await asyncio.sleep(0.001)
    rebuilding.cancel()
    await asyncio.gather(rebuilding, return_exceptions=True)
    again = Processor(Second(), store, checkpoints)
    await rebuild(again)
    assert await again.projection.read_handled() == await ids_of(store)
    assert sorted(OUTSIDE) == await outside(store)
    assert await checkpoints.active("model") == 2


async def test_an_error_stops_the_rebuild_and_the_old_version_stays_active(
    store: MemoryStore, checkpoints: SQLiteCheckpoints
) -> None:
    await fill(store)
    old = Processor(First(), store, checkpoints)
    await old.run(until_caught_up=True)
    new = Processor(Second(), store, checkpoints, attempts=2)
    new.projection.poison = {2}
    with pytest.raises(Refused):
        await rebuild(new)
    assert await checkpoints.active("model") == 1
    await old.run(until_caught_up=True)
    new.projection.poison = set()
    await rebuild(new)
    assert await new.projection.read_handled() == await ids_of(store)


async def test_after_the_rebuild_on_error_applies_again(store: MemoryStore, checkpoints: SQLiteCheckpoints) -> None:
    """The processor parks again, although the rebuild stopped at errors."""
    await fill(store)
    await Processor(First(), store, checkpoints).run(until_caught_up=True)
    new = Processor(Second(), store, checkpoints, attempts=1)
    await rebuild(new)
    new.projection.poison = {66}
    await deposit(store, "a-1", 66)
    with pytest.raises(StreamsParked):
        await new.run(until_caught_up=True)
    assert len(await new.parked()) == 1


async def test_a_version_whose_rebuild_failed_does_not_run(store: MemoryStore, checkpoints: SQLiteCheckpoints) -> None:
    await fill(store)
    await Processor(First(), store, checkpoints).run(until_caught_up=True)
    new = Processor(Second(), store, checkpoints, attempts=1)
    new.projection.poison = {2}
    with pytest.raises(Refused):
        await rebuild(new)
    with pytest.raises(NotActive):
        await new.run(until_caught_up=True)


async def test_a_held_back_stream_that_then_fails_is_muted_up_to_the_old_position(
    store: MemoryStore, checkpoints: SQLiteCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old version handles many of its commits just before it is fenced."""
    await fill(store, accounts=1, deposits=3)
    old = Processor(First(), store, checkpoints)
    await old.run(until_caught_up=True)
    for _ in range(250):
        await deposit(store, "a-0", 1)
    new = Processor(Second(), store, checkpoints)
    claim, fenced = checkpoints.claim, list[Slot]()

    async def fencing(processor: str, slot: Slot) -> None:
        if slot.switch and processor == old.name and not fenced:
            fenced.append(slot)
            await old.run(until_caught_up=True)
            slot = structs.replace(slot, epoch=slot.epoch + 1)
            new.projection.poison = {1}
            asyncio.get_running_loop().call_later(0.1, setattr, new.projection, "poison", set())
        await claim(processor, slot)

    monkeypatch.setattr(checkpoints, "claim", fencing)
    await rebuild(new, on_error="park")  # it retries
    assert fenced
    assert await new.projection.read_handled() == await ids_of(store)
    assert len(OUTSIDE) == len(set(OUTSIDE))


async def test_an_error_of_progress_is_raised(store: MemoryStore, checkpoints: SQLiteCheckpoints) -> None:
    def broken(done: int, total: int) -> None:
        raise BrokenPipeError

    await fill(store)
    with pytest.raises(BrokenPipeError):
        await rebuild(Processor(Second(), store, checkpoints), progress=broken)


async def test_rebuild_of_an_empty_store(store: MemoryStore, checkpoints: SQLiteCheckpoints) -> None:
    steps: list[Any] = []
    await Processor(First(), store, checkpoints).run(until_caught_up=True)
    await rebuild(Processor(Second(), store, checkpoints), progress=lambda *step: steps.append(step))
    assert set(steps) == {(0, 0)}
    assert await checkpoints.active("model") == 2


async def test_without_an_active_version_it_becomes_active(store: MemoryStore, checkpoints: SQLiteCheckpoints) -> None:
    await fill(store)
    steps: list[Any] = []
    only = Processor(Second(), store, checkpoints)
    await rebuild(only, progress=lambda *step: steps.append(step))
    assert await only.projection.read_handled() == await ids_of(store)
    assert sorted(OUTSIDE) == await outside(store)  # no other version has acted
    assert steps[-1] == (12, 12)
    await rebuild(only)  # does nothing


async def test_the_old_version_can_be_forgotten(store: MemoryStore, checkpoints: SQLiteCheckpoints) -> None:
    await fill(store)
    old = Processor(First(), store, checkpoints)
    await old.run(until_caught_up=True)
    await rebuild(Processor(Second(), store, checkpoints))
    [before] = await checkpoints.slots(old.name)
    await old.forget()
    assert await checkpoints.positions(old.name, ["account-a-0"]) == {}
    [slot] = await checkpoints.slots(old.name)
    assert (slot.checkpoint, slot.owner) == ("", "")  # it only fences workers that still run
    assert slot.epoch > before.epoch


@pytest.mark.parametrize("which", ["old", "new"])
async def test_a_version_with_start_now_is_not_rebuilt(
    store: MemoryStore, checkpoints: SQLiteCheckpoints, which: str
) -> None:
    await fill(store)
    start: Any = {which: "now"}
    old = Processor(First(), store, checkpoints, start=start.get("old", "beginning"))
    await old.run(until_caught_up=True)
    with pytest.raises(ValueError, match="cannot be rebuilt"):
        await rebuild(Processor(Second(), store, checkpoints, start=start.get("new", "beginning")))
    assert await checkpoints.active("model") == 1
