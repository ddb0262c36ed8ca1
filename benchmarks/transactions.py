"""Requests and units of a transaction of two streams, next to two saves: `python -m benchmarks.transactions`.

It prints the table of docs/transactions.md. Rates are of one task, and on this machine.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter

from support.bank import Account
from support.tables import fresh_name, store_on

from eventsrc import Repository, SQLiteStore, Store, Usage
from eventsrc.local import dynamodb_local
from eventsrc.stores import DynamoDBStore
from eventsrc.transactions import Transaction, transact

TIMES = 300


async def measure(name: str, store: Store) -> None:
    accounts = Repository(Account, store)
    for id in ("a-1", "a-2", "a-3"):
        account = Account.open(id, owner="ann")
        account.deposit(1_000_000)
        await accounts.save(account)

    async def two_saves() -> None:
        for id, amount in (("a-1", -1), ("a-2", 1)):
            account = await accounts.load(id)
            account.deposit(amount)
            await accounts.save(account)

    async def two_executes() -> None:
        await accounts.execute("a-1", Account.withdraw, 1)
        await accounts.execute("a-2", Account.deposit, 1)

    async def move(tx: Transaction, guarded: bool = False) -> None:
        source, target = await tx.load(accounts, "a-1"), await tx.load(accounts, "a-2")
        if guarded:
            await tx.load(accounts, "a-3")
        source.withdraw(1)
        target.deposit(1)

    async def transaction() -> None:
        await transact(store, move)

    async def with_a_guard() -> None:
        await transact(store, lambda tx: move(tx, guarded=True))

    kinds: dict[str, Callable[[], Awaitable[None]]] = {
        "two loads and saves": two_saves,
        "two `execute`": two_executes,
        "one `transact`": transaction,
        "one `transact`, with one more stream read": with_a_guard,
    }
    for kind, work in kinds.items():
        for _ in range(10):
            await work()
        before, begun = _copy(store.usage), perf_counter()
        for _ in range(TIMES):
            await work()
        seconds, after = perf_counter() - begun, store.usage
        requests = (after.requests - before.requests) / TIMES
        write, read = ((getattr(after, unit) - getattr(before, unit)) / TIMES for unit in ("write_units", "read_units"))
        print(f"| {name} | {kind} | {requests:.1f} | {write:.1f} | {read:.1f} | {1000 * seconds / TIMES:.2f} |")


def _copy(usage: Usage) -> Usage:
    copied = Usage()
    copied.add(usage)
    return copied


async def main() -> None:
    print("| store | what | requests | write units | read units | ms |")
    with tempfile.TemporaryDirectory() as folder:
        async with SQLiteStore(Path(folder) / "bank.db") as store:
            await measure("SQLite", store)
    async with dynamodb_local() as local, store_on(local.endpoint_url, fresh_name()) as table:
        await table.create_table()
        assert isinstance(table, DynamoDBStore)
        await measure("DynamoDB Local", table)


if __name__ == "__main__":
    asyncio.run(main())
