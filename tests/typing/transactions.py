"""Transactions as type checkers see them: never run, as public_api.py."""

# pyright: reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, assert_type

from support.bank import Account

from eventsrc import DynamoDBStore, MemoryStore, Receipt, Recorded, Repository, SQLiteStore, Store
from eventsrc.stores import Guard, InlineDatabase, Transacting
from eventsrc.transactions import Reservations, Transaction, settle, transact, transaction


class Other(Account, tag="other"):
    pass


async def loaded(store: SQLiteStore, accounts: Repository[Account]) -> None:
    async with transaction(store) as tx:
        assert_type(tx, Transaction)
        assert_type(await tx.load(accounts, "a-1"), Account)
        assert_type(await tx.find(accounts, "a-1"), Account | None)
        assert_type(tx.add(accounts, Account(id="a-2")), Account)
        tx.add(accounts, "a-2")  # type: ignore[misc]
        await tx.load(accounts, 7)  # type: ignore[arg-type]
        await tx.load("a-1")  # type: ignore[call-arg, arg-type]
    assert_type(tx.receipts, Sequence[Receipt])
    assert_type(await tx.settle(), Sequence[Receipt] | None)
    assert_type(await settle(store, ValueError()), Sequence[Receipt] | None)


async def decided(store: DynamoDBStore, accounts: Repository[Account]) -> None:
    async def later(tx: Transaction) -> int:
        return (await tx.load(accounts, "a-1")).balance

    def now(tx: Transaction) -> str:
        return tx.add(accounts, Account(id="a-1")).owner

    assert_type(await transact(store, later), int)
    assert_type(await transact(store, now, attempts=3), str)
    await transact(store, later, attempts="3")  # type: ignore[call-overload]
    await transact(store, lambda: 3)  # type: ignore[misc, arg-type]


async def stores(any_store: Store, memory: MemoryStore, sqlite: SQLiteStore, dynamodb: DynamoDBStore) -> None:
    for store in (memory, sqlite, dynamodb):
        transaction(store)
        assert_type(await store.append_all([], [Guard("account-a-1", 1)]), Sequence[Receipt])
    transaction(any_store)
    transaction("ledger.db")  # type: ignore[call-overload]
    if isinstance(any_store, Transacting):
        transaction(any_store, inline=lambda writes, recorded: None)


async def inline(memory: MemoryStore, sqlite: SQLiteStore, dynamodb: DynamoDBStore) -> None:
    def rows(db: InlineDatabase, recorded: Sequence[Recorded]) -> None:
        db.execute("INSERT INTO seen VALUES (?)", (len(recorded),))

    def items(actions: list[Mapping[str, Any]], recorded: Sequence[Recorded]) -> None:
        actions.append({"Delete": {"TableName": "seen", "Key": {"PK": {"S": str(recorded[0].commit.version)}}}})

    transaction(sqlite, inline=rows)
    transaction(dynamodb, inline=items)
    transaction(memory, inline=lambda _, recorded: print(recorded[0].events))
    await transact(sqlite, lambda tx: 3, inline=rows)
    transaction(sqlite, inline=items)  # type: ignore[arg-type]
    transaction(dynamodb, inline=rows)  # type: ignore[arg-type]


async def reserved(store: SQLiteStore, tx: Transaction) -> None:
    emails = Reservations(store, "email", key=b"made up for the checkers", normalize=str.casefold)
    await emails.claim(tx, "ann@example.com", owner="a-1")
    await emails.change(tx, "ann@example.com", "ann@example.org", owner="a-1")
    await emails.release(tx, "ann@example.org", owner="a-1")
    assert_type(await emails.owner_of("ann@example.com"), str | None)
    await emails.claim(tx, "ann@example.com")  # type: ignore[call-arg]
