"""Command ids: a redelivered command is a no-op, also after conflicts, unknown outcomes and snapshots."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

import pytest
from support.bank import Account, Deposited, Opened
from support.flaky import ScriptedStore

from eventsrc import CommitOutcomeUnknown, IdempotencyError, Loaded, Repository, SnapshotPolicy


@pytest.fixture
async def store() -> AsyncIterator[ScriptedStore]:
    async with ScriptedStore() as store:
        yield store


@pytest.fixture
async def accounts(store: ScriptedStore) -> Repository[Account]:
    accounts = Repository(Account, store, snapshots=SnapshotPolicy(enabled=False))
    await accounts.save(Account.open("a-1", owner="ann"))
    return accounts


async def test_a_redelivered_command_does_nothing(accounts: Repository[Account]) -> None:
    assert (await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")).result == 5
    assert (await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")).duplicate
    assert (await accounts.load("a-1")).balance == 5


async def test_the_same_id_with_other_content_is_refused(accounts: Repository[Account]) -> None:
    await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")
    with pytest.raises(IdempotencyError) as raised:
        await accounts.execute("a-1", Account.deposit, 6, command_id="c-1")
    assert (raised.value.command_id, raised.value.version) == ("c-1", 2)
    with pytest.raises(IdempotencyError):
        await accounts.execute("a-1", Account.withdraw, 5, command_id="c-1")
    assert (await accounts.load("a-1")).balance == 5


async def test_a_redelivered_creation_gets_the_stored_state(accounts: Repository[Account]) -> None:
    first = await accounts.save(Account.open("b-2", owner="bob"), command_id="c-1")
    await accounts.execute("b-2", Account.deposit, 5)
    again = Account.open("b-2", owner="bob")
    receipt = await accounts.save(again, command_id="c-1")
    assert (receipt.duplicate, receipt.version, receipt.commit_id) == (True, first.version, None)
    assert (again.balance, again.version, again.uncommitted) == (5, 2, ())
    with pytest.raises(IdempotencyError):
        await accounts.save(Account.open("b-2", owner="eve"), command_id="c-1")


async def test_a_redelivered_save_on_newer_state_gets_the_stored_state(accounts: Repository[Account]) -> None:
    account = await accounts.load("a-1")
    account.deposit(5)
    await accounts.save(account, command_id="c-1")
    again = await accounts.load("a-1")
    again.deposit(5)
    assert (await accounts.save(again, command_id="c-1")).duplicate
    assert (again.balance, again.uncommitted) == (5, ())


async def test_a_command_reissued_after_an_unknown_outcome_is_applied_once(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    store.appends = [("after", CommitOutcomeUnknown)]
    with pytest.raises(CommitOutcomeUnknown):
        await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")
    assert (await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")).duplicate
    assert (await accounts.load("a-1")).balance == 5


async def test_another_delivery_that_wins_the_race_is_recognised(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    loads, elsewhere = store.load, Repository(Account, store)

    async def load_and_let_the_other_delivery_win(stream: str) -> Loaded:
        loaded = await loads(stream)
        store.load = loads  # type: ignore[method-assign]
        await elsewhere.execute("a-1", Account.deposit, 5, command_id="c-1")
        return loaded

    store.load = load_and_let_the_other_delivery_win  # type: ignore[method-assign]
    assert (await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")).duplicate
    assert (await accounts.load("a-1")).balance == 5


async def test_snapshots_keep_command_ids(store: ScriptedStore) -> None:
    accounts = Repository(Account, store, snapshots=SnapshotPolicy(floor=0, inline=True))
    await accounts.save(Account.open("a-1", owner="ann"))
    await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")
    while not store.snapshots or store.snapshots[-1].version < 4:
        await accounts.execute("a-1", Account.deposit, 1)
    balance = (await accounts.load("a-1")).balance
    assert (await store.load("account-a-1")).commits[0].version > 2
    assert (await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")).duplicate
    assert (await accounts.load("a-1")).balance == balance


class Forgetful(Account, tag="forgetful"):
    remembered_commands = 3


async def test_old_command_ids_are_forgotten(store: ScriptedStore) -> None:
    accounts = Repository(Forgetful, store)
    await accounts.save(Forgetful.open("a-1", owner="ann"))
    for each in range(4):
        await accounts.execute("a-1", Forgetful.deposit, 1, command_id=f"c-{each}")
    assert (await accounts.execute("a-1", Forgetful.deposit, 1, command_id="c-1")).duplicate
    assert (await accounts.execute("a-1", Forgetful.deposit, 1, command_id="c-0")).result == 5


class Fortnight(Account, tag="fortnight"):
    remembered_commands = timedelta(days=14)


class Unforgetting(Account, tag="unforgetting"):
    remembered_commands = timedelta.max


@pytest.mark.parametrize("policy", [SnapshotPolicy(enabled=False), SnapshotPolicy(floor=0, inline=True)])
async def test_command_ids_are_remembered_for_a_time(
    store: ScriptedStore, monkeypatch: pytest.MonkeyPatch, policy: SnapshotPolicy
) -> None:
    """However many there are. Times are those of commits; the last one counts as now."""
    accounts = Repository(Fortnight, store, snapshots=policy)
    await accounts.save(Fortnight.open("a-1", owner="ann"))
    start = time.time_ns()
    for day, deposits in ((0, 100), (13, 100)):
        monkeypatch.setattr(time, "time_ns", lambda day=day: start + day * 86_400 * 10**9)
        for each in range(deposits):
            await accounts.execute("a-1", Fortnight.deposit, 1, command_id=f"day-{day}-{each}")
    for reader in (accounts, Repository(Fortnight, store)):  # one that remembers the state, one that loads it
        assert (await reader.execute("a-1", Fortnight.deposit, 1, command_id="day-0-0")).duplicate
    monkeypatch.setattr(time, "time_ns", lambda: start + 15 * 86_400 * 10**9)
    assert (await accounts.execute("a-1", Fortnight.deposit, 1, command_id="day-15")).result == 201
    for reader in (accounts, Repository(Fortnight, store)):
        assert (await reader.execute("a-1", Fortnight.deposit, 1, command_id="day-13-0")).duplicate
    assert (await accounts.execute("a-1", Fortnight.deposit, 1, command_id="day-0-0")).result == 202


async def test_all_command_ids_can_be_remembered(store: ScriptedStore) -> None:
    accounts = Repository(Unforgetting, store, snapshots=SnapshotPolicy(floor=0, inline=True))
    await accounts.save(Unforgetting.open("a-1", owner="ann"))
    for each in range(500):
        await accounts.execute("a-1", Unforgetting.deposit, 1, command_id=f"c-{each}")
    for reader in (accounts, Repository(Unforgetting, store)):
        assert (await reader.execute("a-1", Unforgetting.deposit, 1, command_id="c-0")).duplicate
    assert (await store.load("unforgetting-a-1")).snapshot is not None


async def test_a_snapshot_that_forgot_ids_is_not_used_once_they_are_to_be_remembered(store: ScriptedStore) -> None:
    class Patient(Account, tag="forgetful"):
        remembered_commands = timedelta(days=1)

    accounts = Repository(Forgetful, store, snapshots=SnapshotPolicy(floor=0, inline=True))
    await accounts.save(Forgetful.open("a-1", owner="ann"))
    for each in range(20):
        await accounts.execute("a-1", Forgetful.deposit, 1, command_id=f"c-{each}")
    assert (await store.load("forgetful-a-1")).snapshot is not None
    assert (await Repository(Patient, store).execute("a-1", Patient.deposit, 1, command_id="c-0")).duplicate


async def test_events_recorded_during_a_lost_race_are_not_lost(accounts: Repository[Account]) -> None:
    await accounts.save(Account.open("b-2", owner="bob"), command_id="c-1")
    again = Account.open("b-2", owner="bob")
    await accounts.save(again, command_id="c-1")
    again.record(Opened(owner="carl"))
    await accounts.save(again)
    assert (await accounts.load("b-2")).owner == "carl"


async def test_invalid_command_ids_are_refused(accounts: Repository[Account]) -> None:
    number: Any = 7
    with pytest.raises(TypeError):
        await accounts.execute("a-1", Account.deposit, 5, command_id=number)
    with pytest.raises(ValueError, match="surrogate"):
        await accounts.execute("a-1", Account.deposit, 5, command_id="\ud800")


# --- a command that is called again


def pay_in(account: Account, amounts: Any, more: Any = ()) -> list[int]:
    """Use up its arguments."""
    paid = list(amounts)
    for amount in paid:
        account.deposit(amount)
    for each in (amounts, *more):
        each.clear()
    return paid


async def execute_twice(accounts: Repository[Account], store: ScriptedStore, *command: Any, **kwargs: Any) -> Any:
    """Execute a command that is called twice, because another writer comes first."""
    await accounts.execute("a-1", Account.deposit, 1)  # the state is remembered
    await Repository(Account, store).execute("a-1", Account.deposit, 1)
    return await accounts.execute("a-1", *command, **kwargs)


@pytest.mark.parametrize("kind", [list, set, deque, Counter, dict.fromkeys], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("where", ["position", "keyword", "partial", "keyword of partial"])
async def test_a_second_call_sees_the_same_arguments(
    accounts: Repository[Account], store: ScriptedStore, kind: Callable[[list[int]], Any], where: str
) -> None:
    amounts, more = kind([5, 7]), [[1], {"a": [2]}]
    if where == "position":
        paid = await execute_twice(accounts, store, pay_in, amounts, more)
    elif where == "keyword":
        paid = await execute_twice(accounts, store, pay_in, amounts=amounts, more=more)
    elif where == "partial":
        paid = await execute_twice(accounts, store, partial(_swapped, amounts, more))
    else:
        paid = await execute_twice(accounts, store, partial(partial(pay_in, amounts=amounts), more=more))
    assert sorted(paid) == [5, 7]
    assert (await accounts.load("a-1")).balance == 14
    assert (amounts, more) == (kind([5, 7]), [[1], {"a": [2]}]), "the caller's own objects are not changed"


def _swapped(amounts: Any, more: Any, account: Account) -> list[int]:
    return pay_in(account, amounts, more)


async def test_arguments_are_those_of_the_moment_of_the_call(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    loads, amounts = store.load, [5]

    async def load_while_the_caller_changes_its_list(stream: str) -> Loaded:
        amounts.append(1_000)
        return await loads(stream)

    store.load = load_while_the_caller_changes_its_list  # type: ignore[method-assign]
    assert await Repository(Account, store).execute("a-1", pay_in, amounts) == [5]


def numbers() -> Iterator[int]:
    yield 5


@pytest.mark.parametrize(
    "make",
    [numbers, lambda: iter([5]), lambda: map(int, "5"), lambda: zip([5], strict=True), count, lambda: enumerate([5])],
    ids=["generator", "iterator", "map", "zip", "count", "enumerate"],
)
async def test_an_argument_that_can_be_read_once_is_refused(
    accounts: Repository[Account], store: ScriptedStore, make: Callable[[], Any]
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the command ran")

    store.load = never  # type: ignore[assignment,method-assign]
    for args, kwargs in (
        ((make(),), {}),
        ((1, [make()]), {}),
        (({"a": (make(),)},), {}),
        ((), {"amounts": make()}),
    ):
        with pytest.raises(TypeError, match=r"can be read only once, .*; give a list or a tuple"):
            await accounts.execute("a-1", never, *args, **kwargs)
        with pytest.raises(TypeError, match="can be read only once"):
            await accounts.execute("a-1", partial(never, *args, **kwargs), command_id="c-1")


@pytest.mark.parametrize("make", [numbers, lambda: iter([5]), lambda: map(int, "5")], ids=["generator", "list", "map"])
async def test_a_command_that_captures_an_iterator_is_refused(accounts: Repository[Account], make: Any) -> None:
    amounts = make()

    def by_closure(account: Account) -> int:
        return sum(amounts)

    def by_default(account: Account, amounts: Any = amounts, *, more: int = 0) -> int:
        return sum(amounts)

    def by_keyword_default(account: Account, *, amounts: Any = amounts) -> int:
        return sum(amounts)

    class Payments:
        def by_closure(self, account: Account) -> int:
            return sum(amounts)

    commands = (by_closure, by_default, by_keyword_default, partial(by_closure), Payments().by_closure)
    for command in (*commands, lambda account: sum(amounts)):
        with pytest.raises(TypeError, match=r"used by it, can be read only once, .*; give a list or a tuple"):
            await accounts.execute("a-1", command)


async def test_a_command_may_capture_what_can_be_read_again(accounts: Repository[Account]) -> None:
    amounts = [1, 2]

    def pay(account: Account, factor: int = 2) -> int:
        return sum(amounts) * factor

    assert await accounts.execute("a-1", pay) == 6


async def test_a_variable_without_a_value_is_not_read_before_the_command_runs(accounts: Repository[Account]) -> None:
    def make(*, given: bool) -> Callable[[Account], int]:
        def pay(account: Account) -> int:
            return amount

        if not given:
            amount = 5
        return pay

    with pytest.raises(NameError):
        await accounts.execute("a-1", make(given=True))


async def test_an_argument_that_can_be_read_again_is_passed_on(accounts: Repository[Account]) -> None:
    amounts = {"a": 5, "b": 7}
    for given in (range(3), amounts.values(), amounts.keys(), (1, 2), frozenset({1}), "ab", b"ab"):
        assert await accounts.execute("a-1", lambda account, given: given, given) == given


# --- what a command id stands for


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (range(3), range(4)),
        (deque([1]), deque([2])),
        ({"a": 1}.keys(), {"b": 1}.keys()),
        ({"a": 1}.values(), {"a": 2}.values()),
        ({"a": 1}.items(), {"a": 2}.items()),
        (Counter("a"), Counter("b")),
    ],
    ids=repr,
)
async def test_the_content_of_every_collection_counts(accounts: Repository[Account], one: Any, other: Any) -> None:
    def pay(account: Account, amounts: Any) -> int:
        return account.deposit(5)

    assert (await accounts.execute("a-1", pay, one, command_id="c-1")).result == 5
    assert (await accounts.execute("a-1", pay, one, command_id="c-1")).duplicate
    with pytest.raises(IdempotencyError):
        await accounts.execute("a-1", pay, other, command_id="c-1")


async def test_keyword_arguments_count_in_any_order(accounts: Repository[Account]) -> None:
    def pay(account: Account, amount: int, note: str = "") -> int:
        return account.deposit(amount)

    execute: Any = accounts.execute
    assert (await execute("a-1", pay, amount=5, note="rent", command_id="c-1")).result == 5
    assert (await execute("a-1", pay, note="rent", amount=5, command_id="c-1")).duplicate
    assert (await execute("a-1", partial(pay, note="rent"), amount=5, command_id="c-1")).duplicate
    for changed in ({"amount": 6, "note": "rent"}, {"amount": 5, "note": "food"}, {"amount": 5}):
        with pytest.raises(IdempotencyError):
            await execute("a-1", pay, **changed, command_id="c-1")
    assert (await accounts.load("a-1")).balance == 5


@dataclass
class Pay:
    amount: int

    def __call__(self, account: Account) -> int:
        return account.deposit(self.amount)

    def apply_to(self, account: Account) -> int:
        account.record(Deposited(amount=self.amount))
        return account.balance


@pytest.mark.parametrize("make", [Pay, lambda amount: Pay(amount).apply_to], ids=["object", "method"])
async def test_the_content_of_a_command_that_is_an_object_counts(
    accounts: Repository[Account], make: Callable[[int], Callable[[Account], int]]
) -> None:
    assert (await accounts.execute("a-1", make(5), command_id="c-1")).result == 5
    assert (await accounts.execute("a-1", make(5), command_id="c-1")).duplicate
    with pytest.raises(IdempotencyError):
        await accounts.execute("a-1", make(6), command_id="c-1")
