"""The public interface as type checkers see it: never run. What must be an error carries an ignore, which mypy and
pyright report when it is not needed any more."""

# pyright: reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from datetime import datetime
from typing import assert_type
from uuid import UUID

from support.bank import Account, Deposited, Opened, Withdrawn

from eventsrc import (
    Aggregate,
    AggregateNotFound,
    Batch,
    CachePolicy,
    CacheUse,
    Commit,
    CommitOutcomeUnknown,
    CommitTooLarge,
    ConflictError,
    CorruptPayload,
    DeclarationError,
    DynamoDBStore,
    Event,
    EventId,
    EventsrcError,
    Executed,
    Feed,
    IdempotencyError,
    InvalidEvent,
    InvalidStreamId,
    Loaded,
    MemoryStore,
    PayloadTooLarge,
    Receipt,
    Recorded,
    Repository,
    SchemaMismatch,
    Snapshot,
    SnapshotPolicy,
    SQLiteStore,
    Store,
    StoreClosed,
    StoredDataError,
    StoreError,
    StoreRejected,
    StoreUnavailable,
    StreamCorrupt,
    Throttled,
    TraceContext,
    UnhandledEvent,
    UnknownEventType,
    Usage,
    current_trace,
    open_store,
    register_type,
    tag_of,
    trace,
)
from eventsrc.testing import given, when


class Weight:
    def __init__(self, grams: int) -> None:
        self.grams = grams


register_type(Weight, encode=lambda weight: weight.grams, decode=lambda stored: Weight(int(stored)))
register_type(Weight, encode=lambda weight: weight.kilos, decode=Weight)  # type: ignore[attr-defined]
register_type(Weight, encode=str)  # type: ignore[call-arg]


class Other(Account, tag="other"):
    def close(self, reason: str, *, force: bool = False) -> list[str]:
        return [reason]


async def results(store: Store) -> None:
    accounts = Repository(Account, store, snapshots=SnapshotPolicy(inline=True), attempts=3)
    assert_type(accounts, Repository[Account])
    assert_type(await accounts.load("a-1"), Account)
    assert_type(await accounts.load("a-1", version=3), Account)
    assert_type(await accounts.save(Account.open("a-1", owner="ann"), command_id="c-1"), Receipt)
    assert_type(await accounts.settle(TimeoutError()), Receipt | None)
    assert_type(await accounts.execute("a-1", Account.withdraw, 30), int)
    assert_type(await accounts.execute("a-1", Account.withdraw, amount=30), int)
    assert_type(await accounts.execute("a-1", Account.withdraw, 30, command_id="c-1"), Executed[int | None])
    executor = accounts.executor(command_id="c-1", since=3, create=True)
    assert_type(await executor.execute("a-1", Account.withdraw, amount=30), Executed[int | None])
    assert_type(await accounts.execute("a-1", lambda account: account.owner), str)
    left, receipt = await accounts.execute_with_receipt("a-1", Account.withdraw, amount=30)
    assert_type(left, int)
    assert_type(receipt, Receipt)
    executed = await accounts.execute("a-1", Account.withdraw, 30, command_id="c-1")
    assert_type(executed, Executed[int | None])
    assert_type(executed.result, int | None)
    assert_type(executed.receipt.commit_id, bytes | None)
    assert_type(await accounts.execute_with_receipt("a-1", lambda account: account.owner), Executed[str])
    async for entry in accounts.history("a-1", after=3, backward=True):
        assert_type(entry, Recorded)
        commit, events = entry
        assert_type(commit, Commit)
        assert_type(events, list[Event])
        assert_type(commit.event_id(0), EventId)
    others = Repository(Other, store)
    assert_type(await others.execute("o-1", Other.close, "done", force=True), list[str])
    assert_type(await others.execute("o-1", Other.deposit, 5), int)
    assert_type(await others.execute_with_receipt("o-1", Other.close, "done", force=True), Executed[list[str]])
    with trace(correlation_id="r-9", causation_id=EventId("a-1", 7, 0), metadata={"user": "ann"}) as inside:
        assert_type(inside, TraceContext)
    assert_type(current_trace().correlation_id, str | None)


async def stores() -> None:
    async with SQLiteStore("ledger.db") as sqlite:
        assert_type(sqlite, SQLiteStore)
    async with DynamoDBStore("ledger", layout="snapshot-first", tenant="acme") as dynamodb:
        assert_type(await dynamodb.create_table(stream=True), bool)
    async with MemoryStore() as memory, open_store("memory://") as opened:
        assert_type(memory, MemoryStore)
        assert_type(opened, Store)
        snapshot, commits = assert_type(await opened.load("account-a-1"), Loaded)
        assert_type(snapshot, Snapshot | None)
        assert_type(commits[0], Commit)
        assert_type(await opened.append(commits[0]), Receipt)
        async for commit in opened.read("account-a-1", after=3, backward=True):
            assert_type(commit.uuid, UUID)
            assert_type(commit.at, datetime)
        async for batch in memory.feed(after="7", follow=False):
            assert_type(batch, Batch)
            assert_type(batch.commits[0], Commit)
        feeds: list[Feed] = [memory, SQLiteStore("ledger.db"), DynamoDBStore("ledger")]
        assert_type(await feeds[0].remaining(""), int | None)
    assert_type(tag_of(Opened), str)


async def many_and_usage(store: Store) -> None:
    accounts = Repository(Account, store, cache=CachePolicy(max_bytes=0, max_age=1.5, enabled=False))
    assert_type(await accounts.load_many(["a-1", "b-2"], concurrency=8), dict[str, Account])
    assert_type(accounts.cache_use, CacheUse)
    assert_type(store.usage, Usage)
    assert_type((await accounts.save(Account(id="a-1"))).usage, Usage | None)
    await accounts.load_many(7)  # type: ignore[arg-type]
    Repository(Account, store, cache=True)  # type: ignore[arg-type]


async def aggregates(accounts: Repository[Account]) -> None:
    account = assert_type(Account.open("a-1", owner="ann"), Account)
    assert_type(account.stream, str)
    assert_type(account.version, int)
    assert_type(account.uncommitted, tuple[Event, ...])
    assert_type(account.balance, int)
    assert_type(Deposited(amount=5).amount, int)
    assert_type(Other.open("o-1", owner="ann"), Other)
    receipt = await accounts.save(account)
    assert_type(receipt.commit_id, bytes | None)
    assert_type(receipt.position, int | None)
    assert_type(EventId.parse("account-a-1@7.0"), EventId)


def facts(error: EventsrcError) -> str | int | Commit | None:
    """Every error carries its facts, typed."""
    match error:
        case AggregateNotFound():
            return error.stream
        case ConflictError():
            assert_type(error.winner, Commit | None)
            return error.expected + error.actual
        case IdempotencyError():
            return error.command_id
        case CommitTooLarge() | PayloadTooLarge():
            return error.size - error.limit
        case CommitOutcomeUnknown():
            assert_type(error.commit, Commit)
            return error.commit_id
        case UnknownEventType():
            return error.tag
        case SchemaMismatch():
            return error.event
        case CorruptPayload() | StreamCorrupt():
            assert_type(error.stream, str)
            return error.version
        case StoredDataError():
            return error.reason
        case InvalidEvent():
            return error.reason
        case UnhandledEvent():
            return error.aggregate
        case DeclarationError():
            return error.culprit
        case InvalidStreamId():
            return error.reason
        case StoreRejected():
            return error.code
        case Throttled() | StoreUnavailable() | StoreClosed() | StoreError():
            return str(error)
    return None


def tests() -> None:
    outcome = given(Account, Opened(owner="ann")).when(Account.withdraw, 30)
    outcome.then(Withdrawn(amount=30)).then_returns(50).then_state(balance=50)
    assert_type(outcome.aggregate, Account)
    assert_type(when(Account.open, "a-1", owner="ann").aggregate, Account)


async def errors(accounts: Repository[Account]) -> None:
    Deposited(amonut=5)  # type: ignore[call-arg]
    Deposited(5)  # type: ignore[call-arg]
    Deposited()  # type: ignore[call-arg]
    Deposited(amount="5")  # type: ignore[arg-type]
    Deposited(amount=5).amount = 6  # type: ignore[misc]
    Account(id="a-1", balance=5)  # type: ignore[call-arg]
    _ = Account(id="a-1").balnce  # type: ignore[attr-defined]
    Account("a-1")  # type: ignore[call-arg]
    Account(id="a-1").record("opened")  # type: ignore[arg-type]
    Account(id="a-1").version = 7  # type: ignore[misc]
    Account(id="a-1").balence = 5  # type: ignore[attr-defined]
    Account(id="a-1").uncommitted.append(Deposited(amount=5))  # type: ignore[attr-defined]
    Account(id="a-1").withdraw("30")  # type: ignore[arg-type]
    await accounts.execute("a-1", Account.withdraw, "30")  # type: ignore[call-overload]
    await accounts.execute("a-1", Account.withdraw)  # type: ignore[call-overload]
    await accounts.execute("a-1", Account.withdraw, 30, 40)  # type: ignore[call-overload]
    await accounts.execute("a-1", Account.withdraw, "30", command_id="c-1")  # type: ignore[arg-type]
    await accounts.execute("a-1", Other.close, "done")  # type: ignore[call-overload]
    await accounts.execute_with_receipt("a-1", Account.withdraw, "30")  # type: ignore[arg-type]
    await accounts.execute_with_receipt("a-1", Account.withdraw)  # type: ignore[call-arg]
    await accounts.execute_with_receipt("a-1", Other.close, "done")  # type: ignore[arg-type]
    await accounts.executor(command_id="c-1").execute("a-1", Account.withdraw, amount="30")  # type: ignore[arg-type]
    left: str = await accounts.execute("a-1", Account.withdraw, 30)  # type: ignore[call-overload]
    await accounts.save(left)  # type: ignore[arg-type]
    DynamoDBStore("ledger", layout="sideways")  # type: ignore[arg-type]
    given(Account).when(Account.withdraw, "30")  # type: ignore[arg-type]
    given(Account, "opened")  # type: ignore[arg-type]
    given(Account).when(Account.withdraw, 30).then_returns("50")  # type: ignore[arg-type]
    given(Account).when(Other.close, "done")  # type: ignore[arg-type]
    when(Account.open, "a-1")  # type: ignore[call-arg]
    when(len, "a-1")  # type: ignore[type-var]
    Repository(Deposited, MemoryStore())  # type: ignore[type-var]
    Repository(Account)  # type: ignore[call-arg]
    await accounts.load(7)  # type: ignore[arg-type]
    await accounts.load("a-1", at="2026-01-01")  # type: ignore[arg-type]
    SnapshotPolicy(2.0)  # type: ignore[call-arg]
    trace(causation_id=7)  # type: ignore[arg-type]
    trace(metadata={"n": 7})  # type: ignore[dict-item]
    Store()  # type: ignore[abstract]


class Misdeclared(Aggregate, tag="misdeclared"):
    snapshot_version: int = 1  # type: ignore[misc]

    async def close(self) -> None:
        self.record(event="closed")  # type: ignore[arg-type]
