"""Checkpoints in an SQLite file: users' own statements, and files that cannot be used."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from eventsrc import Fenced, SQLiteStore, StoreRejected, Throttled
from eventsrc.processing import Slot, SQLiteCheckpoints
from eventsrc.processing.checkpoints.sqlite.positions import advance
from eventsrc.processing.slice import Fence, PositionMoved, Slice
from eventsrc.testing.contract.samples import make_commit

P = "balances@1"
OLD = "CREATE TABLE eventsrc_positions (processor TEXT, stream TEXT, version INTEGER, epoch INTEGER)"


@pytest.fixture
async def checkpoints(tmp_path: Path) -> AsyncIterator[SQLiteCheckpoints]:
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        await checkpoints.write(lambda db: db.execute("CREATE TABLE totals (id TEXT PRIMARY KEY, total INTEGER)"))
        yield checkpoints


def run(stream: str, after: int, last: int, *, epoch: int = 1) -> Slice:
    commits = [make_commit(stream, version) for version in range(after + 1, last + 1)]
    return Slice(stream, after, commits, Fence(0, epoch), is_first=after == 0)


MISTAKES: list[tuple[Callable[[sqlite3.Connection], Any], type[Exception], str]] = [
    (lambda db: db.execute("SELECT * FROM total"), sqlite3.OperationalError, "no such table: total"),
    (lambda db: db.execute("SELEKT 1"), sqlite3.OperationalError, "syntax error"),
    (lambda db: db.execute("SELECT ?", (1, 2)), sqlite3.ProgrammingError, "binding"),
    (lambda db: db.execute("SELECT x'ff' || ''").fetchone()[0].decode(), sqlite3.OperationalError, "decode"),
    (lambda db: b"\xff".decode(), UnicodeDecodeError, "utf-8"),
    (
        lambda db: next(iter([])),
        RuntimeError,
        r"raised StopIteration; in place of next\(rows\), use next\(rows, None\)",
    ),
]


@pytest.mark.parametrize(("work", "error", "text"), MISTAKES)
async def test_a_mistake_in_a_function_is_raised_as_it_is(
    checkpoints: SQLiteCheckpoints, work: Callable[[sqlite3.Connection], Any], error: type[Exception], text: str
) -> None:
    for call in (checkpoints.read, checkpoints.write):
        with pytest.raises(error, match=text):
            await asyncio.wait_for(call(work), 5)
    assert await checkpoints.read(lambda db: db.execute("SELECT count(*) FROM totals").fetchone()) == (0,)


async def test_the_file_of_an_event_store_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    async with SQLiteStore(path := tmp_path / "events.db") as store:
        await store.append(make_commit("account-1", 1))
        with pytest.raises(StoreRejected, match=r"events\.db is the file of an event store; use a file of its own"):
            await SQLiteCheckpoints(path).open()
        await store.append(make_commit("account-1", 2))
    with closing(sqlite3.connect(path)) as db:
        assert not db.execute("SELECT name FROM sqlite_master WHERE name LIKE 'eventsrc%'").fetchall()


async def test_a_read_that_writes_and_a_broken_constraint_are_raised_as_they_are(
    checkpoints: SQLiteCheckpoints,
) -> None:
    insert = "INSERT INTO totals VALUES ('a', 1)"
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await checkpoints.read(lambda db: db.execute(insert))
    with pytest.raises(sqlite3.IntegrityError):
        await checkpoints.write(lambda db: [db.execute(insert), db.execute(insert)])
    assert await checkpoints.read(lambda db: db.execute("SELECT * FROM totals").fetchall()) == []


async def test_errors_of_the_file_are_errors_of_the_store(tmp_path: Path) -> None:
    async with SQLiteCheckpoints(tmp_path / "model.db", deadline=0.1) as checkpoints:
        with closing(sqlite3.connect(tmp_path / "model.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Throttled):
                await checkpoints.write(lambda db: db.execute("SELECT 1"))
    (tmp_path / "text.db").write_text("not a database, but a text that is long enough to be one" * 20)
    with pytest.raises(StoreRejected, match="not an SQLite database"):
        await SQLiteCheckpoints(tmp_path / "text.db").open()


async def test_a_file_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as old:
        old.execute(OLD)
    with pytest.raises(
        StoreRejected, match=r"old\.db has checkpoints of another version.*without .*id; use a new file"
    ):
        await SQLiteCheckpoints(path).open()
    with closing(sqlite3.connect(path)) as old:
        assert old.execute("SELECT name FROM sqlite_master").fetchall() == [("eventsrc_positions",)]


async def test_slices_advance_together_or_not_at_all(checkpoints: SQLiteCheckpoints) -> None:
    streams = [f"s-{i}" for i in range(500)]
    await checkpoints.write(lambda db: advance(db, P, [run(stream, 0, 1) for stream in streams]))
    mixed = [*(run(stream, 1, 3) for stream in streams), *(run(f"new-{i}", 0, 2) for i in range(500))]
    await checkpoints.write(lambda db: advance(db, P, mixed))
    assert {each.version for each in (await checkpoints.positions(P, streams)).values()} == {3}

    def insist(db: sqlite3.Connection, runs: list[Slice]) -> str:
        with pytest.raises(PositionMoved) as raised:
            advance(db, P, runs)
        return raised.value.stream  # the transaction is committed nevertheless

    bad: tuple[Slice, str]
    for bad in ((run("s-7", 1, 4), "s-7"), (run("s-7", 0, 3), "s-7"), (run("no-1", 4, 5), "no-1")):
        runs = [*(run(stream, 3, 9) for stream in streams[20:40]), run("late-1", 0, 1), bad[0], run("s-9", 3, 4)]
        assert await checkpoints.write(lambda db, runs=runs: insist(db, runs)) == bad[1]  # type: ignore[misc]
    found = await checkpoints.positions(P, [*streams, "late-1", "no-1"])
    assert len(found) == 500
    assert {each.version for each in found.values()} == {3}


async def test_one_stale_fence_stops_all_slices(checkpoints: SQLiteCheckpoints) -> None:
    await checkpoints.claim(P, Slot(number=0, of=1, epoch=2))
    with pytest.raises(Fenced):
        await checkpoints.write(lambda db: advance(db, P, [run("a-1", 0, 1, epoch=2), run("b-1", 0, 1, epoch=1)]))
    assert await checkpoints.positions(P, ["a-1", "b-1"]) == {}


@pytest.mark.parametrize(
    "statement", ["COMMIT", "-- done\nEND", "ATTACH '' AS other", "INSERT OR ROLLBACK INTO model VALUES (1), (1)"]
)
async def test_work_cannot_end_its_transaction(tmp_path: Path, statement: str) -> None:
    def work(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO model VALUES (7)")
        with suppress(sqlite3.Error):
            db.execute(statement)
        raise ValueError

    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        await checkpoints.write(lambda db: db.execute("CREATE TABLE model (number INTEGER PRIMARY KEY)"))
        with pytest.raises(ValueError):
            await checkpoints.write(work)
        assert await checkpoints.read(lambda db: db.execute("SELECT * FROM model").fetchall()) == []


async def test_work_that_was_rolled_back_is_not_taken_for_committed(tmp_path: Path) -> None:
    def work(db: sqlite3.Connection) -> None:
        with suppress(sqlite3.IntegrityError):
            db.execute("INSERT OR ROLLBACK INTO model VALUES (1), (1)")

    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        await checkpoints.write(lambda db: db.execute("CREATE TABLE model (number INTEGER PRIMARY KEY)"))
        with pytest.raises(sqlite3.OperationalError, match="rolled the transaction back"):
            await checkpoints.write(work)
