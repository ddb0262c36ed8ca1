"""Transactions: what is loaded, recorded and read in one is committed together, or not at all."""

# pyright: reportPossiblyUnboundVariable=false
from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.bank import Account, InsufficientFunds
from support.flaky import ScriptedStore

from eventsrc import (
    AggregateNotFound,
    Commit,
    CommitOutcomeUnknown,
    ConflictError,
    Event,
    MemoryStore,
    Receipt,
    Repository,
    SnapshotPolicy,
    SQLiteStore,
    Store,
    StoreUnavailable,
    TransactionOutcomeUnknown,
    WrongStore,
    trace,
)
from eventsrc.aggregates.aggregate import Aggregate
from eventsrc.stores import Guard
from eventsrc.transactions import Transaction, settle, transact, transaction

Failure = Callable[[Sequence[Commit], Sequence[Guard]], Exception]


class ShiftStarted(Event, tag="shift.started"):
    pass


class ShiftEnded(Event, tag="shift.ended"):
    pass


class Doctor(Aggregate, tag="doctor"):
    """Write skew: each doctor may leave if another one is on call."""

    on_call: bool = False

    def start(self) -> None:
        self.record(ShiftStarted())

    def end(self) -> None:
        self.record(ShiftEnded())

    def apply_shift(self, event: ShiftStarted | ShiftEnded) -> None:
        self.on_call = isinstance(event, ShiftStarted)


class FailingStore(MemoryStore):
    """Its next transactions fail as `failures` says: "before" or "after" they are stored, or hang after it."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[tuple[str, Failure | None]] = []
        self.sent: list[tuple[Sequence[Commit], Sequence[Guard]]] = []
        self.hanging = asyncio.Event()

    async def append_all(
        self, commits: Sequence[Commit], guards: Sequence[Guard] = (), *, inline: Any = None
    ) -> Sequence[Receipt]:
        self.sent.append((commits, guards))
        when, failure = self.failures.pop(0) if self.failures else ("", None)
        if when == "before" and failure:
            raise failure(commits, guards)
        receipts = await super().append_all(commits, guards, inline=inline)
        if when == "after" and failure:
            raise failure(commits, guards)
        if when == "hang":
            self.hanging.set()
            await asyncio.Event().wait()
        return receipts


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MemoryStore | SQLiteStore]:
    made: MemoryStore | SQLiteStore = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "bank.db")
    async with made as store:
        yield store


@pytest.fixture
async def failing() -> AsyncIterator[FailingStore]:
    async with FailingStore() as store:
        await open_accounts(store, 100, 0)
        yield store


async def open_accounts(store: Store, *balances: int) -> Repository[Account]:
    """Open the accounts a-1, a-2 and so on with these balances."""
    accounts = Repository(Account, store)
    for number, balance in enumerate(balances, 1):
        account = Account.open(f"a-{number}", owner="ann")
        account.deposit(balance)
        await accounts.save(account)
    return accounts


async def balances(accounts: Repository[Account]) -> list[int]:
    return [each.balance for each in (await accounts.load_many(["a-1", "a-2"])).values()]


async def transfer(tx: Transaction, accounts: Repository[Account], amount: int = 30) -> int:
    source, target = await tx.load(accounts, "a-1"), await tx.load(accounts, "a-2")
    source.withdraw(amount)
    return target.deposit(amount)


async def test_what_is_recorded_is_committed_together(store: MemoryStore | SQLiteStore) -> None:
    accounts = await open_accounts(store, 100, 0)
    with trace(correlation_id="req-1"):
        async with transaction(store) as tx:
            await transfer(tx, accounts)
            new = tx.add(accounts, Account.open("a-3", owner="cid"))
    assert await balances(accounts) == [70, 30]
    assert [(each.stream, each.version) for each in tx.receipts] == [
        ("account-a-1", 2),
        ("account-a-2", 2),
        ("account-a-3", 1),
    ]
    commits = [commit async for commit in store.correlated("req-1")]
    assert [commit.id for commit in commits] == [each.commit_id for each in tx.receipts]
    assert (new.version, new.uncommitted) == (1, ())
    new.deposit(5)  # the objects can be saved again, as after a save
    assert (await accounts.save(new)).version == 2


async def test_after_an_exception_nothing_is_stored(store: MemoryStore | SQLiteStore) -> None:
    accounts = await open_accounts(store, 100, 0)
    with pytest.raises(InsufficientFunds):
        async with transaction(store) as tx:
            target = await tx.load(accounts, "a-2")
            target.deposit(500)
            (await tx.load(accounts, "a-1")).withdraw(500)
    assert await balances(accounts) == [100, 0]
    assert not tx.receipts
    assert len(target.uncommitted) == 1
    with pytest.raises(RuntimeError, match="has ended"):
        await tx.load(accounts, "a-1")


async def test_a_conflict_stores_nothing_and_keeps_the_events(store: MemoryStore | SQLiteStore) -> None:
    accounts = await open_accounts(store, 100, 0)
    with pytest.raises(ConflictError) as raised:
        async with transaction(store) as tx:
            await transfer(tx, accounts)
            source = await tx.load(accounts, "a-1")
            await accounts.execute("a-2", Account.deposit, 1)
    assert (raised.value.stream, raised.value.expected) == ("account-a-2", 1)
    assert raised.value.winner is not None
    assert await balances(accounts) == [100, 1]
    assert (source.version, len(source.uncommitted)) == (1, 1)
    assert (await accounts.save(source)).version == 2  # its own stream has not moved


async def test_streams_that_were_only_read_must_not_move(store: MemoryStore | SQLiteStore) -> None:
    accounts = await open_accounts(store, 100, 0)
    with pytest.raises(ConflictError, match="account-a-2"):
        async with transaction(store) as tx:
            if not (await tx.load(accounts, "a-2")).balance:
                (await tx.load(accounts, "a-1")).withdraw(1)
            await accounts.execute("a-2", Account.deposit, 1)
    assert await balances(accounts) == [100, 1]


async def test_what_was_not_found_must_not_be_created(store: MemoryStore | SQLiteStore) -> None:
    accounts = await open_accounts(store, 100, 0)
    with pytest.raises(ConflictError, match="account-a-9"):
        async with transaction(store) as tx:
            assert await tx.find(accounts, "a-9") is None
            (await tx.load(accounts, "a-1")).withdraw(1)
            await accounts.save(Account.open("a-9", owner="bob"))
            with pytest.raises(AggregateNotFound):  # still, in this transaction
                await tx.load(accounts, "a-9")
    assert await balances(accounts) == [100, 0]
    async with transaction(store) as tx:
        assert await tx.find(accounts, "a-8") is None
        tx.add(accounts, Account.open("a-8", owner="bob"))
    assert (await accounts.load("a-8")).owner == "bob"


async def test_write_skew_is_impossible(store: MemoryStore | SQLiteStore) -> None:
    doctors = Repository(Doctor, store)
    for id in ("d-1", "d-2"):
        doctor = Doctor(id=id)
        doctor.start()
        await doctors.save(doctor)

    async def leave(tx: Transaction, id: str) -> bool:
        both = {each: await tx.load(doctors, each) for each in ("d-1", "d-2")}
        await asyncio.sleep(0)  # so that both have read before one writes
        if all(doctor.on_call for doctor in both.values()):
            both[id].end()
            return True
        return False

    left = await asyncio.gather(
        transact(store, lambda tx: leave(tx, "d-1")),
        transact(store, lambda tx: leave(tx, "d-2")),
    )
    assert sorted(left) == [False, True]
    assert [each.on_call for each in (await doctors.load_many(["d-1", "d-2"])).values()].count(True) == 1


async def test_reading_alone_is_checked_at_the_end(store: MemoryStore | SQLiteStore) -> None:
    accounts = await open_accounts(store, 100, 0)
    async with transaction(store) as tx:
        assert (await tx.load(accounts, "a-1")).balance + (await tx.load(accounts, "a-2")).balance == 100
    assert not tx.receipts
    with pytest.raises(ConflictError):
        async with transaction(store) as tx:
            await tx.load(accounts, "a-1")
            await transact(store, lambda other: transfer(other, accounts))
            await tx.load(accounts, "a-2")  # together they would be 130


async def test_an_object_is_the_same_in_a_transaction(store: MemoryStore | SQLiteStore) -> None:
    accounts = await open_accounts(store, 100, 0)
    async with transaction(store) as tx:
        one, other = await asyncio.gather(tx.load(accounts, "a-1"), tx.load(accounts, "a-1"))
        assert one is other is await tx.load(accounts, "a-1")
        assert tx.add(accounts, one) is one
        with pytest.raises(ValueError, match="another object of account-a-1"):
            tx.add(accounts, await accounts.load("a-1"))


async def test_other_stores_and_classes_are_refused(store: MemoryStore | SQLiteStore) -> None:
    accounts, doctors = await open_accounts(store, 100), Repository(Doctor, store)
    async with MemoryStore() as other, transaction(store) as tx:
        elsewhere = await open_accounts(other, 100)
        with pytest.raises(ValueError, match="another store object"):
            await tx.load(elsewhere, "a-1")
        with pytest.raises(TypeError, match="saves Doctor, not"):
            tx.add(doctors, Account.open("a-3", owner="ann"))  # type: ignore[misc]
    with pytest.raises(TypeError, match="has no transactions"):
        async with transaction(accounts):  # type: ignore[call-overload]
            pass
    async with MemoryStore() as other:
        foreign = await (await open_accounts(other, 100)).load("a-1")
        foreign.deposit(1)
        with pytest.raises(WrongStore):
            async with transaction(store) as tx:
                tx.add(accounts, foreign)
    assert (await accounts.load("a-1")).version == 1


async def test_transact_decides_again_after_a_conflict(store: MemoryStore | SQLiteStore) -> None:
    accounts, calls = await open_accounts(store, 100, 0), list[int]()

    async def decide(tx: Transaction) -> int:
        calls.append((await tx.load(accounts, "a-2")).balance)
        if len(calls) < 3:
            await accounts.execute("a-2", Account.deposit, 1)
        return await transfer(tx, accounts)

    assert await transact(store, decide) == 32
    assert calls == [0, 1, 2]
    assert await balances(accounts) == [70, 32]


async def test_transact_gives_up_after_its_attempts(store: MemoryStore | SQLiteStore) -> None:
    accounts, calls = await open_accounts(store, 100, 0), list[int]()

    async def decide(tx: Transaction) -> int:
        calls.append(1)
        account = await tx.load(accounts, "a-1")
        await accounts.execute("a-1", Account.deposit, 1)
        return account.withdraw(1)

    for attempts in (1, 3):
        calls.clear()
        with pytest.raises(ConflictError):
            await transact(store, decide, attempts=attempts)
        assert len(calls) == attempts
    with pytest.raises(ValueError, match="attempts is 0"):
        await transact(store, decide, attempts=0)


async def test_transact_raises_only_errors_of_a_state_that_was_true(store: MemoryStore | SQLiteStore) -> None:
    """Between the two loads money is moved, so that the sum looks wrong."""
    accounts, sums = await open_accounts(store, 100, 0), list[int]()

    async def audit(tx: Transaction) -> None:
        first = (await tx.load(accounts, "a-2")).balance
        if not sums:
            await transact(store, lambda other: transfer(other, accounts))
        sums.append(first + (await tx.load(accounts, "a-1")).balance)
        if sums[-1] != 100:
            raise LookupError("money is missing")

    await transact(store, audit)
    assert sums == [70, 100]

    async def fail(tx: Transaction) -> None:
        await transfer(tx, accounts, 1)
        raise LookupError("as ever")

    with pytest.raises(LookupError, match="as ever"):
        await transact(store, fail)
    assert await balances(accounts) == [70, 30]


async def test_an_error_is_not_hidden_by_an_added_aggregate_that_exists(store: MemoryStore | SQLiteStore) -> None:
    accounts = Repository(Account, store)
    for id in ("a-1", "a-2"):
        await accounts.save(Account.open(id, "ann"))
    calls = 0

    async def add_and_withdraw(tx: Transaction) -> None:
        nonlocal calls
        calls += 1
        tx.add(accounts, Account.open("a-2", "bob"))
        (await tx.load(accounts, "a-1")).withdraw(50)

    with pytest.raises(InsufficientFunds):
        await transact(store, add_and_withdraw)
    assert calls == 1


async def test_an_error_of_an_aggregate_that_was_not_found_and_added_is_checked(
    store: MemoryStore | SQLiteStore,
) -> None:
    accounts = Repository(Account, store)
    await accounts.save(Account.open("a-1", "ann"))
    found: list[bool] = []

    async def add_and_withdraw(tx: Transaction) -> None:
        await tx.load(accounts, "a-1")
        account = await tx.find(accounts, "a-2")
        found.append(account is not None)
        if account is None:
            await accounts.save(Account.open("a-2", "bob"))
            account = tx.add(accounts, Account.open("a-2", "ann"))
        account.withdraw(50)

    with pytest.raises(InsufficientFunds):
        await transact(store, add_and_withdraw)
    assert found == [False, True]


async def test_an_error_after_more_reads_than_can_be_checked_is_raised(store: MemoryStore | SQLiteStore) -> None:
    accounts = Repository(Account, store)

    async def look(tx: Transaction) -> None:
        for number in range(101):
            await tx.find(accounts, f"a-{number}")
        raise InsufficientFunds

    with pytest.raises(InsufficientFunds):
        await transact(store, look)


async def test_an_own_conflict_error_of_the_function_is_not_repeated(store: MemoryStore | SQLiteStore) -> None:
    accounts, calls = await open_accounts(store, 100, 0), list[int]()

    async def decide(tx: Transaction) -> None:
        calls.append(1)
        await tx.load(accounts, "a-1")
        raise ConflictError("elsewhere-1", 1, 2)

    with pytest.raises(ConflictError, match="elsewhere"):
        await transact(store, decide)
    assert calls == [1]


async def test_a_plain_function_may_add(store: MemoryStore | SQLiteStore) -> None:
    accounts = Repository(Account, store)

    def create(tx: Transaction) -> str:
        return tx.add(accounts, Account.open("a-1", owner="ann")).id

    assert await transact(store, create) == "a-1"
    assert (await accounts.load("a-1")).version == 1
    with pytest.raises(ConflictError):  # it exists now, and the function cannot know
        await transact(store, create, attempts=2)


async def test_snapshots_and_the_cache_of_execute_stay_right(store: MemoryStore | SQLiteStore) -> None:
    await open_accounts(store, 100, 0)
    accounts = Repository(Account, store, snapshots=SnapshotPolicy(floor=0, ratio=0.1, inline=True))
    for _ in range(5):
        await accounts.execute("a-1", Account.deposit, 10)  # remembers the state
        await transact(store, lambda tx: transfer(tx, accounts, 10))
    assert await balances(accounts) == [100, 50]
    assert await accounts.execute("a-2", Account.withdraw, 50) == 0
    snapshot, commits = await store.load("account-a-1")
    assert snapshot is not None
    assert snapshot.version == commits[0].version >= 10


async def test_money_is_conserved_under_concurrency(store: MemoryStore | SQLiteStore) -> None:
    accounts = await open_accounts(store, 100, 100, 100, 100)
    ids, refused = [f"a-{number}" for number in range(1, 5)], list[str]()

    async def move(source: str, target: str, amount: int) -> None:
        async def decide(tx: Transaction) -> None:
            (await tx.load(accounts, source)).withdraw(amount)
            (await tx.load(accounts, target)).deposit(amount)

        try:
            await transact(store, decide, attempts=1000)
        except InsufficientFunds:
            refused.append(source)

    async def audit(_: int) -> int:
        async def decide(tx: Transaction) -> int:
            return sum([(await tx.load(accounts, id)).balance for id in ids])

        return await transact(store, decide, attempts=1000)

    async def interest(id: str) -> None:
        await accounts.execute(id, Account.deposit, 0)

    pairs = [(source, target) for source in ids for target in ids if source != target]
    moves = [move(*pair, amount) for amount in (7, 60) for pair in pairs]
    sums = asyncio.gather(*map(audit, range(6)))
    await asyncio.gather(*moves, *(interest(id) for id in ids * 3))
    assert await sums == [400] * 6
    found = await accounts.load_many(ids)
    assert sum(each.balance for each in found.values()) == 400
    assert min(each.balance for each in found.values()) >= 0
    assert sum(each.version for each in found.values()) == 4 + 12 + 2 * (len(moves) - len(refused))


@pytest.mark.parametrize("landed", ["before", "after"])
async def test_an_unknown_outcome_is_settled(failing: FailingStore, landed: str) -> None:
    accounts = Repository(Account, failing)
    failing.failures = [(landed, TransactionOutcomeUnknown)]
    with pytest.raises(TransactionOutcomeUnknown):
        async with transaction(failing) as tx:
            source = await tx.load(accounts, "a-1")
            await transfer(tx, accounts)
    with pytest.raises(TransactionOutcomeUnknown):  # alone it must not be sent
        await accounts.save(source)
    source.deposit(1)
    receipts = await tx.settle()
    assert receipts is not None
    assert [each.version for each in receipts] == [2, 2]
    assert await tx.settle() == receipts == tx.receipts
    assert await balances(accounts) == [70, 30]
    assert (source.version, len(source.uncommitted)) == (2, 1)
    assert (await accounts.save(source)).version == 3


async def test_a_transaction_that_has_lost_is_settled_as_not_stored(failing: FailingStore) -> None:
    accounts = Repository(Account, failing)
    failing.failures = [("before", TransactionOutcomeUnknown)]
    with pytest.raises(TransactionOutcomeUnknown) as raised:
        async with transaction(failing) as tx:
            source = await tx.load(accounts, "a-1")
            await transfer(tx, accounts)
    await accounts.execute("a-2", Account.deposit, 1)
    assert await tx.settle() is None
    assert await tx.settle() is None
    assert await settle(failing, raised.value) is None
    assert await balances(accounts) == [100, 1]
    assert (source.version, len(source.uncommitted)) == (1, 1)
    await accounts.save(source)


async def test_a_failure_while_settling_leaves_the_outcome_unknown(failing: FailingStore) -> None:
    accounts = Repository(Account, failing)
    failing.failures = [("after", TransactionOutcomeUnknown), ("before", lambda *_: StoreUnavailable("down"))]
    with pytest.raises(TransactionOutcomeUnknown):
        async with transaction(failing) as tx:
            await transfer(tx, accounts)
    with pytest.raises(TransactionOutcomeUnknown, match="StoreUnavailable"):
        await tx.settle()
    assert await tx.settle() is not None
    assert await balances(accounts) == [70, 30]


async def test_a_definite_failure_keeps_the_events(failing: FailingStore) -> None:
    accounts = Repository(Account, failing)
    failing.failures = [("before", lambda *_: StoreUnavailable("down"))]
    with pytest.raises(StoreUnavailable):
        async with transaction(failing) as tx:
            source = await tx.load(accounts, "a-1")
            await transfer(tx, accounts)
    assert await tx.settle() is None
    assert len(source.uncommitted) == 1
    async with transaction(failing) as tx:  # the same objects may be committed again
        tx.add(accounts, source)
    assert await balances(accounts) == [70, 0]


async def test_a_cancelled_transaction_is_settled(failing: FailingStore) -> None:
    accounts = Repository(Account, failing)
    failing.failures = [("hang", None)]
    task = asyncio.create_task(transact(failing, lambda tx: transfer(tx, accounts)))
    await failing.hanging.wait()
    with pytest.raises(ValueError, match="not of a transaction"):
        await settle(failing, LookupError())
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as raised:
        await task
    assert isinstance(raised.value.__cause__, TransactionOutcomeUnknown)
    async with MemoryStore() as other:
        with pytest.raises(WrongStore):
            await settle(other, raised.value)
    receipts = await settle(failing, raised.value)
    assert receipts is not None
    assert [each.version for each in receipts] == [2, 2]
    assert await balances(accounts) == [70, 30]


async def test_another_process_can_settle_a_transaction(failing: FailingStore) -> None:
    accounts = Repository(Account, failing)
    failing.failures = [("before", TransactionOutcomeUnknown)]
    with pytest.raises(TransactionOutcomeUnknown) as raised:
        await transact(failing, lambda tx: transfer(tx, accounts))
    sent = pickle.loads(pickle.dumps(raised.value))
    assert (sent.commits, sent.guards) == (raised.value.commits, raised.value.guards)
    with pytest.raises(ValueError, match="settle"):  # none of its commits may be sent alone
        await accounts.settle(sent)
    receipts = await settle(failing, sent)
    assert receipts is not None
    assert await balances(accounts) == [70, 30]
    failing.failures = [("before", lambda *_: StoreUnavailable("down"))]
    with pytest.raises(TransactionOutcomeUnknown):
        await settle(failing, sent)


async def test_an_object_with_an_unsettled_save_is_refused(tmp_path: Path) -> None:
    async with ScriptedStore() as store:
        accounts = await open_accounts(store, 100)
        account = await accounts.load("a-1")
        account.deposit(1)
        store.appends = [("after", CommitOutcomeUnknown)]
        with pytest.raises(CommitOutcomeUnknown):
            await accounts.save(account)
        with pytest.raises(CommitOutcomeUnknown):
            async with transaction(store) as tx:
                tx.add(accounts, account)
        assert (await accounts.save(account)).version == 2


async def test_nothing_is_sent_for_one_stream_that_was_read(failing: FailingStore) -> None:
    accounts = Repository(Account, failing)
    async with transaction(failing) as tx:
        await tx.load(accounts, "a-1")
    assert failing.sent == []
    async with transaction(failing) as tx:
        (await tx.load(accounts, "a-1")).deposit(1)
    assert [len(commits) for commits, _ in failing.sent] == [1]
    assert failing.sent[0][1] == ()


async def test_an_aggregate_that_is_being_saved_is_refused(failing: FailingStore) -> None:
    accounts = Repository(Account, failing)
    account = await accounts.load("a-1")
    account.deposit(1)
    failing.failures = [("hang", None)]

    async def add() -> None:
        async with transaction(failing) as tx:
            tx.add(accounts, account)

    first = asyncio.create_task(add())
    await failing.hanging.wait()
    with pytest.raises(RuntimeError, match="being saved by another task"):
        await add()
    with pytest.raises(RuntimeError, match="being saved by another task"):
        await accounts.save(account)
    first.cancel()
    await asyncio.wait([first])
