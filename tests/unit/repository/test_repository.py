"""Load, save, execute and history, on a store in memory."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from support.bank import Account, Deposited, InsufficientFunds, Opened, Withdrawn
from support.flaky import Fault, ScriptedStore

from eventsrc import (
    AggregateNotFound,
    Commit,
    CommitOutcomeUnknown,
    CommitTooLarge,
    ConflictError,
    CorruptPayload,
    DeclarationError,
    Event,
    EventId,
    EventsrcError,
    IdempotencyError,
    InvalidEvent,
    InvalidStreamId,
    MemoryStore,
    Receipt,
    Repository,
    Snapshot,
    SnapshotPolicy,
    SQLiteStore,
    Store,
    StoreClosed,
    StoreUnavailable,
    StreamCorrupt,
    Throttled,
    UnknownEventType,
    WrongStore,
    concurrency,
    current_trace,
    trace,
)
from eventsrc.aggregates.aggregate import Aggregate
from eventsrc.aggregates.codec import pack
from eventsrc.aggregates.commands import compute_digest
from eventsrc.aggregates.expansion import MAX_EXPANDED
from eventsrc.repository.folding import PART


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


async def test_load_returns_the_saved_aggregate(accounts: Repository[Account]) -> None:
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


async def test_an_unstorable_event_is_refused_and_changes_nothing(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    account = await accounts.load("a-1")
    account.deposit(5)
    with pytest.raises(InvalidEvent, match="64 bits"):
        account.deposit(2**70)
    assert (account.balance, account.uncommitted) == (5, (Deposited(amount=5),))
    assert len(store.appended) == 1


# --- time travel


async def test_load_returns_past_versions_and_times(accounts: Repository[Account], store: ScriptedStore) -> None:
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
async def test_an_invalid_version_is_refused(
    accounts: Repository[Account], version: int, error: type[Exception]
) -> None:
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


async def test_execute_stops_after_its_attempts(accounts: Repository[Account], store: ScriptedStore) -> None:
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


async def test_an_async_or_generator_command_is_refused(accounts: Repository[Account], store: ScriptedStore) -> None:
    async def deposit(account: Account) -> None:
        account.deposit(1)

    command: Any = deposit

    def deposit_lazily(account: Account) -> Iterator[None]:
        account.deposit(1)
        yield

    for each in (command, lambda account: command(account), deposit_lazily):
        with pytest.raises(TypeError, match=r"returned (coroutine|generator); a command is a plain function"):
            await accounts.execute("a-1", each)
    assert await versions(store) == [1]


async def test_a_method_of_an_object_is_not_a_command(accounts: Repository[Account], store: ScriptedStore) -> None:
    account = await accounts.load("a-1")
    wrong: Any = account.deposit
    with pytest.raises(TypeError, match=r"pass the function of the class, Account\.deposit, and its arguments"):
        await accounts.execute("a-1", wrong, 5)
    wrong = account.deposit(5)
    with pytest.raises(
        TypeError, match=r"object of type int.* is not a function; .* execute\(id, Account\.method, \.\.\.\)"
    ):
        await accounts.execute("a-1", wrong, command_id="c-1")
    assert await versions(store) == [1]


async def test_methods_of_other_objects_are_commands(accounts: Repository[Account]) -> None:
    class Rules:
        def charge(self, account: Account, amount: int) -> int:
            return account.deposit(-amount)

    assert await accounts.execute("a-1", Rules().charge, 5) == -5


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
    store.appends = [(landed, CommitOutcomeUnknown)]
    with pytest.raises(CommitOutcomeUnknown):
        await accounts.save(account)
    account.withdraw(2)
    await accounts.save(account)
    history = [events async for _, events in accounts.history("a-1", after=1)]
    assert history == [[Deposited(amount=5)], [Withdrawn(amount=2)]]
    assert await accounts.load("a-1") == account


async def test_an_outcome_stays_unknown_until_it_is_settled(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    account = await accounts.load("a-1")
    account.deposit(5)
    store.appends = [("after", CommitOutcomeUnknown), ("before", Throttled("slow down"))]
    for _ in range(2):
        with pytest.raises(CommitOutcomeUnknown):
            await accounts.save(account)
    assert (await accounts.save(account)).version == 2
    assert await versions(store) == [1, 2]


async def test_a_foreign_commit_at_its_version_settles_an_unknown_outcome(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    """A damaged commit of another writer at the same version proves that this commit is not stored."""
    account = await accounts.load("a-1")
    account.deposit(5)
    foreign = CorruptPayload("account-a-1", 2, "not ours")
    store.appends = [("before", CommitOutcomeUnknown), ("before", foreign)]
    with pytest.raises(CommitOutcomeUnknown):
        await accounts.save(account)
    with pytest.raises(CorruptPayload):
        await accounts.save(account)
    await accounts.save(account)
    assert store.appended[-1].id != store.appended[-2].id


async def test_a_definite_failure_after_a_success_is_definite(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    """Only an earlier try of the same commit makes an outcome unknown."""
    account = Account.open("n-1", owner="ann")
    await accounts.save(account)
    account.deposit(10)
    store.appends = [("before", Throttled("slow down"))]
    with pytest.raises(Throttled):
        await accounts.save(account)


async def test_after_a_definite_failure_the_next_save_is_a_new_commit(
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
    store.appends = [("before", CommitOutcomeUnknown)]
    with pytest.raises(CommitOutcomeUnknown):
        await accounts.save(account)
    await accounts.execute("a-1", Account.deposit, 1)
    with pytest.raises(ConflictError):
        await accounts.save(account)
    assert account.uncommitted == (Deposited(amount=5),)


async def test_two_tasks_cannot_save_one_object_at_once(accounts: Repository[Account], store: ScriptedStore) -> None:
    account = await accounts.load("a-1")
    account.deposit(5)
    store.appends = [("hang", None)]
    saving = asyncio.create_task(accounts.save(account))
    await store.hanging.wait()
    with pytest.raises(RuntimeError, match="another task"):
        await accounts.save(account)
    account.deposit(6)  # while the save is running
    saving.cancel()
    await asyncio.wait([saving])
    assert (await accounts.save(account)).version == 3
    assert (await accounts.load("a-1")).balance == 11


# --- history and gaps


async def test_history_yields_commits_with_their_events(accounts: Repository[Account]) -> None:
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


async def test_a_gap_caused_by_a_race_is_read_again(
    accounts: Repository[Account], store: ScriptedStore, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(4):
        await accounts.execute("a-1", Account.deposit, 1)
    store.hidden, store.shown_after = {3}, 1
    assert (await accounts.load("a-1")).version == 5
    assert "account-a-1: a version is missing" in caplog.text
    store.shown_after = 1
    assert (await accounts.load("a-1", version=5)).version == 5
    store.shown_after = 1
    assert [commit.version async for commit, _ in accounts.history("a-1")] == [1, 2, 3, 4, 5]


async def test_a_lasting_gap_raises_stream_corrupt(accounts: Repository[Account], store: ScriptedStore) -> None:
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


async def test_load_does_not_read_commits_before_the_snapshot(store: ScriptedStore) -> None:
    accounts = Repository(Account, store, snapshots=SnapshotPolicy(floor=0, inline=True))
    account = Account.open("a-1", owner="ann")
    await accounts.save(account)
    for _ in range(20):
        account.deposit(1)
        await accounts.save(account)
    store.hidden = {2}
    assert store.snapshots[-1].version > 2
    assert (await accounts.load("a-1")).balance == 20
    with pytest.raises(StreamCorrupt) as raised:
        _ = [entry async for entry in accounts.history("a-1")]
    assert raised.value.version == 2
    store.hidden = {21}  # the newest, whose absence cannot be detected
    assert (await accounts.load("a-1")).version == 20


async def test_a_missing_first_version_is_detected_in_both_directions(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    await accounts.execute("a-1", Account.deposit, 1)
    store.hidden = {1}
    for backward in (False, True):
        with pytest.raises(StreamCorrupt) as raised:
            _ = [entry async for entry in accounts.history("a-1", backward=backward)]
        assert raised.value.version == 1
    assert [commit.version async for commit, _ in accounts.history("a-1", after=1, backward=True)] == [2]


@pytest.mark.parametrize("backward", [False, True])
async def test_the_history_of_an_unknown_id_is_empty(accounts: Repository[Account], backward: bool) -> None:
    assert [entry async for entry in accounts.history("b-2", backward=backward)] == []


# --- load_many


async def test_load_many_loads_concurrently_and_keeps_the_order(store: ScriptedStore) -> None:
    accounts = Repository(Account, store)
    for each in range(20):
        await accounts.save(Account.open(f"a-{each}", owner=str(each)))
    loading = most = 0
    load = store.load

    async def counted(stream: str) -> Any:
        nonlocal loading, most
        loading += 1
        most = max(most, loading)
        try:
            return await load(stream)
        finally:
            loading -= 1

    store.load = counted  # type: ignore[method-assign]
    ids = [f"a-{each}" for each in (*range(19, -1, -1), 5, 5, 77)]
    found = await accounts.load_many(iter(ids), concurrency=4)
    assert [(id, account.owner) for id, account in found.items()] == [(f"a-{n}", str(n)) for n in range(19, -1, -1)]
    assert most == 4
    assert await accounts.load_many([]) == {}
    with pytest.raises(TypeError, match="'a-1'"):
        await accounts.load_many("a-1")
    with pytest.raises(ValueError, match="concurrency"):
        await accounts.load_many(ids, concurrency=0)


async def test_load_many_cancels_all_loads_if_one_fails(store: ScriptedStore) -> None:
    accounts = Repository(Account, store)
    for each in range(3):
        await accounts.save(Account.open(f"a-{each}", owner=str(each)))
    [commit] = store._streams["account-a-1"]
    store._streams["account-a-1"] = [msgspec.structs.replace(commit, payload=b"")]
    with pytest.raises(CorruptPayload):
        await accounts.load_many([f"a-{each}" for each in range(3)])
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- past versions


async def test_an_object_at_a_past_version_cannot_overwrite_later_commits(accounts: Repository[Account]) -> None:
    for amount in (10, 20):
        await accounts.execute("a-1", Account.deposit, amount)
    past = await accounts.load("a-1", version=2)
    past.withdraw(10)
    with pytest.raises(ConflictError) as raised:
        await accounts.save(past)
    assert (raised.value.expected, raised.value.actual) == (2, 3)
    assert (await accounts.load("a-1")).balance == 30


async def test_invalid_times_are_refused(accounts: Repository[Account]) -> None:
    wrong: Any
    for wrong in ("2026-01-01", datetime.now(UTC).date(), 0):
        with pytest.raises(TypeError, match="must be a datetime"):
            await accounts.load("a-1", at=wrong)


async def test_a_version_and_a_time_bound_each_other(accounts: Repository[Account], store: ScriptedStore) -> None:
    for amount in (10, 20):
        await accounts.execute("a-1", Account.deposit, amount)
    first, *_ = [commit async for commit in store.read("account-a-1")]
    for version, reached in ((2, 2), (9, 3)):
        assert (await accounts.load("a-1", version=version, at=datetime.now(UTC))).version == reached
    with pytest.raises(AggregateNotFound):
        await accounts.load("a-1", version=2, at=first.at - timedelta(microseconds=1))


async def test_times_are_exact_to_the_microsecond(
    accounts: Repository[Account], store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    noon = datetime(2100, 1, 1, 12, tzinfo=UTC)
    for seconds in range(3):
        now = int(noon.timestamp() + seconds) * 10**9
        monkeypatch.setattr(time, "time_ns", lambda now=now: now)
        await accounts.execute("a-1", Account.deposit, 1)
    monkeypatch.undo()
    assert [commit.at async for commit in store.read("account-a-1", after=1)] == [
        noon + timedelta(seconds=seconds) for seconds in range(3)
    ]
    one = timedelta(seconds=1)
    assert (await accounts.load("a-1", at=noon + one)).balance == 2
    assert (await accounts.load("a-1", at=noon + one - timedelta(microseconds=1))).balance == 1
    eastern = (noon + one).astimezone(timezone(timedelta(hours=-5)))
    assert (await accounts.load("a-1", at=eastern)).balance == 2


async def test_the_error_for_a_missing_version_says_how_far_the_stream_goes(accounts: Repository[Account]) -> None:
    await accounts.execute("a-1", Account.deposit, 1)
    with pytest.raises(AggregateNotFound, match=r"nothing at version 9; its commits were read up to version 2$"):
        await accounts.load("a-1", version=9)
    for past in ({"version": 1}, {"at": datetime.now(UTC)}):
        with pytest.raises(AggregateNotFound, match="account-b-2"):
            await accounts.load("b-2", **past)  # pyright: ignore[reportArgumentType]
    with pytest.raises(AggregateNotFound):
        await accounts.load("a-1", version=2**53 - 2)
    with pytest.raises(ValueError, match="run from 1 to"):
        await accounts.load("a-1", version=2**53 - 1)


# --- the fields of a commit


@pytest.mark.parametrize("load", ["all", "version", "at", "snapshot", "catch up"])
async def test_other_tasks_run_while_a_long_stream_is_folded(
    load: str, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = Repository(Account, store, snapshots=SnapshotPolicy(enabled=False))
    account = Account.open("a-1", owner="ann")
    if load == "snapshot":
        await Repository(Account, store, snapshots=SnapshotPolicy(floor=0, inline=True)).save(account)
    if load == "catch up":
        await accounts.save(account)
        await accounts.execute("a-1", Account.deposit, 1)
        account = await accounts.load("a-1")
    for _ in range(4_000):
        account.deposit(1)
        await accounts.save(account)
    monkeypatch.setattr(concurrency, "_TURN", 0.0)
    turns, done = 0, False

    async def count() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    if load == "catch up":
        assert await accounts.execute("a-1", lambda account: account.balance) == account.balance
    else:
        options = {"version": {"version": account.version}, "at": {"at": datetime.now(UTC)}}.get(load, {})
        assert (await accounts.load("a-1", **options)).balance == account.balance  # type: ignore[arg-type]
    done = True
    await counting
    assert turns > 4_000 / PART


async def test_a_commit_has_the_facts_of_its_save(accounts: Repository[Account], store: ScriptedStore) -> None:
    account = await accounts.load("a-1")
    for _ in range(2):
        account.deposit(2)
        account.withdraw(1)
    before = datetime.now(UTC)
    receipt = await accounts.save(account, command_id="c-1", metadata={"user": "ann"})
    [commit] = [commit async for commit in store.read("account-a-1", after=1)]
    assert (commit.stream, commit.version, commit.events) == ("account-a-1", 2, 4)
    assert commit.tags == ("account.deposited", "account.withdrawn")
    assert (commit.command_id, commit.metadata, commit.causation_ids) == ("c-1", {"user": "ann"}, ())
    assert before - timedelta(milliseconds=1) <= commit.at <= datetime.now(UTC)
    assert commit.uuid.version == 7
    assert receipt[:5] == ("account-a-1", 2, commit.id, 4, commit.position)
    assert commit.position == 2


async def test_commit_ids_are_unique_and_contain_their_time(
    accounts: Repository[Account], store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 4_102_444_800_123_456_789)
    for _ in range(20):
        await accounts.execute("a-1", Account.deposit, 1)
    ids = [commit.id async for commit in store.read("account-a-1", after=1)]
    assert len(set(ids)) == 20
    for id in ids:
        assert int.from_bytes(id[:6]) == 4_102_444_800_123
        assert (UUID(bytes=id).version, UUID(bytes=id).variant) == (7, "specified in RFC 4122")


async def test_commits_are_stamped_with_the_trace_around_the_save(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    with trace("r-1", EventId("order-o-1", 7, 0), {"user": "ann", "ip": "::1"}):
        await accounts.execute("a-1", Account.deposit, 1)
        with trace("r-2", metadata={"user": "bob"}):
            account = await accounts.load("a-1")
            account.deposit(2)
            await accounts.save(account, metadata={"ip": "::2"})
        with trace(causation_id=["order-o-1@7.1", EventId("order-o-2", 1, 0)]):
            await asyncio.gather(asyncio.create_task(accounts.execute("a-1", Account.deposit, 3)))
    account = await accounts.load("a-1")
    account.deposit(4)
    await accounts.save(account)
    stamps = [
        (commit.correlation_id, commit.causation_ids, commit.metadata)
        async for commit in store.read("account-a-1", after=1)
    ]
    assert stamps == [
        ("r-1", ("order-o-1@7.0",), {"user": "ann", "ip": "::1"}),
        ("r-2", ("order-o-1@7.0",), {"user": "bob", "ip": "::2"}),
        ("r-1", ("order-o-1@7.1", "order-o-2@1.0"), {"user": "ann", "ip": "::1"}),
        (None, (), {}),
    ]
    assert current_trace().metadata == {}


@pytest.mark.parametrize("metadata", [{"n": 7}, {7: "n"}, {"n": None}, {"n": "\ud800"}])
async def test_metadata_that_is_not_text_is_refused_and_the_events_are_kept(
    accounts: Repository[Account], store: ScriptedStore, metadata: Any
) -> None:
    account = await accounts.load("a-1")
    account.deposit(5)
    with pytest.raises((TypeError, ValueError), match="metadata"):
        await accounts.save(account, metadata=metadata)
    assert await versions(store) == [1]
    await accounts.save(account, metadata={"n": "7"})
    assert (await accounts.load("a-1")).balance == 5


# --- decisions after conflicts


async def test_after_a_conflict_the_command_decides_on_the_winners_state(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    await accounts.execute("a-1", Account.deposit, 50)
    seen: list[int] = []

    def withdraw(account: Account) -> int:
        seen.append(account.balance)
        return account.withdraw(40)

    loads = store.load

    async def load_and_let_another_withdraw(stream: str) -> Any:
        loaded = await loads(stream)
        store.load = loads  # type: ignore[method-assign]
        await accounts.execute("a-1", Account.withdraw, 20)
        return loaded

    store.load = load_and_let_another_withdraw  # type: ignore[method-assign]
    with pytest.raises(InsufficientFunds):
        await Repository(Account, store).execute("a-1", withdraw)
    assert seen == [50, 30]
    assert (await accounts.load("a-1")).balance == 30


async def test_racing_withdrawals_never_overdraw(store: ScriptedStore) -> None:
    accounts = Repository(Account, store, attempts=100)
    account = Account.open("a-1", owner="ann")
    account.deposit(50)
    await accounts.save(account)
    results = await asyncio.gather(
        *(accounts.execute("a-1", Account.withdraw, 10) for _ in range(12)), return_exceptions=True
    )
    assert sorted(result for result in results if isinstance(result, int)) == [0, 10, 20, 30, 40]
    assert sum(isinstance(result, InsufficientFunds) for result in results) == 7
    assert (await accounts.load("a-1")).balance == 0


async def test_with_one_attempt_a_conflict_is_not_retried(accounts: Repository[Account], store: ScriptedStore) -> None:
    once = Repository(Account, store, attempts=1)
    store.appends = [("before", ConflictError("account-a-1", 1, 2))]
    with pytest.raises(ConflictError):
        await once.execute("a-1", Account.deposit, 1)
    assert len(store.appended) == 2
    assert await once.execute("a-1", Account.deposit, 1) == 1


async def test_with_two_attempts_it_is_retried_once(accounts: Repository[Account], store: ScriptedStore) -> None:
    twice = Repository(Account, store, attempts=2)
    store.appends = [("before", ConflictError("account-a-1", 1, 2))]
    assert await twice.execute("a-1", Account.deposit, 1) == 1
    store.appends = [("before", ConflictError("account-a-1", 2, 3))] * 3
    with pytest.raises(ConflictError):
        await twice.execute("a-1", Account.deposit, 1)
    assert len(store.appends) == 1


async def test_only_conflicts_are_retried(accounts: Repository[Account], store: ScriptedStore) -> None:
    for error in (Throttled, StoreUnavailable, CommitOutcomeUnknown):
        store.appends = [("before", error)]
        with pytest.raises(error):
            await accounts.execute("a-1", Account.deposit, 1)
        assert not store.appends
    assert await versions(store) == [1]


@asynccontextmanager
async def two_stores(kind: str, tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    """Two stores of the same kind that share nothing."""
    if kind == "memory":
        async with MemoryStore() as one, MemoryStore() as other:
            yield one, other
    else:
        async with SQLiteStore(tmp_path / "one.db") as one, SQLiteStore(tmp_path / "other.db") as other:
            yield one, other


async def open_account(accounts: Repository[Account], *amounts: int) -> Account:
    account = Account.open("a-1", owner="ann")
    await accounts.save(account)
    for amount in amounts:
        account.deposit(amount)
        await accounts.save(account)
    return account


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("theirs", [(), (1,), (1, 2), (1, 2, 3)], ids=len)
async def test_an_object_of_another_store_is_refused(kind: str, theirs: tuple[int, ...], tmp_path: Path) -> None:
    """Whether the other store's stream is shorter, longer or as long: it has other commits."""
    async with two_stores(kind, tmp_path) as (one, other):
        ours, others = Repository(Account, one), Repository(Account, other)
        saved = await open_account(ours, 10, 20)
        await open_account(others, *theirs)
        for account in (saved, await ours.load("a-1"), await ours.load("a-1", version=2)):
            account.deposit(5)
            with pytest.raises(WrongStore, match="another store or tenant: load it again") as raised:
                await others.save(account)
            assert (raised.value.stream, raised.value.version) == ("account-a-1", account.version)
        assert (await others.load("a-1")).balance == sum(theirs)
        await ours.save(saved)
        assert (await ours.load("a-1")).balance == 35


async def test_an_object_may_be_saved_through_any_repository_of_its_store(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    async with SQLiteStore(path) as one, SQLiteStore(path) as other:
        account = await open_account(Repository(Account, one), 10)
        for store in (one, other, one):
            account.deposit(1)
            await Repository(Account, store).save(account)
    async with SQLiteStore(path) as again:
        account.deposit(1)
        await Repository(Account, again).save(account)
        assert (await Repository(Account, again).load("a-1")).balance == 14


async def test_a_new_object_may_be_saved_anywhere(tmp_path: Path) -> None:
    async with two_stores("memory", tmp_path) as (one, other):
        account, refused = await open_account(Repository(Account, one)), Account.open("a-1", owner="bob")
        with pytest.raises(ConflictError):
            await Repository(Account, one).save(refused)
        await Repository(Account, other).save(refused)
        assert (account.version, refused.version) == (1, 1)


class Unreadable(MemoryStore):
    def read(self, *args: Any, **options: Any) -> Any:
        raise StoreUnavailable("only loads and appends are served")


async def test_saving_through_the_store_of_the_object_reads_nothing() -> None:
    async with Unreadable() as store:
        account = await open_account(Repository(Account, store), 1)
        account.deposit(1)
        await Repository(Account, store).save(account)
        loaded = await Repository(Account, store).load("a-1")
        loaded.deposit(1)
        await Repository(Account, store).save(loaded)
        assert await Repository(Account, store).execute("a-1", Account.deposit, 1) == 4


async def test_a_subclass_is_another_aggregate(accounts: Repository[Account], store: ScriptedStore) -> None:
    class Special(Account, tag="special"):
        pass

    with pytest.raises(TypeError, match=r"saves Account, not .*Special"):
        await accounts.save(Special.open("a-1", owner="ann"))
    assert await versions(store) == [1]


async def test_an_unknown_event_fails_the_load_but_stays_readable_as_raw_commit(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    await accounts.execute("a-1", Account.deposit, 5)
    narrow = Repository(OnlyOpened, store)
    for call in (narrow.load("a-1"), narrow.load("a-1", version=2), narrow.execute("a-1", lambda account: None)):
        with pytest.raises(UnknownEventType) as raised:
            await call
        assert (raised.value.version, raised.value.tag) == (2, "account.deposited")
    with pytest.raises(UnknownEventType):
        _ = [entry async for entry in narrow.history("a-1")]
    assert (await narrow.load("a-1", version=1)).version == 1
    assert await versions(store) == [1, 2]


class OnlyOpened(Aggregate, tag="account"):
    def apply_opened(self, event: Opened) -> None: ...


async def test_a_commit_that_is_too_large_is_refused_and_kept(accounts: Repository[Account]) -> None:
    account = await accounts.load("a-1")
    account.record(Opened(owner=secrets.token_hex(250_000)))
    for _ in range(2):
        with pytest.raises(CommitTooLarge) as raised:
            await accounts.save(account)
        assert raised.value.size > raised.value.limit == 409_600
    assert (len(account.uncommitted), account.version) == (1, 1)
    assert (await accounts.load("a-1")).owner == "ann"


async def test_a_closed_store_refuses_every_call(store: ScriptedStore) -> None:
    accounts = Repository(Account, store)
    account = Account.open("a-1", owner="ann")
    await store.aclose()
    for call in (accounts.save(account), accounts.load("a-1"), accounts.execute("a-1", Account.deposit, 1)):
        with pytest.raises(StoreClosed):
            await call
    assert len(account.uncommitted) == 1
    await store.open()
    assert (await accounts.save(account)).version == 1


# --- after any failure, each event is stored once and in order


def cancel_after(turns: int, task: asyncio.Task[Any]) -> None:
    """Cancel the task after this many turns of the event loop."""
    if turns:
        asyncio.get_running_loop().call_soon(cancel_after, turns - 1, task)
    else:
        task.cancel()


@pytest.mark.parametrize("turns", range(8))
async def test_a_save_cancelled_at_any_moment_is_stored_once(turns: int) -> None:
    async with ScriptedStore() as store:
        accounts = Repository(Account, store, snapshots=SnapshotPolicy(floor=0, inline=True))
        account = Account.open("a-1", owner="ann")
        task = asyncio.create_task(accounts.save(account))
        cancel_after(turns, task)
        await asyncio.wait([task])
        account.deposit(5)
        await accounts.save(account)
        stored = [event async for _, events in accounts.history("a-1") for event in events]
        assert stored == [Opened(owner="ann"), Deposited(amount=5)]
        assert (account.uncommitted, account.version) == ((), len(await versions(store)))
        assert (await accounts.load("a-1")) == account


@pytest.mark.parametrize("turns", range(12))
async def test_an_execute_cancelled_at_any_moment_and_repeated_is_applied_once(turns: int) -> None:
    async with ScriptedStore() as store:
        accounts = Repository(Account, store)
        await accounts.save(Account.open("a-1", owner="ann"))
        task = asyncio.create_task(accounts.execute("a-1", Account.deposit, 5, command_id="c-1"))
        cancel_after(turns, task)
        await asyncio.wait([task])
        await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")
        assert (await accounts.load("a-1")).balance == 5
        assert await versions(store) == [1, 2]


FATES: list[tuple[str, Fault | None]] = [
    ("", None),
    ("before", CommitOutcomeUnknown),
    ("after", CommitOutcomeUnknown),
    ("before", Throttled("slow down")),
    ("before", StoreUnavailable("gone")),
]


@pytest.mark.parametrize("fates", list(product(FATES, repeat=3)), ids=lambda fates: "")
async def test_after_any_sequence_of_failures_each_event_is_stored_once_and_in_order(fates: Any) -> None:
    async with ScriptedStore() as store:
        accounts = Repository(Account, store)
        account = Account.open("a-1", owner="ann")
        await accounts.save(account)
        recorded = []
        for amount, fate in enumerate(fates, 1):
            account.deposit(amount)
            recorded.append(Deposited(amount=amount))
            store.appends = [fate]
            try:
                await accounts.save(account)
            except EventsrcError as error:
                raised = error
            else:
                assert account.uncommitted == ()
                continue
            lost = len(recorded) - len(account.uncommitted)
            assert account.uncommitted == tuple(recorded[lost:])
            assert isinstance(raised, (CommitOutcomeUnknown, Throttled, StoreUnavailable))
        store.appends = []
        await accounts.save(account)
        assert [event async for _, events in accounts.history("a-1", after=1) for event in events] == recorded
        assert await accounts.load("a-1") == account
        assert account.version == len(await versions(store))


# --- command ids


async def test_a_redelivered_creation_is_always_recognised(store: ScriptedStore) -> None:
    """The commit at its version has the id, even if the stream no longer remembers it."""
    accounts = Repository(Account, store)
    await accounts.save(Account.open("a-1", owner="ann"), command_id="c-0")
    for each in range(70):
        await accounts.execute("a-1", Account.deposit, 1, command_id=f"d-{each}")
    again = Account.open("a-1", owner="ann")
    assert (await accounts.save(again, command_id="c-0")).duplicate
    assert again.balance == 70


async def test_a_delivery_with_other_content_keeps_its_events(accounts: Repository[Account]) -> None:
    await accounts.save(Account.open("b-2", owner="bob"), command_id="c-1")
    other = Account.open("b-2", owner="eve")
    for _ in range(2):
        with pytest.raises(IdempotencyError) as raised:
            await accounts.save(other, command_id="c-1")
        assert (raised.value.stream, raised.value.version) == ("account-b-2", 1)
    assert (other.owner, other.uncommitted, other.version) == ("eve", (Opened(owner="eve"),), 0)


async def test_events_recorded_after_a_command_are_not_part_of_it(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    account = await accounts.load("a-1")
    account.deposit(5)
    store.appends = [("after", CommitOutcomeUnknown)]
    with pytest.raises(CommitOutcomeUnknown):
        await accounts.save(account, command_id="c-1")
    account.deposit(5)
    with pytest.raises(IdempotencyError):  # the first event was saved with c-1
        await accounts.save(account, command_id="c-1")
    assert account.uncommitted == (Deposited(amount=5),)
    assert (await accounts.save(account)).version == 3


async def test_events_recorded_while_a_redelivery_is_resolved_are_not_lost(store: ScriptedStore) -> None:
    accounts = Repository(Account, store)
    await accounts.save(Account.open("b-2", owner="bob"), command_id="c-1")
    again = Account.open("b-2", owner="bob")

    class RecordingWhileLoading(Repository[Account]):
        async def load(self, id: str, **options: Any) -> Account:
            again.deposit(5)
            return await super().load(id, **options)

    with pytest.raises(ConflictError):
        await RecordingWhileLoading(Account, store).save(again, command_id="c-1")
    assert again.uncommitted == (Opened(owner="bob"), Deposited(amount=5))


async def test_the_arguments_of_a_partial_command_are_compared(accounts: Repository[Account]) -> None:
    assert (await accounts.execute("a-1", partial(Account.deposit, amount=5), command_id="c-1")).result == 5
    with pytest.raises(IdempotencyError):
        await accounts.execute("a-1", partial(Account.deposit, amount=6), command_id="c-1")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("bank.db", "an object of type str"),
        (None, "an object of type NoneType"),
        (MemoryStore, "the class MemoryStore"),
    ],
)
def test_a_repository_needs_a_store(wrong: Any, named: str) -> None:
    with pytest.raises(TypeError, match=f"^{named} is not a store; give an object, such as SQLiteStore"):
        Repository(Account, wrong)


def test_an_object_instead_of_an_aggregate_class_is_refused() -> None:
    wrong: Any = Account.open("a-1", owner="ann")
    with pytest.raises(DeclarationError, match=r"Account object: is not a class; give the class, Account$"):
        Repository(wrong, MemoryStore())


@pytest.mark.parametrize("attempts", [0, -1, True, 1.0, "x"])
def test_invalid_attempts_are_refused(attempts: Any) -> None:
    with pytest.raises(ValueError, match="attempts"):
        Repository(Account, MemoryStore(), attempts=attempts)


class Tagged(Event, tag="crate.tagged"):
    tags: set[str]


class Crate(Aggregate, tag="crate"):
    """An aggregate that is falsy, because its length is 0."""

    tags: set[str] = msgspec.field(default_factory=set)

    def __len__(self) -> int:
        return 0

    def apply_tagged(self, event: Tagged) -> None:
        self.tags |= event.tags


def test_the_digest_of_a_set_does_not_depend_on_its_order() -> None:
    """The order of a set differs between processes."""
    one, other = ({f"t{each}" for each in order} for order in (range(50), reversed(range(50))))
    assert [*one] != [*other]
    assert compute_digest([Tagged(tags=one)]) == compute_digest([Tagged(tags=other)])


async def test_an_aggregate_that_is_falsy_is_loaded_from_its_snapshot(store: ScriptedStore) -> None:
    crates = Repository(Crate, store, snapshots=SnapshotPolicy(floor=0, ratio=0.1, inline=True))
    crate = Crate(id="c-1")
    for each in range(5):
        crate.record(Tagged(tags={str(each)}))
        await crates.save(crate)
    store.hidden = {1, 2}
    assert (await crates.load("c-1")).version == 5


async def test_a_history_after_a_negative_version_is_complete(accounts: Repository[Account]) -> None:
    for backward in (False, True):
        assert [commit.version async for commit, _ in accounts.history("a-1", after=-7, backward=backward)] == [1]


async def test_another_command_at_the_same_version_is_a_conflict(accounts: Repository[Account]) -> None:
    await accounts.save(Account.open("b-2", owner="bob"), command_id="c-1")
    for command_id in ("c-2", None):
        with pytest.raises(ConflictError):
            await accounts.save(Account.open("b-2", owner="bob"), command_id=command_id)


@pytest.mark.parametrize("amount", [2**70, "\ud800", {1: 2}, {1, "a"}])
async def test_a_command_whose_arguments_cannot_be_encoded_is_refused(
    accounts: Repository[Account], store: ScriptedStore, amount: Any
) -> None:
    with pytest.raises(ValueError, match="arguments of a command with an id cannot be encoded"):
        await accounts.execute("a-1", Account.deposit, amount, command_id="c-1")
    assert await versions(store) == [1]


def test_digests_are_the_same_in_every_process_and_release() -> None:
    """Digests are stored. If a release computed them differently, it would refuse redelivered commands."""
    assert compute_digest(["deposit", (5,), {}]).hex() == "6276d9295d69e124"
    assert compute_digest(["f", ({"b", "a", "c"}, {"y": 1, "x": 2}), {"k": b"z"}]).hex() == "8a803912355dd8f4"


async def test_later_events_are_not_lost_to_another_delivery(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    mine = Account.open("b-2", owner="bob")
    store.appends = [("before", CommitOutcomeUnknown)]
    with pytest.raises(CommitOutcomeUnknown):
        await accounts.save(mine, command_id="c-1")
    await accounts.save(Account.open("b-2", owner="bob"), command_id="c-1")
    mine.deposit(5)
    with pytest.raises(ConflictError):
        await accounts.save(mine)
    assert mine.uncommitted == (Opened(owner="bob"), Deposited(amount=5))


async def test_an_unknown_outcome_settled_by_another_delivery_is_a_duplicate(
    accounts: Repository[Account], store: ScriptedStore
) -> None:
    mine = Account.open("b-2", owner="bob")
    store.appends = [("before", CommitOutcomeUnknown)]
    with pytest.raises(CommitOutcomeUnknown):
        await accounts.save(mine, command_id="c-1")
    await accounts.save(Account.open("b-2", owner="bob"), command_id="c-1")
    await accounts.execute("b-2", Account.deposit, 5)
    receipt = await accounts.save(mine, command_id="c-1")
    assert (receipt.duplicate, receipt.version) == (True, 1)
    assert (mine.balance, mine.version, mine.uncommitted) == (5, 2, ())
    assert await accounts.save(mine) == Receipt("account-b-2", 2, None)
    assert [commit.version async for commit in store.read("account-b-2")] == [1, 2]


async def test_a_save_without_events_does_not_use_its_id(accounts: Repository[Account], store: ScriptedStore) -> None:
    receipt = await accounts.save(await accounts.load("a-1"), command_id="c-1")
    assert (receipt.commit_id, receipt.duplicate) == (None, False)
    assert (await accounts.execute("a-1", lambda account: account.balance, command_id="c-1")).result == 0
    assert (await accounts.execute("a-1", Account.deposit, 5, command_id="c-1")).result == 5


async def test_a_command_id_applies_to_one_stream(accounts: Repository[Account]) -> None:
    await accounts.save(Account.open("b-2", owner="bob"))
    for id in ("a-1", "b-2"):
        assert (await accounts.execute(id, Account.deposit, 5, command_id="c-1")).result == 5


# --- snapshots and the save


class Slow(ScriptedStore):
    """A store whose appends and snapshots wait until the test releases them."""

    def __init__(self) -> None:
        super().__init__()
        self.appending, self.snapshotting = asyncio.Event(), asyncio.Event()
        self.let_append, self.let_snapshot = asyncio.Event(), asyncio.Event()

    async def append(self, commit: Commit) -> Receipt:
        self.appending.set()
        await self.let_append.wait()
        return await super().append(commit)

    async def put_snapshot(self, snapshot: Snapshot) -> bool:
        self.snapshotting.set()
        await self.let_snapshot.wait()
        return await super().put_snapshot(snapshot)


@pytest.mark.parametrize("inline", [False, True])
async def test_a_save_waits_for_its_snapshot_only_with_inline(inline: bool) -> None:
    async with Slow() as store:
        store.let_append.set()
        accounts = Repository(Account, store, snapshots=SnapshotPolicy(floor=0, ratio=0.1, inline=inline))
        account = Account.open("a-1", owner="ann")
        account.record(Opened(owner="ann" * 100))
        saving = asyncio.create_task(accounts.save(account))
        await store.snapshotting.wait()
        assert saving.done() != inline
        store.let_snapshot.set()
        assert (await saving).version == 1
    assert store.snapshots


async def test_a_snapshot_contains_only_stored_events() -> None:
    """Events recorded during a save are already in the state, and not yet in the stream."""
    async with Slow() as store:
        store.let_snapshot.set()
        accounts = Repository(Account, store, snapshots=SnapshotPolicy(floor=0, inline=True))
        account = Account.open("a-1", owner="ann")
        saving = asyncio.create_task(accounts.save(account))
        await store.appending.wait()
        account.deposit(1000)
        store.let_append.set()
        await saving
        assert account.uncommitted == (Deposited(amount=1000),)
        assert (await accounts.load("a-1")).balance == 0
        await accounts.save(account)
        assert (await accounts.load("a-1")).balance == 1000
        assert [snapshot.version for snapshot in store.snapshots] == [2]


async def test_a_snapshot_without_commits_is_ignored(store: ScriptedStore, caplog: pytest.LogCaptureFixture) -> None:
    accounts = Repository(Account, store, snapshots=SnapshotPolicy(floor=0, inline=True))
    account = Account.open("a-1", owner="ann")
    for _ in range(5):
        account.deposit(1)
        await accounts.save(account)
    await store.put_snapshot(msgspec.structs.replace(store.snapshots[-1], stream="account-b-2"))
    with pytest.raises(AggregateNotFound):
        await accounts.load("b-2")
    assert "account-b-2@" in caplog.text
    assert "ahead of the log" in caplog.text


# --- the content of logs and errors


SECRET = "ann owes 4711"


class Diary(Aggregate, tag="diary"):
    text: str = ""
    pages: dict[str, str] = {}  # noqa: RUF012  # msgspec copies it

    def write(self, text: str) -> None:
        self.record(Opened(owner=text))

    def apply_opened(self, event: Opened) -> None:
        self.text += event.owner
        if event.owner.endswith("!"):
            wrong: Any = {1: object(), SECRET: {2**70}}
            self.pages = wrong


def spoilt(snapshot: Snapshot) -> Snapshot:
    """Return this snapshot with a state that is valid MessagePack of another type."""
    body = msgspec.msgpack.encode(({SECRET: SECRET}, {"text": {SECRET: SECRET}}))
    return msgspec.structs.replace(snapshot, payload=pack(body, snapshot.stream, snapshot.version))


async def test_logs_and_errors_do_not_contain_content(store: ScriptedStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "eventsrc")
    diaries = Repository(Diary, store, snapshots=SnapshotPolicy(floor=0, inline=True))
    diary = Diary(id="d-1")
    for _ in range(10):
        diary.write(SECRET)
        await diaries.save(diary)
    assert store.snapshots
    store.change = spoilt
    assert (await diaries.load("d-1")).text == SECRET * 10
    store.change = lambda snapshot: msgspec.structs.replace(snapshot, payload=SECRET.encode())
    assert (await diaries.load("d-1")).text == SECRET * 10
    store.snapshot_error = StoreUnavailable("gone")
    for _ in range(30):
        diary.write(SECRET)
        await diaries.save(diary)
    for _ in range(2):
        diary.write(f"{SECRET}!")  # from here on no snapshot can be encoded
        await diaries.save(diary)
    diary.write(SECRET * 200)
    await diaries.save(diary)
    assert "is ignored" in caplog.text
    assert "was not written" in caplog.text
    for record in caplog.records:
        assert SECRET not in f"{record.getMessage()} {record.args!r} {record.exc_info!r}"
        assert record.levelno == logging.WARNING


async def test_reprs_do_not_contain_content(accounts: Repository[Account], store: ScriptedStore) -> None:
    diaries = Repository(Diary, store, snapshots=SnapshotPolicy(floor=0, inline=True))
    diary = Diary(id="d-1")
    for _ in range(5):
        diary.write(SECRET)
        await diaries.save(diary, metadata={"note": SECRET})
    snapshot, commits = await store.load("diary-d-1")
    assert snapshot
    assert commits
    for thing in (snapshot, commits[0]):
        assert SECRET not in repr(thing)
        assert f"diary-d-1@{thing.version}" in repr(thing)


class Piled(Event, tag="piled"):
    text: str


class Pile(Aggregate, tag="pile"):
    height: int = 0

    def pile(self, text: str) -> None:
        self.record(Piled(text=text))

    def apply_piled(self, event: Piled) -> None:
        self.height += len(event.text)


async def test_a_load_expands_little_at_a_time(store: ScriptedStore) -> None:
    """A few KB of stored commits could otherwise expand to GB, each of them within the limit for one."""
    piles = Repository(Pile, store, snapshots=SnapshotPolicy(enabled=False))
    pile = Pile(id="p-1")
    for _ in range(30):
        pile.pile("x" * 5_000_000)
        await piles.save(pile)
    tracemalloc.start()
    try:
        assert (await piles.load("p-1")).height == 150_000_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * MAX_EXPANDED
