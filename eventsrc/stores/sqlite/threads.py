"""The thread that writes, and the few that read."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from ...errors import StoreRejected, StoreUnavailable, Throttled
from .connection import connect
from .errors import ERRORS, typed

T = TypeVar("T")

_BATCH = 1024
_READERS = 4


class Undecided(Exception):
    """COMMIT itself failed in a way that does not tell whether it happened."""


class _Job(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class Writer:
    """The thread that writes: it takes all jobs waiting, runs them in one transaction, and answers them after it."""

    def __init__(self, connection: sqlite3.Connection, readers: Readers) -> None:
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
        """The result or the exception of each job. They took effect together, durably, or not at all; if one of them
        failed all, each is run by itself.
        """
        connection = self._connection
        committing = False
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [_outcome(job, connection) for job in jobs]
            committing = True
            connection.execute("COMMIT")
            return outcomes
        except BaseException as error:  # noqa: BLE001  # this thread must not end while callers wait for it
            failure: Exception = typed(error) if isinstance(error, ERRORS) else StoreUnavailable(type(error).__name__)
            if committing and not isinstance(failure, (Throttled, StoreRejected)):
                failure = Undecided()
            try:
                connection.rollback()
            except BaseException:  # noqa: BLE001  # as above
                failure = Undecided() if committing else failure
        if len(jobs) > 1 and not committing and not isinstance(failure, Throttled):
            return [outcome for job in jobs for outcome in self._transaction([job])]
        return [failure] * len(jobs)


def _outcome(job: _Job, connection: sqlite3.Connection) -> Any:
    """What a job returned or raised. An error of the database as a whole is not the job's: it ends the transaction."""
    try:
        return job.work(connection)
    except (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError) as error:
        return typed(error)
    except ERRORS:
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


class Readers:
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
                connection = self._local.connection = connect(self._path, self._deadline, create=False)
                self._connections.append(connection)
            return work(connection)
        except ERRORS as error:
            failure = typed(error)
        raise failure  # out here, as the error that led to it may quote a row

    def close(self) -> None:
        self._pool.shutdown()
        for connection in self._connections:
            connection.close()
