"""The embedded store under faults: killed writers, several processes, full disks, damaged files and other programs'."""

# ruff: noqa: ASYNC240  # files are made and broken while nothing else runs
from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest

from eventsrc import (
    Commit,
    CommitOutcomeUnknown,
    ConflictError,
    CorruptPayload,
    FeedTrimmed,
    Snapshot,
    SQLiteStore,
    StoreError,
    StoreRejected,
    Throttled,
)
from eventsrc.stores.ordered import position_of
from eventsrc.stores.sqlite import rows
from eventsrc.stream_id import category_of
from eventsrc.testing.contract.samples import expect_same, fill, fresh_stream, make_commit
from eventsrc.uuid7 import uuid7

ROOT = Path(__file__).parents[2]

WRITER = """
import asyncio, sys
from eventsrc import Commit, ConflictError, SQLiteStore
from eventsrc.uuid7 import uuid7

async def main(path, stream, commits):
    async with SQLiteStore(path) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        version, left = 0, int(commits)
        while left:
            id = uuid7()
            commit = Commit(
                stream=stream, version=version + 1, id=id, time=1, events=1, tags=("t",), payload=bytes(900)
            )
            try:
                await store.append(commit)
            except ConflictError as conflict:
                assert conflict.actual > version
                version = conflict.actual
            else:
                version, left = version + 1, left - 1
                print(id.hex(), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def commit(stream: str = "s-1", version: int = 1, *, size: int = 10, correlation_id: str | None = None) -> Commit:
    return Commit(
        stream=stream,
        version=version,
        id=uuid7(),
        time=1,
        events=1,
        tags=("t",),
        payload=os.urandom(size),
        correlation_id=correlation_id,
    )


async def stored(store: SQLiteStore, stream: str = "s-1") -> list[Commit]:
    return [commit async for commit in store.read(stream)]


async def ids(store: SQLiteStore, stream: str = "s-1") -> list[bytes]:
    return [commit.id for commit in await stored(store, stream)]


def writer_connection(store: SQLiteStore) -> sqlite3.Connection:
    assert store._writer is not None
    return store._writer._connection


def read_pragma(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


@contextmanager
def connect(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


@contextmanager
def running(path: Path, stream: str, commits: int) -> Iterator[subprocess.Popen[str]]:
    """Run a process that waits for a line, then writes to a stream and prints the id of each acknowledged commit."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), stream, str(commits)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def start_writing(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(path) as store:
        yield store


async def test_a_killed_writer_loses_no_acknowledged_commit(path: Path) -> None:
    with running(path, "s-1", 1_000_000) as process:
        start_writing(process)
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(100)]
        process.send_signal(signal.SIGKILL)
        # The process continued between the last line read above and the kill; its last line may be cut.
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
        assert process.wait() == -signal.SIGKILL
    async with SQLiteStore(path) as store:
        found = await stored(store)
        assert [each.id.hex() for each in found][: len(acknowledged)] == acknowledged
        assert len(found) <= len(acknowledged) + 1  # the one in flight
        assert [each.version for each in found] == list(range(1, len(found) + 1))
        await store.append(commit(version=len(found) + 1))
    with connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_two_processes_that_share_a_file_store_each_commit_once(path: Path) -> None:
    with running(path, "s-1", 150) as one, running(path, "s-1", 150) as other:  # they also race to create the file
        start_writing(one)
        start_writing(other)
        outputs = await asyncio.gather(*(asyncio.to_thread(process.communicate) for process in (one, other)))
        assert (one.returncode, other.returncode) == (0, 0)
    acknowledged = [line for output, _ in outputs for line in output.split()]
    async with SQLiteStore(path) as store:
        found = await stored(store)
    assert len(acknowledged) == 300
    assert Counter(each.id.hex() for each in found) == Counter(acknowledged)
    assert [each.version for each in found] == list(range(1, 301))
    assert [each.position for each in found] == list(range(1, 301))


async def test_a_feed_follows_commits_of_other_processes(path: Path) -> None:
    seen: list[Commit] = []
    with running(path, "s-1", 150) as one, running(path, "s-2", 150) as other:
        start_writing(one)
        start_writing(other)
        async with SQLiteStore(path) as store, asyncio.timeout(30), aclosing(store.feed()) as batches:
            async for batch in batches:
                seen += batch.commits
                if len(seen) == 300:
                    break
    assert [each.position for each in seen] == list(range(1, 301))
    for stream in ("s-1", "s-2"):
        assert [each.version for each in seen if each.stream == stream] == list(range(1, 151))


async def test_many_stores_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    for attempt in range(5):
        stores = [SQLiteStore(tmp_path / f"{attempt}.db") for _ in range(8)]
        await asyncio.gather(*(store.open() for store in stores))
        await asyncio.gather(*(store.append(commit(f"s-{n}")) for n, store in enumerate(stores)))
        assert [len(await stored(stores[0], f"s-{n}")) for n in range(8)] == [1] * 8
        for store in stores:
            await store.aclose()


async def test_open_waits_for_another_connection_that_creates_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        refused: list[str] = []

        class Connection(sqlite3.Connection):
            def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
                if "journal_mode" in statement and not refused:
                    other.execute("BEGIN IMMEDIATE")  # SQLite refuses the change to WAL at once, whatever the deadline
                try:
                    return super().execute(statement, *values)
                except sqlite3.OperationalError:
                    refused.append(statement)
                    other.execute("COMMIT")
                    raise

        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Connection))
        async with SQLiteStore(path) as store:
            await store.append(commit())
        assert refused == ["PRAGMA journal_mode = WAL"]


async def test_appends_that_wait_at_the_same_time_share_a_transaction(store: SQLiteStore, path: Path) -> None:
    statements: list[str] = []
    writer_connection(store).set_trace_callback(statements.append)
    with connect(path) as other:
        other.execute("BEGIN IMMEDIATE")  # blocks the writer in its first transaction while the others queue
        appends = asyncio.gather(*(store.append(commit(f"s-{n}")) for n in range(300)))
        await asyncio.sleep(0)  # every append has submitted its commit
        other.execute("COMMIT")
        receipts = await appends
    assert sorted(receipt.position or 0 for receipt in receipts) == list(range(1, 301))
    assert statements.count("BEGIN IMMEDIATE") == statements.count("COMMIT") <= 2


async def test_a_conflict_does_not_fail_the_others_of_its_transaction(store: SQLiteStore, path: Path) -> None:
    await store.append(commit("s-1"))
    with connect(path) as other:
        other.execute("BEGIN IMMEDIATE")
        appends = asyncio.gather(
            store.append(commit("s-2")),
            store.append(commit("s-1")),
            store.append(commit("s-3")),
            return_exceptions=True,
        )
        await asyncio.sleep(0)
        other.execute("COMMIT")
        second, conflict, third = await appends
    assert isinstance(conflict, ConflictError)
    assert not isinstance(second, BaseException)
    assert not isinstance(third, BaseException)
    assert (second.position, third.position) == (2, 3)


async def test_position_counts_the_commits_of_the_file_without_gaps(store: SQLiteStore, path: Path) -> None:
    first = commit("s-1", 1)
    positions = [(await store.append(first)).position]
    with pytest.raises(ConflictError):
        await store.append(commit("s-1", 1))
    writer_connection(store).execute(f"PRAGMA max_page_count = {read_pragma(writer_connection(store), 'page_count')}")
    with pytest.raises(StoreRejected):
        await store.append(commit("s-1", 2, size=100_000))
    writer_connection(store).execute("PRAGMA max_page_count = 1000000")
    async with SQLiteStore(path) as other:
        positions.append((await other.append(commit("s-2", 1))).position)
    positions.append((await store.append(commit("s-1", 2))).position)
    assert positions == [1, 2, 3]
    assert (await store.append(first)).position == 1
    assert [each.position for each in await stored(store)] == [1, 3]


async def test_every_connection_forces_commits_to_disk(store: SQLiteStore, path: Path) -> None:
    await store.load("s-1")
    assert store._readers is not None
    for connection in (writer_connection(store), *store._readers._connections):
        assert connection.execute("PRAGMA journal_mode").fetchone() == (b"wal",)
        assert read_pragma(connection, "synchronous") == 2  # FULL


async def test_commits_are_found_by_correlation_id_without_a_scan(store: SQLiteStore, path: Path) -> None:
    await store.append(commit("s-1", correlation_id="c-1"))
    await store.append(commit("s-2"))
    with connect(path) as connection:
        for table in ("log", "commits"):
            query = f"SELECT stream, version FROM {table} WHERE correlation_id = 'c-1'"
            assert connection.execute(query).fetchall() == [("s-1", 1)]
            plan = [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
            assert plan == ["SEARCH log USING COVERING INDEX log_by_correlation_id (correlation_id=?)"]


async def test_a_full_disk_is_reported_and_appends_work_again_after_it(store: SQLiteStore) -> None:
    await store.append(commit())
    writer_connection(store).execute(f"PRAGMA max_page_count = {read_pragma(writer_connection(store), 'page_count')}")
    refused = commit(version=2, size=100_000)
    with pytest.raises(StoreRejected, match="disk is full") as raised:
        await store.append(refused)
    assert raised.value.code == "SQLITE_FULL"
    with pytest.raises(StoreRejected, match="disk is full"):
        await store.put_snapshot(Snapshot(stream="s-1", version=1, shape="x", payload=bytes(100_000)))
    assert [each.version for each in await stored(store)] == [1]
    writer_connection(store).execute("PRAGMA max_page_count = 1000000")
    assert (await store.append(refused)).position == 2


async def test_a_write_that_fails_during_commit_succeeds_with_the_same_commit(store: SQLiteStore, path: Path) -> None:
    first, second = commit(), commit(version=2, size=300_000)
    await store.append(first)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name("events.db-wal").stat().st_size + 50_000, hard))
    try:
        with pytest.raises(CommitOutcomeUnknown) as raised:
            await store.append(second)
        assert await ids(store) == [first.id]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.commit_id == str(second.uuid)
    assert (await store.append(second)).position == 2
    assert await ids(store) == [first.id, second.id]


async def test_a_file_locked_beyond_the_deadline_throttles(store: SQLiteStore, path: Path) -> None:
    await store.append(commit())
    refused = commit(version=2)
    with connect(path) as other:
        async with SQLiteStore(path, deadline=0.5) as late:
            other.execute("BEGIN IMMEDIATE")
            appends = [late.append(refused), late.append(commit("s-2"))]
            snapshot = late.put_snapshot(Snapshot(stream="s-1", version=1, shape="x", payload=b""))
            failures = await asyncio.gather(*appends, snapshot, return_exceptions=True)
            assert [type(each) for each in failures] == [Throttled] * 3
            assert "lock" in str(failures[0])
            assert len(await stored(store)) == 1  # reads continue
            async with SQLiteStore(path) as another:  # and a store can be opened
                assert len(await stored(another)) == 1
            other.execute("COMMIT")
            await late.append(refused)
        assert await ids(store, "s-2") == []  # what failed is not written later
    assert len(await stored(store)) == 2


async def test_a_new_file_locked_beyond_the_deadline_throttles_open(path: Path) -> None:
    store = SQLiteStore(path, deadline=0.5)
    with connect(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Throttled):
            await store.open()
    async with store:
        await store.append(commit())


@contextmanager
def unprivileged() -> Iterator[None]:
    """Run as a user that file permissions apply to; they do not apply to root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike `tmp_path`."""
    with TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o777)
        yield path
        path.chmod(0o777)


@pytest.mark.parametrize("mode", [(0o777, 0o444), (0o555, 0o666), (0o555, 0o444), (0o777, 0o000), (0o000, 0o666)])
async def test_a_file_without_write_permission_is_refused_until_it_has_it(folder: Path, mode: tuple[int, int]) -> None:
    path = folder / "events.db"
    store = SQLiteStore(path)
    first = commit()
    async with store:
        await store.append(first)
    path.chmod(mode[1])
    folder.chmod(mode[0])
    with unprivileged(), pytest.raises(StoreRejected, match=r"read-only|cannot be opened"):
        async with store:
            await store.append(commit(version=2))
    folder.chmod(0o777)
    for file in folder.iterdir():  # a log file that SQLite created in between has the mode of the database
        file.chmod(0o666)
    with unprivileged():
        async with store:
            await store.append(commit(version=2))
            assert (await ids(store))[0] == first.id
            assert len(await ids(store)) == 2


async def test_a_missing_folder_is_reported_and_may_be_created_later(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "not there" / "events.db")
    with pytest.raises(StoreRejected, match=r"not there.*folder must exist") as raised:
        await store.open()
    assert raised.value.code == "SQLITE_CANTOPEN"
    (tmp_path / "not there").mkdir()
    async with store:
        await store.append(commit())


async def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreRejected, match="cannot be opened"):
        await SQLiteStore(tmp_path).open()


async def test_a_file_that_is_not_a_database_is_refused_and_not_changed(path: Path) -> None:
    path.write_text("Dear diary, " * 1000)
    with pytest.raises(StoreRejected, match="not an SQLite database") as raised:
        await SQLiteStore(path).open()
    assert raised.value.code == "SQLITE_NOTADB"
    assert path.read_text() == "Dear diary, " * 1000


async def test_a_damaged_file_is_reported_and_can_be_used_after_a_restore(path: Path) -> None:
    store, first = SQLiteStore(path), commit(size=20_000)
    async with store:
        await store.append(first)
    backup = path.read_bytes()
    path.write_bytes(backup[:4096] + b"\xff" * (len(backup) - 4096))
    with pytest.raises(StoreRejected, match="damaged"):
        async with store:
            await store.load("s-1")
    path.write_bytes(backup)
    async with store:
        assert await ids(store) == [first.id]


@pytest.mark.parametrize("version", [1, 99])
async def test_a_file_of_another_schema_version_is_refused_and_not_changed(path: Path, version: int) -> None:
    with connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with pytest.raises(StoreRejected, match=f"schema version {version}; this library reads version 3") as raised:
        await SQLiteStore(path).open()
    assert raised.value.code == "SCHEMA"
    assert path.read_bytes() == before


@pytest.mark.parametrize("path", [":memory:", ""])
def test_sqlites_names_for_memory_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="MemoryStore"):
        SQLiteStore(path)


async def test_no_thread_and_no_file_is_open_after_close(path: Path) -> None:
    def own_threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("eventsrc-sqlite-")]

    store = SQLiteStore(path)
    async with store:
        await asyncio.gather(*(store.append(commit(f"s-{n}")) for n in range(50)))
        await asyncio.gather(*(store.load(f"s-{n}") for n in range(50)))
        assert own_threads()
        assert path.with_name("events.db-wal").exists()
    assert not own_threads()
    assert list(path.parent.iterdir()) == [path]  # the last connection to close merges the log into the file
    async with store:
        assert len(await stored(store, "s-49")) == 1
        await store.append(commit("s-49", 2))
    await store.aclose()
    assert not own_threads()


async def test_a_cancelled_close_leaves_no_thread_and_no_open_file(path: Path) -> None:
    store = SQLiteStore(path)
    await store.open()
    assert store._writer is not None
    thread = store._writer._thread
    await store.append(commit())
    with connect(path) as other:
        other.execute("BEGIN IMMEDIATE")
        append = asyncio.create_task(store.append(commit(version=2)))  # the writer waits for the lock
        await asyncio.sleep(0)
        append.cancel()
        close = asyncio.create_task(store.aclose())
        while store._readers is not None:  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0)
        close.cancel()
        with pytest.raises(asyncio.CancelledError):
            await close
        other.execute("COMMIT")
    await store.aclose()
    await asyncio.to_thread(thread.join, 30)
    assert not thread.is_alive()
    assert list(path.parent.iterdir()) == [path]
    async with store:
        await store.append(commit("s-2"))


async def test_an_append_cancelled_in_flight_succeeds_with_the_same_commit(store: SQLiteStore, path: Path) -> None:
    only = commit()
    with connect(path) as other:
        other.execute("BEGIN IMMEDIATE")
        append = asyncio.create_task(store.append(only))
        await asyncio.sleep(0)
        append.cancel()
        with pytest.raises(asyncio.CancelledError):
            await append
        other.execute("COMMIT")
    assert (await store.append(only)).position == 1
    assert await ids(store) == [only.id]


async def test_errors_of_sqlite_become_store_errors_and_later_calls_succeed(store: SQLiteStore, path: Path) -> None:
    snapshot = Snapshot(stream="s-1", version=1, shape="x", payload=b"")
    with connect(path) as other:
        for table in ("log", "snapshots"):
            other.execute(f"ALTER TABLE {table} RENAME TO {table}_away")
        for call in (store.append(commit()), store.load("s-1"), stored(store), store.put_snapshot(snapshot)):
            with pytest.raises(StoreError) as raised:
                await call
            assert raised.value.__cause__ is None
        for table in ("log", "snapshots"):
            other.execute(f"ALTER TABLE {table}_away RENAME TO {table}")
    assert (await store.append(commit())).position == 1
    assert await store.put_snapshot(snapshot)


ALTERED = [
    *("x''", "x'c0'", "x'90'", "x'c1'", "substr(record, 1, length(record) - 1)", "CAST(record || x'c0' AS BLOB)"),
    "CAST(substr(record, 1, 2) || x'0f' || substr(record, 4, 15) || substr(record, 20) AS BLOB)",  # an id of 15 bytes
    "CAST(replace(record, x'cf', x'd3ff') AS BLOB)",  # another time
    "CAST(replace(record, 'contract', x'736563726574ff') AS BLOB)",
    "CAST(record || record AS BLOB)",
]
"""Changes of a row after which it is not a commit any more."""


@pytest.mark.parametrize("change", ALTERED)
async def test_an_altered_row_is_reported(tmp_path: Path, change: str) -> None:
    """In its stream, whatever other rows are read with it; and in no other stream."""
    async with SQLiteStore(path := tmp_path / "events.db") as store:
        commits = await fill(store, fresh_stream(), 5)
        others = await fill(store, fresh_stream(), 2)
        await damage(path, "position = 3", f"record = {change}")
        again = msgspec.structs.replace(commits[2], id=uuid7())
        for call in (store.load(again.stream), stored(store, again.stream), store.append(again)):
            with pytest.raises(CorruptPayload, match="row is not a commit") as raised:
                await call
            assert (raised.value.stream, raised.value.version) == (again.stream, 3)
            assert "secret" not in str(raised.value)
        expect_same([each async for each in store.read(again.stream, until=2)], commits[:2], "before it")
        expect_same([each async for each in store.read(again.stream, after=3)], commits[3:], "after it")
        expect_same((await store.load(others[0].stream)).commits, others, "of another stream")
        [batch] = [batch async for batch in store.feed(follow=False, report_damaged=True)]
        expect_same(batch.commits, [*commits[:2], *commits[3:], *others], "from the feed")
        assert [(each.stream, each.version, each.position) for each in batch.damaged] == [(again.stream, 3, 3)]


async def test_later_commits_are_read_after_a_bad_row(tmp_path: Path) -> None:
    """An error that is kept must not keep the read transaction open."""
    path = tmp_path / "events.db"
    async with SQLiteStore(path) as store:
        await store.append(bad := make_commit(fresh_stream()))
        good = fresh_stream()
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE log SET record = x'90'")
        failed = asyncio.create_task(store.load(bad.stream))
        await asyncio.wait([failed])
        assert isinstance(failed.exception(), CorruptPayload)
        for version in range(1, 9):
            await store.append(make_commit(good, version))
            assert len((await store.load(good)).commits) == version


async def test_one_bad_append_does_not_fail_the_others(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SQLiteStore(path) as store:
        await store.append(bad := make_commit(fresh_stream()))
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE log SET record = x'736563726574ff'")
        appends = [store.append(make_commit(fresh_stream())) for _ in range(5)]
        *landed, failed = await asyncio.gather(*appends, store.append(make_commit(bad.stream)), return_exceptions=True)
        assert [type(each).__name__ for each in landed] == ["Receipt"] * 5
        assert isinstance(failed, CorruptPayload)
        assert "secret" not in str(failed)


async def test_a_large_append_on_a_full_disk_does_not_fail_small_ones(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "events.db") as store:
        await store.append(make_commit(fresh_stream()))
        writer = store._writer
        assert writer is not None
        await writer.submit(lambda connection: connection.execute("PRAGMA max_page_count = 60").fetchall())
        small = [store.append(make_commit(fresh_stream())) for _ in range(7)]
        large = store.append(make_commit(fresh_stream(), payload=bytes(300_000)))
        failed, *landed = await asyncio.gather(large, *small, return_exceptions=True)
        assert isinstance(failed, StoreRejected)
        assert [type(each).__name__ for each in landed] == ["Receipt"] * 7


async def test_a_relative_path_is_resolved_when_the_store_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    async with SQLiteStore("events.db") as store:
        monkeypatch.chdir(tmp_path / "b")
        await store.append(commit := make_commit(fresh_stream()))
        assert len((await store.load(commit.stream)).commits) == 1
    assert [path.name for path in tmp_path.rglob("*.db")] == ["events.db"]


@pytest.mark.parametrize(
    "name", ["file::memory:", "file:events.db?vfs=unix-none", "what? 100%.db", "a#b.db", "caf\udce9.db"]
)
async def test_a_path_is_never_read_as_an_sqlite_uri(tmp_path: Path, name: str) -> None:
    async with SQLiteStore(tmp_path / name) as store:
        await store.append(commit := make_commit(fresh_stream()))
        assert len((await store.load(commit.stream)).commits) == 1
    assert (tmp_path / name).is_file()


async def test_a_file_that_was_deleted_while_open_is_not_created_again(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SQLiteStore(path) as store:
        await store.append(commit := make_commit(fresh_stream()))
        path.unlink()
        with pytest.raises(StoreRejected):
            await store.load(commit.stream)
        assert not path.exists()


async def test_a_file_with_another_programs_tables_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE commits (message TEXT)")
    with pytest.raises(StoreRejected, match="another program's tables"):
        await SQLiteStore(path).open()


@pytest.mark.parametrize("deadline", [0, -1, float("inf"), float("nan"), 10**7])
def test_a_bad_deadline_is_refused(tmp_path: Path, deadline: float) -> None:
    with pytest.raises(ValueError, match="deadline"):
        SQLiteStore(tmp_path / "events.db", deadline=deadline)


async def damage(path: Path, where: str, change: str) -> None:
    with closing(sqlite3.connect(path)) as other, other:
        assert other.execute(f"UPDATE log SET {change} WHERE {where}").rowcount == 1


async def read_until_error(store: SQLiteStore, seen: list[Commit], checkpoints: list[str]) -> None:
    async for batch in store.feed(follow=False):
        seen += batch.commits
        checkpoints.append(batch.checkpoint)


async def read_stream_until_error(store: SQLiteStore, stream: str, seen: list[Commit]) -> None:
    async for commit in store.read(stream):
        seen.append(commit)  # noqa: PERF401  # up to the error


async def test_the_commits_before_a_damaged_row_are_delivered_before_the_error(tmp_path: Path) -> None:
    """A row in the middle of a page does not hold back the sound commits before it, in a feed and in a read."""
    async with SQLiteStore(path := tmp_path / "events.db") as store:
        commits = await fill(store, fresh_stream(), 9)
        await damage(path, "position = 6", "record = x'90'")
        seen: list[Commit] = []
        checkpoints: list[str] = []
        with pytest.raises(CorruptPayload) as raised:
            await read_until_error(store, seen, checkpoints)
        expect_same(seen, commits[:5], "delivered")
        assert (raised.value.stream, raised.value.version) == (commits[0].stream, 6)
        with pytest.raises(CorruptPayload):  # a reader that resumes sees the error at once, and nothing again
            await anext(store.feed(after=checkpoints[-1]))
        read: list[Commit] = []
        with pytest.raises(CorruptPayload):
            await read_stream_until_error(store, commits[0].stream, read)
        expect_same(read, commits[:5], "read")


@pytest.mark.parametrize(
    "change", ["record = x'90'", "record = x'c0'", "record = x'', stream = CAST(x'612dff' AS TEXT)"]
)
async def test_a_feed_that_reports_damaged_rows_delivers_everything_else(tmp_path: Path, change: str) -> None:
    async with SQLiteStore(path := tmp_path / "events.db") as store:
        commits = await fill(store, fresh_stream(), 4)
        await fill(store, last := fresh_stream(), 2)
        for position in (2, 6):
            await damage(path, f"position = {position}", change.replace("61", f"6{position}"))
        batches = [batch async for batch in store.feed(follow=False, report_damaged=True)]
        delivered = [commit.position for batch in batches for commit in batch.commits]
        assert delivered == [1, 3, 4, 5]
        damaged = [each for batch in batches for each in batch.damaged]
        assert [(each.version, each.position) for each in damaged] == [(2, 2), (2, 6)]
        if "stream" not in change:
            assert [each.stream for each in damaged] == [commits[0].stream, last]
        assert batches[-1].caught_up
        await store.append(later := make_commit(last, 3) if "stream" not in change else make_commit(last, 2))
        after = [batch async for batch in store.feed(after=batches[-1].checkpoint, follow=False)]
        assert [commit.id for batch in after for commit in batch.commits] == [later.id]


async def test_a_page_of_damaged_rows_only_is_passed(tmp_path: Path) -> None:
    async with SQLiteStore(path := tmp_path / "events.db") as store:
        await fill(store, stream := fresh_stream(), 1_200)
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE log SET record = x'90' WHERE position < 1150")
        batches = [batch async for batch in store.feed(follow=False, report_damaged=True)]
        assert sum(len(batch.damaged) for batch in batches) == 1_149
        assert [commit.version for batch in batches for commit in batch.commits] == list(range(1_150, 1_201))
        assert {each.stream for batch in batches for each in batch.damaged} == {stream}


@pytest.mark.parametrize("window", [1, 3, 7, 20_000])
async def test_a_feed_of_categories_delivers_what_a_filter_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """However many commits one statement searches; with damaged rows, and streams that were deleted."""
    monkeypatch.setattr(rows, "_WINDOW", window)
    dice = random.Random(window)
    async with SQLiteStore(path := tmp_path / "events.db") as store:
        for number in range(60):
            await fill(store, f"{dice.choice(('a', 'a.', 'ab', 'b', 'gone'))}-{number}", dice.randint(1, 4))
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("DELETE FROM log WHERE stream LIKE 'gone-%' OR position BETWEEN 30 AND 55")
            other.execute("UPDATE log SET record = x'90' WHERE position % 10 = 1")
        everything = [batch async for batch in store.feed(follow=False, report_damaged=True)]
        for categories in ({"a"}, {"b", "ab"}, {"gone"}, {"none"}):
            batches = [batch async for batch in store.feed(follow=False, report_damaged=True, categories=categories)]
            assert [each for batch in batches for each in batch.commits] == [
                each for batch in everything for each in batch.commits if category_of(each.stream) in categories
            ]
            assert [each.position for batch in batches for each in batch.damaged] == [
                each.position
                for batch in everything
                for each in batch.damaged
                if category_of(each.stream) in categories
            ]
            assert [batch.caught_up for batch in batches] == [False] * (len(batches) - 1) + [True]
            assert batches[-1].checkpoint == everything[-1].checkpoint
            middle = batches[len(batches) // 2].checkpoint
            rest = [batch async for batch in store.feed(after=middle, follow=False, report_damaged=True)]
            expected = [each for each in everything[0].commits if (each.position or 0) > position_of(middle)]
            assert [each for batch in rest for each in batch.commits] == expected


async def test_a_feed_of_a_category_reads_no_other_rows(tmp_path: Path) -> None:
    """A damaged row of another category does not end it, and large commits do not shorten its batches."""
    async with SQLiteStore(path := tmp_path / "events.db") as store:
        await fill(store, "large-1", 30, size=300_000)
        [wanted] = await fill(store, "small-1", 1)
        await damage(path, "position = 7", "record = x'90'")
        [batch] = [batch async for batch in store.feed(follow=False, categories=("small",))]
        assert [commit.id for commit in batch.commits] == [wanted.id]
        with pytest.raises(CorruptPayload):
            await anext(store.feed(after="6", follow=False, categories=("large",)))
        with pytest.raises(TypeError, match="give a tuple"):
            await anext(store.feed(follow=False, categories="small"))


async def test_heads_leave_out_only_names_that_are_not_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also if they fill more than a page, and lie before the names of sound streams."""
    async with SQLiteStore(path := tmp_path / "events.db") as store:
        await fill(store, "a-1", 3)
        await fill(store, bad := "z-1", 2)
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE log SET record = x'90' WHERE stream = 'z-1'")
            insert = (
                "INSERT INTO log (stream, version, position, fields, record) VALUES (CAST(? AS TEXT), 1, ?, '', x'')"
            )
            other.executemany(insert, [(b"b-%d\xff" % number, 10 + number) for number in range(1_500)])
        assert [head async for page in store.heads() for head in page] == [("a-1", 3), (bad, 2)]
    assert "is not UTF-8" in caplog.text


async def test_a_restored_file_that_was_written_past_the_checkpoint_is_noticed(tmp_path: Path) -> None:
    """Nothing is delivered: its positions were used for other commits."""
    path, backup = tmp_path / "events.db", tmp_path / "backup.db"
    async with SQLiteStore(path) as store:
        await fill(store, "a-1", 3)
        identity = await store.identity()
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        await fill(store, "b-1", 3)
        checkpoint = await store.end()
        middle = (await anext(store.feed(follow=False))).commits[2].position
    async with SQLiteStore(backup) as restored:
        assert await restored.identity() == identity
        await fill(restored, "c-1", 9)
        with pytest.raises(FeedTrimmed, match=r"another one.*forget"):
            await anext(restored.feed(after=checkpoint))
        [batch] = [batch async for batch in restored.feed(after=str(middle), follow=False)]
        assert len(batch.commits) == 9


async def test_a_checkpoint_at_a_deleted_stream_is_accepted(tmp_path: Path) -> None:
    async with SQLiteStore(path := tmp_path / "events.db") as store:
        await fill(store, "a-1", 3)
        checkpoint = await store.end()
        await fill(store, "b-1", 2)
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("DELETE FROM log WHERE stream = 'a-1'")
        [batch] = [batch async for batch in store.feed(after=checkpoint, follow=False)]
        assert [commit.stream for commit in batch.commits] == ["b-1", "b-1"]


async def test_other_programs_read_every_field_through_the_view(tmp_path: Path) -> None:
    """With payloads of all sizes that MessagePack has headers for."""
    async with SQLiteStore(path := tmp_path / "events.db") as store:
        for version, size in enumerate((0, 255, 256, 65_535, 65_536), 1):
            await store.append(make_commit("s-é", version, payload=os.urandom(size)))
        full = {
            "correlation_id": "c-1",
            "causation_ids": ("o-1@3.0",),
            "command_id": "k",
            "command_digest": b"12345678",
        }
        await store.append(make_commit("s-é", 6, metadata={"user": "ann"}, **full))
        commits = (await store.load("s-é")).commits
    with connect(path) as file:
        file.row_factory = sqlite3.Row
        rows = [dict(row) for row in file.execute("SELECT * FROM commits ORDER BY position")]
    for row in rows:
        for name in ("tags", "causation_ids", "metadata"):
            row[name] = json.loads(row[name]) if row[name] else None
        row["command_digest"] = b64decode(row["command_digest"]) if row["command_digest"] else None
    assert rows == [
        {
            "position": each.position,
            "stream": each.stream,
            "version": each.version,
            "id": each.id,
            "time": each.time,
            "events": each.events,
            "tags": list(each.tags),
            "correlation_id": each.correlation_id,
            "causation_ids": list(each.causation_ids) or None,
            "command_id": each.command_id,
            "command_digest": each.command_digest,
            "metadata": each.metadata or None,
            "payload": each.payload,
        }
        for each in commits
    ]


async def test_positions_of_deleted_commits_are_not_used_again(tmp_path: Path) -> None:
    async with SQLiteStore(path := tmp_path / "events.db") as store:
        await fill(store, "a-1", 2)
        await fill(store, "b-1", 3)
        with connect(path) as other:
            other.execute("DELETE FROM log WHERE stream = 'b-1'")
        assert await store.last_position() == 5
        assert (await store.append(make_commit("c-1"))).position == 6
        with connect(path) as other:
            other.execute("DELETE FROM log")
        assert (await store.append(make_commit("c-1"))).position == 7


@pytest.mark.parametrize("sizes", [(10, 5_000), (5_000,), (400_000,), (10, 400_000, 10, 10), (4_050, 4_096, 4_097)])
async def test_commits_of_any_size_are_read_in_their_order(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """Large ones come from statements of their own, a page of some megabytes at a time."""
    async with SQLiteStore(path := tmp_path / "events.db", max_commit_bytes=10_000_000) as store:
        commits = [make_commit("s-1", n, payload=bytes(sizes[n % len(sizes)])) for n in range(1, 26)]
        for commit in commits:
            await store.append(commit)
        expect_same((await store.load("s-1")).commits, commits, "loaded")
        expect_same(await stored(store, "s-1"), commits, "read")
        expect_same([each async for each in store.read("s-1", backward=True)][::-1], commits, "read backward")
        batches = [batch async for batch in store.feed(follow=False)]
        expect_same([each for batch in batches for each in batch.commits], commits, "from the feed")
        assert all(sum(len(each.payload) for each in batch.commits) < 5_000_000 for batch in batches)
        await damage(path, "position = 7", "record = x'90'")
        batches = [batch async for batch in store.feed(follow=False, report_damaged=True)]
        expect_same([each for batch in batches for each in batch.commits], [*commits[:6], *commits[7:]], "sound ones")


async def test_a_load_takes_one_row_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter lock is given up at each row, so threads that compute hold up each row."""
    monkeypatch.setattr("eventsrc.stores.sqlite.threads._READERS", 1)
    async with SQLiteStore(tmp_path / "events.db") as store:
        await fill(store, stream := fresh_stream(), 1_500)
        statements: list[str] = []
        await store.load(stream)
        assert store._readers is not None
        for connection in store._readers._connections:
            connection.set_trace_callback(statements.append)
        assert len((await store.load(stream)).commits) == 1_500
        assert len(await store.load_until(stream, 1_500)) == 1_500
        assert len(statements) == 4
        assert all("group_concat" in statement for statement in statements)


async def test_a_file_in_another_encoding_is_refused(path: Path) -> None:
    with connect(path) as other:
        other.execute("PRAGMA encoding = 'UTF-16'")
        other.execute("CREATE TABLE theirs (x)")
        other.execute("DROP TABLE theirs")
    with pytest.raises(StoreRejected, match="UTF-8"):
        await SQLiteStore(path).open()
