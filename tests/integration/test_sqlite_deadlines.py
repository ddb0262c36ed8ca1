"""The deadline of an SQLiteStore: each call ends, and what is reported as not written is never written later."""

# ruff: noqa: ASYNC240  # files are listed while nothing else runs

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, closing
from pathlib import Path
from time import monotonic

import pytest

from eventsrc import (
    Commit,
    CommitOutcomeUnknown,
    Loaded,
    Snapshot,
    SQLiteStore,
    StoreRejected,
    StoreUnavailable,
    Throttled,
)
from eventsrc.stores.sqlite import threads
from eventsrc.stores.sqlite.connection import connect
from eventsrc.testing.contract.samples import fill, make_commit

DEADLINE = 0.5  # seconds
ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


class Hold:
    """Holds up the writer thread in its next COMMIT, as a disk that does not answer does."""

    def __init__(self, store: SQLiteStore) -> None:
        self._begun, self._released = threading.Event(), threading.Event()
        assert store._writer is not None
        store._writer._connection.set_trace_callback(self._see)

    def _see(self, statement: str) -> None:
        if statement == "COMMIT":
            self._begun.set()
            self._released.wait(30)

    async def begun(self) -> None:
        assert await asyncio.to_thread(self._begun.wait, 30)

    def release(self) -> None:
        self._released.set()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "events.db", deadline=DEADLINE) as store:
        yield store


async def ids(store: SQLiteStore, stream: str) -> list[bytes]:
    return [commit.id for commit in (await store.load(stream)).commits]


async def test_an_append_that_waits_for_a_hanging_writer_is_withdrawn_and_its_own_is_unknown(
    store: SQLiteStore,
) -> None:
    hold = Hold(store)
    first, second = make_commit("s-1"), make_commit("s-2")
    in_transaction = asyncio.create_task(store.append(first))
    await hold.begun()
    snapshot = Snapshot(stream="s-1", version=1, shape="x", payload=b"")
    late = await asyncio.gather(store.append(second), store.put_snapshot(snapshot), return_exceptions=True)
    assert [type(each) for each in late] == [StoreUnavailable] * 2
    assert "nothing was written" in str(late[0])
    with pytest.raises(CommitOutcomeUnknown, match="before the deadline") as raised:
        await in_transaction
    assert raised.value.commit is first
    assert await ids(store, "s-1") == []  # readers do not wait
    hold.release()
    assert (await store.append(first)).position == 1  # the same commit: it was stored after all
    assert (await store.append(make_commit("s-3"))).position == 2
    assert await ids(store, "s-2") == []  # what was withdrawn does not follow


async def test_the_thread_does_not_begin_a_late_call_that_a_busy_loop_has_not_withdrawn(store: SQLiteStore) -> None:
    hold = Hold(store)
    first = asyncio.create_task(store.append(make_commit("s-1")))
    await hold.begun()
    late = asyncio.create_task(store.append(make_commit("s-2")))
    await asyncio.sleep(0)
    end = monotonic() + DEADLINE
    while monotonic() <= end:  # the loop is blocked, and its timer does not run
        pass
    hold.release()
    assert store._writer is not None
    store._writer.end()
    store._writer.join()  # the thread has taken all calls
    with pytest.raises(StoreUnavailable, match="nothing was written"):
        await late
    await asyncio.gather(first, return_exceptions=True)
    async with SQLiteStore(store._file.path) as another:
        assert len(await ids(another, "s-1")) == 1
        assert await ids(another, "s-2") == []


async def test_reads_end_at_the_deadline_and_free_their_threads(store: SQLiteStore) -> None:
    await store.append(make_commit("s-1"))
    assert store._readers is not None
    endless = [store._readers.run(lambda db: db.execute(ENDLESS).fetchall()) for _ in range(threads._READERS)]
    queued = [store.load("s-1") for _ in range(50)]
    try:
        ended = await asyncio.gather(*endless, *queued, return_exceptions=True)
        assert {type(each) for each in ended[: len(endless)]} == {StoreUnavailable}
        assert {type(each) for each in ended} <= {StoreUnavailable, Loaded}  # some may begin just before the deadline
        assert len(await ids(store, "s-1")) == 1
    finally:
        for connection in store._readers._connections:
            connection.interrupt()  # or this test does not end, if it fails


async def test_opening_ends_although_the_disk_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def slow(*arguments: object) -> sqlite3.Connection:
        released.wait(30)
        return connect(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(threads, "connect", slow)
    monkeypatch.setattr(threads, "_TO_OPEN", 0.0)
    store = SQLiteStore(path := tmp_path / "events.db", deadline=0.05)
    with pytest.raises(StoreUnavailable, match="did not answer"):
        await store.open()
    [thread] = [each for each in threading.enumerate() if each.name == "eventsrc-sqlite-writer"]
    released.set()
    thread.join(30)
    assert list(tmp_path.iterdir()) == [path]  # and what was opened too late is closed again
    async with SQLiteStore(path) as store:
        await store.append(make_commit("s-1"))


async def test_closing_ends_although_the_disk_does_not_answer(
    store: SQLiteStore, caplog: pytest.LogCaptureFixture
) -> None:
    hold = Hold(store)
    append = asyncio.create_task(store.append(make_commit("s-1")))
    await hold.begun()
    with pytest.raises(CommitOutcomeUnknown):
        await append
    await store.aclose()
    assert "could not be closed before the deadline" in caplog.text
    hold.release()


async def test_the_first_calls_after_opening_have_the_deadline_and_no_more(store: SQLiteStore, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "events.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        loop = asyncio.get_running_loop()
        appending = asyncio.ensure_future(store.append(make_commit("s-1")))
        await asyncio.sleep(0)
        assert store._writer is not None
        timer = store._writer._waiting._timer
        assert timer is not None
        assert timer.when() <= loop.time() + DEADLINE
        with pytest.raises(Throttled):
            await appending


async def test_calls_that_are_answered_are_not_kept(store: SQLiteStore) -> None:
    for version in range(1, 20):
        await store.append(make_commit("s-1", version))
        await store.load("s-1")
    assert store._writer is not None
    assert store._readers is not None
    assert not store._writer._waiting._calls
    assert not store._readers._waiting._calls


class Counting(SQLiteStore):
    reads = 0

    async def commits_after(self, position: int) -> tuple[list[Commit], bool]:  # type: ignore[override]
        self.reads += 1
        return await super().commits_after(position)  # type: ignore[return-value]


async def test_followers_of_a_quiet_file_read_nothing(tmp_path: Path) -> None:
    """Also while this store writes: its own commits wake its feeds once."""
    async with Counting(path := tmp_path / "events.db") as store, SQLiteStore(path) as other:
        async with aclosing(store.feed()) as batches:
            await anext(batches)
            await fill(store, "s-1", 3)
            await anext(batches)
            watcher = store._watcher
            assert watcher is not None
            looks: list[int | None] = []
            found, seen = watcher._found, asyncio.Event()

            def note(position: int | None) -> None:
                looks.append(position)
                found(position)
                store._loop.call_soon_threadsafe(seen.set)  # type: ignore[union-attr]

            watcher._found = note
            waiting = asyncio.ensure_future(anext(batches))
            reads = store.reads
            await other.put_snapshot(Snapshot(stream="s-1", version=1, shape="x", payload=b""))
            await other.append(make_commit("s-2"))
            [commit] = (await waiting).commits
            assert commit.stream == "s-2"
            await seen.wait()
            assert looks[-1] == 4
            assert store.reads - reads <= 3
        assert not watcher._following.is_set()


async def test_a_follower_of_a_file_that_is_replaced_gets_an_error(tmp_path: Path) -> None:
    async with SQLiteStore(path := tmp_path / "events.db") as store, aclosing(store.feed()) as batches:
        await fill(store, "s-1", 1)
        await anext(batches)
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(10 * (store.poll or 0))  # the watcher has looked, and knows the file
        path.unlink()
        with pytest.raises(StoreRejected, match="is gone"):
            async with asyncio.timeout(30):
                await waiting
