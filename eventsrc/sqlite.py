"""The embedded store: one file, durable on every acknowledged commit.

One thread writes. All appends waiting when it comes round share one transaction and one fsync (group commit). The
file is in WAL mode with `synchronous=FULL`: NORMAL loses acknowledged commits when the power fails. Reads run on
connections of their own and are never blocked by the writer.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, NamedTuple, TypeVar

import msgspec

from .errors import CommitOutcomeUnknown, ConflictError, StoreError, StoreRejected, Throttled
from .errors import StoreUnavailable as Unavailable
from .limits import MAX_COMMIT_BYTES, check_commit
from .store import MAX_VERSION, Commit, Loaded, Receipt, Snapshot, Store, settled
from .stream import check_stream

T = TypeVar("T")

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE commits (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    stream TEXT NOT NULL,
    version INTEGER NOT NULL,
    id BLOB NOT NULL,
    time INTEGER NOT NULL,
    events INTEGER NOT NULL,
    tags TEXT NOT NULL,
    correlation_id TEXT,
    causation_ids TEXT,
    command_id TEXT,
    command_digest BLOB,
    metadata TEXT,
    payload BLOB NOT NULL,
    UNIQUE (stream, version)
) STRICT;
CREATE INDEX commits_by_correlation_id ON commits (correlation_id) WHERE correlation_id IS NOT NULL;
CREATE TABLE snapshots (
    stream TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    shape TEXT NOT NULL,
    payload BLOB NOT NULL
) STRICT;
"""

_COLUMNS = (
    "position, stream, version, id, time, events, tags, correlation_id, causation_ids, command_id, command_digest, "
    "metadata, payload"
)
_INSERT = f"INSERT INTO commits ({_COLUMNS}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_STANDING = f"SELECT {_COLUMNS} FROM commits WHERE stream = ? AND version = ?"
_HEAD = "SELECT version FROM commits WHERE stream = ? ORDER BY version DESC LIMIT 1"
_FROM = f"SELECT {_COLUMNS} FROM commits WHERE stream = ? AND version >= ? ORDER BY version"
_PAGE = f"SELECT {_COLUMNS} FROM commits WHERE stream = ? AND version BETWEEN ? AND ? ORDER BY version LIMIT ?"
_PAGE_BACKWARD = _PAGE.replace("ORDER BY version", "ORDER BY version DESC")
_SNAPSHOT = "SELECT version, shape, payload FROM snapshots WHERE stream = ?"
_PUT_SNAPSHOT = """
INSERT INTO snapshots (stream, version, shape, payload) VALUES (?, ?, ?, ?)
ON CONFLICT (stream) DO UPDATE SET version = excluded.version, shape = excluded.shape, payload = excluded.payload
WHERE excluded.version > snapshots.version
"""

_PAGE_COMMITS = 256
_BATCH = 1024
_READERS = 4


class SQLiteStore(Store):
    """Streams in an SQLite file, which is created with its folder's consent: the folder must exist.

    Several stores and processes may use one file at once. `deadline` is how many seconds a call waits for another
    process's transaction. `position` counts the commits of the whole file in the order they were made visible.
    """

    def __init__(self, path: str | Path, *, deadline: float = 10.0, max_commit_bytes: int = MAX_COMMIT_BYTES) -> None:
        super().__init__()
        if str(path) in ("", ":memory:"):
            raise ValueError("SQLiteStore needs a file; for a store in memory use MemoryStore()")
        self._path = str(path)
        self._deadline = deadline
        self._max_commit_bytes = max_commit_bytes
        self._writer: _Writer | None = None
        self._readers: _Readers | None = None

    async def append(self, commit: Commit) -> Receipt:
        check_stream(commit.stream)
        check_commit(commit, self._max_commit_bytes)
        row = (
            commit.stream,
            commit.version,
            commit.id,
            commit.time,
            commit.events,
            _to_json(commit.tags),
            commit.correlation_id,
            _to_json(commit.causation_ids) if commit.causation_ids else None,
            commit.command_id,
            commit.command_digest,
            _to_json(commit.metadata) if commit.metadata else None,
            commit.payload,
        )
        with self._call():
            assert self._writer is not None
            try:
                return await self._writer.submit(lambda connection: _append(connection, commit, row))
            except _Undecided:
                raise CommitOutcomeUnknown(commit.stream, commit.version, str(commit.uuid)) from None

    async def load(self, stream: str) -> Loaded:
        check_stream(stream)
        with self._call():
            assert self._readers is not None
            return await self._readers.run(lambda connection: _load(connection, stream))

    async def read(
        self, stream: str, *, after: int = 0, until: int = MAX_VERSION, backward: bool = False
    ) -> AsyncGenerator[Commit]:
        check_stream(stream)
        low, high = max(after, 0) + 1, min(until, MAX_VERSION)
        query = _PAGE_BACKWARD if backward else _PAGE
        while low <= high:
            arguments = (stream, low, high, _PAGE_COMMITS)
            with self._call():
                assert self._readers is not None
                page = await self._readers.run(partial(_commits, query=query, arguments=arguments))
            for commit in page:
                yield commit
            if len(page) < _PAGE_COMMITS:
                return
            if backward:
                high = page[-1].version - 1
            else:
                low = page[-1].version + 1

    async def put_snapshot(self, snapshot: Snapshot) -> bool:
        check_stream(snapshot.stream)
        row = (snapshot.stream, snapshot.version, snapshot.shape, snapshot.payload)
        with self._call(closing=True):
            assert self._writer is not None
            try:
                return await self._writer.submit(lambda connection: connection.execute(_PUT_SNAPSHOT, row).rowcount > 0)
            except _Undecided:
                raise Unavailable("the snapshot may not have been written") from None

    async def _open(self) -> None:
        connection = await asyncio.to_thread(_connect, self._path, self._deadline)
        self._readers = _Readers(self._path, self._deadline)
        self._writer = _Writer(connection, self._readers)

    async def _close(self) -> None:
        writer, self._writer, self._readers = self._writer, None, None
        if writer is not None:
            writer.end()  # its thread releases everything, also if this is cancelled while it waits for that
            await asyncio.to_thread(writer.join)


class _Undecided(Exception):
    """COMMIT itself failed in a way that does not tell whether it happened."""


class _Job(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class _Writer:
    """The thread that writes: it takes all jobs waiting, runs them in one transaction, and answers them after it."""

    def __init__(self, connection: sqlite3.Connection, readers: _Readers) -> None:
        self._connection = connection
        self._readers = readers
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="eventsrc-sqlite-writer", daemon=True)
        self._thread.start()

    async def submit(self, work: Callable[[sqlite3.Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put(_Job(work, loop, future))
        return await future

    def end(self) -> None:
        """Have the thread close all connections and end, after the jobs already submitted."""
        self._jobs.put(None)

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        open = True
        while open:
            waiting = [self._jobs.get()]
            try:
                while len(waiting) < _BATCH:
                    waiting.append(self._jobs.get_nowait())
            except Empty:
                pass
            jobs = [job for job in waiting if job is not None]
            open = len(jobs) == len(waiting)
            if jobs:
                _answer(jobs, self._transaction(jobs))
        self._readers.close()
        self._connection.close()  # last, so that this folds the log back into the file

    def _transaction(self, jobs: list[_Job]) -> list[Any]:
        """The result or the exception of each job; they took effect together, durably, or not at all."""
        connection = self._connection
        committing = False
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [_outcome(job, connection) for job in jobs]
            committing = True
            connection.execute("COMMIT")
            return outcomes
        except sqlite3.Error as error:
            failure: Exception = _typed(error)
            if committing and not isinstance(failure, (Throttled, StoreRejected)):
                failure = _Undecided()
            try:
                connection.rollback()
            except sqlite3.Error:
                failure = _Undecided() if committing else failure
            return [failure] * len(jobs)


def _outcome(job: _Job, connection: sqlite3.Connection) -> Any:
    """What a job returned or raised. An error of the database as a whole is not the job's: it ends the transaction."""
    try:
        return job.work(connection)
    except (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError) as error:
        return _typed(error)
    except sqlite3.Error:
        raise
    except Exception as error:  # noqa: BLE001  # it belongs to the caller; the writer goes on
        return error


def _answer(jobs: list[_Job], outcomes: list[Any]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        by_loop.setdefault(job.loop, []).append((job.future, outcome))
    for loop, answers in by_loop.items():
        with suppress(RuntimeError):  # that loop is closed: nobody is left to hear
            loop.call_soon_threadsafe(_deliver, answers)


def _deliver(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in answers:
        if future.cancelled():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


class _Readers:
    """A few threads, each with a connection of its own."""

    def __init__(self, path: str, deadline: float) -> None:
        self._path, self._deadline = path, deadline
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="eventsrc-sqlite-reader")

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._on_own_connection, work)

    def _on_own_connection(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = _connect(self._path, self._deadline)
                self._connections.append(connection)
            return work(connection)
        except sqlite3.Error as error:
            raise _typed(error) from None

    def close(self) -> None:
        self._pool.shutdown()
        for connection in self._connections:
            connection.close()


def _connect(path: str, deadline: float) -> sqlite3.Connection:
    """A connection to a file that has our tables; they are made if it has none. Raises StoreError."""
    try:
        connection = sqlite3.connect(path, timeout=deadline, isolation_level=None, check_same_thread=False)
        try:
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, SCHEMA_VERSION):  # said before the journal mode, which stays in a file, is changed
                raise StoreRejected("SCHEMA", f"{path} has schema version {found}, this library knows {SCHEMA_VERSION}")
            _use_wal(connection, deadline)
            connection.execute("PRAGMA synchronous = FULL")
            if found == 0:
                _create(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise _typed(error, path) from None
    return connection


def _use_wal(connection: sqlite3.Connection, deadline: float) -> None:
    """Of several that switch a new file at once SQLite fails all but one, without waiting as for other locks."""
    until = monotonic() + deadline
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or monotonic() >= until:
                raise
            connection.execute("BEGIN IMMEDIATE")  # this waits for the other one
            connection.execute("COMMIT")


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:  # else another process was first
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _append(connection: sqlite3.Connection, commit: Commit, row: tuple[Any, ...]) -> Receipt:
    standing = _commits(connection, _STANDING, (commit.stream, commit.version))
    if standing:
        return settled(commit, standing[0])
    head = connection.execute(_HEAD, (commit.stream,)).fetchone()
    if (head[0] if head else 0) != commit.version - 1:
        raise ConflictError(commit.stream, commit.version - 1, head[0] if head else 0)
    position = connection.execute(_INSERT, row).lastrowid
    return Receipt(commit.stream, commit.version, commit.id, commit.events, position)


def _load(connection: sqlite3.Connection, stream: str) -> Loaded:
    row = connection.execute(_SNAPSHOT, (stream,)).fetchone()
    snapshot = Snapshot(stream=stream, version=row[0], shape=row[1], payload=row[2]) if row else None
    return Loaded(snapshot, _commits(connection, _FROM, (stream, snapshot.version if snapshot else 1)))


def _commits(connection: sqlite3.Connection, query: str, arguments: tuple[Any, ...]) -> list[Commit]:
    return [
        Commit(
            position=position,
            stream=stream,
            version=version,
            id=id,
            time=time,
            events=events,
            tags=_to_texts(tags),
            correlation_id=correlation_id,
            causation_ids=_to_texts(causation_ids) if causation_ids else (),
            command_id=command_id,
            command_digest=command_digest,
            metadata=_to_mapping(metadata) if metadata else {},
            payload=payload,
        )
        for (
            position,
            stream,
            version,
            id,
            time,
            events,
            tags,
            correlation_id,
            causation_ids,
            command_id,
            command_digest,
            metadata,
            payload,
        ) in connection.execute(query, arguments)
    ]


def _to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


_to_texts = msgspec.json.Decoder(tuple[str, ...]).decode
_to_mapping = msgspec.json.Decoder(dict[str, str]).decode

_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_READONLY: "the file is read-only; let the process write it, its -wal and -shm, and their folder",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; its folder must exist and be writable",
    sqlite3.SQLITE_PERM: "the file may not be used; check its permissions",
    sqlite3.SQLITE_AUTH: "the file may not be used; check its permissions",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore it from a backup",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database",
    sqlite3.SQLITE_TOOBIG: "the commit is larger than SQLite takes; save fewer events",
}


def _typed(error: sqlite3.Error, path: str = "") -> StoreError:
    """The library's error for an SQLite one, by its primary result code, never by its text."""
    code = getattr(error, "sqlite_errorcode", None)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    primary = code & 0xFF if code is not None else None
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Throttled(f"{name}: another process held the file's write lock until the deadline")
    if primary in _ADVICE:
        return StoreRejected(name, f"{path}: {_ADVICE[primary]}" if path else _ADVICE[primary])
    return Unavailable(f"{name}: {error}")
