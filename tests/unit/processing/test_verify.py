"""`verify` compares streams with positions; `status` and `health` report on a processor."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.bank import Account
from support.ledger import InMemory, InSQLite, commits_of, deposit, fill, ids_of, running, until

from eventsrc import Fenced, Head, MemoryStore, Repository, SQLiteStore
from eventsrc.processing import MemoryProjection, Processor, SQLiteCheckpoints, health, status, verify


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


@pytest.fixture
async def checkpoints(tmp_path: Path) -> AsyncIterator[SQLiteCheckpoints]:
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        yield checkpoints


async def hinted(store: MemoryStore, checkpoints: SQLiteCheckpoints, streams: int) -> Processor[InSQLite]:
    """Return a processor that has handled only the first `streams` streams."""
    processor = Processor(InSQLite(), store, checkpoints, attempts=1)
    await processor.pipeline.prepare()
    await processor.pipeline.assignment.take_all()
    await processor.pipeline.handle((await commits_of(store))[: streams * 4])
    return processor


async def test_commits_that_the_feed_has_not_delivered_are_found_and_handled(
    store: MemoryStore, checkpoints: SQLiteCheckpoints
) -> None:
    await fill(store, accounts=6)
    processor = await hinted(store, checkpoints, 2)
    await deposit(store, "a-1", 9)
    found = await verify(processor, deliver=False)
    assert (found.streams, found.missing, found.handled) == (6, 17, 0)
    found = await verify(processor)
    assert (found.missing, found.handled, found.parked, list(found.lost)) == (17, 17, 0, [])
    assert await processor.projection.read_handled() == await ids_of(store)
    assert (await verify(processor)).missing == 0


async def test_verify_runs_in_another_process_while_none_runs(
    store: MemoryStore, checkpoints: SQLiteCheckpoints
) -> None:
    await fill(store)
    await Processor(InSQLite(), store, checkpoints).run(until_caught_up=True)
    await deposit(store, "a-1", 9)
    found = await verify(other := Processor(InSQLite(), store, checkpoints))
    assert (found.missing, found.handled) == (1, 1)
    assert await other.projection.read_handled() == await ids_of(store)


class Busy(MemoryStore):
    """Calls `after_heads` once its heads were read."""

    async def heads(self) -> AsyncGenerator[Sequence[Head]]:
        async for page in super().heads():
            await self.after_heads()
            yield page

    after_heads: Callable[[], Awaitable[None]]


async def test_verify_continues_after_a_worker_has_taken_over(checkpoints: SQLiteCheckpoints) -> None:
    async with Busy() as store:
        await fill(store)
        worker = Processor(InSQLite(), store, checkpoints)
        await worker.pipeline.prepare()
        await worker.pipeline.assignment.take_all()
        store.after_heads = worker.pipeline.assignment.take_all
        found = await verify(other := Processor(InSQLite(), store, checkpoints))
        assert (found.missing, found.handled) == (12, 12)
        assert await other.projection.read_handled() == await ids_of(store)
        store.after_heads = Processor(InSQLite(), store, checkpoints).pipeline.assignment.take_all
        await deposit(store, "a-1", 9)
        with pytest.raises(Fenced):  # a worker with slots of its own has lost them
            await verify(worker)


async def test_parked_streams_are_counted_and_not_handled(store: MemoryStore, checkpoints: SQLiteCheckpoints) -> None:
    await fill(store, accounts=2)
    processor = await hinted(store, checkpoints, 0)
    processor.projection.poison = {2}
    await processor.pipeline.handle(await commits_of(store))
    await processor.pipeline.wait_until_idle()
    found = await verify(processor)
    assert (found.parked, found.missing) == (2, 0)


async def test_streams_of_a_restored_store_are_reported_as_lost_or_changed(
    checkpoints: SQLiteCheckpoints, tmp_path: Path
) -> None:
    async with SQLiteStore(tmp_path / "store.db") as store:
        await fill(store, accounts=2, deposits=2)
        copy(tmp_path / "store.db", tmp_path / "backup.db")
        for account in ("a-0", "a-1"):
            await deposit(store, account, 1)
        await Processor(InSQLite(), store, checkpoints).run(until_caught_up=True)
    async with SQLiteStore(tmp_path / "backup.db") as restored:
        await deposit(restored, "a-0", 5)
        found = await verify(Processor(InSQLite(), restored, checkpoints))
    assert list(found.lost) == [Head("account-a-1", 2)]
    assert list(found.changed) == [Head("account-a-0", 3)]
    assert (found.missing, found.handled) == (0, 0)


async def test_streams_that_the_store_no_longer_has_are_reported_as_lost(
    checkpoints: SQLiteCheckpoints, tmp_path: Path
) -> None:
    async with SQLiteStore(tmp_path / "store.db") as store:
        await fill(store, accounts=1)
        copy(tmp_path / "store.db", tmp_path / "backup.db")
        for account in ("a-1", "a-2"):
            await Repository(Account, store).save(Account.open(account, owner="ann"))
        await deposit(store, "a-0", 1)
        await Processor(InSQLite(), store, checkpoints).run(until_caught_up=True)
    async with SQLiteStore(tmp_path / "backup.db") as restored:
        found = await verify(Processor(InSQLite(), restored, checkpoints))
    assert sorted(found.lost) == [Head("account-a-0", 4), Head("account-a-1", 0), Head("account-a-2", 0)]
    assert (found.streams, found.missing, list(found.changed)) == (1, 0, [])


def copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


async def test_a_stream_that_grows_during_verify_is_not_lost(
    store: MemoryStore, checkpoints: SQLiteCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store, accounts=2)
    processor = await hinted(store, checkpoints, 2)
    heads = await store.heads_after("")

    async def as_they_were(after: str) -> Sequence[Head]:
        return [] if after else heads

    monkeypatch.setattr(store, "heads_after", as_they_were)
    await deposit(store, "a-1", 1)
    await processor.pipeline.handle(await commits_of(store))
    found = await verify(processor)
    assert (list(found.lost), found.missing) == ([], 0)


async def test_commits_older_than_the_start_are_not_missing(store: MemoryStore) -> None:
    await fill(store, accounts=2)
    processor = Processor(InMemory(), store, start="now")
    async with running(processor):
        await until(lambda: processor.pipeline.assignment.held)
        await processor.wait_for(await deposit(store, "a-0", 1))
        found = await verify(processor)
    assert (found.streams, found.missing) == (2, 0)
    assert await processor.projection.read_handled() == {"account-a-0": ["account-a-0@5.0"]}


async def test_status_and_health_of_a_processor(store: MemoryStore, checkpoints: SQLiteCheckpoints) -> None:
    await fill(store, accounts=2)
    processor = Processor(InSQLite(), store, checkpoints, attempts=1)
    stopped = await status(processor)
    assert (stopped.name, stopped.state, stopped.lag_commits) == ("in-sqlite@1", "stopped", 8)
    assert "one transaction" in stopped.guarantee
    assert health(processor) == {"in-sqlite@1": "it has stopped"}
    processor.projection.poison = {66}
    async with running(processor):
        await asyncio.wait_for(processor.caught_up.wait(), 10)
        assert health(processor) == {}
        await deposit(store, "a-0", 66)
        await until(lambda: processor.pipeline.parking.parked)
        await processor.wait_for(await deposit(store, "a-1", 1))
        assert health(processor) == {"in-sqlite@1": "1 streams are parked"}
        live = await status(processor)
        assert (live.state, live.handled, live.parked, live.active) == ("live", 9, 1, True)
        assert live.problems == ["1 streams are parked"]
    assert (await status(processor)).lag_commits == 0


async def test_health_reports_a_processor_that_lags(store: MemoryStore) -> None:
    blocked, resume = asyncio.Event(), asyncio.Event()

    class Slow(InMemory, tag="slow"): ...

    processor: Processor[MemoryProjection] = Processor(Slow(), store)
    apply = processor.projection.apply

    async def slowly(runs):  # type: ignore[no-untyped-def]
        failures = await apply(runs)
        blocked.set()
        await resume.wait()
        return failures

    processor.projection.apply = slowly  # type: ignore[method-assign]
    async with MemoryStore() as writer:
        await fill(writer, accounts=1)
        for commit in await commits_of(writer):
            await store.append(replace(commit, time=commit.time - 120_000_000, position=None))
    async with running(processor):
        await blocked.wait()
        assert processor.pipeline.progress.in_flight == 4
        assert "it lags by" in health(processor)["slow@1"]
        resume.set()
        await asyncio.wait_for(processor.caught_up.wait(), 10)
        assert health(processor) == {}
