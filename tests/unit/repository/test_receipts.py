"""`execute_with_receipt`: what the command returned, and the receipt of what was saved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.bank import Account, Deposited, InsufficientFunds

from eventsrc import (
    CachePolicy,
    ConflictError,
    Executed,
    IdempotencyError,
    InvalidStreamId,
    MemoryStore,
    Receipt,
    Repository,
    SQLiteStore,
    Store,
)
from eventsrc.processing import Context, MemoryProjection, Processor
from eventsrc.stores import OrderedStore

MAKES: dict[str, Callable[[Path], OrderedStore]] = {
    "memory": lambda folder: MemoryStore(),
    "sqlite": lambda folder: SQLiteStore(folder / "ledger.db"),
}


@pytest.fixture(params=MAKES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OrderedStore]:
    async with MAKES[request.param](tmp_path) as store:
        yield store


@pytest.fixture
async def accounts(store: OrderedStore) -> Repository[Account]:
    """With the account a-1, at version 2, with a balance of 10."""
    accounts = Repository(Account, store)
    await accounts.save(Account.open("a-1", owner="ann"))
    await accounts.execute("a-1", Account.deposit, 10)
    return accounts


@pytest.fixture
def others(store: OrderedStore) -> Repository[Account]:
    """A repository as in another process."""
    return Repository(Account, store, cache=CachePolicy(enabled=False))


async def test_the_receipt_is_of_the_commit_that_was_saved(store: Store, accounts: Repository[Account]) -> None:
    balance, receipt = await accounts.execute_with_receipt("a-1", Account.deposit, amount=5)
    [commit] = [commit async for commit in store.read("account-a-1", after=2)]
    assert balance == 15
    assert (receipt.stream, receipt.version, receipt.commit_id) == ("account-a-1", 3, commit.id)
    assert (receipt.events, receipt.position, receipt.duplicate) == (1, 3, False)
    assert receipt.usage is not None
    assert receipt.usage.calls == 1


async def test_after_a_conflict_the_receipt_is_of_the_attempt_that_was_saved(
    store: Store, accounts: Repository[Account], others: Repository[Account]
) -> None:
    await others.execute("a-1", Account.deposit, 100)
    executed = await accounts.execute_with_receipt("a-1", Account.deposit, 5)
    assert (executed.result, executed.receipt.version) == (115, 4)
    [commit] = [commit async for commit in store.read("account-a-1", after=3)]
    assert executed.receipt.commit_id == commit.id


async def test_concurrent_commands_get_a_receipt_each(
    store: OrderedStore, accounts: Repository[Account], others: Repository[Account]
) -> None:
    executed = await asyncio.gather(
        *(each.execute_with_receipt("a-1", Account.deposit, 1) for each in (accounts, others) for _ in range(10))
    )
    stored = {commit.version: commit.id async for commit in store.read("account-a-1", after=2)}
    assert {each.receipt.version: each.receipt.commit_id for each in executed} == stored
    assert len(stored) == 20
    assert all(each.result == each.receipt.version + 8 for each in executed)  # the balance at that version


async def test_a_command_that_records_nothing_gets_the_version_that_it_saw(
    accounts: Repository[Account], others: Repository[Account]
) -> None:
    await others.execute("a-1", Account.deposit, 100)
    executed = await accounts.execute_with_receipt("a-1", lambda account: account.balance)
    assert executed == Executed(110, Receipt("account-a-1", 3, None))


@pytest.mark.parametrize("delivers_again", ["the same", "another"])
async def test_a_duplicate_has_the_version_of_the_commit_with_the_command_id(
    accounts: Repository[Account], others: Repository[Account], delivers_again: str
) -> None:
    first = await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")
    await accounts.execute("a-1", Account.deposit, 1)
    second = await (accounts if delivers_again == "the same" else others).execute(
        "a-1", Account.deposit, 5, command_id="c-1"
    )
    assert (first.result, first.receipt.version, first.duplicate) == (15, 3, False)
    assert second == Executed(None, first.receipt._replace(duplicate=True, usage=None))
    assert (second.receipt.events, second.duplicate) == (1, True)
    with pytest.raises(IdempotencyError):
        await accounts.execute("a-1", Account.deposit, 6, command_id="c-1")


async def test_of_two_deliveries_at_once_one_is_a_duplicate(
    accounts: Repository[Account], others: Repository[Account]
) -> None:
    executed = await asyncio.gather(
        *(each.execute("a-1", Account.deposit, 5, command_id="c-1") for each in (accounts, others))
    )
    saved, repeated = sorted(executed, key=lambda each: each.receipt.duplicate)
    assert (saved.result, saved.receipt.version, saved.receipt.duplicate) == (15, 3, False)
    assert repeated == Executed(None, saved.receipt._replace(duplicate=True, usage=None))
    assert (await accounts.load("a-1")).balance == 15


async def test_errors_are_those_of_execute(
    store: Store, accounts: Repository[Account], others: Repository[Account]
) -> None:
    with pytest.raises(InsufficientFunds):
        await accounts.execute_with_receipt("a-1", Account.withdraw, 1000)
    with pytest.raises(InvalidStreamId):
        await accounts.execute_with_receipt("a|1", Account.deposit, 1)
    once = Repository(Account, store, attempts=1)
    await once.execute("a-1", Account.deposit, 1)
    await others.execute("a-1", Account.deposit, 1)
    with pytest.raises(ConflictError):
        await once.execute_with_receipt("a-1", Account.deposit, 1)
    assert (await accounts.load("a-1")).version == 4


class OfPurses(MemoryProjection, tag="of-purses"):
    categories = ("purse",)

    def handle_deposited(self, event: Deposited, context: Context) -> None: ...


class Balances(MemoryProjection, tag="balances"):
    def __init__(self) -> None:
        self.balances: dict[str, int] = {}

    def handle_deposited(self, event: Deposited, context: Context) -> None:
        self.balances[context.stream] = self.balances.get(context.stream, 0) + event.amount


async def test_a_processor_waits_for_the_receipt_of_a_command(
    store: OrderedStore, accounts: Repository[Account]
) -> None:
    processor = Processor(Balances(), store)
    running = asyncio.create_task(processor.run())
    try:
        balance, receipt = await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")
        await processor.wait_for(receipt)
        assert processor.projection.balances == {"account-a-1": balance}
        repeated = await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")
        await processor.wait_for(repeated.receipt, timeout=1.0)
        looked = await accounts.execute_with_receipt("a-1", lambda account: account.balance)
        await processor.wait_for(looked.receipt, timeout=1.0)
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_duplicate_is_waited_for_until_its_commit_is_handled(
    store: OrderedStore, accounts: Repository[Account]
) -> None:
    await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")
    _, receipt = await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")
    processor = Processor(Balances(), store)
    with pytest.raises(TimeoutError):
        await processor.wait_for(receipt, timeout=0.05)  # nobody handles it
    await processor.run(until_caught_up=True)
    await processor.wait_for(receipt, timeout=1.0)


async def test_a_stream_that_the_projection_does_not_take_is_not_waited_for(
    store: OrderedStore, accounts: Repository[Account]
) -> None:
    _, receipt = await accounts.execute_with_receipt("a-1", Account.deposit, 5)
    await Processor(OfPurses(), store).wait_for(receipt, timeout=1.0)
