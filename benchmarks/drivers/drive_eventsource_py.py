"""eventsource-py, as its documentation shows: a declarative aggregate, and a repository over its SQLite stores."""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsource import (
    AggregateRepository,
    DeclarativeAggregate,
    DomainEvent,
    OptimisticLockError,
    SQLiteEventStore,
    handles,
    register_event,
)
from eventsource.adapters.sqlite.snapshots import SQLiteSnapshotStore
from protocol import MEMO, Conflict, serve
from pydantic import BaseModel


@register_event
class Opened(DomainEvent):
    aggregate_type: str = "Account"
    owner: str


@register_event
class Deposited(DomainEvent):
    aggregate_type: str = "Account"
    amount: int
    memo: str


class State(BaseModel):
    owner: str = ""
    balance: int = 0


class Account(DeclarativeAggregate[State]):
    aggregate_type = "Account"

    def _get_initial_state(self) -> State:
        return State()

    def open(self, owner: str) -> None:
        self.create_event(Opened, owner=owner)

    def deposit(self, amount: int, memo: str) -> None:
        self.create_event(Deposited, amount=amount, memo=memo)

    @handles(Opened)
    def _opened(self, event: Opened) -> None:
        self._state = State(owner=event.owner)

    @handles(Deposited)
    def _deposited(self, event: Deposited) -> None:
        self._state = self.state.model_copy(update={"balance": self.state.balance + event.amount})


class EventsourcePy:
    async def open(self, where: str) -> None:
        # It sets journal_mode=WAL itself, and leaves synchronous at SQLite's default, which is FULL.
        self._events = SQLiteEventStore(where)
        self._snapshots = SQLiteSnapshotStore(where)
        self._accounts = AggregateRepository(
            event_store=self._events,
            aggregate_factory=Account,
            snapshot_store=self._snapshots,
            snapshot_mode="manual",
            enable_tracing=False,
        )

    async def close(self) -> None:
        await self._events.close()
        await self._snapshots.close()

    async def create(self, id: str) -> Any:
        account = self._accounts.create_new(_uuid(id))
        account.open("ann")
        await self._accounts.save(account)
        return account

    async def deposit(self, account: Any, amount: int) -> None:
        account.deposit(amount, MEMO)
        try:
            await self._accounts.save(account)
        except OptimisticLockError as error:
            raise Conflict from error

    async def load(self, id: str) -> Any:
        return await self._accounts.load(_uuid(id))

    def balance(self, account: Any) -> int:
        balance: int = account.state.balance
        return balance

    async def snapshot(self, account: Any) -> None:
        await self._accounts.create_snapshot(account)


def _uuid(id: str) -> UUID:
    return uuid5(NAMESPACE_URL, f"/accounts/{id}")


serve(EventsourcePy())
