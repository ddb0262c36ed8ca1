"""Load, save, execute and history, on a store in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bank import Account, Deposited, InsufficientFunds, Opened, Withdrawn
from flaky import ScriptedStore

from eventsrc import (
    AggregateNotFound,
    CommitOutcomeUnknown,
    ConflictError,
    InvalidEvent,
    InvalidStreamId,
    Receipt,
    Repository,
    SnapshotPolicy,
    StreamCorrupt,
    Throttled,
    trace,
)
from eventsrc.aggregate import Aggregate


@pytest.fixture
async def store() -> AsyncIterator[ScriptedStore]:
    async with ScriptedStore() as store:
        yield store


@pytest.fixture
async def accounts(store: ScriptedStore) -> Repository[Account]:
    accounts = Repository(Account, store, snapshots=SnapshotPolicy(enabled=False))
    await accounts.save(Account.open("a-1", owner="ann"))
    return accounts


async def versions(store: ScriptedStore) -> list[int]:
    return [commit.version async for commit in store.read("account-a-1")]


async def test_what_was_saved_is_loaded(accounts: Repository[Account]) -> None:
    account = await accounts.load("a-1")
    account.deposit(80)
    account.withdraw(30)
    receipt = await accounts.save(account)
    assert receipt[:2] == ("account-a-1", 2)
    assert receipt.events == 2
    loaded = await accounts.load("a-1")
    assert loaded == account
    assert (loaded.owner, loaded.balance, loaded.version, loaded.uncommitted) == ("ann", 50, 2, ())


async def test_an_unknown_id_is_not_found(accounts: Repository[Account]) -> None:
    with pytest.raises(AggregateNotFound, match="account-b-2"):
        await accounts.load("b-2")
    with pytest.raises(AggregateNotFound):
        await accounts.execute("b-2", Account.deposit, 1)
    with pytest.raises(InvalidStreamId):
        await accounts.load("b|2")


async def test_saving_nothing_writes_nothing(accounts: Repository[Account], store: ScriptedStore) -> None:
    account = await accounts.load("a-1")
    assert await accounts.save(account) == Receipt("account-a-1", 1, None)
    assert await versions(store) == [1]


async def test_a_conflict_leaves_the_object_as_it_was(accounts: Repository[Account], store: ScriptedStore) -> None:
    mine, theirs = await accounts.load("a-1"), await accounts.load("a-1")
    theirs.deposit(5)
    await accounts.save(theirs)
    mine.deposit(7)
    for _ in range(2):
        with pytest.raises(ConflictError) as raised:
            await accounts.save(mine)
        conflict = raised.value
        assert (conflict.stream, conflict.expected, conflict.actual) == ("account-a-1", 1, 2)
        assert conflict.winner is not None
        assert conflict.winner.version == 2
    assert (mine.uncommitted, mine.version, mine.balance) == ((Deposited(amount=7),), 1, 7)
    assert await versions(store) == [1, 2]


async def test_an_aggregate_of_another_class_is_refused(accounts: Repository[Account]) -> None:
    with pytest.raises(TypeError, match="Account"):
        await accounts.save(Other(id="1"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Other(Aggregate, tag="other"):
    def apply_opened(self, event: Opened) -> None: ...


async def test_what_cannot_be_stored_is_refused_and_kept(accounts: Repository[Account], store: ScriptedStore) -> None:
    account = await accounts.load("a-1")
    account.deposit(2**70)
    with pytest.raises(InvalidEvent, match="64 bits"):
        await accounts.save(account)
    assert len(account.uncommitted) == 1
    assert len(store.appended) == 1


# --- time travel


async def test_past_versions_and_times(accounts: Repository[Account], store: ScriptedStore) -> None:
    for amount in (10, 20, 30):
        await accounts.execute("a-1", Account.deposit, amount)
    assert [(await accounts.load("a-1", version=v)).balance for v in (1, 2, 3, 4)] == [0, 10, 30, 60]
    commits = [commit async for commit in store.read("account-a-1")]
    for commit, balance in zip(commits, (0, 10, 30, 60), strict=True):
        assert (await accounts.load("a-1", at=commit.at)).balance >= balance
    assert (await accounts.load("a-1", at=datetime.now(UTC))).version == 4
    with pytest.raises(AggregateNotFound):
        await accounts.load("a-1", at=commits[0].at - timedelta(seconds=1))
    with pytest.raises(AggregateNotFound, match="version 9"):
        await accounts.load("a-1", version=9)


@pytest.mark.parametrize(
    ("version", "error"), [(True, TypeError), (1.0, TypeError), (0, ValueError), (-1, ValueError), (2**60, ValueError)]
)
async def test_what_is_no_version(accounts: Repository[Account], version: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        await accounts.load("a-1", version=version)


async def test_a_time_without_a_zone_is_refused(accounts: Repository[Account]) -> None:
    with pytest.raises(ValueError, match="time zone"):
        await accounts.load("a-1", at=datetime(2026, 1, 1))  # noqa: DTZ001  # that is the point


async def test_commit_times_never_go_back(
    accounts: Repository[Account], store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3_600_000_000_000)
    await accounts.execute("a-1", Account.deposit, 1)
    times = [commit.time async for commit in store.read("account-a-1")]
    assert times[0] <= times[1]


# --- execute


async def test_execute_returns_what_the_command_returns(accounts: Repository[Account]) -> None:
    assert await accounts.execute("a-1", Account.deposit, 80) == 80
    assert await accounts.execute("a-1", Account.withdraw, amount=30) == 50


async def test_racing_commands_are_all_counted(store: ScriptedStore) -> None:
    accounts = Repository(Account, store, attempts=100)
    await accounts.save(Account.open("a-1", owner="ann"))
    await asyncio.gather(*(accounts.execute("a-1", Account.deposit, 1) for _ in range(50)))
    assert (await accounts.load("a-1")).balance == 50


async def test_attempts_are_bounded(accounts: Repository[Account], store: ScriptedStore) -> None:
    accounts = Repository(Account, store, attempts=3)
    store.appends = [("before", ConflictError("account-a-1", 1, 2))] * 9
    with pytest.raises(ConflictError):
        await accounts.execute("a-1", Account.deposit, 1)
    assert len(store.appends) == 6


async def test_a_command_that_raises_saves_nothing(accounts: Repository[Account], store: ScriptedStore) -> None:
    with pytest.raises(InsufficientFunds):
        await accounts.execute("a-1", Account.withdraw, 1)
    assert await accounts.execute("a-1", lambda account: account.balance) == 0
    assert await versions(store) == [1]


async def test_an_async_command_is_refused(accounts: Repository[Account], store: ScriptedStore) -> None:
    async def deposit(account: Account) -> None:
        account.deposit(1)

    command: Any = deposit
    with pytest.raises(TypeError, match="deposit is async"):
        await accounts.execute("a-1", command)
    with pytest.raises(TypeError, match="awaitable"):
        await accounts.execute("a-1", lambda account: command(account))
    assert await versions(store) == [1]


# --- the exact append


async def test_a_cancelled_save_can_be_saved_again(accounts: Repository[Account], store: ScriptedStore) -> None:
    account = await accounts.load("a-1")
    account.deposit(5)
    store.appends = [("hang", None)]
    saving = asyncio.create_task(accounts.save(account))
    await store.hanging.wait()
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert account.uncommitted
    assert (await accounts.save(account)).version == 2
    assert (account.uncommitted, account.version) == ((), 2)
    assert await versions(store) == [1, 2]
    assert store.appended[-1].id == store.appended[-2].id


@pytest.mark.parametrize("landed", ["before", "after"])
async def test_events_recorded_after_an_unknown_outcome_make_a_second_commit(
    accounts: Repository[Account], store: ScriptedStore, landed: str
) -> None:
    account = await accounts.load("a-1")
    account.deposit(5)
    store.appends = [(landed, CommitOutcomeUnknown("account-a-1", 2, "?"))]
    with pytest.raises(CommitOutcomeUnknown):
        await accounts.save(account)
    account.withdraw(2)
    await accounts.save(account)
    history = [events async for _, events in accounts.history("a-1", after=1)]
    assert history == [[Deposited(amount=5)], [Withdrawn(amount=2)]]
    assert await accounts.load("a-1") == account


async def test_unknown_is_sticky(accounts: Repository[Account], store: ScriptedStore) -> None:
    account = await accounts.load("a-1")
    account.deposit(5)
    store.appends = [("after", CommitOutcomeUnknown("account-a-1", 2, "?")), ("before", Throttled("slow down"))]
    for _ in range(2):
        with pytest.raises(CommitOutcomeUnknown):
            await accounts.save(account)
    assert (await accounts.save(account)).version == 2
    assert await versions(store) == [1, 2]


async def test_a_definite_no_is_told_and_the_next_save_is_a_new_commit(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    account = await accounts.load("a-1")
    account.deposit(5)
    store.appends = [("before", Throttled("slow down"))]
    with pytest.raises(Throttled):
        await accounts.save(account)
    account.deposit(6)
    await accounts.save(account)
    assert [commit.events for commit in store.appended[1:]] == [1, 2]
    assert store.appended[-1].id != store.appended[-2].id


async def test_a_conflict_after_an_unknown_outcome_is_definite(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    account = await accounts.load("a-1")
    account.deposit(5)
    store.appends = [("before", CommitOutcomeUnknown("account-a-1", 2, "?"))]
    with pytest.raises(CommitOutcomeUnknown):
        await accounts.save(account)
    await accounts.execute("a-1", Account.deposit, 1)
    with pytest.raises(ConflictError):
        await accounts.save(account)
    assert account.uncommitted == (Deposited(amount=5),)


async def test_one_object_is_saved_by_one_task(accounts: Repository[Account], store: ScriptedStore) -> None:
    account = await accounts.load("a-1")
    account.deposit(5)
    store.appends = [("hang", None)]
    saving = asyncio.create_task(accounts.save(account))
    await store.hanging.wait()
    with pytest.raises(RuntimeError, match="another task"):
        await accounts.save(account)
    account.deposit(6)  # while the save is under way
    saving.cancel()
    await asyncio.wait([saving])
    assert (await accounts.save(account)).version == 3
    assert (await accounts.load("a-1")).balance == 11


# --- history and gaps


async def test_history_gives_commits_with_their_events(accounts: Repository[Account]) -> None:
    with trace(correlation_id="r-9", metadata={"user": "ann"}):
        await accounts.execute("a-1", Account.deposit, 5)
    await accounts.execute("a-1", Account.withdraw, 3)
    entries = [entry async for entry in accounts.history("a-1")]
    assert [str(commit.event_id(0)) for commit, _ in entries] == [f"account-a-1@{v}.0" for v in (1, 2, 3)]
    assert [events for _, events in entries][1:] == [[Deposited(amount=5)], [Withdrawn(amount=3)]]
    stamped = entries[1].commit
    assert (stamped.correlation_id, stamped.metadata) == ("r-9", {"user": "ann"})
    assert entries[2].commit.correlation_id is None
    assert stamped.tags == ("account.deposited",)
    newest_first = [commit.version async for commit, _ in accounts.history("a-1", after=1, backward=True)]
    assert newest_first == [3, 2]
    async with aclosing(accounts.history("a-1")) as history:
        async for commit, _ in history:
            assert commit.version == 1
            break


async def test_a_gap_that_was_a_race_is_read_again(accounts: Repository[Account], store: ScriptedStore) -> None:
    for _ in range(4):
        await accounts.execute("a-1", Account.deposit, 1)
    store.hidden, store.shown_after = {3}, 1
    assert (await accounts.load("a-1")).version == 5
    store.shown_after = 1
    assert (await accounts.load("a-1", version=5)).version == 5
    store.shown_after = 1
    assert [commit.version async for commit, _ in accounts.history("a-1")] == [1, 2, 3, 4, 5]


async def test_a_gap_that_stays_is_an_error(accounts: Repository[Account], store: ScriptedStore) -> None:
    for _ in range(4):
        await accounts.execute("a-1", Account.deposit, 1)
    store.hidden = {3}
    with pytest.raises(StreamCorrupt) as raised:
        await accounts.load("a-1")
    assert (raised.value.stream, raised.value.version) == ("account-a-1", 3)
    with pytest.raises(StreamCorrupt):
        await accounts.load("a-1", version=5)
    for backward in (False, True):
        with pytest.raises(StreamCorrupt):
            _ = [entry async for entry in accounts.history("a-1", backward=backward)]
