"""Command ids: a redelivered command is a no-op, also after conflicts, unknown outcomes and snapshots."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.bank import Account, Opened
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
    assert await accounts.execute("a-1", Account.deposit, 5, command_id="c-1") == 5
    assert await accounts.execute("a-1", Account.deposit, 5, command_id="c-1") is None
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
    store.appends = [("after", CommitOutcomeUnknown("account-a-1", 2, "?"))]
    with pytest.raises(CommitOutcomeUnknown):
        await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")
    assert await accounts.execute("a-1", Account.deposit, 5, command_id="c-1") is None
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
    assert await accounts.execute("a-1", Account.deposit, 5, command_id="c-1") is None
    assert (await accounts.load("a-1")).balance == 5


async def test_snapshots_keep_command_ids(store: ScriptedStore) -> None:
    accounts = Repository(Account, store, snapshots=SnapshotPolicy(floor=0, inline=True))
    await accounts.save(Account.open("a-1", owner="ann"))
    await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")
    while not store.snapshots or store.snapshots[-1].version < 4:
        await accounts.execute("a-1", Account.deposit, 1)
    balance = (await accounts.load("a-1")).balance
    assert (await store.load("account-a-1")).commits[0].version > 2
    assert await accounts.execute("a-1", Account.deposit, 5, command_id="c-1") is None
    assert (await accounts.load("a-1")).balance == balance


class Forgetful(Account, tag="forgetful"):
    remembered_commands = 3


async def test_old_command_ids_are_forgotten(store: ScriptedStore) -> None:
    accounts = Repository(Forgetful, store)
    await accounts.save(Forgetful.open("a-1", owner="ann"))
    for each in range(4):
        await accounts.execute("a-1", Forgetful.deposit, 1, command_id=f"c-{each}")
    assert await accounts.execute("a-1", Forgetful.deposit, 1, command_id="c-1") is None
    assert await accounts.execute("a-1", Forgetful.deposit, 1, command_id="c-0") == 5


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
