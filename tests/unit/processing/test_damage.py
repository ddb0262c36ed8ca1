"""A row that cannot be read as a commit parks its own stream, and holds up no other."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest
from support.ledger import InSQLite, Outside, deposit, fill, running, until

from eventsrc import SQLiteStore, StreamParked, StreamsParked
from eventsrc.processing import Processor, SQLiteCheckpoints, verify

ROW = "WHERE stream = 'account-a-1' AND version = ?"
DAMAGE = {
    "row": f"UPDATE log SET record = CAST(x'c1' || record AS BLOB) {ROW}",
    "payload": f"UPDATE log SET record = CAST(replace(record, 'amount', 'amputa') AS BLOB) {ROW}",
    "lost": f"UPDATE log SET record = x'' {ROW}",
}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "store.db") as store:
        yield store


@pytest.fixture
async def checkpoints(tmp_path: Path) -> AsyncIterator[SQLiteCheckpoints]:
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        yield checkpoints


def damage(folder: Path, statement: str, version: int) -> None:
    with closing(sqlite3.connect(folder / "store.db")) as db:
        assert db.execute(statement, (version,)).rowcount == 1
        db.commit()


def versions(handled: dict[str, list[str]]) -> dict[str, int]:
    """Return the last version of each stream that was handled."""
    return {stream: int(ids[-1].partition("@")[2].partition(".")[0]) for stream, ids in handled.items()}


@pytest.mark.parametrize("version", [1, 3, 4])
@pytest.mark.parametrize("what", DAMAGE)
async def test_only_the_stream_of_a_damaged_row_is_parked(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints, tmp_path: Path, what: str, version: int
) -> None:
    await fill(store, accounts=3)
    damage(tmp_path, DAMAGE[what], version)
    processor = Processor(InSQLite(), store, checkpoints, attempts=1)
    for _ in range(2):  # at the first start, and at the next
        processor = Processor(InSQLite(), store, checkpoints, attempts=1)
        with pytest.raises(StreamsParked, match="account-a-1"):
            await processor.run(until_caught_up=True)
        expected = {"account-a-0": 4, "account-a-1": version - 1, "account-a-2": 4}
        found = versions(await processor.projection.read_handled())
        assert found == {stream: last for stream, last in expected.items() if last}
        assert [(each.stream, each.version) for each in await processor.parked()] == [("account-a-1", version)]
    told = await verify(processor)
    assert (told.streams, told.parked, told.missing) == (3, 1, 0)
    await deposit(store, "a-2", 5)
    with pytest.raises(StreamsParked):
        await processor.run(until_caught_up=True)
    assert versions(await processor.projection.read_handled())["account-a-2"] == 5


@pytest.mark.parametrize("start", ["beginning", "now"])
async def test_a_row_that_is_damaged_while_the_processor_runs_stops_nobody(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints, tmp_path: Path, start: Literal["beginning", "now"]
) -> None:
    await fill(store, accounts=3)
    processor: Processor[Any] = Processor(Outside(), store, checkpoints, attempts=1, start=start)
    async with running(processor):
        await until(processor.caught_up.is_set)
    await deposit(store, "a-1", 5)
    await deposit(store, "a-2", 5)
    damage(tmp_path, DAMAGE["row"], 5)
    async with running(processor):
        await processor.wait_for(await deposit(store, "a-0", 6))
        await until(lambda: "account-a-1" in processor.pipeline.parking.parked)
        await processor.wait_for(await deposit(store, "a-2", 7))
    assert [(each.stream, each.version) for each in await processor.parked()] == [("account-a-1", 5)]


async def test_a_stream_whose_row_was_restored_is_handled_after_retry(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints, tmp_path: Path
) -> None:
    await fill(store, accounts=3)
    damage(tmp_path, DAMAGE["row"], 2)
    processor = Processor(InSQLite(), store, checkpoints, attempts=1)
    with pytest.raises(StreamsParked):
        await processor.run(until_caught_up=True)
    with pytest.raises(StreamParked):
        await processor.retry("account-a-1")
    damage(tmp_path, f"UPDATE log SET record = substr(record, 2) {ROW}", 2)
    await processor.retry("account-a-1")
    assert versions(await processor.projection.read_handled())["account-a-1"] == 4
    await processor.run(until_caught_up=True)


async def test_a_damaged_commit_can_be_skipped(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints, tmp_path: Path
) -> None:
    await fill(store, accounts=2)
    damage(tmp_path, DAMAGE["row"], 2)
    processor = Processor(InSQLite(), store, checkpoints, attempts=1)
    with pytest.raises(StreamsParked):
        await processor.run(until_caught_up=True)
    await processor.skip("account-a-1", "the disk has lost it")
    assert versions(await processor.projection.read_handled())["account-a-1"] == 4
    await processor.run(until_caught_up=True)
    assert [each.version for each in await checkpoints.skipped(processor.name)] == [2]
