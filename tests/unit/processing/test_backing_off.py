"""When everything fails, a processor backs off as a whole: nothing is parked, and what is aside is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support.bank import Opened
from support.ledger import InMemory, InSQLite, Outside, deposit, fill, ids_of, run_with_parked, running, until

from eventsrc import SQLiteStore
from eventsrc.processing import (
    Context,
    Effects,
    Processor,
    Runner,
    SQLiteCheckpoints,
    catch_up,
    health,
    retries,
    status,
)

every_kind = pytest.mark.parametrize("kind", ["memory", "sqlite", "outside"])

Make = Callable[..., Processor[Any]]


class Second(InMemory, tag="second"): ...


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "MAX_FAILING", 5)
    monkeypatch.setattr(catch_up, "MAX_ASIDE", 10)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "ledger.db") as store:
        yield store


@pytest.fixture
async def make(kind: str, store: SQLiteStore, tmp_path: Path) -> AsyncIterator[Make]:
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:

        def made(**options: Any) -> Processor[Any]:
            if kind == "memory":
                return Processor(InMemory(), store, **options)
            return Processor(InSQLite() if kind == "sqlite" else Outside(), store, checkpoints, **options)

        yield made


@every_kind
async def test_an_outage_of_what_all_handlers_call_parks_nothing(store: SQLiteStore, make: Make) -> None:
    await fill(store, accounts=20, deposits=2)
    processor = make(attempts=2)
    processor.projection.poison = {1, 7}
    async with running(processor):
        await until(lambda: processor.state == "backing off")
        assert "streams fail and are retried" in health(processor)[processor.name]
        assert any("streams are retried" in problem for problem in (await status(processor)).problems)
        for number in range(20):
            await deposit(store, f"a-{number}", 7)
        await until(lambda: all(each.failures >= 2 for each in processor.pipeline.catch_up.entries.values()))
        await asyncio.sleep(0.3)  # the second attempts are over: without the bound, streams were parked now
        assert not processor.pipeline.parking.parked
        processor.projection.poison = set()
        await asyncio.wait_for(processor.caught_up.wait(), 20)
        assert health(processor) == {}
    assert not await processor.parked()
    assert await processor.projection.read_handled() == await ids_of(store)


class Calls(Effects, tag="calls"):
    """Calls a service that is down; the call for one stream takes long, once all fail."""

    def __init__(self) -> None:
        self.down, self.slow = True, False
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    async def handle_opened(self, event: Opened, context: Context) -> None:
        down = self.down
        if context.stream == "account-a-0" and self.slow and not self.begun.is_set():
            self.begun.set()
            await self.ended.wait()
        if down:
            raise ConnectionError


async def test_an_attempt_that_began_in_an_outage_parks_nothing_after_it(store: SQLiteStore, tmp_path: Path) -> None:
    await fill(store, accounts=8, deposits=1)
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        processor = Processor(calls := Calls(), store, checkpoints, attempts=2)
        async with running(processor):
            await until(lambda: processor.state == "backing off")
            await until(lambda: all(each.failures >= 2 for each in processor.pipeline.catch_up.entries.values()))
            calls.slow = True
            await asyncio.wait_for(calls.begun.wait(), 20)
            calls.down = False
            await until(lambda: len(processor.pipeline.catch_up.entries) == 1)
            calls.ended.set()  # it fails, after others have succeeded
            await asyncio.wait_for(processor.caught_up.wait(), 20)
        assert not await processor.parked()


@every_kind
async def test_streams_aside_are_bounded(store: SQLiteStore, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of the feed may exceed the bound; then reading stops."""
    monkeypatch.setattr(retries, "MAX_FAILING", 1_000)
    processor = make(attempts=1_000)
    processor.projection.poison = {7}
    async with running(processor):
        await fill(store, accounts=40, deposits=2)
        await asyncio.wait_for(processor.caught_up.wait(), 10)
        most = 0
        for number in range(40):
            await deposit(store, f"a-{number}", 7)
            await asyncio.sleep(0.005)
            most = max(most, len(processor.pipeline.catch_up.entries))
        await until(lambda: len(processor.pipeline.catch_up.entries) >= 10)
        assert most <= 15
        processor.projection.poison = set()
        await asyncio.wait_for(processor.caught_up.wait(), 40)
    assert await processor.projection.read_handled() == await ids_of(store)


@every_kind
async def test_a_run_to_the_end_parks_all_streams_and_says_so(store: SQLiteStore, make: Make) -> None:
    """It does not wait for ever."""
    await fill(store, accounts=20, deposits=2)
    processor = make(attempts=2)
    processor.projection.poison = {1}
    assert len(await asyncio.wait_for(run_with_parked(processor), 20)) == 20
    processor.projection.poison = set()
    assert not await processor.retry_all()
    assert await processor.projection.read_handled() == await ids_of(store)


@every_kind
async def test_one_processor_that_backs_off_does_not_hold_up_the_others(store: SQLiteStore, make: Make) -> None:
    await fill(store, accounts=20, deposits=2)
    failing, other = make(attempts=2), Processor(Second(), store)
    failing.projection.poison = {1}
    runner = Runner(failing, other)
    task = asyncio.create_task(runner.run())
    await until(lambda: failing.state == "backing off")
    for number in range(3):
        await other.wait_for(await deposit(store, f"a-{number}", 3))
    failing.projection.poison = set()
    await asyncio.wait_for(failing.caught_up.wait(), 20)
    runner.stop()
    await task
    assert await failing.projection.read_handled() == await other.projection.read_handled() == await ids_of(store)
