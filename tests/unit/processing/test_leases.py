"""Several workers share a processor: which worker holds which slots as workers start, stop, hang or die."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.ledger import InSQLite, Movement, Outside, commits_of, deposit, fill, ids_of, until

from eventsrc import Fenced, MemoryStore, NotActive, StoreUnavailable
from eventsrc.processing import (
    Checkpoints,
    Context,
    Leases,
    MemoryCheckpoints,
    Processor,
    Runner,
    SQLiteCheckpoints,
    health,
)
from eventsrc.processing.checkpoints.checkpoints import Slot, current_slots
from eventsrc.processing.checkpoints.memory import MemoryWorkers
from eventsrc.processing.rebuild import rebuild

TTL = 0.9
LONG = 600.0  # a ttl for tests that must not depend on it


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


@pytest.fixture(params=["memory", "sqlite"])
async def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Checkpoints]:
    made = MemoryCheckpoints() if request.param == "memory" else SQLiteCheckpoints(tmp_path / "model.db")
    async with made:
        yield made


class Worker:
    """A runner in a task."""

    projection: type[Outside] = Outside

    def __init__(self, store: MemoryStore, checkpoints: Checkpoints, name: str, *, slots: int = 8, ttl: float = TTL):
        self.processor: Processor[Any] = Processor(self.projection(), store, checkpoints)
        self.runner = Runner(self.processor, leases=Leases(worker=name, slots=slots, ttl=ttl), save_every=0.05)
        self.task = asyncio.create_task(self.runner.run())

    @property
    def slots(self) -> set[int]:
        return set(self.processor.pipeline.assignment.held)

    async def end(self) -> None:
        self.runner.stop()
        async with asyncio.timeout(20):
            await self.task


@contextlib.asynccontextmanager
async def workers(
    store: MemoryStore, checkpoints: Checkpoints, *names: str, **options: Any
) -> AsyncIterator[list[Worker]]:
    made = [Worker(store, checkpoints, name, **options) for name in names]
    try:
        yield made
    finally:
        for worker in made:
            await worker.end()


def are_shared(workers: list[Worker], slots: int = 8) -> bool:
    """Whether they hold all slots, spread evenly."""
    counts = [len(worker.slots) for worker in workers]
    return sum(counts) == slots == len(set().union(*(each.slots for each in workers))) and max(counts) - min(counts) < 2


async def test_slots_are_spread_evenly_as_workers_come_and_go(store: MemoryStore, checkpoints: Checkpoints) -> None:
    async with workers(store, checkpoints, "ann", "bob") as pair:
        await until(lambda: are_shared(pair))
        async with workers(store, checkpoints, *"abc") as more:
            await until(lambda: are_shared([*pair, *more]))  # 2, 2, 2, 1 and 1
        await until(lambda: are_shared(pair))


async def test_a_worker_without_slots_handles_nothing(store: MemoryStore, checkpoints: Checkpoints) -> None:
    async with workers(store, checkpoints, *"abc", slots=2) as three:
        await until(lambda: are_shared(three, 2))
        idle = next(worker for worker in three if not worker.slots)
        await fill(store)
        await until(lambda: sum(worker.processor.pipeline.progress.commits for worker in three) == 12)
        assert idle.processor.pipeline.progress.commits == 0


async def test_each_slot_has_its_own_feed_checkpoint(store: MemoryStore, checkpoints: Checkpoints) -> None:
    await fill(store, accounts=20, deposits=1)
    first: Processor[Any] = Processor(Outside(), store, checkpoints)
    await first.pipeline.assignment.create_slots(4)
    slots = current_slots(await checkpoints.slots(first.name))
    await first.pipeline.assignment.claim(slots[0], "ann")
    async for batch in store.feed(follow=False):
        await first.pipeline.handle(batch.commits)
        first.pipeline.batch_done(batch)
    await first.pipeline.checkpointer.save()
    second: Processor[Any] = Processor(Outside(), store, checkpoints)
    for slot in current_slots(await checkpoints.slots(first.name))[1:]:
        assert slot.checkpoint == ""
        await second.pipeline.assignment.claim(slot, "bob")
    await second.pipeline.handle(await commits_of(store))
    assert 0 < first.pipeline.progress.commits < 20
    assert first.pipeline.progress.commits + second.pipeline.progress.commits == 20


async def test_workers_together_handle_each_commit_once(store: MemoryStore, checkpoints: Checkpoints) -> None:
    await fill(store, accounts=20)
    async with workers(store, checkpoints, "ann", "bob") as pair:
        await until(lambda: are_shared(pair))
        await deposit(store, "a-3", 7)
        await until(lambda: sum(worker.processor.pipeline.progress.commits for worker in pair) == 81)
    told: dict[str, list[str]] = {}
    for worker in pair:
        for stream, ids in (await worker.processor.projection.read_handled()).items():
            told[stream] = told.get(stream, []) + ids
    assert told == await ids_of(store)


async def test_workers_that_run_other_processors_get_no_slots(store: MemoryStore, checkpoints: Checkpoints) -> None:
    """Services that share checkpoints, and run different processors, do not take slots from each other."""

    class Another(Outside, tag="another"):
        pass

    both: list[Processor[Any]] = [Processor(kind(), store, checkpoints) for kind in (Outside, Another)]
    runners = [
        Runner(each, leases=Leases(worker=name, slots=4, ttl=TTL)) for each, name in zip(both, "ab", strict=True)
    ]
    tasks = [asyncio.create_task(runner.run()) for runner in runners]
    beats = dict[str, int]()
    while len(beats) < 2 or min(beats.values()) < 4:  # each has seen the other
        await asyncio.sleep(0.01)
        beats = dict(await checkpoints.workers.beats())
    await until(lambda: all(set(each.pipeline.assignment.held) == {0, 1, 2, 3} for each in both))
    await fill(store, accounts=20)
    await until(lambda: all(each.pipeline.progress.commits == 80 for each in both))
    for runner in runners:
        runner.stop()
    await asyncio.gather(*tasks)


async def test_the_slots_of_a_dead_worker_are_taken_over(store: MemoryStore, checkpoints: Checkpoints) -> None:
    dead: Processor[Any] = Processor(Outside(), store, checkpoints)
    await checkpoints.workers.heartbeat("dead")
    await dead.pipeline.assignment.create_slots(8)
    for slot in current_slots(await checkpoints.slots(dead.name)):
        await dead.pipeline.assignment.claim(slot, "dead")
    async with workers(store, checkpoints, "ann") as [ann]:
        await until(lambda: are_shared([ann]))
        commits = await commits_of(store)
        await fill(store)
        with pytest.raises(Fenced):
            await dead.pipeline.handle(await commits_of(store))
        assert not commits
        await until(lambda: ann.processor.pipeline.progress.commits == 12)


async def test_a_stopped_worker_hands_over_at_once(store: MemoryStore, checkpoints: Checkpoints) -> None:
    async with workers(store, checkpoints, "ann", ttl=LONG) as [ann]:
        await until(lambda: are_shared([ann]))
    assert not await checkpoints.workers.beats()
    async with workers(store, checkpoints, "bob", ttl=LONG) as [bob]:
        await until(lambda: are_shared([bob]))


async def test_a_cancelled_worker_signs_off(store: MemoryStore, checkpoints: Checkpoints) -> None:
    ann = Worker(store, checkpoints, "ann", ttl=LONG)
    await until(lambda: are_shared([ann]))
    ann.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ann.task
    assert not await checkpoints.workers.beats()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_workers_that_start_together_do_not_fence_each_other(
    store: MemoryStore, checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    """At first they have not all seen each other."""
    await fill(store, accounts=20)
    async with workers(store, checkpoints, *"abcd") as four:
        await until(lambda: are_shared(four))
        await until(lambda: sum(worker.processor.pipeline.progress.commits for worker in four) == 80)
    assert "taken over" not in caplog.text


async def test_a_fenced_worker_continues_with_its_other_slots(store: MemoryStore, checkpoints: Checkpoints) -> None:
    await checkpoints.workers.heartbeat("thief")
    async with workers(store, checkpoints, "ann", slots=4) as [ann]:
        await until(lambda: ann.slots == {0, 1, 2, 3})
        thief: Processor[Any] = Processor(Outside(), store, checkpoints)
        for slot in current_slots(await checkpoints.slots(thief.name))[:2]:
            await thief.pipeline.assignment.claim(slot, "thief")
        await fill(store, accounts=20)
        await until(lambda: ann.slots == {0, 1, 2, 3})  # the thief sends no second heartbeat, so it is dead
        await until(lambda: ann.processor.pipeline.progress.commits == 80)
        told = await ann.processor.projection.read_handled()  # some twice: effects whose position was refused
        assert {stream: list(dict.fromkeys(ids)) for stream, ids in told.items()} == await ids_of(store)


class Lossy(MemoryCheckpoints):
    """The answer of the call that gives up a slot is lost while `loses` is set."""

    loses = True

    async def save(self, processor: str, slot: Slot) -> None:
        await super().save(processor, slot)
        if self.loses and not slot.open:
            raise StoreUnavailable("slots")


async def test_a_slot_that_may_have_been_given_up_is_not_used(store: MemoryStore) -> None:
    """Its next owner does not wait for the acts of a worker that has given it up."""
    checkpoints = Lossy()
    await fill(store, accounts=1)
    worker: Processor[Any] = Processor(Outside(), store, checkpoints)
    pipeline, leases = worker.pipeline, Leases(worker="ann", slots=1, ttl=LONG)
    async with leases.held_for([pipeline], asyncio.Event(), 10.0):
        await leases.heartbeat()
        await pipeline.prepare()
        await leases.rebalance()
        worker.projection.poison = {1}
        await pipeline.handle(await commits_of(store))  # the stream is tried again by a task
        with pytest.raises(StoreUnavailable):
            await pipeline.checkpointer.give_up([0], 10.0)
        worker.projection.poison = set()
        await pipeline.wait_until_idle()
        assert await worker.projection.read_handled() == {"account-a-0": ["account-a-0@1.0", "account-a-0@1.1"]}
        checkpoints.loses = False
        await leases.rebalance()
        await pipeline.wait_until_idle()
        assert await worker.projection.read_handled() == await ids_of(store)


class Mute(MemoryWorkers):
    """Heartbeats fail or hang while `fails` or `hangs` is set."""

    fails = hangs = False

    async def heartbeat(self, worker: str) -> None:
        if self.fails:
            raise StoreUnavailable("beats")
        if self.hangs:
            await asyncio.Event().wait()
        await super().heartbeat(worker)


@pytest.mark.parametrize("how", ["fails", "hangs"])
async def test_a_worker_without_heartbeat_stops_and_resumes(store: MemoryStore, how: str) -> None:
    checkpoints = MemoryCheckpoints()
    checkpoints.workers = mute = Mute()
    async with workers(store, checkpoints, "ann") as [ann]:
        await until(lambda: are_shared([ann]))
        setattr(mute, how, True)
        async with asyncio.timeout(2 * TTL):  # its last heartbeat was before
            await until(lambda: not ann.slots)
        await fill(store)
        assert ann.processor.pipeline.progress.commits == 0
        setattr(mute, how, False)
        await until(lambda: ann.processor.pipeline.progress.commits == 12)


async def test_a_handler_still_running_when_the_lease_expires_is_cancelled(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, cancelled = MemoryCheckpoints(), asyncio.Event()
    checkpoints.workers = mute = Mute()

    class Hanging(Outside, tag="hanging"):
        async def handle_movement(self, event: Movement, context: Context) -> None:
            mute.fails = True
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

    monkeypatch.setattr(Worker, "projection", Hanging)
    async with workers(store, checkpoints, "ann") as [ann]:
        await until(lambda: are_shared([ann]))
        await fill(store, accounts=1, deposits=1)
        async with asyncio.timeout(20):
            await cancelled.wait()
        assert ann.processor.pipeline.progress.commits == 0


async def test_a_changed_number_of_slots_takes_effect_once_no_other_worker_is_alive(
    store: MemoryStore, checkpoints: Checkpoints
) -> None:
    await fill(store, accounts=20)
    async with workers(store, checkpoints, "ann") as [ann]:
        await until(lambda: are_shared([ann]))
        async with workers(store, checkpoints, "bob", slots=3) as [bob]:
            await until(lambda: are_shared([ann, bob]))
        await until(lambda: are_shared([ann]))
    async with workers(store, checkpoints, "bob", slots=3) as [bob]:
        await until(lambda: bob.slots == {0, 1, 2})
        await until(bob.processor.caught_up.is_set)
        assert await bob.processor.positions(list(await ids_of(store))) == dict.fromkeys(await ids_of(store), 4)


async def test_an_interrupted_creation_of_slots_is_completed_by_the_next_process(store: MemoryStore) -> None:
    class Cut(MemoryCheckpoints):
        left = 5

        async def claim(self, processor: str, slot: Any) -> None:
            self.left -= 1
            if not self.left:
                raise StoreUnavailable("killed")
            await super().claim(processor, slot)

    checkpoints = Cut()
    processor: Processor[Any] = Processor(Outside(), store, checkpoints)
    with pytest.raises(StoreUnavailable):
        await processor.pipeline.assignment.create_slots(8)
    assert not current_slots(await checkpoints.slots(processor.name))
    await processor.pipeline.assignment.create_slots(3)
    assert [slot.of for slot in current_slots(await checkpoints.slots(processor.name))] == [8] * 8


async def test_run_until_caught_up_takes_over_slots_of_a_dead_worker(
    store: MemoryStore, checkpoints: Checkpoints
) -> None:
    """It ends only after the slots are its own."""
    await fill(store)
    dead: Processor[Any] = Processor(Outside(), store, checkpoints)
    await checkpoints.workers.heartbeat("dead")
    await dead.pipeline.assignment.create_slots(4)
    for slot in current_slots(await checkpoints.slots(dead.name)):
        await dead.pipeline.assignment.claim(slot, "dead")
    job: Processor[Any] = Processor(Outside(), store, checkpoints)
    async with asyncio.timeout(20):
        await Runner(job, leases=Leases(slots=4, ttl=TTL)).run(until_caught_up=True)
    assert job.pipeline.progress.commits == 12


async def test_run_until_caught_up_leaves_slots_of_live_workers(store: MemoryStore, checkpoints: Checkpoints) -> None:
    await fill(store)
    async with workers(store, checkpoints, "ann", slots=1) as [ann]:
        await until(lambda: ann.slots)
        job: Processor[Any] = Processor(Outside(), store, checkpoints)
        async with asyncio.timeout(20):
            await Runner(job, leases=Leases(worker="zoe", slots=1, ttl=TTL)).run(until_caught_up=True)
        await until(lambda: ann.processor.pipeline.progress.commits == 12)
    assert job.pipeline.progress.commits == 0


async def test_an_error_in_the_heartbeat_task_is_raised(store: MemoryStore) -> None:
    class Broken(MemoryWorkers):
        async def beats(self) -> Any:
            if max((beats := await super().beats()).values(), default=0) > 1:
                raise LookupError("a bug")
            return beats

    checkpoints = MemoryCheckpoints()
    checkpoints.workers = Broken()
    ann = Worker(store, checkpoints, "ann", ttl=0.1)
    with pytest.raises(LookupError, match="a bug"):
        async with asyncio.timeout(20):
            await ann.task


async def test_workers_of_a_replaced_version_stop(store: MemoryStore, tmp_path: Path) -> None:
    class Newer(InSQLite):
        version = 2

    await fill(store)
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        old: Processor[Any] = Processor(InSQLite(), store, checkpoints)
        running = asyncio.create_task(Runner(old, leases=Leases(slots=2, ttl=TTL)).run())
        await until(old.caught_up.is_set)
        await rebuild(Processor(Newer(), store, checkpoints))
        with pytest.raises(NotActive):
            async with asyncio.timeout(20):
                await running


async def test_wrong_values_are_refused(store: MemoryStore) -> None:
    with pytest.raises(ValueError, match="slots"):
        Leases(slots=0)
    with pytest.raises(ValueError, match="ttl"):
        Leases(ttl=0)
    pair = [Processor(kind(), store, MemoryCheckpoints()) for kind in (Outside, type("B", (Outside,), {}, tag="b"))]
    with pytest.raises(ValueError, match="share their checkpoints"):
        await Runner(*pair, leases=Leases()).run()


async def test_a_worker_that_waits_for_slots_is_healthy(store: MemoryStore) -> None:
    checkpoints = MemoryCheckpoints()
    first, second = (Processor(Outside(), store, checkpoints) for _ in range(2))
    runners = [Runner(each, leases=Leases(slots=1, ttl=0.5)) for each in (first, second)]
    tasks = [asyncio.create_task(runner.run()) for runner in runners]
    await until(lambda: {first.state, second.state} == {"live", "waiting for slots"})
    assert health(first, second) == {}
    for runner in runners:
        runner.stop()
    await asyncio.gather(*tasks)
    assert health(first) == {"outside@1": "it has stopped"}
