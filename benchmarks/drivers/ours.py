"""eventsrc, as its documentation shows."""

from __future__ import annotations

import os
import sys

from aiobotocore.session import get_session
from protocol import MEMO, Conflict, serve

from eventsrc import Aggregate, ConflictError, DynamoDBStore, Event, Repository, SnapshotPolicy, SQLiteStore, Store


class Opened(Event, tag="account.opened"):
    owner: str


class Deposited(Event, tag="account.deposited"):
    amount: int
    memo: str


class Account(Aggregate, tag="account"):
    owner: str = ""
    balance: int = 0

    def apply_opened(self, event: Opened) -> None:
        self.owner = event.owner

    def apply_deposited(self, event: Deposited) -> None:
        self.balance += event.amount


class Eventsrc:
    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._store: Store

    async def open(self, where: str) -> None:
        if self._kind == "sqlite":
            self._store = await SQLiteStore(where).__aenter__()
        else:
            session = get_session()
            session.set_credentials("local", "local")
            store = DynamoDBStore(
                f"ours-{os.urandom(4).hex()}", session=session, region_name="us-east-1", endpoint_url=where
            )
            self._store = await store.__aenter__()
            await store.create_table()
        self._accounts = Repository(Account, self._store, snapshots=SnapshotPolicy(enabled=False))
        self._snapshots = Repository(Account, self._store, snapshots=SnapshotPolicy(inline=True, floor=0))

    async def close(self) -> None:
        await self._store.aclose()

    async def create(self, id: str) -> Account:
        account = Account(id=id)
        account.record(Opened(owner="ann"))
        await self._accounts.save(account)
        return account

    async def deposit(self, account: Account, amount: int) -> None:
        account.record(Deposited(amount=amount, memo=MEMO))
        try:
            await self._accounts.save(account)
        except ConflictError as error:
            raise Conflict from error

    async def load(self, id: str) -> Account:
        return await self._accounts.load(id)

    def balance(self, account: Account) -> int:
        return account.balance

    async def snapshot(self, account: Account) -> None:
        again = await self._snapshots.load(account.id)
        again.record(Deposited(amount=0, memo=MEMO))
        await self._snapshots.save(again)


serve(Eventsrc(sys.argv[1]))
