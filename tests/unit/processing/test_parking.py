"""Parked streams: retry and skip lose nothing, and stay within their limits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from support.ledger import (
    InSQLite,
    Movement,
    Outside,
    commits_of,
    deposit,
    fill,
    ids_of,
    run_with_parked,
    running,
    until,
)

from eventsrc import MemoryStore, StreamParked, Throttled
from eventsrc.processing import (
    Checkpoints,
    Context,
    MemoryCheckpoints,
    Parked,
    Processor,
    SQLiteCheckpoints,
    SQLiteContext,
    worker,
)
from eventsrc.processing.slice import Fence, Position


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


async def parked(store: MemoryStore, checkpoints: Checkpoints, accounts: int = 1) -> Processor[Outside]:
    """Return a processor that has parked all streams at version 2."""
    await fill(store, accounts=accounts)
    processor = Processor(Outside(), store, checkpoints, attempts=1)
    processor.projection.poison = {1}
    assert len(await run_with_parked(processor)) == accounts
    processor.projection.poison = set()
    return processor


async def test_the_log_says_what_to_do_about_a_parked_stream(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    await parked(store, MemoryCheckpoints())
    [record] = caplog.records
    assert record.getMessage() == (
        "outside@1: account-a-0 is parked at version 2 after 1 attempts: Refused; `await processor.parked()` shows the "
        "error; then call `retry` or `skip`"
    )


class SlowToStore(MemoryCheckpoints):
    """Stores that a stream is being retried only once it was parked, if that is not kept waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.storing, self.has_parked = asyncio.Event(), asyncio.Event()

    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        if parked.state == "retrying":
            self.storing.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.has_parked.wait(), 0.5)
        stored = await super().park(processor, parked, fence, instead_of=instead_of)
        if parked.state == "parked":
            self.has_parked.set()
        return stored


async def test_a_stream_that_is_parked_while_the_checkpoint_is_written_stays_parked(store: MemoryStore) -> None:
    """Else it is not among those that `retry_all` retries."""
    await fill(store, accounts=1)
    checkpoints = SlowToStore()

    class Failing(Outside, tag="outside"):
        calls = 0

        async def handle_movement(self, event: Movement, context: Context) -> None:
            self.calls += 1
            if self.calls == 4:  # the second attempt at the first deposit that is refused, the first after two events
                await asyncio.wait_for(checkpoints.storing.wait(), 20)
            await super().handle_movement(event, context)

    processor = Processor(Failing(), store, checkpoints, attempts=2)
    processor.projection.poison = {1}
    async with running(processor):
        await asyncio.wait_for(checkpoints.has_parked.wait(), 20)
    assert [each.stream for each in await processor.parked()] == ["account-a-0"]
    processor.projection.poison = set()
    assert not await processor.retry_all()
    assert await processor.projection.read_handled() == await ids_of(store)


async def test_a_checkpoint_that_is_written_keeps_count_of_the_processes_that_ended(store: MemoryStore) -> None:
    await fill(store, accounts=1)
    pipeline = Processor(Outside(), store, checkpoints := SlowToStore()).pipeline
    await pipeline.prepare()
    await pipeline.assignment.take_all()
    entry = pipeline.catch_up.enter("account-a-0", 2)
    await asyncio.gather(pipeline.parking.store(entry, lives=1), pipeline.checkpointer.save())
    assert [each.lives for each in await checkpoints.parked("outside@1")] == [1]


class Breaking(MemoryCheckpoints):
    """Calls `before_release` right before a stream is released, and fails once right after it."""

    before_release: Callable[[], Awaitable[None]] | None = None
    breaks = True
    broken = False

    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        if parked.state == "retrying" and (before := self.before_release) is not None:
            self.before_release = None
            await before()
            self.broken = self.breaks
        return await super().park(processor, parked, fence, instead_of=instead_of)

    async def positions(self, processor: str, streams: Collection[str]) -> dict[str, Position]:
        if self.broken:
            self.broken = False
            raise Throttled("now")
        return await super().positions(processor, streams)


@pytest.mark.parametrize("repeated", [True, False])
async def test_a_retry_interrupted_after_the_release_loses_nothing(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, repeated: bool
) -> None:
    """The processor has ignored commits that its feed delivered before the release. It continues by itself."""
    monkeypatch.setattr(worker, "WATCH_SECONDS", 0.05)
    processor = await parked(store, checkpoints := Breaking())
    async with running(processor):
        await asyncio.wait_for(processor.caught_up.wait(), 10)

        async def deliver_early() -> None:
            """While the stream is still parked, after the commits that the retry has read."""
            receipt = await deposit(store, "a-0", 9)
            await until(lambda: processor.pipeline.assignment.checkpoint.startswith(f"{receipt.position}."))

        checkpoints.before_release = deliver_early
        with pytest.raises(Throttled):
            await processor.retry("account-a-0")
        if repeated:
            with suppress(ValueError, RuntimeError):  # it has continued by itself
                await processor.retry("account-a-0")
        await until(lambda: processor.projection.seen["account-a-0"][-1:] == ["account-a-0@5.0"])
    assert await processor.projection.read_handled() == await ids_of(store)
    assert not await processor.parked()


async def test_a_retry_while_the_worker_starts_leaves_it_its_slots(store: MemoryStore) -> None:
    processor = await parked(store, MemoryCheckpoints())
    async with running(processor):
        await until(lambda: processor.pipeline.parking.parked)  # it may not hold its slots yet
        await processor.retry("account-a-0")
        await processor.wait_for(await deposit(store, "a-0", 9))
    assert await processor.projection.read_handled() == await ids_of(store)


async def test_a_stream_that_fails_while_it_is_being_released_stays_parked(store: MemoryStore) -> None:
    processor = await parked(store, checkpoints := Breaking())
    checkpoints.breaks = False

    async def fail_on_a_new_commit() -> None:
        await deposit(store, "a-0", 66)
        processor.projection.poison = {66}

    checkpoints.before_release = fail_on_a_new_commit
    with pytest.raises(StreamParked):
        await processor.retry("account-a-0")
    [found] = await processor.parked()
    assert (found.version, found.state) == (5, "parked")


@pytest.mark.parametrize("state", ["parked", "retrying"])
async def test_wait_for_ignores_the_entry_of_a_stream_that_is_retried(store: MemoryStore, state: Any) -> None:
    processor = await parked(store, checkpoints := MemoryCheckpoints())
    [found] = await processor.parked()
    fence = await processor.pipeline.assignment.fence_of(found.stream)
    await checkpoints.park(processor.name, structs.replace(found, state=state), fence)
    receipt = await deposit(store, "a-0", 2)
    expected: type[Exception] = TimeoutError if state == "retrying" else StreamParked
    with pytest.raises(expected):
        await processor.wait_for(receipt, timeout=0.05)


async def test_a_batch_reads_only_its_own_parked_streams(store: MemoryStore) -> None:
    """Not all parked streams of the processor."""
    asked: list[int] = []

    class Counting(MemoryCheckpoints):
        async def parked(self, processor: str, streams: Collection[str] | None = None) -> Sequence[Parked]:
            found = await super().parked(processor, streams)
            asked.append(len(found))
            return found

    await parked(store, checkpoints := Counting(), accounts=20)
    processor = Processor(Outside(), store, checkpoints)
    async with running(processor):
        await until(lambda: len(processor.pipeline.parking.parked) == 20)
        asked.clear()
        receipt = await deposit(store, "a-7", 2)
        with pytest.raises(StreamParked):
            await processor.wait_for(receipt)
        await until(lambda: processor.pipeline.assignment.checkpoint.startswith(f"{receipt.position}."))
        await processor.retry("account-a-7")
    assert max(asked) == 1


async def test_an_error_with_invalid_characters_is_stored(store: MemoryStore, tmp_path: Path) -> None:
    class Odd(InSQLite, tag="odd"):
        def handle_movement(self, event: Movement, context: SQLiteContext) -> None:
            raise OSError("no such file: \udcff")

    await fill(store, accounts=1)
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        processor = Processor(Odd(), store, checkpoints, attempts=1)
        await run_with_parked(processor)
        [found] = await processor.parked()
    assert "no such file: ?" in found.error


async def test_each_commit_has_its_own_attempts(store: MemoryStore) -> None:
    class Flaky(Outside, tag="flaky"):
        async def handle_movement(self, event: Movement, context: Context) -> None:
            calls[context.id] += 1
            if calls[context.id] == 1:
                raise ConnectionError
            self.seen[context.stream].append(context.id)

    calls: Counter[Any] = Counter()
    await fill(store, accounts=1, deposits=6)
    processor = Processor(Flaky(), store, MemoryCheckpoints(), attempts=3)
    await processor.run(until_caught_up=True)
    assert not await processor.parked()
    assert set((await processor.projection.read_handled())["account-a-0"]) == set((await ids_of(store))["account-a-0"])


async def test_retried_streams_respect_the_concurrency(store: MemoryStore) -> None:
    class Narrow(Outside, tag="narrow"):
        concurrency = 2
        inside = most = 0
        failing = True

        async def handle_movement(self, event: Movement, context: Context) -> None:
            if self.failing:
                raise ConnectionError
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0.001)
            self.inside -= 1
            self.seen[context.stream].append(context.id)

    await fill(store, accounts=30)
    processor = Processor(Narrow(), store, MemoryCheckpoints(), attempts=50)
    await processor.pipeline.prepare()
    await processor.pipeline.assignment.take_all()
    await processor.pipeline.handle(await commits_of(store))
    assert len(processor.pipeline.catch_up.entries) == 30
    processor.projection.failing = False
    await processor.pipeline.wait_until_idle()
    assert await processor.projection.read_handled() == await ids_of(store)
    assert processor.projection.most == 2


async def test_a_stream_whose_entry_is_being_deleted_leaves_no_task(store: MemoryStore) -> None:
    class Stuck(MemoryCheckpoints):
        reached = asyncio.Event()

        async def unpark(self, processor: str, parked: Parked) -> None:
            self.reached.set()
            await asyncio.Event().wait()

    await fill(store, accounts=1)
    processor = Processor(Outside(), store, checkpoints := Stuck())
    pipeline = processor.pipeline
    await pipeline.prepare()
    await pipeline.assignment.take_all()
    fence = await pipeline.assignment.fence_of("account-a-0")
    entry = Parked(stream="account-a-0", version=1, error="", attempts=1, since=0, state="retrying")
    await checkpoints.park(processor.name, entry, fence)
    await pipeline.checkpointer.claimed()
    await asyncio.wait_for(checkpoints.reached.wait(), 5)
    await pipeline.checkpointer.drop()
    assert asyncio.all_tasks() == {asyncio.current_task()}
