"""Read models in SQLite: your own tables, changed in one transaction with the positions."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cached_property
from math import inf
from time import monotonic
from typing import Any

from ...errors import DeclarationError
from ...store import Commit, Store
from ...trace_context import TraceContext, enter, leave
from ..checkpoints.checkpoints import Checkpoints
from ..checkpoints.sqlite.checkpoints import SQLiteCheckpoints, forget
from ..checkpoints.sqlite.positions import advance, delete_position
from ..slice import Context, Fence, HandlerFailed, PositionMoved, Slice
from .calling import GRACE, explain_timeout, refuse_awaitable, to_failure
from .handlers import Handler
from .ordering import Stretch, Walk, in_order, parts_of, split, stretches_of, without
from .projection import Failure, Guarantee, Projection

_FILE_ERRORS = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
}
"""Codes of errors that a handler does not cause."""

_ENDED = "a handler ends the transaction, which also holds the position; leave it open"
_NOT_AUTHORIZED = (
    "a handler begins or ends a transaction, or attaches a file; leave the transaction open, which also holds the "
    "position; SAVEPOINT, ROLLBACK TO and RELEASE are allowed"
)

_STEPS = 50_000
"""Steps of SQLite's virtual machine, about a millisecond, after which the time limit of the handler is checked."""

_OWNED = """
SELECT type, name FROM sqlite_master
WHERE lower(name) = lower(:table) OR lower(substr(name, 1, length(:prefix))) = lower(:prefix)
ORDER BY type = 'table', sql LIKE 'CREATE VIRTUAL %' DESC
"""
"""What has the name of a version's table or starts with it. Virtual tables come before those in which they store."""


class Watch:
    """The time limit of the handler that the writer thread runs now."""

    __slots__ = ("end", "handler", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout  # seconds
        self.handler: Handler | None = None  # None if none is running
        self.end = inf  # by the monotonic clock

    def is_over(self) -> bool:
        """Whether the handler that is running has exceeded the limit."""
        return monotonic() > self.end

    def explain(self) -> TimeoutError:
        assert self.handler is not None
        return TimeoutError(explain_timeout(self.handler.name, self.timeout))

    def explain_blocked(self) -> DeclarationError:
        name = handler.name if (handler := self.handler) is not None else "a handler"
        return DeclarationError(
            name,
            f"has not returned {self.timeout + GRACE:g} seconds after its call; it blocks the thread that writes all "
            "read models of the file, so it must wait for nothing but the database; do other work in Effects",
        )


class Database:
    """The database as handlers see it: inside the transaction that also moves the position."""

    __slots__ = ("_connection", "_watch")

    def __init__(self, connection: sqlite3.Connection, watch: Watch | None = None) -> None:
        self._connection, self._watch = connection, watch or Watch(inf)

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> sqlite3.Cursor:
        connection = self._connection
        # Handlers execute a statement at each event, so the check is called only if it fails.
        if not connection.in_transaction or monotonic() > self._watch.end:
            self._check()
        try:
            return connection.execute(statement, values)
        except sqlite3.DatabaseError as error:
            _explain(error)
            raise

    def executemany(self, statement: str, rows: Iterable[Sequence[Any] | Mapping[str, Any]]) -> sqlite3.Cursor:
        self._check()
        try:
            return self._connection.executemany(statement, rows)
        except sqlite3.DatabaseError as error:
            _explain(error)
            raise

    def _check(self) -> None:
        """Refuse to write outside the transaction, or after the time limit. The connection refuses to end it."""
        if not self._connection.in_transaction:
            raise RuntimeError(_ENDED)
        if self._watch.is_over():
            raise self._watch.explain()


class SQLiteContext(Context):
    """A context with `db`, to write to the tables."""

    __slots__ = ("db",)
    db: Database


class _Stopped(Exception):
    """The commits of a stretch could not be handled. The transaction was rolled back."""

    def __init__(self, index: int, failure: HandlerFailed) -> None:
        super().__init__(index)
        self.index, self.failure = index, failure


class SQLiteProjection(Projection):
    """A read model in tables of an SQLite file.

    What handlers execute on `context.db` is in one transaction with the positions. So each commit is handled exactly
    once, even if a process is killed at any moment. A handler that fails undoes only its own commit.

    - `create` creates the tables and `drop` drops them. Give them names that start with `table`, which is made of tag
      and version, so a rebuild has tables of its own.
    - Handlers are plain methods. They run in the writer thread, which all read models of the file share: they must not
      use objects of the event loop, and must not wait for anything but the database.
    - A statement that runs when the processor's `handler_timeout` is over is interrupted, and the handler fails. If a
      handler blocks otherwise, the processor ends with an error.
    - On stores that count commits, handlers are called in the order in which commits were stored, across streams. With
      `order = "stream"` the commits of a batch come one stream after the other, which gives longer sequences to
      handlers that take them.
    """

    guarantee = Guarantee.TRANSACTION
    in_batches = True
    _checkpoints: SQLiteCheckpoints

    def create(self, db: Database) -> None:
        """Create the tables if they do not exist: `CREATE TABLE IF NOT EXISTS ...`."""

    def drop(self, db: Database) -> None:
        """Drop the tables. By default, drop all tables, views, indexes and triggers that this version has named.

        These are `table` and all names that start with `table` and an underscore, as `balances_1` and
        `balances_1_owners`.
        """
        found = db.execute(_OWNED, {"table": self.table, "prefix": f"{self.table}_"}).fetchall()
        for kind, name in found:  # IF EXISTS: a table takes its indexes and triggers with it
            db.execute(f"""DROP {kind} IF EXISTS "{name.replace('"', '""')}" """)

    def forget_stream(self, db: Database, stream: str) -> None:
        """Delete from the tables what events of `stream` have written. Write it to make `reset` possible.

        It is called in one transaction with the deletion of the stream's position.
        """
        name = f"{type(self).__qualname__}.forget_stream"
        raise TypeError(f"{name} is not written, so the events of one stream cannot be undone; write it")

    @cached_property  # handlers ask for it at each event
    def table(self) -> str:
        """A table name for SQL, made of tag and version, as `airport_delays_2`."""
        return _to_table(self.name)

    def bind(self, checkpoints: Checkpoints, store: Store, *, handler_timeout: float = 30.0) -> None:
        if not isinstance(checkpoints, SQLiteCheckpoints):
            raise TypeError(f"{type(self).__qualname__} needs SQLiteCheckpoints, as its tables are in the same file")
        super().bind(checkpoints, store, handler_timeout=handler_timeout)
        if not re.fullmatch(r"[A-Za-z_]\w*", self.table, re.ASCII):
            raise DeclarationError(
                type(self).__qualname__,
                f"its tag gives {self.table!r}, which is not a table name; start it with a letter",
            )

    async def prepare(self) -> None:
        """Create the tables. Raises DeclarationError if another processor has tables of the same names."""
        await self._check_others()

        def make(db: sqlite3.Connection) -> None:
            try:
                self.create(Database(db))
            except Exception as error:
                raise HandlerFailed(error) from error

        try:
            await self._checkpoints.write(make)
        except HandlerFailed as failed:
            raise failed.error from None

    async def _check_others(self) -> None:
        ours = f"{self.table}_".lower()
        for name in await self._checkpoints.processors():
            theirs = f"{_to_table(name)}_".lower()
            if name != self.name and (ours.startswith(theirs) or theirs.startswith(ours)):
                raise DeclarationError(
                    type(self).__qualname__,
                    f"its tables are named {self.table}, which the processor {name} uses, too: tags that differ "
                    "only in '-', '_', '.', case or a number at the end share tables; rename one",
                )

    async def discard(self) -> None:
        """Drop the tables and the positions, in one transaction."""

        def work(db: sqlite3.Connection) -> None:
            forget(db, self.name)
            self.drop(Database(db))

        await self._checkpoints.write(work)

    async def reset(self, stream: str, fence: Fence) -> None:
        """Call `forget_stream` and delete the stream's position, in one transaction."""

        def work(db: sqlite3.Connection) -> None:
            delete_position(db, self.name, stream, fence)
            self.forget_stream(Database(db), stream)

        await self._checkpoints.write(work)

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        failures: dict[str, Failure] = {}
        by_stream = {run.stream: run for run in runs}
        group = stretches_of if self._handlers.take_sequences else split
        now, later = group(in_order(runs, self.order)), list[Stretch]()
        parts = runs  # of which `now` consists
        while now:
            try:
                await self._transact(now, parts)
            except PositionMoved as error:
                failures[error.stream] = Failure(by_stream[error.stream], error)
                now, later = without(error.stream, now), without(error.stream, later)
            except _Stopped as stopped:
                culprit, later = now[stopped.index], [*now[stopped.index + 1 :], *later]
                now = now[: stopped.index]  # they have succeeded, and were rolled back: they are handled again, alone
                if len(culprit) > 1:
                    later = [*split(culprit), *later]
                else:
                    stream = culprit[0].stream
                    failures[stream] = Failure(by_stream[stream], stopped.failure)
                    later = without(stream, later)
            else:
                now = []
            if not now:
                now, later = later, []
            parts = parts_of(runs, now)
        return list(failures.values())

    async def _transact(self, stretches: Sequence[Stretch], parts: Sequence[Slice]) -> None:
        """Handle stretches, which make up these parts of slices, in one transaction.

        Raises DeclarationError if a handler blocks the writer thread.
        """
        watch, loop = Watch(self._handler_timeout), asyncio.get_running_loop()
        timers: list[asyncio.TimerHandle] = []  # the one that runs

        def look() -> None:
            if (left := min(watch.end - monotonic(), watch.timeout) + GRACE) < 0:
                limit.reschedule(loop.time())
            else:
                timers[:] = [loop.call_later(left + 0.01, look)]

        timers.append(loop.call_later(self._handler_timeout, look))
        try:
            async with asyncio.timeout(None) as limit:
                await self._checkpoints.write(lambda db: self._handle(db, stretches, parts, watch))
        except TimeoutError:  # not a handler's, which is in _Stopped
            raise watch.explain_blocked() from None
        finally:
            timers.pop().cancel()

    def _handle(
        self, db: sqlite3.Connection, stretches: Sequence[Stretch], parts: Sequence[Slice], watch: Watch
    ) -> None:
        advance(db, self.name, parts)  # first, so a second worker gets PositionMoved, not a failing handler
        db.set_progress_handler(watch.is_over, _STEPS)  # it interrupts a statement
        database, muted = Database(db, watch), {run.stream for run in parts if run.muted}
        attempts = {run.commits[0].id: run.attempt for run in parts if run.attempt > 1}
        walk, token = Walk([stretch[0] for stretch in stretches]), enter(TraceContext())
        try:
            if self._handlers.take_sequences:
                for _, stretch in zip(walk, stretches, strict=True):
                    self._call(database, stretch, muted, attempts, watch)
            else:
                self._call(database, walk, muted, attempts, watch)
            if not db.in_transaction:
                raise RuntimeError(_ENDED)
        except (Exception, asyncio.CancelledError) as error:
            if _is_of_file(error):
                raise
            raise _Stopped(min(walk.done, len(stretches) - 1), to_failure(error)) from error
        finally:
            leave(token)
            watch.end = inf
            db.set_progress_handler(None, 0)

    def _call(
        self,
        database: Database,
        commits: Iterable[Commit],
        muted: Set[str],
        attempts: Mapping[bytes, int],
        watch: Watch,
    ) -> None:
        timeout, now = watch.timeout, monotonic()
        for call in self._handlers.calls(commits):
            handler, given, commit, index, _ = call
            enter(call.cause(self.name, attempts.get(call.first_commit.id, 1) if attempts else 1))
            watch.handler, watch.end = handler, now + timeout
            try:
                if handler.with_context:
                    context = SQLiteContext(commit, index, commit.stream in muted)
                    context.db = database
                    result = handler.call(self, given, context)
                else:
                    result = handler.call(self, given)
                if result is not None:
                    refuse_awaitable(result, handler.name)
            finally:
                if (now := monotonic()) > watch.end:
                    raise watch.explain()


def _to_table(name: str) -> str:
    """Return the table name for a processor's name: `airport_delays_2` for `airport-delays@2`."""
    return name.replace("@", "_").replace("-", "_").replace(".", "_")


def _explain(error: sqlite3.DatabaseError) -> None:
    """Raise RuntimeError in place of the error of a statement that the connection refused to compile."""
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_AUTH:
        raise RuntimeError(_NOT_AUTHORIZED) from error


def _is_of_file(error: BaseException) -> bool:
    """Whether an error comes from the file, and not from the handler."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _FILE_ERRORS
