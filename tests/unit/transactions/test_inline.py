"""Inline projections: a read model in the transaction of its commits."""

# pyright: reportPossiblyUnboundVariable=false
from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from support.bank import Account, Deposited, Opened, Withdrawn

from eventsrc import MemoryStore, Recorded, Repository, SQLiteStore, TransactionOutcomeUnknown
from eventsrc.stores import InlineDatabase
from eventsrc.transactions import Transaction, settle, transact, transaction

BALANCES = "CREATE TABLE IF NOT EXISTS balances (stream TEXT PRIMARY KEY, owner TEXT, balance INTEGER) STRICT"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "bank.db") as store:
        yield store


def project(db: InlineDatabase, recorded: Sequence[Recorded]) -> None:
    db.execute(BALANCES)
    for commit, events in recorded:
        for event in events:
            match event:
                case Opened(owner=owner):
                    db.execute("INSERT INTO balances VALUES (?, ?, 0)", (commit.stream, owner))
                case Deposited(amount=amount) | Withdrawn(amount=amount):
                    change = amount if isinstance(event, Deposited) else -amount
                    values = {"change": change, "stream": commit.stream}
                    db.execute("UPDATE balances SET balance = balance + :change WHERE stream = :stream", values)
                case _:
                    raise AssertionError(event)


def rows(store: SQLiteStore) -> list[tuple[str, str, int]]:
    with closing(sqlite3.connect(store._file.path)) as connection:
        return connection.execute("SELECT stream, owner, balance FROM balances ORDER BY stream").fetchall()


async def open_two(store: SQLiteStore) -> Repository[Account]:
    accounts = Repository(Account, store)
    async with transaction(store, inline=project) as tx:
        tx.add(accounts, Account.open("a-1", owner="ann")).deposit(100)
        tx.add(accounts, Account.open("a-2", owner="bob"))
    return accounts


async def test_rows_are_written_with_the_commits(store: SQLiteStore) -> None:
    accounts = await open_two(store)

    async def move(tx: Transaction) -> int:
        (await tx.load(accounts, "a-1")).withdraw(30)
        return (await tx.load(accounts, "a-2")).deposit(30)

    assert await transact(store, move, inline=project) == 30
    assert rows(store) == [("account-a-1", "ann", 70), ("account-a-2", "bob", 30)]
    async with transaction(store, inline=project) as tx:  # a single commit, too
        (await tx.load(accounts, "a-1")).deposit(5)
    assert rows(store)[0] == ("account-a-1", "ann", 75)
    batches = [batch async for batch in store.feed(follow=False)]
    assert sum(len(batch.commits) for batch in batches) == 5


async def test_a_projection_that_fails_stores_nothing_and_disturbs_nobody(store: SQLiteStore) -> None:
    accounts = await open_two(store)

    def fail(db: InlineDatabase, recorded: Sequence[Recorded]) -> None:
        project(db, recorded)
        raise LookupError("as scripted")

    def misspell(db: InlineDatabase, recorded: Sequence[Recorded]) -> None:
        project(db, recorded)
        db.execute("INSERT INTO misspelt VALUES (1)")

    async def deposit(id: str, inline: Callable[[InlineDatabase, Sequence[Recorded]], None]) -> None:
        async with transaction(store, inline=inline) as tx:
            (await tx.load(accounts, "a-1" if id == "a-1" else "a-2")).deposit(1)
            tx.add(accounts, Account.open(id + "-new", owner="cid"))

    others = [accounts.save(Account.open(f"b-{number}", owner="dan")) for number in range(10)]
    outcomes = await asyncio.gather(
        deposit("a-1", fail), *others[:5], deposit("a-2", misspell), *others[5:], return_exceptions=True
    )
    assert [type(each) for each in outcomes if isinstance(each, Exception)] == [LookupError, sqlite3.OperationalError]
    assert rows(store) == [("account-a-1", "ann", 100), ("account-a-2", "bob", 0)]
    assert [each.version for each in (await accounts.load_many(["a-1", "a-2", "a-1-new", "a-2-new"])).values()] == [
        1,
        1,
    ]
    assert len(await accounts.load_many([f"b-{number}" for number in range(10)])) == 10


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT other",
        "RELEASE append_all",
        "ATTACH ':memory:' AS other",
        "PRAGMA synchronous = OFF",
        "DELETE FROM log",
        "UPDATE log SET stream = 'other'",
        "INSERT INTO snapshots VALUES ('a', 1, 's', x'')",
        "DROP TABLE log",
    ],
)
async def test_a_projection_cannot_end_the_transaction_or_change_the_log(store: SQLiteStore, statement: str) -> None:
    accounts = await open_two(store)

    def misuse(db: InlineDatabase, recorded: Sequence[Recorded]) -> None:
        db.execute(statement)

    with pytest.raises(RuntimeError, match="inline projection"):
        async with transaction(store, inline=misuse) as tx:
            (await tx.load(accounts, "a-1")).deposit(1)
    assert (await accounts.load("a-1")).version == 1
    assert (await accounts.save(Account.open("a-3", owner="cid"))).version == 1


async def test_the_database_ends_with_the_projection(store: SQLiteStore) -> None:
    accounts, kept = await open_two(store), list[InlineDatabase]()
    async with transaction(store, inline=lambda db, _: kept.append(db)) as tx:
        (await tx.load(accounts, "a-1")).deposit(1)
    with pytest.raises(RuntimeError, match="has ended"):
        kept[0].execute("SELECT 1")
    assert (await store.load("account-a-1")).commits[-1].tags == ("account.deposited",)  # texts are read as before


async def test_a_transaction_with_a_projection_is_settled_where_it_is(store: SQLiteStore) -> None:
    """Another process does not have the function, and the rows would be missing."""
    accounts = Repository(Account, store)
    called: list[int] = []
    append_all = store.append_all

    async def lose(*arguments: object, **options: object) -> object:
        await append_all(*arguments, **options)  # type: ignore[arg-type]
        store.append_all = append_all  # type: ignore[method-assign]
        raise TransactionOutcomeUnknown(arguments[0], arguments[1], "lost")  # type: ignore[arg-type]

    store.append_all = lose  # type: ignore[method-assign, assignment]

    def count(db: InlineDatabase, recorded: Sequence[Recorded]) -> None:
        called.append(len(recorded))
        project(db, recorded)

    with pytest.raises(TransactionOutcomeUnknown) as raised:
        async with transaction(store, inline=count) as tx:
            tx.add(accounts, Account.open("a-1", owner="ann"))
    elsewhere = TransactionOutcomeUnknown(*raised.value.args)
    with pytest.raises(ValueError, match="in another process"):
        await settle(store, elsewhere)
    assert await settle(store, raised.value) == tx.receipts
    assert called == [1]  # it was stored the first time
    assert rows(store) == [("account-a-1", "ann", 0)]


async def test_an_async_projection_is_refused(store: SQLiteStore) -> None:
    accounts = await open_two(store)

    async def later(db: InlineDatabase, recorded: Sequence[Recorded]) -> None: ...

    with pytest.raises(TypeError, match="plain function"):
        async with transaction(store, inline=later) as tx:  # type: ignore[arg-type]
            (await tx.load(accounts, "a-1")).deposit(1)
    assert (await accounts.load("a-1")).version == 1


async def test_a_store_in_memory_calls_it_when_it_stores() -> None:
    seen: list[str] = []
    async with MemoryStore() as store:
        accounts = Repository(Account, store)
        async with transaction(store, inline=lambda _, found: seen.extend(each.commit.stream for each in found)) as tx:
            tx.add(accounts, Account.open("a-1", owner="ann"))
            tx.add(accounts, Account.open("a-2", owner="ann"))
        assert seen == ["account-a-1", "account-a-2"]

        def fail(_: None, recorded: Sequence[Recorded]) -> None:
            raise LookupError

        with pytest.raises(LookupError):
            async with transaction(store, inline=fail) as tx:
                (await tx.load(accounts, "a-1")).deposit(1)
        assert (await accounts.load("a-1")).version == 1
