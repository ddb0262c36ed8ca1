"""The writer thread and the reader threads."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from ...concurrency import wait_for_thread
from ...errors import StoreRejected, StoreUnavailable, Throttled
from ..sqlite_errors import ERRORS, to_store_error
from .connection import connect

T = TypeVar("T")

_MAX_JOBS = 1024  # in one transaction
_READERS = 2  # threads: one may read a long page of a feed; more than that only take turns with the interpreter


class Undecided(Exception):
    """COMMIT failed, and it is not known whether the transaction was committed."""


class _Job(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class Writer:
    """The writer thread: it runs all waiting jobs in one transaction, and then reports their outcomes."""

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
        return await wait_for_thread(future)

    def end(self) -> None:
        """Close all connections and end the thread, after the jobs that were submitted before. Does not wait."""
        self._jobs.put(None)

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        open = True
        while open:
            waiting = [self._jobs.get()]
            try:
                while len(waiting) < _MAX_JOBS:
                    waiting.append(self._jobs.get_nowait())
            except Empty:
                pass
            jobs = [job for job in waiting if job is not None]
            open = len(jobs) == len(waiting)
            if jobs:
                _report(jobs, self._run_jobs(jobs))
        self._readers.close()
        self._connection.close()  # last: the last connection to close merges the log into the file

    def _run_jobs(self, jobs: list[_Job]) -> list[Any]:
        """Run jobs in one transaction; return the result or the exception of each.

        The transaction takes effect durably, or not at all. If it fails before its COMMIT, and not because of a lock,
        each job is run again in its own transaction.
        """
        connection = self._connection
        committing = False
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [_run_job(job, connection) for job in jobs]
            committing = True
            connection.execute("COMMIT")
            return outcomes
        except BaseException as error:  # noqa: BLE001  # this thread must not end while callers wait for it
            failure: Exception = (
                to_store_error(error) if isinstance(error, ERRORS) else StoreUnavailable(type(error).__name__)
            )
            if committing and not isinstance(failure, (Throttled, StoreRejected)):
                failure = Undecided()
            try:
                connection.rollback()
            except BaseException:  # noqa: BLE001  # as above
                failure = Undecided() if committing else failure
        if len(jobs) > 1 and not committing and not isinstance(failure, Throttled):
            return [outcome for job in jobs for outcome in self._run_jobs([job])]
        return [failure] * len(jobs)


def _run_job(job: _Job, connection: sqlite3.Connection) -> Any:
    """Return the result of a job, or the exception it raised. Errors of the whole database are raised instead."""
    try:
        return job.work(connection)
    except (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError) as error:
        return to_store_error(error)
    except ERRORS:
        raise
    except Exception as error:  # noqa: BLE001  # it is reported to the caller; the writer continues
        return error


def _report(jobs: list[_Job], outcomes: list[Any]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        by_loop.setdefault(job.loop, []).append((job.future, outcome))
    for loop, answers in by_loop.items():
        with suppress(RuntimeError):  # that loop is closed, and with it the callers
            loop.call_soon_threadsafe(_set_outcomes, answers)


def _set_outcomes(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in answers:
        if future.cancelled():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


class Readers:
    """Reader threads, each with its own connection."""

    def __init__(self, path: str, deadline: float) -> None:
        self._path, self._deadline = path, deadline
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="eventsrc-sqlite-reader")

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        running = asyncio.get_running_loop().run_in_executor(self._pool, self._run_on_own_connection, work)
        return await wait_for_thread(running)

    def _run_on_own_connection(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = connect(self._path, self._deadline, create=False)
                self._connections.append(connection)
            return work(connection)
        except ERRORS as error:
            failure = to_store_error(error)
        raise failure  # outside the except block: the error of sqlite3 may quote a row

    def close(self) -> None:
        self._pool.shutdown()
        for connection in self._connections:
            connection.close()
