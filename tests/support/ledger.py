"""Accounts in a store, and projections of each kind that record the events they handle, for tests of the read side."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from support.bank import Account, Deposited, Opened, Withdrawn

from eventsrc import Commit, Repository, Store, StreamsParked
from eventsrc.processing import Context, Effects, MemoryProjection, Processor, Runner, SQLiteContext, SQLiteProjection
from eventsrc.processing.projections.sqlite import Database

Movement = Opened | Deposited | Withdrawn


class Refused(Exception):
    """A handler raises it for amounts that are in `poison`."""


async def fill(store: Store, accounts: int = 3, deposits: int = 4) -> None:
    """Save accounts a-0, a-1 and so on: each has a commit of two events, and then commits of one deposit."""
    repository = Repository(Account, store)
    for number in range(accounts):
        account = Account.open(f"a-{number}", owner="ann")
        account.deposit(100)
        await repository.save(account)
        for amount in range(1, deposits):
            account.deposit(amount)
            await repository.save(account)


async def deposit(store: Store, id: str, amount: int) -> Any:
    repository = Repository(Account, store)
    account = await repository.load(id)
    account.deposit(amount)
    return await repository.save(account)


async def commits_of(store: Store) -> list[Commit]:
    return [commit async for batch in store.feed(follow=False) for commit in batch.commits]  # type: ignore[attr-defined]


async def ids_of(store: Store) -> dict[str, list[str]]:
    """Return the ids of all events of each stream, in its order; some feeds repeat commits."""
    found: dict[str, list[str]] = defaultdict(list)
    commits = {(commit.stream, commit.version): commit for commit in await commits_of(store)}
    for commit in sorted(commits.values(), key=lambda commit: commit.version):
        found[commit.stream] += [str(commit.event_id(index)) for index in range(commit.events)]
    return dict(found)


class Poisoned:
    """A handler that refuses the amounts that are in `poison` now."""

    poison: frozenset[int] | set[int] = frozenset()

    def taste(self, event: Movement) -> None:
        if isinstance(event, Deposited) and event.amount in self.poison:
            raise Refused(f"{event.amount} is refused")


class InMemory(Poisoned, MemoryProjection, tag="in-memory"):
    def __init__(self) -> None:
        self.seen: dict[str, list[str]] = defaultdict(list)

    def handle_movement(self, event: Movement, context: Context) -> None:
        self.taste(event)
        self.seen[context.stream].append(context.id)

    async def read_handled(self) -> dict[str, list[str]]:
        return dict(self.seen)


class InSQLite(Poisoned, SQLiteProjection, tag="in-sqlite"):
    def create(self, db: Database) -> None:
        columns = "number INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT, event TEXT UNIQUE, muted INTEGER"
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({columns})")

    def handle_movement(self, event: Movement, context: SQLiteContext) -> None:
        insert = f"INSERT INTO {self.table} (stream, event, muted) VALUES (?, ?, ?)"
        context.db.execute(insert, (context.stream, context.id, context.muted))
        self.taste(event)  # after its effect, so that tests see it undone

    async def read_handled(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        query = f"SELECT stream, event FROM {self.table} ORDER BY number"
        for stream, event in await self._checkpoints.read(lambda db: db.execute(query).fetchall()):
            found[stream].append(event)
        return dict(found)


class Outside(Poisoned, Effects, tag="outside"):
    def __init__(self) -> None:
        self.seen: dict[str, list[str]] = defaultdict(list)

    async def handle_movement(self, event: Movement, context: Context) -> None:
        self.taste(event)
        await asyncio.sleep(0)
        self.seen[context.stream].append(context.id)

    async def read_handled(self) -> dict[str, list[str]]:
        return dict(self.seen)


async def run_with_parked(processor: Processor[Any]) -> tuple[str, ...]:
    """Run a processor to the end of its feed, and return the streams that are parked then; there are some."""
    try:
        await processor.run(until_caught_up=True)
    except StreamsParked as error:
        return error.streams
    raise AssertionError("no stream is parked")


@contextlib.asynccontextmanager
async def running(*processors: Processor[Any]) -> AsyncIterator[Runner]:
    """Run processors during the block; their errors are raised at its end."""
    runner = Runner(*processors, save_every=0.05)
    task = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        runner.stop()
        async with asyncio.timeout(20):
            await task


async def until(condition: Any, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.005)
