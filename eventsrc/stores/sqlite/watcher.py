"""A thread that looks for commits of other processes, while feeds follow the store."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from time import sleep

from ...errors import StoreError
from ..sqlite_errors import ERRORS
from .connection import connect_again
from .file import DatabaseFile
from .rows import read_last_position

_AFTER_AN_ERROR = 1.0  # seconds until the next look
_GROWTH, _QUIET = 1.1, 3.0  # the pause between looks grows to three times `seconds` while nothing is stored
_LOOKS_PER_CHECK = 20  # whether the file is still at its path


class Watcher:
    """While feeds follow, calls `found` in its thread with the last position of the file, when that has changed.

    Each look asks SQLite whether the file has changed, for which it compares numbers in shared memory. After an error,
    `found` is called with None: a feed that reads then gets the error.
    """

    def __init__(
        self, file: DatabaseFile, deadline: float, seconds: float, found: Callable[[int | None], None]
    ) -> None:
        self._file, self._deadline, self._seconds, self._found = file, deadline, seconds, found
        self._following, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="eventsrc-sqlite-watcher", daemon=True)
        self._thread.start()

    def follow(self, *, following: bool) -> None:
        """Begin to look each `seconds`, or stop."""
        if following:
            self._following.set()
        else:
            self._following.clear()

    def end(self) -> None:
        """Close the connection and end the thread. Does not wait."""
        self._ended.set()
        self._following.set()

    def join(self) -> None:
        """Wait for the end of the thread, or for the deadline."""
        self._thread.join(self._deadline)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                connection = connect_again(self._file, self._deadline)
                try:
                    self._watch(connection)
                finally:
                    connection.close()
            except (StoreError, *ERRORS):
                self._found(None)
                self._ended.wait(_AFTER_AN_ERROR)

    def _watch(self, connection: sqlite3.Connection) -> None:
        seen = last = -1
        looks, pause = 0, self._seconds
        while not self._ended.is_set():
            if looks % _LOOKS_PER_CHECK == 0:
                self._file.check()  # an old file does not change any more
            looks += 1
            version: int = connection.execute("PRAGMA data_version").fetchone()[0]  # compares within one connection
            if version != seen:
                seen, position = version, read_last_position(connection)
                if position != last:
                    last, pause = position, self._seconds
                    self._found(position)
            sleep(pause)  # for half the CPU of a wait with a timeout
            pause = min(pause * _GROWTH, _QUIET * self._seconds)
            self._following.wait()
