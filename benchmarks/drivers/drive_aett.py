"""aett, as its documentation shows: an aggregate, and a repository over a commit store and a snapshot store.

Annotations are real here: aett makes a snapshot's memento of the type that `apply_memento` is annotated with.
"""

import os
import sqlite3
import sys
from datetime import UTC, datetime
from typing import Any

from aett.domain import (
    Aggregate,
    AsyncDefaultAggregateRepository,
    ConflictingCommitException,
    DefaultAggregateRepository,
    NonConflictingCommitException,
)
from aett.eventstore import DomainEvent, Memento, Topic, TopicMap
from protocol import MEMO, Conflict, serve
from pydantic import BaseModel


@Topic("account.opened")
class Opened(DomainEvent):
    owner: str


@Topic("account.deposited")
class Deposited(DomainEvent):
    amount: int
    memo: str


class State(BaseModel):
    owner: str
    balance: int


class AccountMemento(Memento[State]):
    pass


class Account(Aggregate[AccountMemento]):
    def __init__(self, stream_id: str, commit_sequence: int, memento: AccountMemento | None = None) -> None:
        self.owner = ""
        self.balance = 0
        super().__init__(stream_id, commit_sequence, memento)

    def open(self, owner: str) -> None:
        self.raise_event(Opened(source=self.id, version=self.version, timestamp=datetime.now(UTC), owner=owner))

    def deposit(self, amount: int, memo: str) -> None:
        event = Deposited(source=self.id, version=self.version, timestamp=datetime.now(UTC), amount=amount, memo=memo)
        self.raise_event(event)

    def apply_memento(self, memento: AccountMemento) -> None:
        self.owner = memento.payload.owner
        self.balance = memento.payload.balance

    def get_memento(self) -> AccountMemento:
        state = State(owner=self.owner, balance=self.balance)
        return AccountMemento(id=self.id, version=self.version, payload=state)

    def _apply(self, event: DomainEvent) -> None:
        # Not multipledispatch, which aett proposes: it stores the object in the class, so threads mix up their objects.
        if isinstance(event, Deposited):
            self.balance += event.amount
        elif isinstance(event, Opened):
            self.owner = event.owner


class Held:
    """An account that is saved more than once.

    aett does not support this: a saved aggregate does not count its commit, and its next save is refused. The
    documentation of aett loads before each change. A load is not part of a save, so this driver creates the saved
    aggregate again with its public constructor, from its memento, as a load from a snapshot does without the store.
    """

    def __init__(self, account: Account) -> None:
        self.account = account

    def saved(self) -> None:
        done = self.account
        self.account = Account(done.id, done.commit_sequence + 1, done.get_memento())


class Aett:
    """The synchronous stores, called from threads."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._file: sqlite3.Connection | None = None

    def open(self, where: str) -> None:
        commits, snapshots, management = self._stores(where)
        self._accounts = DefaultAggregateRepository("bench", commits, snapshots)
        management.initialize()

    def close(self) -> None:
        if self._file:
            self._file.close()

    def create(self, id: str) -> Held:
        held = Held(Account(id, 0))
        held.account.open("ann")
        self._accounts.save(held.account)
        held.saved()
        return held

    def deposit(self, held: Held, amount: int) -> None:
        held.account.deposit(amount, MEMO)
        try:
            self._accounts.save(held.account)
        except (ConflictingCommitException, NonConflictingCommitException) as error:
            raise Conflict from error
        held.saved()

    def load(self, id: str) -> Held:
        return Held(self._accounts.get(Account, id))

    def balance(self, held: Held) -> int:
        return held.account.balance

    def snapshot(self, held: Held) -> None:
        self._accounts.snapshot(Account, held.account.id)

    def _stores(self, where: str) -> tuple[Any, Any, Any]:
        """Return the commit store, the snapshot store, and the object that creates their tables."""
        topics = TopicMap().register(Opened).register(Deposited)
        if self._kind.startswith("sqlite"):
            # By default journal_mode=DELETE and synchronous=FULL: aett sets neither, and opens a connection for each
            # call. WAL stays with the file; the connection kept here spares each call a checkpoint when it ends.
            self._file = sqlite3.connect(where, check_same_thread=False)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("SELECT * FROM sqlite_master").fetchall()
            if self._kind == "sqlite":
                from aett.storage.synchronous import sqlite as sync

                return (
                    sync.CommitStore(where, topics),
                    sync.SnapshotStore(where),
                    sync.PersistenceManagement(where, topics),
                )
            from aett.storage.asynchronous import sqlite

            return (
                sqlite.AsyncCommitStore(where, topics),
                sqlite.AsyncSnapshotStore(where),
                sqlite.AsyncPersistenceManagement(where, topics),
            )

        os.environ["AWS_ENDPOINT_URL_DYNAMODB"] = where  # its own setting is a port of localhost
        aws = {"region": "us-east-1", "aws_access_key_id": "local", "aws_secret_access_key": "local"}
        name = f"aett-{os.urandom(4).hex()}"
        tables = {"commits_table_name": name, "snapshots_table_name": f"{name}-snapshots"}
        if self._kind == "dynamodb":
            from aett.storage.synchronous.dynamodb.commit_store import CommitStore
            from aett.storage.synchronous.dynamodb.persistence_management import PersistenceManagement
            from aett.storage.synchronous.dynamodb.snapshot_store import SnapshotStore

            return (
                CommitStore(topics, table_name=name, **aws),
                SnapshotStore(f"{name}-snapshots", **aws),
                PersistenceManagement(**tables, **aws),
            )
        from aett.storage.asynchronous.dynamodb.async_commit_store import AsyncCommitStore
        from aett.storage.asynchronous.dynamodb.async_persistence_management import AsyncPersistenceManagement
        from aett.storage.asynchronous.dynamodb.snapshot_store import SnapshotStore as AsyncSnapshotStore

        return (
            AsyncCommitStore(topics, table_name=name, **aws),
            AsyncSnapshotStore(f"{name}-snapshots", **aws),
            AsyncPersistenceManagement(**tables, **aws),
        )


class AsyncAett(Aett):
    async def open(self, where: str) -> None:
        commits, snapshots, management = self._stores(where)
        self._accounts = AsyncDefaultAggregateRepository("bench", commits, snapshots)
        await management.initialize()

    async def create(self, id: str) -> Held:
        held = Held(Account(id, 0))
        held.account.open("ann")
        await self._accounts.save(held.account)
        held.saved()
        return held

    async def deposit(self, held: Held, amount: int) -> None:
        held.account.deposit(amount, MEMO)
        try:
            await self._accounts.save(held.account)
        except (ConflictingCommitException, NonConflictingCommitException) as error:
            raise Conflict from error
        held.saved()

    async def load(self, id: str) -> Held:
        return Held(await self._accounts.get(Account, id))

    async def snapshot(self, held: Held) -> None:
        await self._accounts.snapshot(Account, held.account.id)


serve(AsyncAett(sys.argv[1]) if sys.argv[1].endswith("-async") else Aett(sys.argv[1]))
