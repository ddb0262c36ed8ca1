"""What other processes may do while one process runs a processor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec import structs
from support.ledger import Movement, Outside, commits_of, deposit, fill, ids_of, run_with_parked, running, until

from eventsrc import MemoryStore
from eventsrc.processing import Context, Leases, MemoryCheckpoints, Processor, Runner, health


class Second(Outside, tag="second"): ...


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


async def test_a_process_can_retry_repeatedly(store: MemoryStore) -> None:
    """Also if the processor was restarted in between with another number of slots."""
    await fill(store, accounts=2)
    checkpoints = MemoryCheckpoints()
    first = Processor(Outside(), store, checkpoints, attempts=1)
    first.projection.poison = {1}
    assert len(await run_with_parked(first)) == 2
    first.projection.poison = set()
    other = Processor(first.projection, store, checkpoints)
    for account in ("account-a-0", "account-a-1"):
        await other.retry(account)
        assert other.state == "stopped"
        await first.pipeline.assignment.create_slots(5, replace=True)
        await first.pipeline.assignment.take_all()
        await first.pipeline.checkpointer.give_up(list(first.pipeline.assignment.held), 1.0)
    assert await first.projection.read_handled() == await ids_of(store)


async def test_positions_are_read_again_when_other_processes_hold_the_same_slots(store: MemoryStore) -> None:
    """As in environments of Lambda: an effect of one process is not repeated by another."""
    await fill(store, accounts=1)
    commits, checkpoints = await commits_of(store), MemoryCheckpoints()
    one, other = (Processor(Outside(), store, checkpoints) for _ in range(2))
    for processor in (one, other):
        await processor.pipeline.prepare()
        await processor.pipeline.assignment.join()
    for processor, commit in zip((one, other, other, one), commits, strict=True):
        await processor.pipeline.handle([commit])
    for processor in (one, other):
        await processor.pipeline.wait_until_idle()
    told = [await processor.projection.read_handled() for processor in (one, other)]
    assert [len(each["account-a-0"]) for each in told] == [3, 2]


async def test_handling_without_slots_is_refused(store: MemoryStore) -> None:
    await fill(store, accounts=1)
    processor = Processor(Outside(), store, MemoryCheckpoints())
    with pytest.raises(RuntimeError, match="holds no"):
        await processor.pipeline.handle(await commits_of(store))


async def test_a_worker_can_hold_slots_of_only_one_of_its_processors(store: MemoryStore) -> None:
    await fill(store, accounts=8)
    one, other = (
        Processor(Outside(), store, checkpoints := MemoryCheckpoints()),
        Processor(Second(), store, checkpoints),
    )
    await one.pipeline.assignment.registrar.check_active()
    await other.pipeline.assignment.create_slots(2)
    await checkpoints.workers.heartbeat("elsewhere")
    for slot in await checkpoints.slots(other.name):
        await checkpoints.claim(other.name, structs.replace(slot, epoch=slot.epoch + 1, owner="elsewhere"))
    runner = Runner(one, other, leases=Leases(slots=2))
    running_both = asyncio.create_task(runner.run())
    await until(lambda: one.pipeline.progress.commits > 0 or running_both.done())
    assert other.state == "waiting for slots"
    with pytest.raises(RuntimeError, match="is running"):
        await one.resume_from("")
    runner.stop()
    await running_both
    assert other.pipeline.progress.commits == 0


async def test_health_reports_a_handler_that_hangs(store: MemoryStore) -> None:
    class Hanging(Outside, tag="hanging"):
        resume = asyncio.Event()

        async def handle_movement(self, event: Movement, context: Context) -> None:
            await self.resume.wait()

    await fill(store, accounts=1)
    processor = Processor(Hanging(), store, MemoryCheckpoints())
    processor.projection.resume.set()
    async with running(processor):
        await asyncio.wait_for(processor.caught_up.wait(), 10)
        assert health(processor, max_lag=0.0) == {}
        processor.projection.resume.clear()
        await deposit(store, "a-0", 1)
        await until(lambda: processor.pipeline.progress.in_flight)
        assert "it lags by" in health(processor, max_lag=0.0)["hanging@1"]
        processor.projection.resume.set()
        await until(lambda: not processor.pipeline.progress.in_flight)


async def test_streams_of_a_dropped_slot_are_no_longer_retried(store: MemoryStore) -> None:
    await fill(store, accounts=8)
    processor = Processor(Outside(), store, MemoryCheckpoints(), attempts=1_000)
    processor.projection.poison = {100}
    await processor.pipeline.prepare()
    await processor.pipeline.assignment.create_slots(2)
    await processor.pipeline.assignment.take_all()
    await processor.pipeline.handle(await commits_of(store))
    assert {processor.pipeline.assignment.slot_of(stream) for stream in processor.pipeline.catch_up.entries} == {0, 1}
    processor.pipeline.checkpointer.dropped(1)
    assert {processor.pipeline.assignment.slot_of(stream) for stream in processor.pipeline.catch_up.entries} == {0}
    processor.projection.poison = set()
    await processor.pipeline.wait_until_idle()
    told = {stream for stream, ids in (await processor.projection.read_handled()).items() if len(ids) > 1}
    assert told == {stream for stream in await ids_of(store) if processor.pipeline.assignment.slot_of(stream) == 0}
