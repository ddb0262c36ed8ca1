"""Checkpoints of one store are not used for another one, for another tenant, or for a store that was restored."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.ledger import InSQLite, commits_of, deposit, fill, ids_of

from eventsrc import FeedTrimmed, MemoryStore, SQLiteStore, StoreChanged, StreamsParked
from eventsrc.processing import Processor, Runner, SQLiteCheckpoints, rebuild, verify


class Second(InSQLite, tag="in-sqlite"):
    version = 2


@pytest.fixture
async def checkpoints(tmp_path: Path) -> AsyncIterator[SQLiteCheckpoints]:
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        yield checkpoints


def back_up(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


async def handled(processor: Processor[Any]) -> dict[str, list[str]]:
    return await processor.projection.read_handled()  # type: ignore[no-any-return]


@pytest.mark.parametrize("written", [0, 2, 5])
async def test_a_restored_store_is_noticed_before_anything_is_handled(
    checkpoints: SQLiteCheckpoints, tmp_path: Path, written: int
) -> None:
    """Also if it was written again, up to the checkpoint or past it."""
    async with SQLiteStore(tmp_path / "store.db") as store:
        await fill(store, accounts=2, deposits=2)
        back_up(tmp_path / "store.db", tmp_path / "backup.db")
        for amount in (5, 6):
            await deposit(store, "a-0", amount)
        await Processor(InSQLite(), store, checkpoints).run(until_caught_up=True)
    async with SQLiteStore(tmp_path / "backup.db") as restored:
        for amount in range(written):
            await deposit(restored, "a-1", amount)
        processor = Processor(InSQLite(), restored, checkpoints)
        before = await handled(processor)
        with pytest.raises((FeedTrimmed, StoreChanged), match="forget"):
            await processor.run(until_caught_up=True)
        assert await handled(processor) == before
        await processor.forget()  # as the error says
        await processor.run(until_caught_up=True)
        assert await handled(processor) == await ids_of(restored)


@pytest.mark.parametrize("categories", [(), ("account",)])
async def test_a_store_restored_into_the_file_that_is_followed_is_noticed(
    checkpoints: SQLiteCheckpoints, tmp_path: Path, categories: tuple[str, ...]
) -> None:
    """When it is written again past what was read, before anything of the new history is handled."""
    async with SQLiteStore(tmp_path / "store.db") as store:
        await fill(store, accounts=2, deposits=2)
        back_up(tmp_path / "store.db", tmp_path / "backup.db")
        for amount in (5, 6):
            await deposit(store, "a-0", amount)
        processor = Processor(InSQLite(), store, checkpoints)
        processor.projection.categories = categories  # type: ignore[misc]
        running = asyncio.create_task(processor.run())
        await processor.caught_up.wait()
        before = await handled(processor)
        back_up(tmp_path / "backup.db", tmp_path / "store.db")
        for amount in range(4):
            await deposit(store, "a-1", amount)
        with pytest.raises(FeedTrimmed, match="restored"):
            await asyncio.wait_for(running, 10)
        assert await handled(processor) == before


async def test_a_store_restored_to_after_the_checkpoint_is_noticed_by_the_positions(
    checkpoints: SQLiteCheckpoints, tmp_path: Path
) -> None:
    """The checkpoint is older than the backup, but the positions are newer: the process was killed before a write."""
    async with SQLiteStore(tmp_path / "store.db") as store:
        await fill(store, accounts=2, deposits=2)
        back_up(tmp_path / "store.db", tmp_path / "backup.db")
        await deposit(store, "a-0", 5)
        processor = Processor(InSQLite(), store, checkpoints)
        await processor.run(until_caught_up=True)
        await processor.resume_from("")  # as if no checkpoint had been written
    async with SQLiteStore(tmp_path / "backup.db") as restored:
        await deposit(restored, "a-0", 7)  # in the place of the handled one
        await deposit(restored, "a-0", 8)
        again = Processor(InSQLite(), restored, checkpoints)
        before = await handled(again)
        with pytest.raises(StoreChanged, match=r"account-a-0 .* version 3"):
            await again.run(until_caught_up=True)
        assert await handled(again) == before


async def test_the_checkpoints_of_another_store_are_refused(checkpoints: SQLiteCheckpoints, tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "one.db") as one, SQLiteStore(tmp_path / "two.db") as two, MemoryStore() as three:
        await fill(one, accounts=2)
        for other in (two, three):
            await fill(other, accounts=2, deposits=6)
        await Processor(InSQLite(), one, checkpoints).run(until_caught_up=True)
        for other in (two, three):
            processor = Processor(InSQLite(), other, checkpoints)
            with pytest.raises(StoreChanged, match="another store or tenant"):
                await processor.run(until_caught_up=True)
            with pytest.raises(StoreChanged):
                await verify(processor)
            assert await handled(processor) == await ids_of(one)


async def test_a_copy_of_the_store_that_was_not_written_is_the_same_store(
    checkpoints: SQLiteCheckpoints, tmp_path: Path
) -> None:
    async with SQLiteStore(tmp_path / "store.db") as store:
        await fill(store, accounts=2)
        await Processor(InSQLite(), store, checkpoints).run(until_caught_up=True)
        back_up(tmp_path / "store.db", tmp_path / "moved.db")
    async with SQLiteStore(tmp_path / "moved.db") as moved:
        await deposit(moved, "a-0", 5)
        processor = Processor(InSQLite(), moved, checkpoints)
        await processor.run(until_caught_up=True)
        assert await handled(processor) == await ids_of(moved)


async def test_a_parked_stream_is_not_retried_from_another_store(
    checkpoints: SQLiteCheckpoints, tmp_path: Path
) -> None:
    async with SQLiteStore(tmp_path / "one.db") as one, SQLiteStore(tmp_path / "two.db") as two:
        await fill(one, accounts=1)
        await fill(two, accounts=1, deposits=9)
        poisoned = Processor(InSQLite(), one, checkpoints, attempts=1)
        poisoned.projection.poison = {2}
        with pytest.raises(StreamsParked):
            await poisoned.run(until_caught_up=True)
        other = Processor(InSQLite(), two, checkpoints)
        before = await handled(other)
        for act in (other.retry("account-a-0"), other.skip("account-a-0", "a test")):
            with pytest.raises(StoreChanged):
                await act
        assert await handled(other) == before
        assert [(each.stream, each.version) for each in await other.parked()] == [("account-a-0", 3)]


async def test_a_version_is_not_rebuilt_from_another_store(checkpoints: SQLiteCheckpoints, tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "one.db") as one, SQLiteStore(tmp_path / "two.db") as two:
        await fill(one, accounts=2)
        await fill(two, accounts=2)
        await Processor(InSQLite(), one, checkpoints).run(until_caught_up=True)
        with pytest.raises(StoreChanged):
            await rebuild(Processor(Second(), two, checkpoints))
        assert await checkpoints.active("in-sqlite") == 1


async def test_one_processor_of_a_runner_with_foreign_checkpoints_ends_the_run(tmp_path: Path) -> None:
    async with (
        SQLiteStore(tmp_path / "one.db") as one,
        SQLiteStore(tmp_path / "two.db") as two,
        SQLiteCheckpoints(tmp_path / "own.db") as own,
        SQLiteCheckpoints(tmp_path / "foreign.db") as foreign,
    ):
        await fill(one)
        await fill(two)
        await Processor(InSQLite(), one, foreign).run(until_caught_up=True)

        class Other(InSQLite, tag="other"): ...

        pair: list[Processor[Any]] = [Processor(Other(), two, own), Processor(InSQLite(), two, foreign)]
        with pytest.raises(StoreChanged, match="in-sqlite@1"):
            async with asyncio.timeout(20):
                await Runner(*pair).run()
        assert len(await commits_of(one)) == 12
