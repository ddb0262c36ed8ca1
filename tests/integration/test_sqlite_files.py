"""The files of SQLite: those of others are left as they were, and those that are replaced while open are noticed."""

# ruff: noqa: ASYNC240  # files are made and broken while nothing else runs
from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from eventsrc import CommitOutcomeUnknown, SQLiteStore, StoreRejected
from eventsrc.processing import SQLiteCheckpoints
from eventsrc.stores.sqlite import threads
from eventsrc.testing.contract.samples import fill, fresh_stream, make_commit

Snapshot = dict[str, tuple[bytes, int, int]]

REFUSED = r"another program|schema version|not an SQLite|damaged|cannot be opened|read-only|truncated"


def snapshot_of(folder: Path) -> Snapshot:
    """Return content, time of change and mode of each file."""
    found: Snapshot = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        found[path.name] = content, (about := path.stat()).st_mtime_ns, about.st_mode
    return found


def theirs(path: Path, *statements: str, journal: str = "DELETE") -> None:
    """Make a database of another program."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode = {journal}")
        db.execute("CREATE TABLE commits (message TEXT)")
        for statement in statements:
            db.execute(statement)


def crashed(path: Path, *statements: str, journal: str = "DELETE") -> None:
    """Make what is left of a database whose program was killed: with a log, or a journal to be rolled back."""
    folder = path.parent / "elsewhere"
    folder.mkdir()
    with closing(sqlite3.connect(folder / path.name, isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode = {journal}")
        db.execute("PRAGMA cache_size = 1")
        for statement in statements:
            db.execute(statement)
        for file in list(folder.iterdir()):
            if not file.name.endswith("-shm"):
                shutil.copy(file, path.parent)
    shutil.rmtree(folder)


BLOBS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60) "
    "INSERT INTO t SELECT zeroblob(3000) FROM n"
)


def cut(path: Path, size: int) -> None:
    theirs(path, "CREATE TABLE t (x)", BLOBS)
    os.truncate(path, size)


def emptied(path: Path) -> None:
    crashed(path, "CREATE TABLE t (x)", BLOBS, journal="WAL")
    os.truncate(path, 0)


def write_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


FOREIGN: dict[str, Callable[[Path], object]] = {
    "text": write_bytes(b"Dear diary, " * 1000),
    "one byte": write_bytes(b"x"),
    "encrypted": write_bytes(bytes((each * 167 + 13) % 251 for each in range(8192))),
    "zeros": write_bytes(bytes(8192)),
    **{
        f"{journal}, version {version}": lambda path, journal=journal, version=version: theirs(  # type: ignore[misc]
            path, f"PRAGMA user_version = {version}", journal=journal
        )
        for journal in ("DELETE", "TRUNCATE", "PERSIST", "WAL")
        for version in (0, 1, 2, 99)
    },
    "a version, no tables": lambda path: theirs(path, "DROP TABLE commits", "PRAGMA user_version = 1"),
    "killed, WAL": lambda path: crashed(path, "CREATE TABLE t (x)", BLOBS, journal="WAL"),
    "killed, WAL, a version": lambda path: crashed(
        path,
        "CREATE TABLE commits (x)",
        "PRAGMA user_version = 1",
        "PRAGMA wal_checkpoint",
        BLOBS.replace(" t ", " commits "),
        journal="WAL",
    ),
    "killed in a transaction": lambda path: crashed(path, "CREATE TABLE t (x)", BLOBS, "BEGIN", "UPDATE t SET x = 1"),
    "truncated": lambda path: cut(path, 8192),
    "truncated to a header": lambda path: cut(path, 100),
    "emptied, with its log": emptied,
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/null"),
}


@pytest.mark.parametrize("kind", FOREIGN)
async def test_a_file_of_another_program_is_refused_and_left_as_it_was(tmp_path: Path, kind: str) -> None:
    FOREIGN[kind](path := tmp_path / "events.db")
    before = snapshot_of(tmp_path) if "pipe" not in kind else {}
    with pytest.raises(StoreRejected, match=REFUSED):
        await SQLiteStore(path).open()
    assert (snapshot_of(tmp_path) if "pipe" not in kind else {}) == before


@pytest.mark.parametrize(
    "kind", ["text", "one byte", "encrypted", "zeros", "emptied, with its log", "a folder", "a pipe"]
)
async def test_a_file_that_cannot_hold_checkpoints_is_left_as_it_was(tmp_path: Path, kind: str) -> None:
    """That of another program can, because tables of read models are next to those of the checkpoints."""
    FOREIGN[kind](path := tmp_path / "model.db")
    before = snapshot_of(tmp_path) if "pipe" not in kind else {}
    with pytest.raises(StoreRejected, match=REFUSED):
        await SQLiteCheckpoints(path).open()
    assert (snapshot_of(tmp_path) if "pipe" not in kind else {}) == before


async def test_each_refuses_the_file_of_the_other_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    async with SQLiteStore(store := tmp_path / "events.db"), SQLiteCheckpoints(model := tmp_path / "model.db"):
        pass
    before = snapshot_of(tmp_path)
    for other in (SQLiteStore(model), SQLiteCheckpoints(store)):
        with pytest.raises(StoreRejected, match=r"another program's tables|file of an event store"):
            await other.open()
    assert snapshot_of(tmp_path) == before


async def test_a_store_whose_process_was_killed_opens_again(tmp_path: Path) -> None:
    """Also in the middle of its creation: whatever is there of a transaction is taken back."""
    path = tmp_path / "events.db"
    (elsewhere := tmp_path / "theirs").mkdir()
    async with SQLiteStore(elsewhere / "events.db") as store:
        await store.append(first := make_commit("s-1"))
        for name in ("events.db", "events.db-wal"):
            shutil.copy(elsewhere / name, tmp_path)
    async with SQLiteStore(path) as store:
        assert [each.id for each in (await store.load("s-1")).commits] == [first.id]
    path.unlink()
    crashed(path, "BEGIN", "CREATE TABLE t (x)", BLOBS)
    assert path.stat().st_size
    assert path.with_name("events.db-journal").stat().st_size
    async with SQLiteStore(path) as store:
        await store.append(make_commit("s-1"))


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
async def test_all_files_have_the_mode_that_was_asked_for(tmp_path: Path, mode: int) -> None:
    for opened in (
        SQLiteStore(tmp_path / "events.db", file_mode=mode),
        SQLiteCheckpoints(tmp_path / "model.db", file_mode=mode),
    ):
        async with opened:
            modes = [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()]
            assert modes == [mode] * 3
        for path in tmp_path.iterdir():
            path.unlink()


async def test_by_default_only_the_owner_may_read_and_modes_of_existing_files_stay(tmp_path: Path) -> None:
    async with SQLiteStore(path := tmp_path / "events.db"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    async with SQLiteStore(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    for mode in (0o400, 0o1600, -1):
        with pytest.raises(ValueError, match="file_mode"):
            SQLiteStore(path, file_mode=mode)


def delete(path: Path) -> None:
    path.unlink()


def move_away(path: Path) -> None:
    path.rename(path.with_name("old.db"))


def move_over(path: Path) -> None:
    shutil.copy(path, other := path.with_name("other.db"))
    other.replace(path)


def delete_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def replace_log(path: Path) -> None:
    log = path.with_name(f"{path.name}-wal")
    shutil.copy(log, other := path.with_name("other-wal"))
    other.replace(log)


def delete_shared_memory(path: Path) -> None:
    path.with_name(f"{path.name}-shm").unlink()


LOSSES = [delete, move_away, move_over, delete_log, replace_log, delete_shared_memory]


@pytest.mark.parametrize("lose", LOSSES)
async def test_a_file_that_is_lost_while_the_store_is_open_is_noticed(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    path = tmp_path / "events.db"
    async with SQLiteStore(path) as store:
        await store.append(make_commit("s-1"))
        await store.load("s-1")
        await asyncio.sleep(0.1)  # until the file is looked for before a transaction
        lose(path)
        for call in (store.append(make_commit("s-1", 2)), store.load("s-1"), store.append(make_commit("s-2"))):
            with pytest.raises(StoreRejected, match=r"events\.db.*(gone|replaced).*open the store again") as raised:
                await call
            assert raised.value.code == "FILE"
    assert path.exists() or lose in (delete, move_away)  # nothing is created in its place


@pytest.mark.parametrize("lose", LOSSES)
async def test_a_file_that_is_lost_between_two_appends_acknowledges_nothing(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    async with SQLiteStore(path := tmp_path / "events.db") as store:
        for version in range(1, 4):
            await store.append(make_commit("s-1", version))
        lose(path)
        for _ in range(2):
            with pytest.raises((StoreRejected, CommitOutcomeUnknown), match=r"gone|replaced"):
                await store.append(make_commit("s-1", 4))
        with pytest.raises(StoreRejected, match=r"gone|replaced"):
            await store.append(make_commit("s-1", 4))


@pytest.mark.parametrize("lose", LOSSES)
async def test_a_checkpoints_file_that_is_lost_is_noticed(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    path = tmp_path / "model.db"
    async with SQLiteCheckpoints(path) as checkpoints:
        await checkpoints.write(lambda db: db.execute("CREATE TABLE t (x)"))
        await asyncio.sleep(0.1)
        lose(path)
        for call in (
            checkpoints.write(lambda db: db.execute("INSERT INTO t VALUES (1)")),
            checkpoints.read(lambda db: db.execute("SELECT * FROM t").fetchall()),
            checkpoints.positions("p", ["s-1"]),
        ):
            with pytest.raises(StoreRejected, match=r"model\.db.*(gone|replaced)") as raised:
                await call
            assert raised.value.code == "FILE"


async def test_a_file_that_is_moved_away_and_back_is_the_same(tmp_path: Path) -> None:
    path, away = tmp_path / "events.db", tmp_path / "away.db"
    async with SQLiteStore(path) as store:
        await store.append(make_commit("s-1"))
        await asyncio.sleep(0.1)
        path.rename(away)
        with pytest.raises(StoreRejected):
            await store.append(make_commit("s-1", 2))
        away.rename(path)
        await store.append(make_commit("s-1", 2))


async def test_a_commit_into_a_file_that_is_lost_during_the_commit_is_not_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SQLiteStore(path) as store:
        assert store._writer is not None

        def lose(statement: str) -> None:
            if statement == "COMMIT":
                path.rename(tmp_path / "old.db")

        store._writer._connection.set_trace_callback(lose)
        commit = make_commit("s-1")
        with pytest.raises(CommitOutcomeUnknown, match=r"events\.db is gone"):
            await store.append(commit)
        with pytest.raises(StoreRejected, match="is gone"):
            await store.append(commit)


async def test_a_file_that_takes_the_place_of_the_open_one_keeps_its_log(tmp_path: Path) -> None:
    """A store that is closed does not delete what another one has at its path."""
    path = tmp_path / "events.db"
    async with SQLiteStore(path) as old:
        await old.append(make_commit("s-1"))
        for name in ("events.db", "events.db-wal", "events.db-shm"):
            (tmp_path / name).unlink()
        async with SQLiteStore(path) as new:
            await new.append(commit := make_commit("s-2"))
            await old.aclose()
            assert (tmp_path / "events.db-wal").exists()
            await new.append(make_commit("s-2", 2))
        async with SQLiteStore(path) as new:
            assert (await new.load("s-2")).commits[0].id == commit.id


async def test_an_old_library_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    for opened in (SQLiteStore(tmp_path / "events.db"), SQLiteCheckpoints(tmp_path / "model.db")):
        with pytest.raises(StoreRejected, match=r"SQLite 3\.36\.0, and 3\.37\.0 or newer is needed") as raised:
            await opened.open()
        assert raised.value.code == "LIBRARY"
    assert not list(tmp_path.iterdir())


async def test_a_log_that_a_reader_keeps_from_starting_again_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threads, "LOG_BYTES", 500_000)
    monkeypatch.setattr("eventsrc.stores.sqlite.file._FRESH", 0.0)  # look at the size all the time
    async with SQLiteStore(path := tmp_path / "events.db") as store:
        await store.append(make_commit("s-1"))
        await fill(store, fresh_stream(), 4, size=300_000)
        assert not caplog.records  # large, but not held
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM commits").fetchall()
            await fill(store, fresh_stream(), 10, size=300_000)
        [warning, *_] = caplog.records
        assert warning.levelno == logging.WARNING
        assert "events.db-wal has grown to" in warning.getMessage()
        assert len(caplog.records) <= 3  # at each doubling
