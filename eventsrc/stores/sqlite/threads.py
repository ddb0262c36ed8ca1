"""The writer thread and the reader threads, and the deadline of calls that wait for them."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Generic, TypeVar

from ...concurrency import wait_for_thread
from ...errors import StoreError, StoreRejected, StoreUnavailable, Throttled
from ...log import log
from ..sqlite_errors import ERRORS, to_store_error
from .connection import LOG_BYTES, connect, connect_again
from .file import DatabaseFile

T = TypeVar("T")

_MAX_CALLS = 1024  # in one transaction
_READERS = 2  # threads: one may read a long page of a feed; more than that only take turns with the interpreter
_TO_OPEN = 1.0  # seconds for everything except locks, so that an error that names a lock comes first


class Undecided(Exception):
    """It is not known whether the transaction was committed, or not to which file. The argument is the reason."""


class Call(Generic[T]):
    """Work for a thread, and the future of its caller.

    The work begins, or the caller withdraws it: the first `claim` decides. Work that was withdrawn is never run.
    """

    __slots__ = ("_claimed", "due", "future", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], T], future: asyncio.Future[T], due: float) -> None:
        self.work, self.future, self.due = work, future, due  # `due` is the deadline, by the monotonic clock
        self._claimed = threading.Lock()

    def claim(self) -> bool:
        """Return whether this is the first claim."""
        return self._claimed.acquire(blocking=False)

    def is_claimed(self) -> bool:
        return self._claimed.locked()


class Waiting:
    """The calls of one event loop that wait for a thread. One timer ends all that are not answered in time."""

    def __init__(self, deadline: float, explain: Callable[[Call[Any]], Exception]) -> None:
        self._deadline, self._explain = deadline, explain
        self._loop = asyncio.get_running_loop()
        self._calls: dict[Call[Any], None] = {}  # in the order of their deadlines
        self._timer: asyncio.TimerHandle | None = None

    def add(self, work: Callable[[sqlite3.Connection], T]) -> Call[T]:
        """Return a call that ends at the deadline."""
        call = Call(work, self._loop.create_future(), monotonic() + self._deadline)
        self._calls[call] = None
        if self._timer is None:
            self._timer = self._loop.call_later(self._deadline, self._end_late_calls)
        return call

    def answer(self, answers: Sequence[tuple[Call[Any], Any]]) -> None:
        """Give calls their results or exceptions. To be called by a thread."""
        with suppress(RuntimeError):  # the loop is closed, and with it the callers
            self._loop.call_soon_threadsafe(self._answer, answers)

    def end(self) -> None:
        """Stop the timer. To be called in the event loop, like `add`."""
        if self._timer is not None:
            self._timer.cancel()

    def _answer(self, answers: Sequence[tuple[Call[Any], Any]]) -> None:
        for call, outcome in answers:
            self._calls.pop(call, None)
            if call.future.done():
                continue  # cancelled, or ended at the deadline
            if isinstance(outcome, Exception):
                call.future.set_exception(outcome)
            else:
                call.future.set_result(outcome)

    def _end_late_calls(self) -> None:
        self._timer, now = None, monotonic()
        while self._calls:
            call = next(iter(self._calls))
            if (left := call.due - now) > 0:
                self._timer = self._loop.call_later(left, self._end_late_calls)
                return
            del self._calls[call]
            if not call.future.done():
                call.future.set_exception(self._explain(call))


class Writer:
    """The writer thread: it runs all waiting calls in one transaction, and then reports their outcomes.

    A call that has not begun at the deadline never runs. One that has begun then ends with Undecided.
    """

    def __init__(self, file: DatabaseFile, deadline: float, readers: Readers) -> None:
        self._file, self._deadline, self._readers = file, deadline, readers
        self._connection: sqlite3.Connection
        self._queue: SimpleQueue[Call[Any] | None] = SimpleQueue()
        self._waiting = Waiting(deadline, self._explain_late)
        self._is_locked = False  # whether another connection holds the write lock
        self._bound = LOG_BYTES
        self._waiting_to_open = Waiting(deadline + _TO_OPEN, self._explain_late)
        self._opening = self._waiting_to_open.add(_read_nothing)
        self._thread = threading.Thread(target=self._run, name="eventsrc-sqlite-writer", daemon=True)
        self._thread.start()

    async def opened(self) -> None:
        """Wait until the thread has opened the file. Raises StoreError if it cannot, or not in time."""
        await wait_for_thread(self._opening.future)

    async def submit(self, work: Callable[[sqlite3.Connection], T]) -> T:
        call = self._waiting.add(work)
        self._queue.put(call)
        return await wait_for_thread(call.future)

    def end(self) -> None:
        """Close all connections and end the thread, after the calls that were submitted before. Does not wait."""
        self._waiting_to_open.end()
        self._waiting.end()
        self._readers.end()
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the end of the thread, or for the deadline. A thread that the disk holds up ends later."""
        self._thread.join(self._deadline)
        if self._thread.is_alive():
            log.warning("%s could not be closed before the deadline; its disk does not answer", self._file.path)

    def _explain_late(self, call: Call[Any]) -> Exception:
        if not call.claim():
            return Undecided("the transaction was not committed before the deadline")
        return self._explain_not_begun()

    def _explain_not_begun(self) -> StoreError:
        if self._is_locked:
            return Throttled("SQLITE_BUSY: another process held the file's write lock until the deadline")
        return StoreUnavailable(f"{self._file.path} did not answer before the deadline; nothing was written")

    def _run(self) -> None:
        try:
            self._connection = connect(self._file, self._deadline)
        except BaseException as error:  # noqa: BLE001  # the caller gets it
            self._waiting_to_open.answer([(self._opening, _to_error(error))])
        else:
            with suppress(
                *ERRORS
            ):  # `_begin` waits until the deadline, but with this it knows sooner what it waits for
                self._connection.execute(f"PRAGMA busy_timeout = {max(1, int(self._deadline * 100))}")
            self._waiting_to_open.answer([(self._opening, None)])
            while (call := self._queue.get()) is not None and self._run_calls(call):
                pass
            self._readers.close()
            self._connection.close()  # last: the last connection to close merges the log into the file

    def _run_calls(self, first: Call[Any]) -> bool:
        """Run this call and those that wait after it. Return False at the end of the queue."""
        if first.is_claimed():
            return True  # withdrawn
        if (failure := self._begin(first.due)) is not None:
            if first.claim():
                self._waiting.answer([(first, failure)])
            return True
        waiting: list[Call[Any] | None] = [first]
        with suppress(Empty):
            while len(waiting) < _MAX_CALLS and waiting[-1] is not None:
                waiting.append(self._queue.get_nowait())
        now = monotonic()
        begun = [call for call in waiting if call is not None and call.claim()]
        calls = [call for call in begun if call.due > now]
        outcomes = self._commit(calls)
        self._waiting.answer(list(zip(calls, outcomes, strict=True)))
        if len(calls) < len(begun):  # the event loop was too busy to withdraw them
            self._waiting.answer([(call, self._explain_not_begun()) for call in begun if call.due <= now])
        if self._file.log_size > self._bound:
            self._look_at_log()
        return waiting[-1] is not None

    def _begin(self, due: float) -> StoreError | None:
        """Begin a transaction. Return the error if that is not possible, or not before the deadline `due`."""
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                if not self._file.is_fresh:
                    self._file.check()
                self._is_locked = False
                return None
            except BaseException as error:  # noqa: BLE001  # this thread must not end while callers wait for it
                failure = _to_error(error)
            self._roll_back()
            self._is_locked = isinstance(failure, Throttled)
            if not self._is_locked or monotonic() >= due:
                return failure

    def _commit(self, calls: list[Call[Any]]) -> list[Any]:
        """Run calls in the open transaction, and commit it; return the result or the exception of each.

        The transaction takes effect durably, in the file that is at the path afterwards, or not at all. If it fails
        before its COMMIT, and not because of a lock, each call is run again in its own transaction.
        """
        connection, committing = self._connection, False
        try:
            outcomes = [_run_call(call, connection) for call in calls]
            committing = True
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001  # as above
            failure: Exception = _to_error(error)
            if committing and not isinstance(failure, (Throttled, StoreRejected)):
                failure = Undecided(str(failure))
            if not self._roll_back() and committing:
                failure = Undecided(str(failure))
        else:
            try:
                self._file.check()
            except BaseException as error:  # noqa: BLE001  # as above
                lost = Undecided(str(_to_error(error)))
                return [each if isinstance(each, Exception) else lost for each in outcomes]
            return outcomes
        if len(calls) > 1 and not committing and not isinstance(failure, Throttled):
            return [self._begin(call.due) or self._commit([call])[0] for call in calls]
        return [failure] * len(calls)

    def _roll_back(self) -> bool:
        """Return whether no transaction is open any more."""
        try:
            self._connection.rollback()
        except BaseException:  # noqa: BLE001  # as above
            return False
        return True

    def _look_at_log(self) -> None:
        """Warn if a reader keeps the write-ahead log from starting again. The next warning comes at twice the size."""
        self._bound = self._file.log_size + LOG_BYTES // 8
        with suppress(*ERRORS):
            _, pages, merged = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if merged < pages:
                self._bound = 2 * self._file.log_size
                log.warning(
                    "%s-wal has grown to %d MiB, because a connection reads an old state, and it grows until that one "
                    "ends its transaction; look for another program that has the file open, or a cursor left open",
                    self._file.path,
                    self._file.log_size >> 20,
                )


def _read_nothing(connection: sqlite3.Connection) -> None:
    """The work of opening."""


def _to_error(error: BaseException) -> StoreError:
    if isinstance(error, StoreError):
        return error.with_traceback(None)
    return to_store_error(error) if isinstance(error, ERRORS) else StoreUnavailable(type(error).__name__)


def _run_call(call: Call[Any], connection: sqlite3.Connection) -> Any:
    """Return the result of a call, or the exception it raised. Errors of the whole database are raised instead."""
    try:
        return call.work(connection)
    except (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError) as error:
        return to_store_error(error)
    except ERRORS:
        raise
    except Exception as error:  # noqa: BLE001  # it is reported to the caller; the writer continues
        return error


class Readers:
    """Reader threads, each with its own connection. A read that is not done at the deadline ends with an error."""

    def __init__(self, file: DatabaseFile, deadline: float) -> None:
        self._file, self._deadline = file, deadline
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._waiting = Waiting(deadline, self._end_late)
        self._running: dict[Call[Any], sqlite3.Connection] = {}
        self._lock = threading.Lock()  # of `_running`: only a connection that runs the call is interrupted
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="eventsrc-sqlite-reader")

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        call = self._waiting.add(work)
        self._pool.submit(self._run, call)
        return await wait_for_thread(call.future)

    def _end_late(self, call: Call[Any]) -> Exception:
        if not call.claim():  # else it is withdrawn, and takes no thread from others
            with self._lock:
                if (connection := self._running.get(call)) is not None:
                    connection.interrupt()
        return StoreUnavailable(f"{self._file.path} could not be read before the deadline; try again later")

    def _run(self, call: Call[Any]) -> None:
        if call.future.cancelled() or not call.claim():
            outcome: Any = None
        elif call.due <= monotonic():
            outcome = self._end_late(call)
        else:
            outcome = self._run_on_own_connection(call)
        self._waiting.answer([(call, outcome)])

    def _run_on_own_connection(self, call: Call[Any]) -> Any:
        """Return the result of a call, or its exception."""
        try:
            self._file.check()
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = connect_again(self._file, self._deadline)
                connection.text_factory = bytes
                self._connections.append(connection)
            with self._lock:
                self._running[call] = connection
            try:
                return call.work(connection)
            finally:
                with self._lock:
                    del self._running[call]
        except ERRORS as error:
            return to_store_error(error)
        except Exception as error:  # noqa: BLE001  # the caller gets it
            return error

    def end(self) -> None:
        self._waiting.end()

    def close(self) -> None:
        """Close all connections, after the reads that have begun."""
        self._pool.shutdown()
        for connection in self._connections:
            connection.close()
