"""`Repository.settle`: the exact outcome of an `execute` or `save` that ended without one, also of a cancelled one."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support.bank import Account, InsufficientFunds
from support.flaky import ScriptedStore

from campaigns.clock import VirtualLoop, run
from eventsrc import (
    CommitOutcomeUnknown,
    ConflictError,
    CorruptPayload,
    IdempotencyError,
    Repository,
    SnapshotPolicy,
    SQLiteStore,
    StoreUnavailable,
    Throttled,
    WrongStore,
)


@pytest.fixture
async def store() -> AsyncIterator[ScriptedStore]:
    async with ScriptedStore() as store:
        await Repository(Account, store).save(Account.open("a-1", owner="ann"))
        yield store


@pytest.fixture
def accounts(store: ScriptedStore) -> Repository[Account]:
    return Repository(Account, store)


async def balance(store: ScriptedStore) -> int:
    return (await Repository(Account, store).load("a-1")).balance


async def fail(accounts: Repository[Account], **options: str) -> CommitOutcomeUnknown:
    """Deposit 5, and return the error."""
    with pytest.raises(CommitOutcomeUnknown) as raised:
        await accounts.execute("a-1", Account.deposit, 5, **options)
    return raised.value


@pytest.mark.parametrize("landed", ["before", "after"])
async def test_a_command_of_unknown_outcome_is_stored_once_after_settling(
    accounts: Repository[Account], store: ScriptedStore, landed: str
) -> None:
    store.appends = [(landed, CommitOutcomeUnknown)]
    unknown = await fail(accounts)
    for _ in range(2):
        receipt = await accounts.settle(unknown)
        assert receipt is not None
        assert (receipt.version, receipt.commit_id) == (2, unknown.commit.id)
        assert await balance(store) == 5
    assert await accounts.execute("a-1", Account.deposit, 1) == 6


async def test_a_command_whose_version_was_taken_is_not_stored(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    store.appends = [("before", CommitOutcomeUnknown)]
    unknown = await fail(accounts)
    await Repository(Account, store).execute("a-1", Account.deposit, 7)
    assert await accounts.settle(unknown) is None
    assert await balance(store) == 7


async def test_a_damaged_commit_at_the_version_proves_that_nothing_was_stored(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    store.appends = [("before", CommitOutcomeUnknown), ("before", CorruptPayload("account-a-1", 2, "not ours"))]
    assert await accounts.settle(await fail(accounts)) is None


async def test_settling_without_an_answer_can_be_repeated(accounts: Repository[Account], store: ScriptedStore) -> None:
    store.appends = [("after", CommitOutcomeUnknown), ("before", Throttled("slow down"))]
    unknown = await fail(accounts)
    with pytest.raises(CommitOutcomeUnknown) as again:
        await accounts.settle(unknown)
    assert await accounts.settle(again.value) == await accounts.settle(unknown)
    assert await balance(store) == 5


async def test_the_error_of_a_save_is_settled_as_well(accounts: Repository[Account], store: ScriptedStore) -> None:
    account = await accounts.load("a-1")
    account.deposit(5)
    store.appends = [("after", CommitOutcomeUnknown)]
    with pytest.raises(CommitOutcomeUnknown) as raised:
        await accounts.save(account)
    receipt = await accounts.settle(raised.value)
    saved = await accounts.save(account)
    assert receipt is not None
    assert (receipt.version, receipt.commit_id) == (saved.version, saved.commit_id)
    assert (account.version, account.uncommitted, await balance(store)) == (2, (), 5)


async def test_an_error_from_another_process_is_settled(accounts: Repository[Account], store: ScriptedStore) -> None:
    store.appends = [("before", CommitOutcomeUnknown)]
    received = pickle.loads(pickle.dumps(await fail(accounts)))
    assert (await accounts.settle(received)) is not None
    assert await balance(store) == 5


async def test_a_command_that_was_delivered_again_is_not_stored_twice(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    store.appends = [("before", CommitOutcomeUnknown)]
    unknown = await fail(accounts, command_id="c-1")
    await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")
    receipt = await accounts.settle(unknown)
    assert receipt is not None
    assert (receipt.version, receipt.duplicate, await balance(store)) == (2, True, 5)


async def test_another_command_with_the_id_is_reported(accounts: Repository[Account], store: ScriptedStore) -> None:
    store.appends = [("before", CommitOutcomeUnknown)]
    unknown = await fail(accounts, command_id="c-1")
    await accounts.execute("a-1", Account.deposit, 6, command_id="c-1")
    with pytest.raises(IdempotencyError):
        await accounts.settle(unknown)
    assert await balance(store) == 6


@pytest.mark.parametrize("moment", range(1, 13))
@pytest.mark.parametrize(
    "policy", [SnapshotPolicy(), SnapshotPolicy(inline=True, floor=0, ratio=0.01)], ids=["", "inline"]
)
async def test_a_command_cancelled_at_any_moment_is_settled(
    store: ScriptedStore, policy: SnapshotPolicy, moment: int
) -> None:
    """It is stored if `settle` returns a receipt, and executing it again after None stores it once."""
    accounts = Repository(Account, store, snapshots=policy)
    executing = asyncio.create_task(accounts.execute("a-1", Account.deposit, 5))
    for _ in range(moment):
        await asyncio.sleep(0)
    executing.cancel()
    try:
        await executing
    except asyncio.CancelledError as cancelled:
        receipt = await accounts.settle(cancelled)
        assert await balance(store) == (0 if receipt is None else 5)
        if receipt is None:
            await accounts.execute("a-1", Account.deposit, 5)
    assert await balance(store) == 5


async def by_timeout(call: Coroutine[Any, Any, int]) -> None:
    async with asyncio.timeout(1):
        await call


async def by_wait_for(call: Coroutine[Any, Any, int]) -> None:
    await asyncio.wait_for(call, 1)


@pytest.mark.parametrize("limit", [by_timeout, by_wait_for])
def test_a_command_that_asyncio_timed_out_is_settled(limit: Callable[[Coroutine[Any, Any, int]], Any]) -> None:
    """In virtual time, which passes only when the command hangs."""

    async def check() -> None:
        async with ScriptedStore() as store:
            accounts = Repository(Account, store)
            await accounts.save(Account.open("a-1", owner="ann"))
            store.appends = [("hang", None)]
            with pytest.raises(TimeoutError) as raised:
                await limit(accounts.execute("a-1", Account.deposit, 5))
            receipt = await accounts.settle(raised.value)
            assert receipt is not None
            assert (receipt.version, await balance(store)) == (2, 5)

    run(check(), VirtualLoop())


async def test_a_cancelled_redelivery_sends_nothing_when_it_is_settled(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    """The draft of a command that was applied before was never sent."""
    first = await accounts.load("a-1")
    first.deposit(5)
    await accounts.save(first, command_id="c-1")
    again = await accounts.load("a-1")
    again.deposit(5)
    saving = asyncio.create_task(accounts.save(again, command_id="c-1"))
    await asyncio.sleep(0)  # the second one is reading the stored state
    saving.cancel()
    with pytest.raises(asyncio.CancelledError) as raised:
        await saving
    assert await accounts.settle(raised.value) is None
    assert await balance(store) == 5


@pytest.mark.parametrize(
    "error", [Throttled("slow down"), StoreUnavailable("gone"), ConflictError("account-a-1", 1, 2)], ids=repr
)
async def test_a_definite_error_is_not_stored(accounts: Repository[Account], error: Exception) -> None:
    assert await accounts.settle(error) is None
    wrapped = RuntimeError("the service's own")
    wrapped.__cause__ = error
    assert await accounts.settle(wrapped) is None


@pytest.mark.parametrize("error", [InsufficientFunds(), asyncio.CancelledError(), TimeoutError()], ids=repr)
async def test_an_error_that_says_nothing_is_refused(accounts: Repository[Account], error: BaseException) -> None:
    with pytest.raises(ValueError, match="raised"):
        await accounts.settle(error)


async def test_the_repository_of_another_class_refuses(accounts: Repository[Account], store: ScriptedStore) -> None:
    class Other(Account, tag="other"):
        pass

    store.appends = [("before", CommitOutcomeUnknown)]
    unknown = await fail(accounts)
    with pytest.raises(ValueError, match="category other"):
        await Repository(Other, store).settle(unknown)
    assert await balance(store) == 0


@pytest.mark.parametrize("landed", ["before", "after"])
@pytest.mark.parametrize("id", ["a-1", "new"])
async def test_a_commit_is_settled_in_the_store_that_it_was_sent_to(
    accounts: Repository[Account], store: ScriptedStore, landed: str, id: str
) -> None:
    account = await accounts.load(id) if id == "a-1" else Account.open(id, owner="ann")
    account.deposit(5)
    store.appends = [(landed, CommitOutcomeUnknown)]
    with pytest.raises(CommitOutcomeUnknown) as raised:
        await accounts.save(account)
    async with ScriptedStore() as other:
        if id == "a-1":
            await Repository(Account, other).save(Account.open("a-1", owner="bob"))
        before = len(other.appended)
        for call in (Repository(Account, other).settle(raised.value), Repository(Account, other).save(account)):
            with pytest.raises(WrongStore, match=f"account-{id}.*another store") as wrong:
                await call
            assert str(pickle.loads(pickle.dumps(wrong.value))) == str(wrong.value)
        assert len(other.appended) == before
    receipt = await accounts.settle(raised.value)
    assert receipt is not None
    assert receipt.commit_id == raised.value.commit.id
    assert (await accounts.save(account)).version == receipt.version


async def test_a_cancelled_command_is_settled_in_the_store_that_it_was_sent_to(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    store.appends = [("hang", None)]
    calling = asyncio.create_task(accounts.execute("a-1", Account.deposit, 5))
    await store.hanging.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError) as raised:
        await calling
    async with ScriptedStore() as other:
        with pytest.raises(WrongStore):
            await Repository(Account, other).settle(raised.value)
        assert other.appended == []
    assert await accounts.settle(raised.value) is not None


async def test_another_object_of_the_same_store_settles_while_both_are_open(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "events.db") as store, SQLiteStore(tmp_path / "events.db") as same:
        account = Account.open("a-1", owner="ann")
        saving = asyncio.create_task(Repository(Account, store).save(account))
        await asyncio.sleep(0)
        saving.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await saving
        receipt = await Repository(Account, same).settle(raised.value)
        assert receipt is not None
        assert (await Repository(Account, same).save(account)).version == 1
    async with SQLiteStore(tmp_path / "events.db") as later:
        with pytest.raises(WrongStore, match="or to one that is closed"):
            await Repository(Account, later).settle(raised.value)
