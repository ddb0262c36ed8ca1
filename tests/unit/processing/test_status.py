"""`status` and `health` are true, whichever process asks, and whatever state the processor is in."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.bank import Account, Deposited
from support.ledger import InSQLite, Movement, Outside, commits_of, deposit, fill, running, until

from eventsrc import MemoryStore, Repository, SQLiteStore, StoreUnavailable
from eventsrc.processing import (
    Context,
    Fence,
    Leases,
    MemoryCheckpoints,
    Parked,
    Position,
    Processor,
    Runner,
    SQLiteCheckpoints,
    health,
    processors,
    status,
)
from eventsrc.stores.feed import Batch


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventsrc.processing.worker.WATCH_SECONDS", 0.1)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "store.db") as store:
        yield store


@pytest.fixture
async def checkpoints(tmp_path: Path) -> AsyncIterator[SQLiteCheckpoints]:
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        yield checkpoints


@pytest.fixture
async def others(tmp_path: Path) -> AsyncIterator[SQLiteCheckpoints]:
    """The same checkpoints, as another process has them."""
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        yield checkpoints


async def parking(store: SQLiteStore, checkpoints: SQLiteCheckpoints) -> Processor[InSQLite]:
    """Return a processor that parks the amount 66."""
    await fill(store, accounts=2)
    processor = Processor(InSQLite(), store, checkpoints, attempts=1)
    processor.projection.poison = {66}
    return processor


@pytest.mark.parametrize("how", ["retry", "skip"])
async def test_a_stream_that_another_process_releases_is_not_reported_as_parked(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints, others: SQLiteCheckpoints, how: str
) -> None:
    processor = await parking(store, checkpoints)
    async with running(processor):
        await deposit(store, "a-0", 66)
        await until(lambda: health(processor) == {"in-sqlite@1": "1 streams are parked"})
        processor.projection.poison = set()  # the new release
        other = Processor(InSQLite(), store, others)
        assert (await status(other)).problems == ["1 streams are parked"]
        await (other.retry("account-a-0") if how == "retry" else other.skip("account-a-0", "a test"))
        assert await other.parked() == []
        await until(lambda: health(processor) == {}, 5)
        assert [(await status(each)).parked for each in (processor, other)] == [0, 0]
        assert [(await status(each)).skipped for each in (processor, other)] == [how == "skip"] * 2
        await processor.wait_for(await deposit(store, "a-0", 5))  # and is handled from the feed again


async def test_a_stream_that_is_released_while_the_processor_is_stopped_is_not_reported_as_parked(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints, others: SQLiteCheckpoints
) -> None:
    processor = await parking(store, checkpoints)
    async with running(processor):
        await deposit(store, "a-0", 66)
        await until(lambda: health(processor) == {"in-sqlite@1": "1 streams are parked"})
    await Processor(InSQLite(), store, others).retry("account-a-0")
    async with running(processor):
        await until(lambda: processor.state == "live")
        assert health(processor) == {}
        await processor.wait_for(await deposit(store, "a-0", 5))


class Away:
    """A feed that cannot be read while `away` is set."""

    def __init__(self, store: SQLiteStore) -> None:
        self._store, self.away, self.ordered = store, False, True

    async def feed(
        self, *, after: str = "", follow: bool = True, report_damaged: bool = False, categories: Collection[str] = ()
    ) -> AsyncGenerator[Batch]:
        if self.away:
            raise StoreUnavailable("away")
        feed = self._store.feed(after=after, follow=follow, report_damaged=report_damaged, categories=categories)
        async for batch in feed:
            if self.away:
                raise StoreUnavailable("away")
            yield batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_a_processor_whose_feed_cannot_be_read_says_so(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints
) -> None:
    feed: Any = Away(store)
    await fill(store, accounts=1)
    processor = Processor(InSQLite(), store, checkpoints, feed=feed)
    async with running(processor):
        await until(processor.caught_up.is_set)
        feed.away = True
        await deposit(store, "a-0", 5)
        await until(lambda: processor.state == "waiting for the store")
        told = await status(processor)
        assert told.waiting == "StoreUnavailable"
        assert told.problems == ["it waits for the store: StoreUnavailable"]
        await until(lambda: "it waits for the store" in health(processor, max_lag=0.2).get(processor.name, ""))
        feed.away = False
        await until(processor.caught_up.is_set)
        assert processor.state == "live"
        assert (await status(processor)).problems == []
        assert health(processor, max_lag=0.2) == {}


async def test_after_an_outage_a_processor_has_not_caught_up_until_it_has_handled_what_was_stored_in_it(
    store: SQLiteStore,
) -> None:
    reached, resume = asyncio.Event(), asyncio.Event()

    class Blocked(Outside, tag="blocked"):
        async def handle_movement(self, event: Movement, context: Context) -> None:
            if event == Deposited(amount=66):
                reached.set()
                await resume.wait()

    feed: Any = Away(store)
    await fill(store, accounts=1)
    processor = Processor(Blocked(), store, MemoryCheckpoints(), feed=feed)
    async with running(processor):
        await until(processor.caught_up.is_set)
        feed.away = True
        await deposit(store, "a-0", 66)
        await until(lambda: processor.state == "waiting for the store")
        feed.away = False
        announced = asyncio.create_task(processor.caught_up.wait())
        await asyncio.wait_for(reached.wait(), 10)
        assert not announced.done()
        assert processor.lag > 0
        resume.set()
        await asyncio.wait_for(announced, 10)
        assert processor.lag == 0


async def test_the_first_commit_after_hours_does_not_make_a_processor_lag_by_hours(store: SQLiteStore) -> None:
    async with MemoryStore() as writer:
        await fill(writer, accounts=1, deposits=1)
        (first,) = await commits_of(writer)
        await store.append(replace(first, time=first.time - 7_200_000_000, position=None))
    lags = list[float]()

    class Watched(MemoryCheckpoints):
        async def positions(self, processor: str, streams: Collection[str]) -> dict[str, Position]:
            lags.append(asked.lag)
            return await super().positions(processor, streams)

    asked = Processor(Outside(), store, Watched())
    async with running(asked):
        await until(asked.caught_up.is_set)
        lags.clear()
        await asked.wait_for(await Repository(Account, store).save(Account.open("b-0", owner="bob")))
    assert lags
    assert max(lags) < 60


class Scanning(Away):
    """A feed in no order of time: the newest commits come first, as in a scan."""

    ordered: Any = False

    async def feed(
        self, *, after: str = "", follow: bool = True, report_damaged: bool = False, categories: Collection[str] = ()
    ) -> AsyncGenerator[Batch]:
        commits: Sequence[Any] = list(reversed(await commits_of(self._store)))
        for count, commit in enumerate(commits):
            yield Batch([commit], f"scan-{count}", caught_up=False, is_scan=True)
        yield Batch([], "end", caught_up=True)
        await asyncio.Event().wait()

    def earliest(self, checkpoints: Any) -> str:
        return ""

    async def remaining(self, after: str) -> int | None:
        return None

    async def behind(self, after: str) -> float | None:
        return None


async def test_a_scan_that_has_begun_is_not_a_small_lag(store: SQLiteStore) -> None:
    reached, resume = asyncio.Event(), asyncio.Event()

    class Blocked(Outside, tag="blocked"):
        async def handle_movement(self, event: Movement, context: Context) -> None:
            if len(self.seen) > 2:
                reached.set()
                await resume.wait()
            self.seen[context.stream].append(context.id)

    await fill(store, accounts=6, deposits=1)
    feed: Any = Scanning(store)
    processor = Processor(Blocked(), store, MemoryCheckpoints(), feed=feed)
    async with running(processor):
        await asyncio.wait_for(reached.wait(), 10)
        told = await status(processor)
        assert (told.lag_seconds, told.state) == (None, "catching up")
        assert health(processor) == {"blocked@1": "it scans the store"}
        resume.set()
        await until(processor.caught_up.is_set)
        assert health(processor) == {}


async def test_many_streams_that_fail_are_not_healthy(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["eventsrc.processing.status"], "MANY_ASIDE", 3)
    processor = Processor(InSQLite(), store, checkpoints, attempts=1_000)
    processor.projection.poison = {1}
    await fill(store, accounts=5, deposits=2)
    async with running(processor):
        await until(lambda: len(processor.pipeline.catch_up.entries) == 5)
        assert health(processor) == {"in-sqlite@1": "5 streams fail and are retried: Refused"}
        told = await status(processor)
        assert (told.aside, told.problems) == (5, ["5 streams are retried"])
        processor.projection.poison = set()
        await until(lambda: health(processor) == {})


async def test_any_process_can_ask_how_far_a_processor_is_behind(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints, others: SQLiteCheckpoints
) -> None:
    """By the stored checkpoint: the age of the oldest commit after it, and how many there are."""
    async with MemoryStore() as writer:
        await fill(writer, accounts=2, deposits=2)
        for number, commit in enumerate(await commits_of(writer)):
            old = replace(commit, time=commit.time - 1_000_000 * (1000 - 100 * number), position=None)
            await store.append(old)
    asked = Processor(InSQLite(), store, others)
    told = await status(asked)
    assert told.lag_commits == 4
    assert told.lag_seconds == pytest.approx(1000, abs=60)
    processor = Processor(InSQLite(), store, checkpoints)
    await processor.run(until_caught_up=True)
    told = await status(asked)
    assert (told.lag_commits, told.lag_seconds, told.state) == (0, 0.0, "stopped")
    await deposit(store, "a-0", 5)
    told = await status(asked)
    assert told.lag_commits == 1
    assert told.lag_seconds is not None
    assert told.lag_seconds < 60


async def test_a_worker_whose_streams_are_quiet_does_not_lag() -> None:
    """Next to a busy one."""
    async with MemoryStore() as store:
        await fill(store, accounts=8, deposits=1)
        checkpoints = MemoryCheckpoints()
        pair = [Processor(Outside(), store, checkpoints) for _ in range(2)]
        runners = [Runner(each, leases=Leases(slots=2, ttl=0.6), save_every=0.05) for each in pair]
        tasks = [asyncio.create_task(runner.run()) for runner in runners]
        await until(lambda: [len(each.pipeline.assignment.held) for each in pair] == [1, 1])
        busy, quiet = pair
        name = next(f"a-{number}" for number in range(8) if busy.pipeline.assignment.holds(f"account-a-{number}"))
        for amount in range(20):
            await busy.wait_for(await deposit(store, name, amount))
            await until(lambda: quiet.lag < 0.5, 2)
        assert (quiet.state, health(quiet, max_lag=1.0)) == ("live", {})
        for runner in runners:
            runner.stop()
        await asyncio.gather(*tasks)


async def test_a_processor_that_keeps_up_is_live_while_commits_come(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints
) -> None:
    await fill(store, accounts=2)
    processor = Processor(InSQLite(), store, checkpoints)
    states = set[str]()
    async with running(processor):
        await until(processor.caught_up.is_set)
        for amount in range(40):
            await deposit(store, "a-0", amount)
            states.add(processor.state)
            assert processor.lag < 5
    assert states == {"live"}


async def test_a_paused_processor_says_so_everywhere(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints, others: SQLiteCheckpoints
) -> None:
    await fill(store, accounts=1)
    processor, other = Processor(InSQLite(), store, checkpoints), Processor(InSQLite(), store, others)
    async with running(processor):
        await until(processor.caught_up.is_set)
        await other.pause()
        await until(lambda: processor.state == "paused")
        assert health(processor) == {}
        assert [(await status(each)).paused for each in (processor, other)] == [True, True]
        await other.resume()
        await until(lambda: processor.state == "live")


async def test_any_process_can_list_all_processors(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints, others: SQLiteCheckpoints
) -> None:
    class Newer(InSQLite, tag="in-sqlite"):
        version = 2

    assert await processors(others) == []
    first = await parking(store, checkpoints)
    runner = Runner(first, leases=Leases(slots=2, worker="ann"), save_every=0.05)
    async with asyncio.TaskGroup() as group:
        group.create_task(runner.run())
        await first.wait_for(await deposit(store, "a-1", 5))
        await deposit(store, "a-0", 66)
        await until(lambda: health(first) == {"in-sqlite@1": "1 streams are parked"})
        await Processor(Newer(), store, checkpoints).pause()
        await others.park(
            "in-sqlite@2",
            Parked(stream="account-a-1", version=1, error="", attempts=1, since=1, state="retrying"),
            Fence(0, 1),
        )
        old, new = await processors(others)
        runner.stop()
    assert (old.name, old.active, old.parked, old.retrying) == ("in-sqlite@1", True, 1, 0)
    assert old.slots == {0: "ann", 1: "ann"}
    assert (new.name, new.active, new.parked, new.retrying, new.slots) == ("in-sqlite@2", False, 0, 1, {})
    assert [each.registration.paused for each in (old, new)] == [False, True]
    assert old.registration == await checkpoints.registry.registration("in-sqlite@1")
    assert {*(await processors(others))[0].slots.values()} == {""}
    await first.forget()
    assert [each.name for each in await processors(others)] == ["in-sqlite@2"]
