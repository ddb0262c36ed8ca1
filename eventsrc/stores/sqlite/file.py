"""The file of a database and the two that SQLite keeps with it: what they hold, and whether they are still there."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing, suppress
from threading import Lock
from time import monotonic, time_ns
from typing import NamedTuple
from urllib.parse import quote

from ...errors import StoreRejected

FILE_MODE = 0o600
_FRESH = 0.05  # seconds
_TICK = 20_000_000  # ns; two changes of a folder within a tick of the kernel's clock may leave the same time
OLDEST_LIBRARY = (3, 37, 0)  # the first one with STRICT tables

_COLUMNS = """
SELECT t.name || '.' || c.name FROM sqlite_master AS t, pragma_table_info(t.name) AS c
WHERE t.type = 'table' AND t.sql NOT LIKE 'CREATE VIRTUAL%'
"""
_MAGIC = bytes.fromhex("d9d505f920a163d7")  # of a rollback journal that is in use
_CREATING = Lock()
"""Held from the look for the file to the end of its creation. A process that closes any descriptor of a file loses the
locks that SQLite holds on it, so no connection is made to a file whose first descriptor is still open."""


class Content(NamedTuple):
    """What a file says it is, without what its write-ahead log adds."""

    version: int  # PRAGMA user_version
    columns: frozenset[str] | None  # `table.column`; None if the schema cannot be read

    @property
    def is_empty(self) -> bool:
        return self.version == 0 and self.columns == frozenset()


class DatabaseFile:
    """The file at a path. It is never opened here while a connection to it may exist, except by SQLite itself."""

    def __init__(self, path: str | os.PathLike[str], mode: int = FILE_MODE) -> None:
        if mode & ~0o777 or mode & 0o600 != 0o600:
            raise ValueError("file_mode must be permissions such as 0o600 that let the owner read and write")
        self.path = os.path.abspath(path)  # resolved now: the working directory may change later
        self._mode = mode
        self._real = self.path  # without symbolic links: SQLite names its other files after it
        self._names = (self.path, f"{self.path}-wal", f"{self.path}-shm")
        self._opened: tuple[tuple[int, int], ...] = ()  # device and inode of each name
        self._compared = 0.0  # when all of them were compared
        self._folders: tuple[tuple[int, int, int], ...] = ()  # as they were then; () if they may change unnoticed
        self.log_size = 0  # bytes of the write-ahead log then

    def prepare(self) -> None:
        """Create the file, empty and with its mode, if it is missing.

        Raises:
            StoreRejected: SQLite is too old, or the file is not a regular one, or it or its folder is not writable.
        """
        if sqlite3.sqlite_version_info < OLDEST_LIBRARY:
            found, oldest = (".".join(map(str, version)) for version in (sqlite3.sqlite_version_info, OLDEST_LIBRARY))
            raise StoreRejected(
                "LIBRARY",
                f"this Python has SQLite {found}, and {oldest} or newer is needed; use a newer Python or SQLite",
            )
        self._real = real = os.path.realpath(self.path)
        folder = os.path.dirname(real)
        with _CREATING:
            try:
                mode = os.stat(real).st_mode
            except FileNotFoundError:
                mode = stat.S_IFREG
                if not os.path.isdir(folder):
                    raise self._refuse("SQLITE_CANTOPEN", "its folder must exist and be writable") from None
                if _is_writable(folder):
                    _create(real, self._mode)
            except OSError as error:
                raise self._refuse("SQLITE_CANTOPEN", f"{error.strerror}; check the path and its folders") from None
        if not stat.S_ISREG(mode):
            raise self._refuse("SQLITE_CANTOPEN", "it is not a regular file; use a path of its own for the store")
        if not _is_writable(folder) or not _is_writable(real):
            raise StoreRejected(
                "SQLITE_READONLY",
                f"{self.path}: the file or its folder is read-only; make it, its -wal and -shm files, and their "
                "folder writable",
            )
        self._names = (self.path, f"{real}-wal", f"{real}-shm")

    def note(self) -> None:
        """Remember which files are open: call it when a connection has read, so that SQLite has made all of them.

        Raises StoreRejected if another file was put there since `inspect`.
        """
        main, self._opened = self._opened[:1], ()
        for name in self._names:
            try:
                self._opened += (_identify(os.stat(name)),)
            except OSError:
                raise self._explain_loss(name, "is gone") from None
        if self._opened[:1] != main:
            raise self._explain_loss(self.path, "was replaced by another file")

    @property
    def is_fresh(self) -> bool:
        """Whether all files were found at their paths a moment ago."""
        return monotonic() - self._compared < _FRESH

    def check(self) -> None:
        """Check that the files that are open are still at their paths.

        Since Linux 6.13, a look at the times of a file makes the next write to it dearer: a save took 20 % longer. So
        the log is compared only now and then, and whenever a file has come into its folder, or left it.

        Raises StoreRejected: what is written now is not in the file that others open.
        """
        if not self.is_fresh or not self._folders or self._look_at_folders() != self._folders:
            self._compare()

    def _look_at_folders(self) -> tuple[tuple[int, int, int], ...]:
        """Return device, inode and time of the folders that have the names. Raises StoreRejected if one is gone."""
        found = []
        for folder in dict.fromkeys(map(os.path.dirname, self._names)):
            try:
                each = os.stat(folder)
            except OSError:
                raise self._explain_loss(folder, "is gone") from None
            found.append((each.st_dev, each.st_ino, each.st_mtime_ns))
        return tuple(found)

    def _compare(self) -> None:
        self._compared, self._folders = 0.0, ()
        begun, folders = time_ns(), self._look_at_folders()  # before the files: a later change is seen next time
        for name, opened in zip(self._names, self._opened, strict=True):
            try:
                found = os.stat(name)
            except OSError:
                raise self._explain_loss(name, "is gone") from None
            if (found.st_dev, found.st_ino) != opened:
                raise self._explain_loss(name, "was replaced by another file")
            if name is self._names[1]:
                self.log_size = found.st_size
        if all(changed < begun - _TICK for *_, changed in folders):
            self._folders = folders
        self._compared = monotonic()

    def inspect(self) -> Content:
        """Return what the file holds. Neither the file nor its folder is changed.

        Raises:
            StoreRejected: it is gone, or what it holds is in a journal only.
            sqlite3.Error: it is not a database, or damaged.
        """
        unfinished = _pages_before(f"{self._real}-journal")
        try:
            found = os.stat(self.path)
        except OSError:
            raise self._explain_loss(self.path, "is gone") from None
        self._opened = (_identify(found),)
        if found.st_size == 1:  # for SQLite, that is an empty file
            raise StoreRejected("SQLITE_NOTADB", f"{self.path}: the file is not an SQLite database")
        # 0 pages before: its creation was cut short, and SQLite takes back what there is of it.
        content = self._read() if found.st_size and unfinished != 0 else Content(0, frozenset())
        if content.is_empty and (unfinished or _size(f"{self._real}-wal")):
            raise self._refuse(
                "SCHEMA",
                "it is empty, but a journal or a write-ahead log with its name is not: it was truncated, or belongs to "
                "another program; use a file of its own",
            )
        return content

    def _read(self) -> Content:
        # `immutable`: no lock, no journal, no other file. `writable_schema`: read on although the log has more pages.
        url = f"file:{quote(os.fsencode(self.path))}?mode=ro&immutable=1"
        with closing(sqlite3.connect(url, isolation_level=None, check_same_thread=False, uri=True)) as connection:
            connection.text_factory = bytes
            connection.execute("PRAGMA writable_schema = ON")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            try:
                return Content(version, read_columns(connection))
            except sqlite3.DatabaseError:
                return Content(version, None)

    def _refuse(self, code: str, reason: str) -> StoreRejected:
        return StoreRejected(code, f"{self.path}: the file cannot be opened; {reason}")

    def _explain_loss(self, name: str, event: str) -> StoreRejected:
        return StoreRejected(
            "FILE",
            f"{name} {event} while the store was open, and later commits would be lost with the old one; close the "
            "store, see that no process has the old file open, put back the right file, and open the store again",
        )


def read_columns(connection: sqlite3.Connection) -> frozenset[str]:
    """Return the columns of all tables that are not virtual, as `table.column`."""
    found = [row[0] for row in connection.execute(_COLUMNS).fetchall()]
    return frozenset(each.decode(errors="replace") if isinstance(each, bytes) else each for each in found)


def _identify(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _create(path: str, mode: int) -> None:
    with suppress(FileExistsError):  # another process was first
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        try:
            os.fchmod(file, mode)  # whatever the umask
        finally:
            os.close(file)


def _is_writable(path: str) -> bool:
    effective = os.access in os.supports_effective_ids
    return os.access(path, os.R_OK | os.W_OK | (os.X_OK if os.path.isdir(path) else 0), effective_ids=effective)


def _pages_before(journal: str) -> int | None:
    """Return the pages that the database had before the transaction of its rollback journal; None if there is none."""
    with suppress(FileNotFoundError), open(journal, "rb") as file:
        header = file.read(20)
        if len(header) == 20 and header.startswith(_MAGIC):
            return int.from_bytes(header[16:20], "big")
    return None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
