"""Read models in SQLite: your own tables, changed in one transaction with the positions."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Any

from ...errors import DeclarationError
from ...store import Store
from ..checkpoints.checkpoints import Checkpoints
from ..checkpoints.sqlite import SQLiteCheckpoints, advance, delete_position, forget
from ..slice import Context, Fence, HandlerFailed, PositionMoved, Slice
from .calling import GRACE, explain_timeout
from .handlers import Handler
from .ordering import Stretch, in_order, join
from .projection import Failure, Guarantee, Projection

_ENDS_TRANSACTION = re.compile(r"\s*(BEGIN|COMMIT|END|ROLLBACK(?!\s+(TRANSACTION\s+)?TO\b))\b", re.IGNORECASE)
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

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._handler: Handler | None = None
        self._end = 0.0

    def start(self, handler: Handler) -> None:
        self._end = monotonic() + self._timeout
        self._handler = handler

    def stop(self) -> None:
        """Raise TimeoutError if the handler has exceeded the limit."""
        try:
            self.check()
        finally:
            self._handler = None

    def check(self) -> None:
        """Raise TimeoutError if a handler is running and has exceeded the limit."""
        if (handler := self._handler) is not None and self.is_over():
            raise TimeoutError(explain_timeout(handler.name, self._timeout))

    def is_over(self) -> bool:
        return self._handler is not None and monotonic() > self._end

    def left(self) -> float:
        """Return the seconds that the handler which is running has left, or the whole limit if none is running."""
        return self._end - monotonic() if self._handler is not None else self._timeout

    def explain_blocked(self) -> DeclarationError:
        name = handler.name if (handler := self._handler) is not None else "a handler"
        return DeclarationError(
            name,
            f"has not returned {self._timeout + GRACE:g} seconds after its call; it blocks the thread that writes all "
            "read models of the file, so it must wait for nothing but the database; do other work in Effects",
        )


class Database:
    """The database as handlers see it: inside the transaction that also moves the position."""

    __slots__ = ("_connection", "_watch")

    def __init__(self, connection: sqlite3.Connection, watch: Watch | None = None) -> None:
        self._connection, self._watch = connection, watch

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> sqlite3.Cursor:
        self._check(statement)
        return self._connection.execute(statement, values)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any] | Mapping[str, Any]]) -> sqlite3.Cursor:
        self._check(statement)
        return self._connection.executemany(statement, rows)

    def _check(self, statement: str) -> None:
        """Refuse to end the transaction: it also holds the positions of streams whose handlers were not called yet."""
        if _ENDS_TRANSACTION.match(statement) or not self._connection.in_transaction:
            raise RuntimeError(_ENDED)
        if self._watch is not None:
            self._watch.check()


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

    @property
    def table(self) -> str:
        """A table name for SQL, made of tag and version, as `airport_delays_2`."""
        return _to_table(self.name)

    def bind(self, checkpoints: Checkpoints, store: Store, *, handler_timeout: float = 30.0) -> None:
        if not isinstance(checkpoints, SQLiteCheckpoints):
            raise TypeError(f"{type(self).__qualname__} needs SQLiteCheckpoints, as its tables are in the same file")
        super().bind(checkpoints, store, handler_timeout=handler_timeout)
        if not re.fullmatch(r"[A-Za-z_]\w*", self.table, re.ASCII):
            raise DeclarationError(
                type(self).__qualname__, f"its tag gives {self.table!r}, which is no table name; start it with a letter"
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
        now, later = in_order(runs, self.order), list[Stretch]()
        while now:
            try:
                await self._transact(now)
            except PositionMoved as error:
                failures[error.stream] = Failure(by_stream[error.stream], error)
                now, later = _without(error.stream, now), _without(error.stream, later)
            except _Stopped as stopped:
                culprit, later = now[stopped.index], [*now[stopped.index + 1 :], *later]
                now = now[: stopped.index]  # they have succeeded, and were rolled back: they are handled again, alone
                if culprit.is_single:
                    failures[culprit.run.stream] = Failure(culprit.run, stopped.failure)
                    later = _without(culprit.run.stream, later)
                else:
                    later = [*culprit.split(), *later]
            else:
                now = []
            if not now:
                now, later = later, []
        return list(failures.values())

    async def _transact(self, stretches: Sequence[Stretch]) -> None:
        """Handle stretches in one transaction. Raises DeclarationError if a handler blocks the writer thread."""
        watch, loop = Watch(self._handler_timeout), asyncio.get_running_loop()
        timers: list[asyncio.TimerHandle] = []  # the one that runs

        def look() -> None:
            if (left := watch.left() + GRACE) < 0:
                limit.reschedule(loop.time())
            else:
                timers[:] = [loop.call_later(left + 0.01, look)]

        timers.append(loop.call_later(self._handler_timeout, look))
        try:
            async with asyncio.timeout(None) as limit:
                await self._checkpoints.write(lambda db: self._handle(db, stretches, watch))
        except TimeoutError:  # not a handler's, which is in _Stopped
            raise watch.explain_blocked() from None
        finally:
            timers.pop().cancel()

    def _handle(self, db: sqlite3.Connection, stretches: Sequence[Stretch], watch: Watch) -> None:
        advance(db, self.name, join(stretches))  # first, so a second worker gets PositionMoved, not a failing handler
        db.set_progress_handler(watch.is_over, _STEPS)  # it interrupts a statement
        try:
            for index, stretch in enumerate(stretches):
                try:
                    self._call(Database(db, watch), stretch, watch)
                    if not db.in_transaction:
                        raise RuntimeError(_ENDED)
                except Exception as error:
                    if (
                        isinstance(error, sqlite3.Error)
                        and getattr(error, "sqlite_errorcode", 0) & 0xFF in _FILE_ERRORS
                    ):
                        raise
                    raise _Stopped(index, HandlerFailed(error)) from error
        finally:
            db.set_progress_handler(None, 0)

    def _call(self, database: Database, stretch: Stretch, watch: Watch) -> None:
        run = stretch.run
        for handler, given, commit, index in self._handlers.calls(run.commits[stretch.start : stretch.end]):
            watch.start(handler)
            try:
                if handler.with_context:
                    context = SQLiteContext(commit, index, run.muted)
                    context.db = database
                    handler.call(self, given, context)
                else:
                    handler.call(self, given)
            finally:
                watch.stop()


def _to_table(name: str) -> str:
    """Return the table name for a processor's name: `airport_delays_2` for `airport-delays@2`."""
    return re.sub("[@.-]", "_", name)


def _is_of_file(error: Exception) -> bool:
    """Whether an error comes from the file, and not from the handler."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _FILE_ERRORS


def _without(stream: str, stretches: Sequence[Stretch]) -> list[Stretch]:
    return [each for each in stretches if each.run.stream != stream]
