"""The durable state of processors in an SQLite file, next to the tables of read models."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ....errors import Fenced
from ....stores.feed import Head
from ....stores.sqlite.file import FILE_MODE
from ...slice import Fence, Position, Slice
from ..checkpoints import Checkpoints, Parked, Skipped, Slot, to_text, tombstone
from .file import SQLiteFile
from .positions import advance, check_fence, delete_position
from .registry import SQLiteRegistry
from .workers import SQLiteWorkers

T = TypeVar("T")

_PAGE = 1_000
_MAX_VALUES = 200  # bound values in one statement


class SQLiteCheckpoints(Checkpoints):
    """Checkpoints in an SQLite file, which also holds the tables of the read models. The file is created if missing.

    - The file of an event store is refused with StoreRejected when it is opened.
    - One thread writes, one reads for processors, and one reads for you: a long report does not delay processors.
    - The file is in WAL mode with `synchronous=NORMAL`. After a power failure the last transactions may be lost,
      positions and read model together, and are handled again.
    - `deadline` is the number of seconds that a call waits for another process's transaction.
    - The file is created with the permissions `file_mode`, whatever the umask. SQLite gives them to its other files.
    - If the file is deleted or replaced while it is open, the next call raises StoreRejected with the code FILE.

    Raises:
        ValueError: `path` is not a file.
    """

    def __init__(self, path: str | Path, *, deadline: float = 10.0, file_mode: int = FILE_MODE) -> None:
        if str(path) in ("", ":memory:"):
            raise ValueError("SQLiteCheckpoints needs a file; for read models in memory use MemoryCheckpoints()")
        self.file = SQLiteFile(path, deadline, file_mode)
        self.registry, self.workers = SQLiteRegistry(self.file), SQLiteWorkers(self.file)

    async def open(self) -> None:
        await self.file.open()

    async def aclose(self) -> None:
        await self.file.aclose()

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` in its own transaction, in the writer thread, and return its result.

        If `work` raises, the transaction is rolled back and the error is raised here.

        Raises:
            sqlite3.Error: a statement of `work` is wrong, breaks a constraint, ends the transaction or attaches a file.
            RuntimeError: `work` raised StopIteration.
            Throttled, StoreUnavailable, StoreRejected: the file is locked, or cannot be used.
        """
        return await self.file.write(work)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` on a read-only connection in the reader thread and return its result: to query read models.

        Raises:
            sqlite3.Error: a statement of `work` is wrong, or writes.
            RuntimeError: `work` raised StopIteration.
            StoreUnavailable, StoreRejected: the file cannot be used.
        """
        return await self.file.read(work)

    async def positions(self, processor: str, streams: Collection[str]) -> dict[str, Position]:
        query = "SELECT stream, version, id, time FROM eventsrc_positions WHERE processor = ?"
        rows = await self.file.query(lambda db: _select(db, query, processor, streams))
        return {stream: Position(*found) for stream, *found in rows}

    async def all_positions(self, processor: str) -> AsyncGenerator[Sequence[Head]]:
        after = ""
        while page := await self.file.query(partial(_read_heads, processor=processor, after=after)):
            yield page
            after = page[-1].stream

    async def advance(self, processor: str, run: Slice) -> None:
        await self.write(lambda db: advance(db, processor, [run]))

    async def delete_position(self, processor: str, stream: str, fence: Fence) -> None:
        await self.write(lambda db: delete_position(db, processor, stream, fence))

    async def slots(self, processor: str) -> Sequence[Slot]:
        query = "SELECT slot FROM eventsrc_slots WHERE processor = ? ORDER BY number"
        return [_slot(row[0]) for row in await self.file.query(lambda db: db.execute(query, (processor,)).fetchall())]

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
        values = {"epoch": slot.epoch, "slot": to_text(slot), "processor": processor, "number": slot.number}
        if not await self.write(lambda db: db.execute(statement, values).rowcount):
            raise Fenced(processor, slot.number)

    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        key = (processor, parked.stream)

        def work(db: sqlite3.Connection) -> bool:
            check_fence(db, processor, fence)
            if instead_of is None:
                db.execute("INSERT OR REPLACE INTO eventsrc_parked VALUES (?, ?, ?)", (*key, to_text(parked)))
                return True
            update = "UPDATE eventsrc_parked SET parked = ? WHERE processor = ? AND stream = ? AND parked IN (?, ?)"
            return bool(db.execute(update, (to_text(parked), *key, to_text(instead_of), to_text(parked))).rowcount)

        return await self.write(work)

    async def unpark(self, processor: str, parked: Parked) -> None:
        delete = "DELETE FROM eventsrc_parked WHERE processor = ? AND stream = ? AND parked = ?"
        await self.write(lambda db: db.execute(delete, (processor, parked.stream, to_text(parked))))

    async def parked(self, processor: str, streams: Collection[str] | None = None) -> Sequence[Parked]:
        query = "SELECT parked FROM eventsrc_parked WHERE processor = ?"
        if streams is None:
            rows = await self.file.query(lambda db: db.execute(f"{query} ORDER BY stream", (processor,)).fetchall())
        else:
            rows = await self.file.query(lambda db: _select(db, query, processor, streams))
        return [msgspec.json.decode(row[0], type=Parked) for row in rows]

    async def note_skipped(self, processor: str, skipped: Skipped) -> None:
        values = (processor, skipped.stream, skipped.version, to_text(skipped))
        await self.write(lambda db: db.execute("INSERT OR REPLACE INTO eventsrc_skipped VALUES (?, ?, ?, ?)", values))

    async def skipped(self, processor: str) -> Sequence[Skipped]:
        query = "SELECT skipped FROM eventsrc_skipped WHERE processor = ?"
        rows = await self.file.query(lambda db: db.execute(query, (processor,)).fetchall())
        return sorted((msgspec.json.decode(row[0], type=Skipped) for row in rows), key=lambda skipped: skipped.time)

    async def forget(self, processor: str) -> None:
        await self.write(lambda db: forget(db, processor))


def _read_heads(db: sqlite3.Connection, processor: str, after: str) -> list[Head]:
    """Return the positions of the next streams after this one, up to _PAGE."""
    query = "SELECT stream, version FROM eventsrc_positions WHERE processor = ? AND stream > ? ORDER BY stream LIMIT ?"
    return [Head(*row) for row in db.execute(query, (processor, after, _PAGE))]


def _select(db: sqlite3.Connection, query: str, processor: str, streams: Collection[str]) -> list[Any]:
    """Return the rows of these streams."""
    asked, found = list(dict.fromkeys(streams)), list[Any]()
    for start in range(0, len(asked), _MAX_VALUES):
        some = asked[start : start + _MAX_VALUES]
        marks = ", ".join("?" * len(some))
        found += db.execute(f"{query} AND stream IN ({marks})", (processor, *some))
    return found


def forget(db: sqlite3.Connection, processor: str) -> None:
    """Within a transaction: drop everything stored for a processor, and leave tombstones of its slots."""
    query = "SELECT slot FROM eventsrc_slots WHERE processor = ?"
    left = [tombstone(_slot(row[0])) for row in db.execute(query, (processor,)).fetchall()]
    rows = [(slot.epoch, to_text(slot), processor, slot.number) for slot in left]
    db.executemany("UPDATE eventsrc_slots SET epoch = ?, slot = ? WHERE processor = ? AND number = ?", rows)
    for table in ("registrations", "positions", "parked", "skipped"):
        db.execute(f"DELETE FROM eventsrc_{table} WHERE processor = ?", (processor,))


_slot = msgspec.json.Decoder(Slot).decode
