"""The public interface as type checkers see it: never run. What must be an error carries an ignore, which mypy and
pyright report when it is not needed any more."""

# pyright: reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from typing import assert_type

from bank import Account, Deposited, Opened, Withdrawn

from eventsrc import (
    Commit,
    DynamoDBStore,
    Event,
    EventId,
    MemoryStore,
    Receipt,
    Recorded,
    Repository,
    SnapshotPolicy,
    SQLiteStore,
    Store,
    Trace,
    open_store,
    tag_of,
    trace,
)
from eventsrc.testing import given, when


class Other(Account, tag="other"):
    def close(self, reason: str, *, force: bool = False) -> list[str]:
        return [reason]


async def results(store: Store) -> None:
    accounts = Repository(Account, store, snapshots=SnapshotPolicy(inline=True), attempts=3)
    assert_type(accounts, Repository[Account])
    assert_type(await accounts.load("a-1"), Account)
    assert_type(await accounts.load("a-1", version=3), Account)
    assert_type(await accounts.save(Account.open("a-1", owner="ann"), command_id="c-1"), Receipt)
    assert_type(await accounts.execute("a-1", Account.withdraw, 30), int)
    assert_type(await accounts.execute("a-1", Account.withdraw, amount=30), int)
    assert_type(await accounts.execute("a-1", Account.withdraw, 30, command_id="c-1"), int | None)
    assert_type(await accounts.execute("a-1", lambda account: account.owner), str)
    async for entry in accounts.history("a-1", after=3, backward=True):
        assert_type(entry, Recorded)
        commit, events = entry
        assert_type(commit, Commit)
        assert_type(events, list[Event])
        assert_type(commit.event_id(0), EventId)
    others = Repository(Other, store)
    assert_type(await others.execute("o-1", Other.close, "done", force=True), list[str])
    assert_type(await others.execute("o-1", Other.deposit, 5), int)
    with trace(correlation_id="r-9", causation_id=EventId("a-1", 7, 0), metadata={"user": "ann"}) as inside:
        assert_type(inside, Trace)


async def stores() -> None:
    async with SQLiteStore("ledger.db") as sqlite:
        assert_type(sqlite, SQLiteStore)
    async with DynamoDBStore("ledger", layout="snapshot-first", tenant="acme") as dynamodb:
        assert_type(await dynamodb.create_table(stream=True), bool)
    async with MemoryStore() as memory, open_store("memory://") as opened:
        assert_type(memory, MemoryStore)
        assert_type(opened, Store)
    assert_type(tag_of(Opened), str)


def tests() -> None:
    outcome = given(Account, Opened(owner="ann")).when(Account.withdraw, 30)
    outcome.then(Withdrawn(amount=30)).then_returns(50).then_state(balance=50)
    assert_type(outcome.aggregate, Account)
    assert_type(when(Account.open, "a-1", owner="ann").aggregate, Account)


async def errors(accounts: Repository[Account]) -> None:
    Deposited(amonut=5)  # type: ignore[call-arg]
    Deposited(5)  # type: ignore[call-arg]
    Deposited(amount="5")  # type: ignore[arg-type]
    Deposited(amount=5).amount = 6  # type: ignore[misc]
    Account(id="a-1", balance=5)  # type: ignore[call-arg]
    _ = Account(id="a-1").balnce  # type: ignore[attr-defined]
    Account(id="a-1").record("opened")  # type: ignore[arg-type]
    await accounts.execute("a-1", Account.withdraw, "30")  # type: ignore[call-overload]
    await accounts.execute("a-1", Account.withdraw)  # type: ignore[call-overload]
    await accounts.execute("a-1", Account.withdraw, 30, 40)  # type: ignore[call-overload]
    await accounts.execute("a-1", Account.withdraw, "30", command_id="c-1")  # type: ignore[call-arg,arg-type]
    await accounts.execute("a-1", Other.close, "done")  # type: ignore[call-overload]
    left: str = await accounts.execute("a-1", Account.withdraw, 30)  # type: ignore[call-overload]
    await accounts.save(left)  # type: ignore[arg-type]
    DynamoDBStore("ledger", layout="sideways")  # type: ignore[arg-type]
    given(Account).when(Account.withdraw, "30")  # type: ignore[arg-type]
