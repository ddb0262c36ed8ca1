"""A kind of projection whose handlers write to PostgreSQL, in one transaction with the position."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import InterfaceError, OperationalError

from eventsrc import Commit, EventIndex, Fenced, Store, StoreError
from eventsrc.processing import (
    Checkpoints,
    Context,
    Failure,
    Guarantee,
    HandlerFailed,
    PositionMoved,
    Projection,
    Slice,
)

from .checkpoints import PostgresCheckpoints, advance, forget
from .pool import Database, lock_schema


class PostgresContext(Context):
    """A context with `db`, to write to the tables."""

    __slots__ = ("db",)
    db: Database


class PostgresProjection(Projection):
    """A read model in tables of a PostgreSQL database.

    What handlers execute on `context.db` is in one transaction with the position. So each commit is handled exactly
    once, even if a process is killed at any moment. Handlers are async. They must not end the transaction.
    """

    guarantee = Guarantee.TRANSACTION
    awaits = True  # handlers may be async

    async def create(self, db: Database) -> None:
        """Create the tables if they do not exist: `CREATE TABLE IF NOT EXISTS ...`."""

    async def drop(self, db: Database) -> None:
        """Drop the tables that `create` creates."""

    def bind(self, checkpoints: Checkpoints, store: Store, *, handler_timeout: float = 30.0) -> None:
        if not isinstance(checkpoints, PostgresCheckpoints):
            raise TypeError(f"{type(self).__qualname__} needs PostgresCheckpoints: its tables are in the same database")
        super().bind(checkpoints, store, handler_timeout=handler_timeout)
        self._database = checkpoints

    async def prepare(self) -> None:
        async def work(db: Database) -> None:
            await lock_schema(db)  # several processes may start at the same time
            await self.create(db)

        await self._database.write(work)

    async def discard(self) -> None:
        """Drop the tables and the positions in one transaction."""

        async def work(db: Database) -> None:
            await forget(db, self.name)  # first: it waits for workers that write, and fences them
            await self.drop(db)

        await self._database.write(work)

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        [run] = runs
        try:
            await self._handle(run)
        except (HandlerFailed, PositionMoved, Fenced, StoreError) as error:
            if isinstance(error, HandlerFailed) and len(run.commits) > 1:
                return await self._handle_one_by_one(run)
            return [Failure(run, error)]
        return []

    async def _handle_one_by_one(self, run: Slice) -> Sequence[Failure]:
        """Handle the commits before the one that fails, so that only this one is tried again."""
        for index in range(len(run.commits)):
            if failures := await self.apply([run.part(index, index + 1)]):
                return [Failure(run, failures[0].error)]
        return []

    async def _handle(self, run: Slice) -> None:
        async def work(db: Database) -> None:
            def context(commit: Commit, index: EventIndex, muted: bool) -> Context:
                made = PostgresContext(commit, index, muted)
                made.db = db
                return made

            await advance(db, self.name, run)  # first: another worker that has handled it is then noticed at once
            try:
                await self.call_handlers(run, context)
            except HandlerFailed as failed:
                if isinstance(failed.error, (OperationalError, InterfaceError)):
                    raise failed.error from None  # the connection was lost: this is not the handler's fault
                raise

        await self._database.write(work)
