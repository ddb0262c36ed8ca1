"""Power cuts: SQLiteStore over a disk in memory that loses data that was not synced.

The store is the shipped one: its `connect` with its PRAGMAs and schema, its writer thread with group commit, its rows.
Three parts differ:

- The SQLite library is that of apsw, because only apsw supports a file system written in Python.
- `locking_mode` is EXCLUSIVE, because such a file system has no shared memory. The wal-index, which is never synced,
  is on the heap. There is only one connection, so no reader runs in parallel with the writer.
- Time is counted in changes of the disk.

A seed defines when the power fails and what survives, but not how the threads take turns.

After the power has failed, the process keeps running for a moment with a disk on which every call fails. The outcomes
that it reports in this time must be true as well.
"""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import count
from random import Random
from time import perf_counter
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

import apsw

from eventsrc import Commit, ConflictError, SQLiteStore, StoreError
from eventsrc.aggregates.codec import join, pack
from eventsrc.aggregates.declaration import declaration_of
from eventsrc.store import MAX_VERSION
from eventsrc.stores.sqlite.connection import connect
from eventsrc.stores.sqlite.file import DatabaseFile
from eventsrc.stores.sqlite.rows import read_versions
from eventsrc.uuid7 import uuid7

from .chain import Chain, Linked
from .history import Findings, History, ticking
from .progress import report
from .report import Layer

Synchronous = Literal["FULL", "NORMAL"]

SECTOR = 512  # bytes that a disk writes completely or not at all
CUTS_PER_DISK = 25  # enough for WAL checkpoints; each reopening reads the whole log
STREAMS, WRITERS = 4, 8
PADDINGS = (0, 0, 0, 0, 100, 1000, 20_000)  # the last one takes several pages, so that the WAL fills up
_connect = sqlite3.connect


class File(apsw.VFSFile):
    """A file as the running system sees it, and the part of it that survives a power cut."""

    def __init__(self, disk: Disk, syncs_folder: bool) -> None:
        self._disk = disk
        self._syncs_folder = syncs_folder
        self._content = bytearray()
        self._durable = bytearray()
        self._unsynced: list[tuple[int, bytes | None]] = []  # offset and data; None truncates the file there

    def survivor(self, random: Random) -> File:
        """Return the file after a power cut: the durable content, and any part of the unsynced writes.

        Each sector of a write survives independently. The order in which sectors reach the disk does not matter: if two
        writes overlap, losing the later one gives the same result as the other order.
        """
        left = File(self._disk, self._syncs_folder)
        chance = random.choice((0.0, 0.5, 0.95, 1.0))
        issued = self._unsynced[: random.randint(0, len(self._unsynced))] if random.random() < 0.5 else self._unsynced
        survived = [piece for write in issued for piece in _sectors(*write) if random.random() < chance]
        left._durable = _written(self._durable, survived)
        left._content = bytearray(left._durable)
        return left

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        self._disk.used()
        return bytes(self._content[offset : offset + amount])

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        self._disk.changed()
        self._unsynced.append((offset, bytes(data)))
        _written(self._content, self._unsynced[-1:])

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._disk.changed()
        self._unsynced.append((newsize, None))
        _written(self._content, self._unsynced[-1:])

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.changed()
        if self._syncs_folder:
            self._syncs_folder = False
            self._disk.sync_folder()
        _written(self._durable, self._unsynced)
        self._unsynced = []

    def xFileSize(self) -> int:  # noqa: N802
        self._disk.used()
        return len(self._content)

    def xClose(self) -> None:  # noqa: N802
        pass

    def xLock(self, level: int) -> None:  # noqa: N802
        pass

    def xUnlock(self, level: int) -> None:  # noqa: N802
        pass

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return 4096  # this value and the next are SQLite's on Unix

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE


def _sectors(offset: int, data: bytes | None) -> Iterator[tuple[int, bytes | None]]:
    if data is None:
        yield offset, None
        return
    start = 0
    while start < len(data):
        end = min(len(data), start + SECTOR - (offset + start) % SECTOR)
        yield offset + start, data[start:end]
        start = end


def _written(content: bytearray, writes: Sequence[tuple[int, bytes | None]]) -> bytearray:
    for offset, data in writes:
        if data is None:
            del content[offset:]
            continue
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data
    return content


class Disk(apsw.VFS):
    """One folder. After `left` more changes the power is off, and every call fails until `restore`."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._files: dict[str, File] = {}
        self._durable: dict[str, File] = {}  # the folder after a power cut: names need a sync too
        self.left: float = math.inf
        self.name = f"disk-{next(_numbers)}"
        super().__init__(self.name, base="")

    def restore(self) -> None:
        """Turn the power on. The disk contains what survived the cut."""
        names = sorted(self._files.keys() | self._durable.keys())
        survivors = {name: self._random.choice((self._files, self._durable)).get(name) for name in names}
        self._files = {name: file.survivor(self._random) for name, file in survivors.items() if file}
        self.sync_folder()
        self.left = math.inf

    def size(self, name: str) -> int | None:
        return len(self._files[name]._content) if name in self._files else None

    def read(self, name: str) -> bytes:
        return bytes(self._files[name]._content)

    def used(self) -> None:
        if self.left < 0:
            raise apsw.exception_for(apsw.SQLITE_IOERR)

    def changed(self) -> None:
        self.left -= 1
        self.used()

    def sync_folder(self) -> None:
        self._durable = dict(self._files)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        self.used()
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        flags[1] = flags[0]
        if path not in self._files:
            self.changed()
            # As on Unix: the first sync of a new journal also syncs the folder, and so the names of all files.
            syncs_folder = flags[0] & (apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL)
            self._files[path] = File(self, bool(syncs_folder))
        return self._files[path]

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self.changed()
        self._files.pop(filename, None)
        if syncdir:
            self.sync_folder()

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802
        self.used()
        return pathname in self._files

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name

    def excepthook(self, etype: object, evalue: object, etraceback: object) -> bool:
        return True  # the caller gets the error


_numbers = count()


FOLDER = "/"  # of all files on a disk


class System:
    """The part of `os` that the library uses, for the files on a disk."""

    O_RDWR, O_CREAT, O_EXCL = os.O_RDWR, os.O_CREAT, os.O_EXCL
    F_OK, R_OK, W_OK, X_OK = os.F_OK, os.R_OK, os.W_OK, os.X_OK
    supports_effective_ids = frozenset[Any]()
    fsencode = staticmethod(os.fsencode)

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.path = SimpleNamespace(abspath=str, realpath=str, dirname=lambda _: FOLDER, isdir=bool)

    def stat(self, path: str) -> SimpleNamespace:
        self._disk.used()
        if path == FOLDER:  # in which no file is replaced
            return SimpleNamespace(st_dev=0, st_ino=0, st_mode=stat.S_IFDIR, st_mtime_ns=0)
        size = self._disk.size(path)
        if size is None and not path.endswith("-shm"):  # which is on the heap
            raise FileNotFoundError(path)
        return SimpleNamespace(st_dev=0, st_ino=hash(path), st_mode=stat.S_IFREG, st_size=size)

    def open(self, path: str, *_: int) -> int:
        self._disk.xOpen(path, [apsw.SQLITE_OPEN_MAIN_DB, 0])
        return -1

    def read(self, path: str, _: str) -> BytesIO:
        self._disk.used()
        if self._disk.size(path) is None:
            raise FileNotFoundError(path)
        return BytesIO(self._disk.read(path))

    def access(self, *_: object, **__: object) -> bool:
        return True

    def close(self, file: int) -> None: ...

    def fchmod(self, file: int, mode: int) -> None: ...


class Connection:
    """The part of sqlite3.Connection that the library uses, over apsw."""

    def __init__(self, url: str, disk: Disk) -> None:
        with _as_sqlite3():
            if "immutable" in url:
                flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
                self._connection = apsw.Connection(url, flags=flags, vfs=disk.name)
            else:
                self._connection = apsw.Connection(unquote(urlsplit(url).path), vfs=disk.name)
                self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")

    def execute(self, statement: str, arguments: Sequence[Any] = ()) -> Cursor:
        with _as_sqlite3():
            return Cursor(self._connection, list(self._connection.execute(statement, arguments)))

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self.execute("ROLLBACK")

    def close(self) -> None:
        with suppress(apsw.Error):  # sqlite3 does not raise either
            self._connection.close()


class Cursor:
    """The part of sqlite3.Cursor that the library uses. Text is returned as bytes, as its connections are set to."""

    def __init__(self, connection: apsw.Connection, rows: list[Any]) -> None:
        self._rows = iter([tuple(each.encode() if isinstance(each, str) else each for each in row) for row in rows])
        self.lastrowid = connection.last_insert_rowid()
        self.rowcount = connection.changes()

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def fetchone(self) -> Any:
        return next(self._rows, None)


@contextmanager
def _as_sqlite3() -> Iterator[None]:
    try:
        yield
    except apsw.Error as error:
        kind = sqlite3.IntegrityError if isinstance(error, apsw.ConstraintError) else sqlite3.OperationalError
        raised = kind(str(error))
        raised.sqlite_errorcode = getattr(error, "extendedresult", apsw.SQLITE_ERROR)
        raised.sqlite_errorname = str(apsw.mapping_result_codes.get(raised.sqlite_errorcode & 0xFF))
        raise raised from error


class Machine:
    """One disk and its writers, from power cut to power cut."""

    def __init__(self, random: Random, synchronous: Synchronous) -> None:
        self._random = random
        self._synchronous = synchronous
        self._history = History(ticking())
        self._clock = count(1)
        self._disk = Disk(random)
        self._heads: dict[str, int] = {}
        self._open: dict[int, Commit] = {}  # by writer: the commit whose outcome it does not know

    def connect(self, file: DatabaseFile, deadline: float) -> sqlite3.Connection:
        """Call the library's own `connect` on this disk."""
        connection = connect(file, deadline)
        if self._synchronous != "FULL":
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        return connection

    def _connect_to_disk(self, url: str, **options: Any) -> Any:
        return _connect(url, **options) if url == ":memory:" else Connection(url, self._disk)

    @contextmanager
    def _installed(self) -> Iterator[None]:
        """Give the library this disk in place of the real one."""
        system = System(self._disk)
        with (
            patch("sqlite3.connect", self._connect_to_disk),
            patch("eventsrc.stores.sqlite.file.os", system),
            patch("eventsrc.stores.sqlite.file.open", system.read, create=True),
            patch("eventsrc.stores.sqlite.threads.connect", self.connect),
        ):
            yield

    async def live(self, changes: float, commits_each: int) -> Findings | None:
        """Open the disk, check it, and write to it. The power fails after `changes` changes of the disk.

        Return None if the power failed while the store was being opened.
        """
        self._disk.left = changes
        with self._installed():
            store = SQLiteStore("disk")
            try:
                await store.open()
            except StoreError:
                if self._disk.left >= 0:
                    raise
                self._disk.restore()
                return None
            findings = self._check(store)
            self._history.watch(store)
            await asyncio.gather(*(self._write(store, writer, commits_each) for writer in range(WRITERS)))
            await store.aclose()  # closing writes too, if the power is still on
        self._disk.restore()
        return findings

    def _check(self, store: SQLiteStore) -> Findings:
        assert store._writer is not None
        connection = store._writer._connection
        logs: dict[str, list[Commit]] = {}
        for [stream] in connection.execute("SELECT DISTINCT stream FROM log").fetchall():
            logs[stream.decode()] = read_versions(connection, stream.decode(), 1, MAX_VERSION)
        self._heads = {stream: len(log) for stream, log in logs.items()}
        findings = self._history.check(logs)
        synchronous = 2 if self._synchronous == "FULL" else 1
        for name, promised in (("integrity_check", b"ok"), ("journal_mode", b"wal"), ("synchronous", synchronous)):
            if (found := connection.execute(f"PRAGMA {name}").fetchone()[0]) != promised:
                findings.violations.append(f"{name} is {found}")
        return findings

    async def _write(self, store: SQLiteStore, writer: int, times: int) -> None:
        """Append commits, first the one in flight when the power failed. Its outcome must now be definite."""
        stream = f"chain-{writer % STREAMS}"
        for _ in range(times):
            commit = self._open.get(writer) or self._commit(stream)
            self._open[writer] = commit
            try:
                await store.append(commit)
            except ConflictError:
                pass
            except StoreError:
                return
            del self._open[writer]
            self._heads[stream] = max(self._heads.get(stream, 0), commit.version)

    def _commit(self, stream: str) -> Commit:
        version, id = self._heads.get(stream, 0) + 1, uuid7()
        padding = self._random.randbytes(self._random.choice(PADDINGS))
        event = declaration_of(Chain).codec.encode(Linked(key=f"key-{id.hex()}", padding=padding))[0]
        return Commit(
            stream=stream,
            version=version,
            id=id,
            time=next(self._clock),
            events=1,
            tags=("chain.linked",),
            payload=pack(join([event]), stream, version),
        )


def campaign(cuts: int, seed: int, synchronous: Synchronous = "FULL") -> Layer:
    """Run `cuts` power cuts, on one disk after the other. With NORMAL, acknowledged commits get lost."""
    begun, random, done = perf_counter(), Random(seed), 0
    total = Findings(0, 0, 0, 0, [])
    while done < cuts:
        found, survived = asyncio.run(_disk(min(CUTS_PER_DISK, cuts - done), random, synchronous))
        named = [f"cuts {done + 1} to {done + survived}: {violation}" for violation in found.violations]
        found = found._replace(violations=named)
        total = Findings(*(one + other for one, other in zip(total, found, strict=True)))  # type: ignore[operator]
        done += survived
        report(done, cuts)
    seconds = perf_counter() - begun
    note = f"synchronous={synchronous}, {cuts / seconds:.0f} cuts/s"
    return Layer.of("power cuts, SQLite", total, faults=cuts, seconds=seconds, seed=seed, note=note)


async def _disk(cuts: int, random: Random, synchronous: Synchronous) -> tuple[Findings, int]:
    """Return the findings of a disk and the number of cuts before them. The first violation ends the disk."""
    machine = Machine(random, synchronous)
    for done in range(cuts):
        changes = random.randint(1, random.choice((20, 400, 400, 400)))
        findings = await machine.live(changes, random.choice((2, 15, 15)))
        if findings and findings.violations:
            return findings, max(done, 1)
    findings = await machine.live(math.inf, 0)
    assert findings is not None
    return findings, cuts
