"""`rebuild` builds a read model while the old one is in use: no outside effect happens twice, then readers switch."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from support.ledger import InSQLite, Movement, Outside, Refused, deposit, fill, ids_of, running, until

from eventsrc import MemoryStore, NotActive, StoreRejected, StreamsParked
from eventsrc.processing import (
    Context,
    Leases,
    MemoryCheckpoints,
    Processor,
    Runner,
    Slot,
    SQLiteCheckpoints,
    SQLiteContext,
    rebuild,
)
from eventsrc.processing.assignment import take_back
from eventsrc.processing.checkpoints.sqlite.registry import SQLiteRegistry
from eventsrc.processing.checkpoints.sqlite.workers import SQLiteWorkers

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
def nothing_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    OUTSIDE.clear()
    for module in ("rebuild", "assignment"):
        monkeypatch.setattr(sys.modules[f"eventsrc.processing.{module}"], "CONFIRM_SECONDS", 0.1)


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


class Hooked(SQLiteCheckpoints):
    """Awaits `before_switch` when a rebuild begins to switch, and fails or hangs from then on if it shall."""

    before_switch: Callable[[], Awaitable[object]] | None = None
    failure: Exception | None = None  # of `activate`

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.hangs = False  # once slots are claimed for the switch: the process was stopped or killed
        self.switching, self.resume = asyncio.Event(), asyncio.Event()
        self.registry, self.workers = HookedRegistry(self), HookedWorkers(self)

    async def claim(self, processor: str, slot: Slot) -> None:
        await super().claim(processor, slot)
        if slot.switch and self.hangs:
            self.switching.set()
            await self.resume.wait()


class HookedRegistry(SQLiteRegistry):
    def __init__(self, hooked: Hooked) -> None:
        super().__init__(hooked.file)
        self._hooked = hooked

    async def activate(self, tag: str, version: int, *, instead_of: int | None) -> bool:
        if self._hooked.failure is not None and version == 2:
            raise self._hooked.failure
        return await super().activate(tag, version, instead_of=instead_of)


class HookedWorkers(SQLiteWorkers):
    def __init__(self, hooked: Hooked) -> None:
        super().__init__(hooked.file)
        self._hooked = hooked

    async def heartbeat(self, worker: str) -> None:
        if worker.startswith("rebuild-") and (hook := self._hooked.before_switch) is not None:
            self._hooked.before_switch = None
            await hook()
        if not self._hooked.switching.is_set():
            await super().heartbeat(worker)


@pytest.fixture
async def checkpoints(tmp_path: Path) -> AsyncIterator[Hooked]:
    async with Hooked(tmp_path / "model.db") as checkpoints:
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
    store: MemoryStore, checkpoints: Hooked
) -> None:
    """The old version handles many of its commits just before it is fenced."""
    await fill(store, accounts=1, deposits=3)
    old = Processor(First(), store, checkpoints)
    await old.run(until_caught_up=True)
    for _ in range(250):
        await deposit(store, "a-0", 1)
    new = Processor(Second(), store, checkpoints)

    async def meanwhile() -> None:
        await old.run(until_caught_up=True)
        new.projection.poison = {1}
        asyncio.get_running_loop().call_later(0.1, setattr, new.projection, "poison", set())

    checkpoints.before_switch = meanwhile
    await rebuild(new, on_error="park")  # it retries
    assert checkpoints.before_switch is None
    assert await new.projection.read_handled() == await ids_of(store)
    assert len(OUTSIDE) == len(set(OUTSIDE)) == 254


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


# A stream that fails.


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventsrc.retrying._LONGEST_PAUSE", 0.15)


@pytest.mark.usefixtures("short_pauses")
async def test_a_rebuild_makes_all_attempts_before_it_ends(store: MemoryStore, checkpoints: Hooked) -> None:
    """A stream that is still retried at the end of the feed is not left out."""
    await fill(store, accounts=2, deposits=5)
    await Processor(First(), store, checkpoints).run(until_caught_up=True)
    new = Processor(Second(), store, checkpoints, attempts=8)
    new.projection.poison = {3}
    with pytest.raises(Refused):
        await rebuild(new)
    assert await checkpoints.active("model") == 1
    with pytest.raises(StreamsParked, match="account-a-0, account-a-1") as parked:
        await rebuild(new, on_error="park")
    assert list(parked.value.streams) == ["account-a-0", "account-a-1"]
    assert await checkpoints.active("model") == 2
    assert [(each.version, each.attempts) for each in await new.parked()] == [(4, 8), (4, 8)]


@pytest.mark.usefixtures("short_pauses")
async def test_a_run_until_caught_up_makes_all_attempts_before_it_ends(store: MemoryStore, checkpoints: Hooked) -> None:
    await fill(store, accounts=2, deposits=5)
    processor = Processor(First(), store, checkpoints, attempts=8)
    processor.projection.poison = {3}
    with pytest.raises(StreamsParked, match="account-a-0, account-a-1"):
        await processor.run(until_caught_up=True)
    assert [each.attempts for each in await processor.parked()] == [8, 8]
    with pytest.raises(StreamsParked):  # nothing fails any more, but they are still parked
        await processor.run(until_caught_up=True)
    with pytest.raises(StreamsParked):
        await Runner(processor, leases=Leases(slots=2, ttl=0.5)).run(until_caught_up=True)


@pytest.mark.usefixtures("short_pauses")
async def test_a_run_until_caught_up_waits_for_a_stream_that_recovers(store: MemoryStore, checkpoints: Hooked) -> None:
    await fill(store, accounts=2, deposits=5)
    processor = Processor(First(), store, checkpoints, attempts=100)
    processor.projection.poison = {3}
    asyncio.get_running_loop().call_later(0.6, setattr, processor.projection, "poison", set())
    await processor.run(until_caught_up=True)
    assert await processor.projection.read_handled() == await ids_of(store)
    assert await processor.parked() == []


async def test_a_run_until_caught_up_waits_for_slow_handlers(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsrc.processing.applying.PATIENCE", 0.02)
    resume = asyncio.Event()

    class Waiting(Outside, tag="waiting"):
        async def handle_movement(self, event: Movement, context: Context) -> None:
            await resume.wait()
            self.seen[context.stream].append(context.id)

    await fill(store, accounts=2)
    processor = Processor(Waiting(), store, MemoryCheckpoints())
    run = asyncio.create_task(processor.run(until_caught_up=True))
    await until(lambda: len(processor.pipeline.catch_up.entries) == 2)  # each has a task of its own
    assert not processor.caught_up.is_set()
    done, _ = await asyncio.wait([run], timeout=0.1)
    assert not done
    resume.set()
    await asyncio.wait_for(run, 20)
    assert await processor.projection.read_handled() == await ids_of(store)


async def test_one_of_two_processors_with_a_parked_stream_is_named(store: MemoryStore, checkpoints: Hooked) -> None:
    class Other(InSQLite, tag="other"): ...

    await fill(store, accounts=2)
    well, ill = Processor(First(), store, checkpoints), Processor(Other(), store, checkpoints, attempts=1)
    ill.projection.poison = {2}
    with pytest.raises(StreamsParked, match="other@1"):
        await Runner(well, ill).run(until_caught_up=True)
    assert await well.projection.read_handled() == await ids_of(store)


# A switch that does not come about.


@pytest.fixture
async def others(tmp_path: Path) -> AsyncIterator[SQLiteCheckpoints]:
    """The checkpoints as the process of the old version has them."""
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        yield checkpoints


@pytest.mark.parametrize("with_leases", [False, True])
@pytest.mark.parametrize("how", ["handler", "store", "cancelled"])
async def test_if_the_switch_fails_the_old_version_continues(
    store: MemoryStore, checkpoints: Hooked, others: SQLiteCheckpoints, how: str, *, with_leases: bool
) -> None:
    await fill(store, accounts=2)
    old, new = Processor(First(), store, others), Processor(Second(), store, checkpoints, attempts=2)
    runner = Runner(old, leases=Leases(slots=2, ttl=0.6) if with_leases else None)
    running_old = asyncio.create_task(runner.run())
    await old.wait_for(await deposit(store, "a-0", 7))
    new.projection.poison = {66} if how == "handler" else set()
    checkpoints.failure = StoreRejected("no", "ask somebody") if how == "store" else None

    async def meanwhile() -> None:
        await old.wait_for(await deposit(store, "a-0", 66))  # the old version handles it while the new one is built
        if how == "cancelled":
            rebuilding.cancel()

    checkpoints.before_switch = meanwhile
    rebuilding = asyncio.create_task(rebuild(new))
    with pytest.raises({"handler": Refused, "store": StoreRejected, "cancelled": asyncio.CancelledError}[how]):
        await asyncio.wait_for(rebuilding, 20)
    assert await checkpoints.active("model") == 1
    handled = asyncio.create_task(old.wait_for(await deposit(store, "a-1", 8)))
    await asyncio.wait([handled, running_old], return_when=asyncio.FIRST_COMPLETED)
    assert not running_old.done(), running_old.exception()
    await handled
    assert await old.projection.read_handled() == await ids_of(store)
    new.projection.poison, checkpoints.failure = set(), None
    await rebuild(new)  # and once it is fixed, it switches
    with pytest.raises(NotActive):
        await asyncio.wait_for(running_old, 20)
    assert await new.projection.read_handled() == await ids_of(store)
    assert sorted(OUTSIDE) == await outside(store)


async def test_if_a_rebuild_is_killed_in_its_switch_the_old_version_continues(
    store: MemoryStore, checkpoints: Hooked, others: SQLiteCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsrc.processing.worker._REBUILD_DEAD", 0.5)
    await fill(store, accounts=2)
    old, new = Processor(First(), store, others), Processor(Second(), store, checkpoints)
    async with running(old):
        await old.wait_for(await deposit(store, "a-0", 7))
        checkpoints.hangs = True
        rebuilding = asyncio.create_task(rebuild(new))
        await asyncio.wait_for(checkpoints.switching.wait(), 10)
        await old.wait_for(await deposit(store, "a-1", 8))
        assert await old.projection.read_handled() == await ids_of(store)
        rebuilding.cancel()
        checkpoints.resume.set()
        await asyncio.gather(rebuilding, return_exceptions=True)
        await old.wait_for(await deposit(store, "a-1", 9))


async def test_two_workers_may_take_the_slots_back_at_once(
    store: MemoryStore, others: SQLiteCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Processor(First(), store, others)
    await old.run(until_caught_up=True)
    assignment = old.pipeline.assignment
    for slot in await others.slots(old.name):
        await others.claim(old.name, structs.replace(slot, epoch=slot.epoch + 1, switch="rebuild-that-was-killed"))
    seen = await others.slots(old.name)
    await take_back(assignment)

    async def slots(_: str) -> Any:
        return seen

    with monkeypatch.context() as patch:
        patch.setattr(others, "slots", slots)
        await take_back(assignment)
    assert [slot.switch for slot in await others.slots(old.name)] == [""]


async def test_a_rebuild_that_was_stopped_in_its_switch_doubles_no_effect_when_it_continues(
    store: MemoryStore, checkpoints: Hooked, others: SQLiteCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old version has taken its slots back."""
    monkeypatch.setattr("eventsrc.processing.worker._REBUILD_DEAD", 0.5)
    await fill(store, accounts=2)
    old, new = Processor(First(), store, others), Processor(Second(), store, checkpoints)
    running_old = asyncio.create_task(old.run())
    await old.wait_for(await deposit(store, "a-0", 7))
    checkpoints.hangs = True
    rebuilding = asyncio.create_task(rebuild(new))
    await asyncio.wait_for(checkpoints.switching.wait(), 10)
    await old.wait_for(await deposit(store, "a-1", 8))
    checkpoints.registry.activate = late = Late(checkpoints, old, store)  # type: ignore[method-assign]
    checkpoints.resume.set()
    await asyncio.gather(rebuilding, return_exceptions=True)
    if await checkpoints.active("model") == 1:
        await rebuild(new)
    assert late.calls
    with pytest.raises(NotActive):
        await asyncio.wait_for(running_old, 20)
    await new.run(until_caught_up=True)
    assert sorted(OUTSIDE) == await outside(store)
    assert await new.projection.read_handled() == await ids_of(store)


class Late:
    """An `activate` before which the old version, if it still can, handles another commit."""

    def __init__(self, checkpoints: SQLiteCheckpoints, old: Processor[Any], store: MemoryStore) -> None:
        self._activate, self._old, self._store, self.calls = checkpoints.registry.activate, old, store, 0

    async def __call__(self, tag: str, version: int, *, instead_of: int | None) -> bool:
        self.calls += 1
        with suppress(TimeoutError):
            await self._old.wait_for(await deposit(self._store, "a-1", 20 + self.calls), timeout=0.3)
        return await self._activate(tag, version, instead_of=instead_of)


class Acts(Outside, tag="acts"):
    """Acts on one commit at a time. An act takes until `ends` is set."""

    concurrency = 1

    def __init__(self, acts: list[tuple[int, str]]) -> None:
        super().__init__()
        self.acts, self.ends = acts, asyncio.Event()
        self.ends.set()

    async def handle_movement(self, event: Movement, context: Context) -> None:
        if not context.muted:
            self.acts.append((self.version, context.id))
            await self.ends.wait()


class NewActs(Acts, tag="acts"):
    version = 2


async def test_the_old_version_begins_no_act_after_the_new_one(
    store: MemoryStore, checkpoints: Hooked, others: SQLiteCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it begins one, its last check that it holds its slots may be CONFIRM_SECONDS old."""
    for module in ("rebuild", "assignment"):
        monkeypatch.setattr(sys.modules[f"eventsrc.processing.{module}"], "CONFIRM_SECONDS", 1.5)
    monkeypatch.setattr("eventsrc.processing.applying.PATIENCE", 10.0)
    monkeypatch.setattr("eventsrc.processing.worker.WATCH_SECONDS", 60.0)
    await fill(store, accounts=2)
    acts: list[tuple[int, str]] = []
    old, new = Processor(Acts(acts), store, others), Processor(NewActs(acts), store, checkpoints)
    await old.run(until_caught_up=True)
    acts.clear()
    old.projection.ends.clear()
    await deposit(store, "a-0", 7)
    await deposit(store, "a-1", 7)
    running_old = asyncio.create_task(old.run())
    await until(lambda: acts)  # the old version begins one act; the other one waits
    rebuilding = asyncio.create_task(rebuild(new))
    await until(lambda: len([each for each in acts if each[0] == 2]) == 2)
    old.projection.ends.set()
    with pytest.raises(NotActive):
        await asyncio.wait_for(running_old, 20)
    await rebuilding
    assert [version for version, _ in acts] == [1, 2, 2]


# After the switch.


async def test_a_rebuild_continues_as_the_worker_of_the_new_version(store: MemoryStore, checkpoints: Hooked) -> None:
    await fill(store, accounts=2)
    await Processor(First(), store, checkpoints).run(until_caught_up=True)
    new, released = Processor(Second(), store, checkpoints), asyncio.Event()
    rebuilding = asyncio.create_task(rebuild(new, until=released))
    while await checkpoints.active("model") != 2:  # noqa: ASYNC110  # there is no event to wait for
        await asyncio.sleep(0.01)
    for amount in range(5):
        await new.wait_for(await deposit(store, "a-0", amount), timeout=5)
        await asyncio.sleep(0.05)
    assert not rebuilding.done()
    released.set()
    await asyncio.wait_for(rebuilding, 20)
    assert sorted(OUTSIDE) == await outside(store)


async def test_wait_for_reports_a_retired_version_at_once(store: MemoryStore, checkpoints: Hooked) -> None:
    await fill(store, accounts=2)
    old = Processor(First(), store, checkpoints)
    await old.run(until_caught_up=True)
    await rebuild(Processor(Second(), store, checkpoints))
    receipt = await deposit(store, "a-0", 9)
    async with asyncio.timeout(5):
        with pytest.raises(NotActive):
            await old.wait_for(receipt, timeout=600)


async def test_a_caller_that_waits_learns_of_a_switch(
    store: MemoryStore, checkpoints: Hooked, others: SQLiteCheckpoints
) -> None:
    await fill(store, accounts=2)
    old = Processor(First(), store, others)
    await old.run(until_caught_up=True)
    waiting = asyncio.create_task(old.wait_for(await deposit(store, "a-0", 9), timeout=600))
    await rebuild(Processor(Second(), store, checkpoints))
    async with asyncio.timeout(5):
        with pytest.raises(NotActive):
            await waiting
