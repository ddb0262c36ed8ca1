"""The runner: it waits for stores, writes only true checkpoints, and ends cleanly."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from pathlib import Path
from typing import Any

import pytest
from support.ledger import InMemory, InSQLite, Movement, Outside, commits_of, deposit, fill, ids_of, until

from eventsrc import Fenced, MemoryStore, StoreClosed, StoreRejected, StoreUnavailable, Throttled
from eventsrc.processing import Context, Leases, MemoryCheckpoints, Processor, Runner, SQLiteCheckpoints, status
from eventsrc.processing.checkpoints.memory import MemoryWorkers
from eventsrc.stores.feed import Batch


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


class CountingWorkers(MemoryWorkers):
    beaten = 0

    async def heartbeat(self, worker: str) -> None:
        self.beaten += 1
        await super().heartbeat(worker)


class Counting(MemoryCheckpoints):
    """Records the position of each checkpoint that was newly saved, and raises `failures`."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[str] = []
        self.workers = self.counted = CountingWorkers()
        self.failures: list[Exception] = []

    async def save(self, processor: str, slot: Any) -> None:
        if self.failures:
            raise self.failures.pop()
        before = {stored.number: stored.checkpoint for stored in await self.slots(processor)}
        await super().save(processor, slot)
        if slot.checkpoint != before[slot.number]:
            self.saved.append(slot.checkpoint.partition(".")[0])


class Shaky:
    """A feed that raises `failures`, one at each start or batch."""

    ordered = True

    def __init__(self, store: MemoryStore, *failures: Exception) -> None:
        self._store, self.failures = store, list(failures)

    async def feed(
        self, *, after: str = "", follow: bool = True, report_damaged: bool = False, categories: Collection[str] = ()
    ) -> AsyncGenerator[Batch]:
        if self.failures:
            raise self.failures.pop(0)
        feed = self._store.feed(after=after, follow=follow, report_damaged=report_damaged, categories=categories)
        async for batch in feed:
            yield batch
            if self.failures:
                raise self.failures.pop(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def tasks_left() -> set[Any]:
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_a_store_that_cannot_be_reached_is_waited_for(store: MemoryStore) -> None:
    await fill(store)
    outage = StoreUnavailable("away")
    feed: Any = Shaky(store, *[outage] * 1_000)
    processor = Processor(InMemory(), store, feed=feed)
    running = asyncio.create_task(Runner(processor).run(until_caught_up=True))
    await until(lambda: processor.state == "waiting for the store")
    assert (await status(processor)).waiting == "StoreUnavailable"
    feed.failures = [Throttled("slow"), outage]
    async with asyncio.timeout(20):
        await running
    assert (await status(processor)).waiting == ""
    assert await processor.projection.read_handled() == await ids_of(store)


async def test_checkpoints_that_cannot_be_written_are_waited_for(store: MemoryStore) -> None:
    await fill(store)
    checkpoints = Counting()
    checkpoints.failures = [StoreUnavailable("away"), Throttled("slow")]
    processor = Processor(Outside(), store, checkpoints)
    async with asyncio.timeout(20):
        await Runner(processor).run(until_caught_up=True)
    assert checkpoints.saved == ["12"]
    assert await processor.projection.read_handled() == await ids_of(store)


@pytest.mark.parametrize("error", [StoreRejected("no", "ask somebody"), StoreClosed("closed"), LookupError("a bug")])
async def test_errors_that_are_not_transient_are_raised(store: MemoryStore, error: Exception) -> None:
    feed: Any = Shaky(store, error)
    processor = Processor(InMemory(), store, feed=feed)
    with pytest.raises(type(error)):
        async with asyncio.timeout(20):
            await Runner(processor).run()
    assert not tasks_left()


async def test_closing_the_store_ends_the_run(store: MemoryStore) -> None:
    processor = Processor(InMemory(), store)
    running = asyncio.create_task(Runner(processor).run())
    await until(processor.caught_up.is_set)
    await store.aclose()
    with pytest.raises(StoreClosed):
        async with asyncio.timeout(20):
            await running
    assert not tasks_left()


@pytest.mark.parametrize("with_leases", [False, True])
async def test_a_handlers_error_that_looks_like_the_stores_is_not_waited_for(
    store: MemoryStore, *, with_leases: bool
) -> None:
    class Failing(Outside, tag="failing"):
        def taste(self, event: object) -> None:
            raise Throttled("another service")

    await fill(store, accounts=1)
    checkpoints = Counting()
    processor = Processor(Failing(), store, checkpoints, on_error="stop", attempts=2)
    with pytest.raises(Throttled, match="another service"):
        async with asyncio.timeout(20):
            await Runner(processor, leases=Leases(slots=2) if with_leases else None).run()
    assert not any(checkpoints.saved)  # no checkpoint that says it was handled
    assert not tasks_left()


async def test_the_first_of_two_without_leases_is_fenced(store: MemoryStore, tmp_path: Path) -> None:
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        first, second = (Processor(InSQLite(), store, checkpoints) for _ in range(2))
        running = asyncio.create_task(Runner(first).run())
        await until(first.caught_up.is_set)
        second_runner = Runner(second)
        other = asyncio.create_task(second_runner.run())
        await until(second.caught_up.is_set)
        await fill(store)
        with pytest.raises(Fenced):
            async with asyncio.timeout(20):
                await running
        await until(lambda: second.pipeline.progress.commits == 12)
        second_runner.stop()
        await other
        assert await second.projection.read_handled() == await ids_of(store)


async def test_no_checkpoint_is_written_while_there_are_no_commits(store: MemoryStore) -> None:
    await fill(store)
    checkpoints = Counting()
    processor = Processor(Outside(), store, checkpoints)
    runner = Runner(processor, leases=Leases(slots=1, ttl=0.3), save_every=0.01)
    running = asyncio.create_task(runner.run())
    await until(lambda: checkpoints.saved == ["12"])  # written although no more commits come
    beaten = checkpoints.counted.beaten
    await until(lambda: checkpoints.counted.beaten > beaten + 5)
    assert checkpoints.saved == ["12"]
    await deposit(store, "a-1", 7)
    await until(lambda: checkpoints.saved == ["12", "13"])
    runner.stop()
    await running
    assert checkpoints.saved == ["12", "13"]


async def test_checkpoints_are_written_at_most_every_save_every_seconds(store: MemoryStore) -> None:
    await fill(store)
    checkpoints = Counting()
    processor = Processor(Outside(), store, checkpoints)
    runner = Runner(processor, save_every=600.0)
    running = asyncio.create_task(runner.run())
    for amount in range(1, 6):
        await processor.wait_for(await deposit(store, "a-1", amount))
    assert not checkpoints.saved
    runner.stop()
    await running
    assert checkpoints.saved == ["17"]


async def test_the_checkpoint_passes_a_stream_that_is_retried_once_the_stream_is_stored(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stream that keeps failing does not hold up the checkpoint. A killed process loses nothing by that."""
    monkeypatch.setattr("eventsrc.processing.checkpointer.STORE_AFTER", 0.1)
    await fill(store)
    checkpoints = Counting()
    processor = Processor(Outside(), store, checkpoints, attempts=1_000)
    processor.projection.poison = {66}
    await deposit(store, "a-1", 66)
    running = asyncio.create_task(Runner(processor, save_every=0.01).run())
    await until(lambda: "13" in checkpoints.saved)
    [stored] = await checkpoints.parked(processor.name)
    assert (stored.stream, stored.version, stored.state) == ("account-a-1", 5, "retrying")
    await deposit(store, "a-0", 7)
    await until(lambda: "14" in checkpoints.saved)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not tasks_left()
    processor.projection.poison = set()
    await processor.run(until_caught_up=True)
    assert await processor.projection.read_handled() == await ids_of(store)
    assert not await checkpoints.parked(processor.name)


@pytest.mark.parametrize("with_leases", [False, True])
async def test_a_run_can_be_cancelled_at_any_moment(store: MemoryStore, *, with_leases: bool, tmp_path: Path) -> None:
    await fill(store, accounts=6)
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        for steps in range(120):
            processor = Processor(InSQLite(), store, checkpoints)
            processor.projection.poison = {2} if steps % 2 else set()
            leases = Leases(worker="ann", slots=2, ttl=5.0) if with_leases else None
            running = asyncio.create_task(Runner(processor, leases=leases, save_every=0.0).run())
            for _ in range(steps):
                await asyncio.sleep(0)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert not tasks_left()
            assert not processor.pipeline.assignment.held
        processor = Processor(InSQLite(), store, checkpoints)
        await processor.run(until_caught_up=True)
        assert not await processor.parked()
        assert await processor.projection.read_handled() == await ids_of(store)


class Slow(Outside, tag="slow"):
    """Effects that end once `may_end` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_end = 0, asyncio.Event()

    async def handle_movement(self, event: Movement, context: Context) -> None:
        self.begun += 1
        await self.may_end.wait()
        self.seen[context.stream].append(context.id)


@pytest.mark.parametrize("with_leases", [False, True])
async def test_stop_finishes_commits_in_flight_and_starts_no_others(store: MemoryStore, *, with_leases: bool) -> None:
    await fill(store, accounts=2, deposits=1)
    checkpoints = Counting()
    processor = Processor(Slow(), store, checkpoints)
    runner = Runner(processor, leases=Leases(slots=1, ttl=600) if with_leases else None)
    running = asyncio.create_task(runner.run())
    await until(lambda: processor.projection.begun == 2)
    assert processor.pipeline.progress.in_flight == 2
    runner.stop()
    await fill(store, accounts=0)
    await deposit(store, "a-1", 7)  # too late for this run
    assert not running.done()
    processor.projection.may_end.set()
    async with asyncio.timeout(20):
        await running
    assert processor.pipeline.progress.commits == 2
    assert checkpoints.saved == ["2"]
    assert not tasks_left()


async def test_sigterm_stops_the_run(store: MemoryStore) -> None:
    await fill(store)
    checkpoints = Counting()
    processor = Processor(Outside(), store, checkpoints)
    before = signal.getsignal(signal.SIGTERM)
    running = asyncio.create_task(Runner(processor).run(on_sigterm=True))
    await until(processor.caught_up.is_set)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(20):
        await running
    assert checkpoints.saved == ["12"]
    assert signal.getsignal(signal.SIGTERM) == before


async def test_a_stopped_run_ends_if_a_store_stays_unreachable(store: MemoryStore) -> None:
    await fill(store)
    checkpoints = Counting()
    processor = Processor(Outside(), store, checkpoints)
    runner = Runner(processor, save_every=600.0, grace=0.2)
    running = asyncio.create_task(runner.run())
    await until(processor.caught_up.is_set)
    checkpoints.failures = [StoreUnavailable("gone")] * 1_000
    runner.stop()
    with pytest.raises(StoreUnavailable):
        async with asyncio.timeout(20):
            await running
    assert not tasks_left()


async def test_a_stopped_run_ends_if_a_stream_keeps_failing(store: MemoryStore) -> None:
    await fill(store)
    checkpoints = Counting()
    processor = Processor(Outside(), store, checkpoints, attempts=1_000_000)
    processor.projection.poison = {2}
    runner = Runner(processor, grace=0.2)
    running = asyncio.create_task(runner.run())
    await until(lambda: len(processor.pipeline.catch_up.entries) == 3)
    runner.stop()
    async with asyncio.timeout(20):
        await running
    assert not tasks_left()
    assert [each.state for each in await checkpoints.parked(processor.name)] == ["retrying"] * 3
    processor.projection.poison = set()
    await processor.run(until_caught_up=True)
    assert await processor.projection.read_handled() == await ids_of(store)


async def test_the_feed_is_not_read_ahead_of_the_handlers(store: MemoryStore) -> None:
    class CountingFeed(Shaky):
        batches = 0

        async def feed(
            self,
            *,
            after: str = "",
            follow: bool = True,
            report_damaged: bool = False,
            categories: Collection[str] = (),
        ) -> AsyncGenerator[Batch]:
            for commit in await commits_of(store):
                self.batches += 1
                yield Batch([commit], str(commit.position), caught_up=False)
            yield Batch([], "12", caught_up=True)

    await fill(store)
    feed: Any = CountingFeed(store)
    processor = Processor(Slow(), store, MemoryCheckpoints(), feed=feed)
    running = asyncio.create_task(Runner(processor).run(until_caught_up=True))
    await until(lambda: processor.projection.begun)
    for _ in range(50):
        await asyncio.sleep(0)
    assert feed.batches == 1
    processor.projection.may_end.set()
    async with asyncio.timeout(20):
        await running
    assert processor.pipeline.progress.commits == 12


async def test_one_reader_for_all_processors(store: MemoryStore) -> None:
    class Other(InMemory, tag="other"):
        pass

    await fill(store)
    feed: Any = Shaky(store)
    pair = [Processor(kind(), store, feed=feed) for kind in (InMemory, Other)]
    await Runner(*pair).run(until_caught_up=True)
    for processor in pair:
        assert await processor.projection.read_handled() == await ids_of(store)
    with pytest.raises(ValueError, match="share a feed"):
        Runner(Processor(InMemory(), store), Processor(Other(), store, feed=feed))
    with pytest.raises(ValueError, match="same tag"):
        Runner(Processor(InMemory(), store), Processor(InMemory(), store))
    with pytest.raises(ValueError, match="needs processors"):
        Runner()


class Ending(Shaky):
    """A feed that ends even with `follow=True`, as the feed of an export does."""

    begun = 0

    async def feed(
        self, *, after: str = "", follow: bool = True, report_damaged: bool = False, categories: Collection[str] = ()
    ) -> AsyncGenerator[Batch]:
        self.begun += 1
        feed = self._store.feed(after=after, follow=False, report_damaged=report_damaged, categories=categories)
        async for batch in feed:
            yield batch


async def test_with_leases_the_run_ends_with_its_feed(store: MemoryStore) -> None:
    await fill(store)
    feed: Any = Ending(store)
    processor = Processor(Outside(), store, MemoryCheckpoints(), feed=feed)
    async with asyncio.timeout(20):
        await Runner(processor, leases=Leases(ttl=0.5)).run()
    assert await processor.projection.read_handled() == await ids_of(store)
    assert feed.begun <= 2
