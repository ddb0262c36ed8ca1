"""The durable state of processors in an SQLite file, next to the tables of read models."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ....errors import Fenced, StoreClosed, StoreRejected
from ....stores.feed import Head
from ....stores.sqlite.connection import use_wal
from ....stores.sqlite_errors import ERRORS, to_store_error
from ...slice import Fence, Position, PositionMoved, Slice
from ..checkpoints import Checkpoints, Parked, Registration, Skipped, Slot, tombstone

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS eventsrc_registrations (
    processor TEXT PRIMARY KEY, registration TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS eventsrc_positions (
    processor TEXT, stream TEXT, version INTEGER NOT NULL, id BLOB NOT NULL, time INTEGER NOT NULL,
    epoch INTEGER NOT NULL, PRIMARY KEY (processor, stream)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS eventsrc_slots (
    processor TEXT, number INTEGER, epoch INTEGER NOT NULL, slot TEXT NOT NULL, PRIMARY KEY (processor, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS eventsrc_parked (
    processor TEXT, stream TEXT, parked TEXT NOT NULL, PRIMARY KEY (processor, stream)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS eventsrc_skipped (
    processor TEXT, stream TEXT, version INTEGER, skipped TEXT NOT NULL, PRIMARY KEY (processor, stream, version)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS eventsrc_workers (worker TEXT PRIMARY KEY, beats INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS eventsrc_active (tag TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""
_COLUMNS = """
SELECT tables.name || '.' || columns.name FROM sqlite_master AS tables, pragma_table_info(tables.name) AS columns
WHERE tables.name LIKE 'eventsrc!_%' ESCAPE '!'
"""
# Slices are inserted or updated: where one of them changes no row, the position has moved.
_INSERT = """
INSERT INTO eventsrc_positions (version, id, time, epoch, processor, stream) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""
_UPDATE = """
UPDATE eventsrc_positions SET version = ?, id = ?, time = ?, epoch = ?
WHERE processor = ? AND stream = ? AND version = ?
"""
_FILE_ERRORS = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}
"""Codes of errors that no statement causes by itself."""
_PAGE = 1_000
_MAX_VALUES = 200  # bound values in one statement


class SQLiteCheckpoints(Checkpoints):
    """Checkpoints in an SQLite file, which also holds the tables of the read models. The file is created if missing.

    - Do not use the file of the event store.
    - One thread writes, one reads for processors, and one reads for you: a long report does not delay processors.
    - The file is in WAL mode with `synchronous=NORMAL`. After a power failure the last transactions may be lost,
      positions and read model together, and are handled again.
    - `deadline` is the number of seconds that a call waits for another process's transaction.

    Raises:
        ValueError: `path` is not a file.
    """

    def __init__(self, path: str | Path, *, deadline: float = 10.0) -> None:
        if str(path) in ("", ":memory:"):
            raise ValueError("SQLiteCheckpoints needs a file; for read models in memory use MemoryCheckpoints()")
        self._path, self._deadline = os.path.abspath(path), deadline
        self._threads: dict[str, tuple[ThreadPoolExecutor, sqlite3.Connection]] = {}

    async def open(self) -> None:
        if self._threads:
            raise StoreClosed("SQLiteCheckpoints is already open; open it once, and share it")
        try:
            for name in ("writer", "queries", "reader"):
                thread = ThreadPoolExecutor(1, thread_name_prefix=f"eventsrc-checkpoints-{name}")
                connection = await asyncio.get_running_loop().run_in_executor(thread, self._connect)
                self._threads[name] = thread, connection
            await self.read(lambda db: db.execute("PRAGMA query_only = ON"))
            await self.write(self._create_tables)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        threads, self._threads = list(self._threads.values()), {}
        for thread, connection in threads:
            thread.submit(connection.close)
            thread.shutdown(wait=False)
        for thread, _ in threads:
            await asyncio.to_thread(thread.shutdown)

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self._path, timeout=self._deadline, isolation_level=None, check_same_thread=False
            )
            try:
                use_wal(connection, self._deadline)
                connection.execute("PRAGMA synchronous = NORMAL")
            except BaseException:
                connection.close()
                raise
            return connection
        except ERRORS as error:
            failure = to_store_error(error, self._path)
        raise failure

    def _create_tables(self, db: sqlite3.Connection) -> None:
        """Create the tables that are missing. Raises StoreRejected if there are tables of another version."""
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
        with closing(sqlite3.connect(":memory:")) as new:
            new.executescript(_SCHEMA)
            missing = sorted(set(new.execute(_COLUMNS)) - set(db.execute(_COLUMNS)))
        if missing:
            raise StoreRejected(
                "SCHEMA",
                f"{self._path} has checkpoints of another version of this library, without {missing[0][0]}; "
                "use a new file, so that processors build their read models again",
            )

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` in its own transaction, in the writer thread, and return its result.

        If `work` raises, the transaction is rolled back and the error is raised here.

        Raises:
            sqlite3.Error: a statement of `work` is wrong, or breaks a constraint.
            RuntimeError: `work` raised StopIteration.
            Throttled, StoreUnavailable, StoreRejected: the file is locked, or cannot be used.
        """

        def transaction(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                connection.rollback()
                raise
            return result

        return await self._run("writer", transaction)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` on a read-only connection in the reader thread and return its result: to query read models.

        Raises:
            sqlite3.Error: a statement of `work` is wrong, or writes.
            RuntimeError: `work` raised StopIteration.
            StoreUnavailable, StoreRejected: the file cannot be used.
        """
        return await self._run("reader", work)

    async def _query(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Read our own tables. This connection is never blocked or held at an old state by cursors of users."""
        return await self._run("queries", work)

    async def _run(self, name: str, work: Callable[[sqlite3.Connection], T]) -> T:
        if name not in self._threads:
            raise StoreClosed("SQLiteCheckpoints is not open; use it inside `async with checkpoints:`")
        thread, connection = self._threads[name]
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, _call, work, connection)
        except ERRORS as error:
            if name != "queries" and not _is_of_file(error, reading=name == "reader"):
                raise
            failure = to_store_error(error)
        raise failure

    async def registration(self, processor: str) -> Registration | None:
        return await self._query(lambda db: _find_registration(db, processor))

    async def register(self, processor: str, new: Registration, *, instead_of: Registration | None) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            if _find_registration(db, processor) not in (instead_of, new):
                return False
            db.execute("INSERT OR REPLACE INTO eventsrc_registrations VALUES (?, ?)", (processor, _text(new)))
            return True

        return await self.write(work)

    async def processors(self) -> Sequence[str]:
        query = "SELECT processor FROM eventsrc_registrations ORDER BY processor"
        return [row[0] for row in await self._query(lambda db: db.execute(query).fetchall())]

    async def positions(self, processor: str, streams: Collection[str]) -> dict[str, Position]:
        query = "SELECT stream, version, id, time FROM eventsrc_positions WHERE processor = ?"
        return {stream: Position(*found) for stream, *found in await self._of_streams(query, processor, streams)}

    async def _of_streams(self, query: str, processor: str, streams: Collection[str]) -> list[Any]:
        asked = list(dict.fromkeys(streams))

        def work(db: sqlite3.Connection) -> list[Any]:
            found: list[Any] = []
            for start in range(0, len(asked), _MAX_VALUES):
                some = asked[start : start + _MAX_VALUES]
                marks = ", ".join("?" * len(some))
                found += db.execute(f"{query} AND stream IN ({marks})", (processor, *some))
            return found

        return await self._query(work)

    async def all_positions(self, processor: str) -> AsyncGenerator[Sequence[Head]]:
        query = (
            "SELECT stream, version FROM eventsrc_positions WHERE processor = ? AND stream > ? ORDER BY stream LIMIT ?"
        )
        after = ""
        # Each query is awaited before `after` changes.
        while page := await self._query(lambda db: db.execute(query, (processor, after, _PAGE)).fetchall()):  # noqa: B023
            yield [Head(*row) for row in page]
            after = page[-1][0]

    async def advance(self, processor: str, run: Slice) -> None:
        await self.write(lambda db: advance(db, processor, [run]))

    async def delete_position(self, processor: str, stream: str, fence: Fence) -> None:
        await self.write(lambda db: delete_position(db, processor, stream, fence))

    async def slots(self, processor: str) -> Sequence[Slot]:
        query = "SELECT slot FROM eventsrc_slots WHERE processor = ? ORDER BY number"
        return [_slot(row[0]) for row in await self._query(lambda db: db.execute(query, (processor,)).fetchall())]

    async def claim(self, processor: str, slot: Slot) -> None:
        put = (
            "INSERT INTO eventsrc_slots (epoch, slot, processor, number) VALUES (:epoch, :slot, :processor, :number) "
            "ON CONFLICT DO UPDATE SET epoch = excluded.epoch, slot = excluded.slot WHERE epoch < excluded.epoch"
        )
        await self._write_slot(processor, slot, put)

    async def save(self, processor: str, slot: Slot) -> None:
        put = (
            "UPDATE eventsrc_slots SET slot = :slot "
            "WHERE processor = :processor AND number = :number AND epoch = :epoch"
        )
        await self._write_slot(processor, slot, put)

    async def _write_slot(self, processor: str, slot: Slot, statement: str) -> None:
        values = {"epoch": slot.epoch, "slot": _text(slot), "processor": processor, "number": slot.number}
        if not await self.write(lambda db: db.execute(statement, values).rowcount):
            raise Fenced(processor, slot.number)

    async def heartbeat(self, worker: str) -> None:
        beat = "INSERT INTO eventsrc_workers VALUES (?, 1) ON CONFLICT DO UPDATE SET beats = beats + 1"
        await self._execute(beat, (worker,))

    async def beats(self) -> Mapping[str, int]:
        return dict(await self._query(lambda db: db.execute("SELECT worker, beats FROM eventsrc_workers").fetchall()))

    async def sign_off(self, worker: str) -> None:
        await self._execute("DELETE FROM eventsrc_workers WHERE worker = ?", (worker,))

    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        key = (processor, parked.stream)

        def work(db: sqlite3.Connection) -> bool:
            _check_fence(db, processor, fence)
            if instead_of is None:
                db.execute("INSERT OR REPLACE INTO eventsrc_parked VALUES (?, ?, ?)", (*key, _text(parked)))
                return True
            update = "UPDATE eventsrc_parked SET parked = ? WHERE processor = ? AND stream = ? AND parked IN (?, ?)"
            return bool(db.execute(update, (_text(parked), *key, _text(instead_of), _text(parked))).rowcount)

        return await self.write(work)

    async def unpark(self, processor: str, parked: Parked) -> None:
        delete = "DELETE FROM eventsrc_parked WHERE processor = ? AND stream = ? AND parked = ?"
        await self._execute(delete, (processor, parked.stream, _text(parked)))

    async def parked(self, processor: str, streams: Collection[str] | None = None) -> Sequence[Parked]:
        query = "SELECT parked FROM eventsrc_parked WHERE processor = ?"
        if streams is None:
            rows = await self._query(lambda db: db.execute(f"{query} ORDER BY stream", (processor,)).fetchall())
        else:
            rows = await self._of_streams(query, processor, streams)
        return [msgspec.json.decode(row[0], type=Parked) for row in rows]

    async def note_skipped(self, processor: str, skipped: Skipped) -> None:
        await self._execute(
            "INSERT OR REPLACE INTO eventsrc_skipped VALUES (?, ?, ?, ?)",
            (processor, skipped.stream, skipped.version, _text(skipped)),
        )

    async def skipped(self, processor: str) -> Sequence[Skipped]:
        query = "SELECT skipped FROM eventsrc_skipped WHERE processor = ?"
        rows = await self._query(lambda db: db.execute(query, (processor,)).fetchall())
        return sorted((msgspec.json.decode(row[0], type=Skipped) for row in rows), key=lambda skipped: skipped.time)

    async def active(self, tag: str) -> int | None:
        query = "SELECT version FROM eventsrc_active WHERE tag = ?"
        row = await self._query(lambda db: db.execute(query, (tag,)).fetchone())
        return row[0] if row else None

    async def activate(self, tag: str, version: int, *, instead_of: int | None) -> bool:
        put = (
            "INSERT INTO eventsrc_active SELECT :tag, :version "
            "WHERE :instead_of IS NULL OR EXISTS (SELECT 1 FROM eventsrc_active WHERE tag = :tag) "
            "ON CONFLICT DO UPDATE SET version = :version WHERE version = :instead_of OR version = :version"
        )
        values = {"tag": tag, "version": version, "instead_of": instead_of}
        return bool(await self.write(lambda db: db.execute(put, values).rowcount))

    async def forget(self, processor: str) -> None:
        await self.write(lambda db: forget(db, processor))

    async def _execute(self, statement: str, values: tuple[Any, ...]) -> None:
        await self.write(lambda db: db.execute(statement, values))


def forget(db: sqlite3.Connection, processor: str) -> None:
    """Within a transaction: drop everything stored for a processor, and leave tombstones of its slots."""
    query = "SELECT slot FROM eventsrc_slots WHERE processor = ?"
    left = [tombstone(_slot(row[0])) for row in db.execute(query, (processor,)).fetchall()]
    rows = [(slot.epoch, _text(slot), processor, slot.number) for slot in left]
    db.executemany("UPDATE eventsrc_slots SET epoch = ?, slot = ? WHERE processor = ? AND number = ?", rows)
    for table in ("registrations", "positions", "parked", "skipped"):
        db.execute(f"DELETE FROM eventsrc_{table} WHERE processor = ?", (processor,))


def advance(db: sqlite3.Connection, processor: str, runs: Sequence[Slice]) -> None:
    """Within a transaction: move the positions to the ends of these slices, or none of them.

    Raises Fenced and PositionMoved.
    """
    for fence in {run.fence for run in runs}:
        _check_fence(db, processor, fence)
    inserts = [(*run.position, run.fence.epoch, processor, run.stream) for run in runs if run.is_first]
    updates = [(*run.position, run.fence.epoch, processor, run.stream, run.after) for run in runs if not run.is_first]
    db.execute("SAVEPOINT eventsrc_advance")
    moved = db.executemany(_INSERT, inserts).rowcount if inserts else 0
    moved += db.executemany(_UPDATE, updates).rowcount if updates else 0
    if moved != len(runs):
        db.execute("ROLLBACK TO eventsrc_advance")
    db.execute("RELEASE eventsrc_advance")
    if moved != len(runs):
        raise PositionMoved(_find_moved(db, processor, runs))


def delete_position(db: sqlite3.Connection, processor: str, stream: str, fence: Fence) -> None:
    """Within a transaction: delete the position of a stream. Raises Fenced."""
    _check_fence(db, processor, fence)
    db.execute("DELETE FROM eventsrc_positions WHERE processor = ? AND stream = ?", (processor, stream))


def _find_moved(db: sqlite3.Connection, processor: str, runs: Sequence[Slice]) -> str:
    """Return the first stream whose position is not where its slice begins."""
    query = "SELECT version FROM eventsrc_positions WHERE processor = ? AND stream = ?"
    for run in runs:
        found = db.execute(query, (processor, run.stream)).fetchone()
        if found != (None if run.is_first else (run.after,)):
            return run.stream
    return runs[-1].stream  # the same stream twice


def _check_fence(db: sqlite3.Connection, processor: str, fence: Fence) -> None:
    query = "SELECT epoch FROM eventsrc_slots WHERE processor = ? AND number = ?"
    found = db.execute(query, (processor, fence.slot)).fetchone()
    if found is not None and found[0] != fence.epoch:
        raise Fenced(processor, fence.slot)


def _find_registration(db: sqlite3.Connection, processor: str) -> Registration | None:
    query = "SELECT registration FROM eventsrc_registrations WHERE processor = ?"
    row = db.execute(query, (processor,)).fetchone()
    return msgspec.json.decode(row[0], type=Registration) if row else None


def _call(work: Callable[[sqlite3.Connection], T], db: sqlite3.Connection) -> T:
    try:
        return work(db)
    except StopIteration as error:  # a future cannot hold it
        raise RuntimeError("the function raised StopIteration; in place of next(rows), use next(rows, None)") from error


def _is_of_file(error: Exception, *, reading: bool) -> bool:
    """Whether an error comes from the file, and not from what a statement asks for."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in _FILE_ERRORS and not (reading and code == sqlite3.SQLITE_READONLY)  # a statement that writes


def _text(value: Registration | Slot | Parked | Skipped) -> str:
    return msgspec.json.encode(value).decode()


_slot = msgspec.json.Decoder(Slot).decode
