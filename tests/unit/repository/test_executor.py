"""`executor`: commands under an id, however late they are delivered again, and on aggregates that may not exist."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.bank import Account, InsufficientFunds
from support.counting import CountingStore
from support.flaky import ScriptedStore

from eventsrc import (
    AggregateNotFound,
    CachePolicy,
    CommandRefused,
    CommitOutcomeUnknown,
    IdempotencyError,
    Repository,
    SnapshotPolicy,
    StoreUnavailable,
    trace,
)

OTHERS = 1_000  # other commands in between: many times as many as a stream remembers

SMALL = SnapshotPolicy(floor=1_000, inline=True)


@pytest.fixture
async def store() -> AsyncIterator[CountingStore]:
    async with CountingStore() as store:
        yield store


@pytest.fixture
async def accounts(store: CountingStore) -> Repository[Account]:
    accounts = Repository(Account, store, snapshots=SMALL)
    await accounts.save(Account.open("a-1", owner="ann"))
    return accounts


async def do_others(accounts: Repository[Account], count: int = OTHERS, *, ids: bool = True) -> None:
    for number in range(count):
        await accounts.executor(command_id=f"other-{number}" if ids else None).execute("a-1", Account.deposit, 1)


@pytest.mark.parametrize("ids", [True, False], ids=["with ids", "without ids"])
@pytest.mark.parametrize("reader", ["remembers", "loads"])
async def test_a_command_is_recognised_after_any_number_of_others(
    store: CountingStore, accounts: Repository[Account], reader: str, ids: bool
) -> None:
    once = accounts.executor(command_id="c-1", since=1)
    first = await once.execute("a-1", Account.deposit, amount=5)
    await do_others(accounts, ids=ids)
    others = Repository(Account, store)
    again = (
        await (accounts if reader == "remembers" else others)
        .executor(command_id="c-1", since=1)
        .execute("a-1", Account.deposit, amount=5)
    )
    assert (first.result, first.duplicate) == (5, False)
    assert (again.result, again.duplicate, again.receipt.version) == (None, True, first.receipt.version)
    assert again.receipt == first.receipt._replace(duplicate=True, usage=None)
    assert (await accounts.load("a-1")).balance == 5 + OTHERS
    with pytest.raises(IdempotencyError) as raised:
        await others.executor(command_id="c-1", since=1).execute("a-1", Account.deposit, 6)
    assert raised.value.version == first.receipt.version


async def test_without_since_a_command_is_applied_again_after_many_others(accounts: Repository[Account]) -> None:
    await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")
    await do_others(accounts, 100)
    assert not (await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")).duplicate


async def test_a_command_that_others_applied_while_it_was_decided_is_recognised(
    store: CountingStore, accounts: Repository[Account]
) -> None:
    """The remembered state is from before the first delivery, and the commands since then are more than remembered."""
    old = Repository(Account, store)
    await old.execute("a-1", Account.deposit, 1)  # it remembers version 2
    for _ in range(2):  # the commits that it meets in its first attempts are not the command's
        await accounts.execute("a-1", Account.deposit, 1)
    await accounts.executor(command_id="c-1", since=2).execute("a-1", Account.deposit, 5)
    await do_others(accounts)
    assert (await old.executor(command_id="c-1", since=2).execute("a-1", Account.deposit, 5)).duplicate
    assert (await accounts.load("a-1")).balance == 8 + OTHERS


async def test_a_command_that_is_refused_now_but_was_applied_is_a_duplicate(
    store: CountingStore, accounts: Repository[Account]
) -> None:
    await accounts.execute("a-1", Account.deposit, 30)
    old = Repository(Account, store)
    await old.execute("a-1", lambda account: account.balance)  # it remembers version 2
    await accounts.executor(command_id="c-1", since=2).execute("a-1", Account.withdraw, 30)
    for number in range(100):
        await accounts.execute("a-1", Account.deposit, 1, command_id=f"in-{number}")
        await accounts.execute("a-1", Account.withdraw, 1, command_id=f"out-{number}")
    for each in (old, Repository(Account, store)):
        assert (await each.executor(command_id="c-1", since=2).execute("a-1", Account.withdraw, 30)).duplicate


async def test_looking_an_id_up_costs_a_read_only_if_the_stream_has_moved_on(
    store: CountingStore, accounts: Repository[Account]
) -> None:
    version = (await accounts.load("a-1")).version
    await accounts.execute("a-1", lambda account: account.balance)
    store.asked.clear()
    await accounts.executor(command_id="c-1", since=version).execute("a-1", Account.deposit, 5)
    assert store.asked == {"append": 1}
    for number in range(10):
        await accounts.executor(command_id=f"d-{number}", since=version).execute("a-1", Account.deposit, 1)
    assert store.asked == {"append": 11}  # all ids since then are remembered


async def test_a_refused_command_is_decided_again(accounts: Repository[Account]) -> None:
    once = accounts.executor(command_id="c-1", since=0)
    with pytest.raises(InsufficientFunds):
        await once.execute("a-1", Account.withdraw, 5)
    await accounts.execute("a-1", Account.deposit, 5)
    assert (await once.execute("a-1", Account.withdraw, 5)).result == 0
    assert (await once.execute("a-1", Account.withdraw, 5)).duplicate


async def test_a_command_creates_its_aggregate_once(store: CountingStore, accounts: Repository[Account]) -> None:
    tasks = [
        each.executor(command_id="c-1", since=0, create=True).execute("b-2", Account.deposit, amount=5)
        for each in (accounts, Repository(Account, store), Repository(Account, store))
    ]
    executed = await asyncio.gather(*tasks)
    assert sorted(each.duplicate for each in executed) == [False, True, True]
    assert {each.receipt.version for each in executed} == {1}
    assert (await accounts.load("b-2")).balance == 5


async def test_a_command_that_creates_nothing_leaves_nothing(
    store: CountingStore, accounts: Repository[Account]
) -> None:
    creating = accounts.executor(create=True)
    with pytest.raises(InsufficientFunds):
        await creating.execute("b-2", Account.withdraw, 5)
    assert (await creating.execute("b-2", lambda account: account.balance)).receipt.version == 0
    with pytest.raises(AggregateNotFound):
        await accounts.execute("b-2", Account.deposit, 5)
    with pytest.raises(AggregateNotFound):
        await accounts.load("b-2")
    assert (await creating.execute("b-2", Account.deposit, 5)).receipt.version == 1


async def test_a_final_refusal_stays_one(store: CountingStore, accounts: Repository[Account]) -> None:
    """However often it is delivered again, by any process, and whatever the aggregate could do by then."""
    once = accounts.executor(command_id="c-1", since=1, final=True)
    with pytest.raises(CommandRefused) as refused:
        await once.execute("a-1", Account.withdraw, 5)
    assert isinstance(refused.value.__cause__, InsufficientFunds)
    assert (refused.value.error, refused.value.version) == ("InsufficientFunds", 2)
    await accounts.execute("a-1", Account.deposit, 50)
    await do_others(accounts, 100)
    for each in (accounts, Repository(Account, store)):
        with pytest.raises(CommandRefused) as again:
            await each.executor(command_id="c-1", since=1, final=True).execute("a-1", Account.withdraw, 5)
        assert str(again.value) == str(refused.value)
        assert (again.value.reason, again.value.version) == (refused.value.reason, 2)
    stored = [(commit.events, commit.tags) async for commit in store.read("account-a-1", after=1, until=2)]
    assert stored == [(0, ())]
    assert (await Repository(Account, store).load("a-1")).balance == 150


async def test_a_final_command_that_recorded_nothing_never_does(accounts: Repository[Account]) -> None:
    once = accounts.executor(command_id="c-1", since=1, final=True)
    quiet = await once.execute("a-1", lambda account: account.balance)
    assert (quiet.result, quiet.receipt.version, quiet.receipt.events) == (0, 2, 0)
    again = await once.execute("a-1", lambda account: account.balance)
    assert (again.duplicate, again.receipt.version) == (True, 2)


@pytest.mark.parametrize(
    "error", [TypeError, AssertionError, OSError, StoreUnavailable, KeyError, ZeroDivisionError, UnicodeError]
)
async def test_a_fault_of_the_program_is_not_a_refusal(accounts: Repository[Account], error: type[Exception]) -> None:
    def broken(account: Account) -> None:
        account.deposit(1)
        raise error("broken")

    once = accounts.executor(command_id="c-1", since=1, final=True)
    with pytest.raises(error):
        await once.execute("a-1", broken)
    assert (await accounts.load("a-1")).version == 1


async def test_of_two_deliveries_of_a_final_command_one_outcome_is_stored(
    store: CountingStore, accounts: Repository[Account]
) -> None:
    """One decides on a state from before the money came."""
    old = Repository(Account, store)
    await old.execute("a-1", lambda account: account.balance)
    await accounts.execute("a-1", Account.deposit, 5)
    applied = await accounts.executor(command_id="c-1", since=1, final=True).execute("a-1", Account.withdraw, 5)
    again = await old.executor(command_id="c-1", since=1, final=True).execute("a-1", Account.withdraw, 5)
    assert (again.duplicate, again.receipt.version) == (True, applied.receipt.version)
    tasks = [
        each.executor(command_id="c-2", since=1, final=True).execute("a-1", Account.withdraw, 5)
        for each in (old, accounts, Repository(Account, store))
    ]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {(type(each), str(each)) for each in outcomes} == {(CommandRefused, str(outcomes[0]))}
    assert (await accounts.load("a-1")).version == 4


async def test_a_refusal_of_a_state_that_cannot_be_remembered(store: CountingStore) -> None:
    """The command has changed its object before it raised; that stays nowhere."""
    accounts = Repository(Account, store, cache=CachePolicy(enabled=False), snapshots=SnapshotPolicy(enabled=False))
    await accounts.save(Account.open("a-1", owner="ann"))

    def deposit_and_refuse(account: Account) -> None:
        account.deposit(7)
        raise InsufficientFunds(0)

    with pytest.raises(CommandRefused):
        await accounts.executor(command_id="c-1", final=True).execute("a-1", deposit_and_refuse)
    assert await accounts.execute("a-1", lambda account: (account.balance, account.version)) == (0, 2)


async def test_an_unknown_refusal_is_settled_as_one() -> None:
    """As refused, and not as applied."""
    async with ScriptedStore() as store:
        accounts = Repository(Account, store)
        await accounts.save(Account.open("a-1", owner="ann"))
        once = accounts.executor(command_id="c-1", final=True)
        store.appends = [("after", CommitOutcomeUnknown)]
        with pytest.raises(CommitOutcomeUnknown) as unknown:
            await once.execute("a-1", Account.withdraw, 5)
        with pytest.raises(CommandRefused):
            await accounts.settle(unknown.value)
        with pytest.raises(CommandRefused):
            await accounts.execute("a-1", Account.withdraw, 5, command_id="c-1")
        assert (await accounts.load("a-1")).version == 2


async def test_metadata_of_a_caller_makes_no_refusal(accounts: Repository[Account]) -> None:
    once = accounts.executor(command_id="c-1", since=1, final=True)
    with trace(metadata={"refused": "X: y", "eventsrc.refused": "X: y"}):
        assert (await once.execute("a-1", lambda account: account.balance)).result == 0
    assert (await once.execute("a-1", lambda account: account.balance)).duplicate


async def test_final_needs_a_command_id(accounts: Repository[Account]) -> None:
    with pytest.raises(ValueError, match="without a command_id"):
        accounts.executor(final=True)
    with pytest.raises(CommandRefused) as refused:
        await accounts.executor(command_id="c-1", create=True, final=True).execute("b-2", Account.withdraw, 5)
    assert refused.value.version == 0


async def test_a_search_that_fails_applies_nothing(store: CountingStore) -> None:
    accounts = Repository(Account, store, cache=CachePolicy(enabled=False))
    await accounts.save(Account.open("a-1", owner="ann"))
    await accounts.execute("a-1", Account.deposit, 1)
    store.fails_read = StoreUnavailable("no answer")
    with pytest.raises(StoreUnavailable):
        await accounts.executor(command_id="c-1", since=0).execute("a-1", Account.deposit, 5)
    assert (await accounts.load("a-1")).balance == 1
