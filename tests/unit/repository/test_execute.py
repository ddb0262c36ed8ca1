"""`execute` with remembered states: one request if possible, and no outcome that depends on an outdated state."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
import pytest
from support.bank import Account, InsufficientFunds
from support.flaky import ScriptedStore

from campaigns.clock import VirtualLoop, run
from eventsrc import (
    Aggregate,
    CachePolicy,
    CacheUse,
    Commit,
    CommitOutcomeUnknown,
    ConflictError,
    Event,
    IdempotencyError,
    Loaded,
    MemoryStore,
    Receipt,
    Repository,
    Snapshot,
    SnapshotPolicy,
    Throttled,
)
from eventsrc.store import MAX_VERSION
from eventsrc.testing.contract.samples import make_commit

INLINE = SnapshotPolicy(inline=True)


class CountingStore(MemoryStore):
    """Counts the calls by method."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.snapshots = 0  # written
        self.fails: Exception | None = None

    async def append(self, commit: Commit) -> Receipt:
        self.asked["append"] += 1
        if self.fails:
            error, self.fails = self.fails, None
            raise error
        return await super().append(commit)

    async def put_snapshot(self, snapshot: Snapshot) -> bool:
        self.snapshots += 1
        return await super().put_snapshot(snapshot)

    async def load(self, stream: str) -> Loaded:
        self.asked["load"] += 1
        return await super().load(stream)

    async def read(
        self, stream: str, *, after: int = 0, until: int = MAX_VERSION, backward: bool = False
    ) -> AsyncGenerator[Commit]:
        self.asked["read"] += 1
        async for commit in super().read(stream, after=after, until=until, backward=backward):
            yield commit


@pytest.fixture
async def store() -> AsyncIterator[CountingStore]:
    async with CountingStore() as store:
        yield store


@pytest.fixture
async def here(store: CountingStore) -> Repository[Account]:
    """A repository that remembers the account a-1 with a balance of 10."""
    here = Repository(Account, store)
    await here.save(Account.open("a-1", owner="ann"))
    await here.execute("a-1", Account.deposit, 10)
    store.asked.clear()
    return here


@pytest.fixture
def there(store: CountingStore) -> Repository[Account]:
    """A repository as in another process, which remembers nothing."""
    return Repository(Account, store, cache=CachePolicy(enabled=False))


async def test_execute_on_a_remembered_state_takes_one_request(here: Repository[Account], store: CountingStore) -> None:
    for balance in (15, 20, 25):
        assert await here.execute("a-1", Account.deposit, 5) == balance
    assert store.asked == {"append": 3}
    assert (await here.load("a-1")).balance == 25


async def test_a_conflict_needs_no_read(
    here: Repository[Account], there: Repository[Account], store: CountingStore
) -> None:
    await there.execute("a-1", Account.deposit, 100)
    store.asked.clear()
    assert await here.execute("a-1", Account.deposit, 5) == 115
    assert store.asked == {"append": 2}


async def test_many_missed_commits_are_read_at_once(
    here: Repository[Account], there: Repository[Account], store: CountingStore
) -> None:
    for _ in range(20):
        await there.execute("a-1", Account.deposit, 1)
    store.asked.clear()
    assert await here.execute("a-1", Account.deposit, 5) == 35
    assert store.asked == {"append": 3, "read": 1}


@pytest.mark.parametrize("processes", [2, 4])
async def test_processes_that_take_turns_pay_no_more_than_without_a_cache(store: CountingStore, processes: int) -> None:
    await Repository(Account, store).save(Account.open("a-1", owner="ann"))
    asked: dict[bool, Counter[str]] = {}
    snapshots: dict[bool, int] = {}
    for enabled in (False, True):
        cache = CachePolicy(enabled=enabled)
        turns = [Repository(Account, store, cache=cache, snapshots=INLINE) for _ in range(processes)]
        for here in turns * 3:
            await here.execute("a-1", Account.deposit, 1)
        store.asked.clear()
        before = store.snapshots
        for here in turns * 100:
            await here.execute("a-1", Account.deposit, 1)
        asked[enabled], snapshots[enabled] = store.asked.copy(), store.snapshots - before
    assert asked[False] == {"load": 100 * processes, "append": 100 * processes}
    looks = asked[True].pop("load")  # for a snapshot of the others
    assert asked[True] == {"read": 100 * processes, "append": 100 * processes}
    assert 5 < snapshots[True] <= snapshots[False] + 1
    assert looks <= processes * (snapshots[True] + 1)


async def test_a_process_that_is_alone_again_stops_reading_first(
    here: Repository[Account], there: Repository[Account], store: CountingStore
) -> None:
    await there.execute("a-1", Account.deposit, 100)
    await here.execute("a-1", Account.deposit, 5)
    store.asked.clear()
    for _ in range(50):
        await here.execute("a-1", Account.deposit, 1)
    assert store.asked["append"] == 50
    assert 0 < store.asked["read"] < 5


async def test_a_command_that_raises_has_seen_the_latest_state(
    here: Repository[Account], there: Repository[Account], store: CountingStore
) -> None:
    await there.execute("a-1", Account.deposit, 100)
    store.asked.clear()
    assert await here.execute("a-1", Account.withdraw, 50) == 60  # on the remembered state it would have raised
    with pytest.raises(InsufficientFunds, match="holds 60"):
        await here.execute("a-1", Account.withdraw, 70)
    assert store.asked["load"] == 0
    assert (await there.load("a-1")).balance == 60


async def test_a_command_that_records_nothing_has_seen_the_latest_state(
    here: Repository[Account], there: Repository[Account], store: CountingStore
) -> None:
    assert await here.execute("a-1", lambda account: account.balance) == 10
    assert store.asked == {"read": 1}
    await there.execute("a-1", Account.deposit, 100)
    assert await here.execute("a-1", lambda account: account.balance) == 110


async def test_a_command_that_records_nothing_changes_nothing(here: Repository[Account]) -> None:
    def tamper(account: Account) -> None:
        account.owner, account.balance = "eve", 10**6

    before = await here.load("a-1")
    await here.execute("a-1", tamper)
    assert await here.execute("a-1", lambda account: (account.owner, account.balance)) == (before.owner, before.balance)


async def test_changes_that_a_command_makes_without_events_are_dropped(
    here: Repository[Account], store: CountingStore
) -> None:
    def tamper(account: Account) -> int:
        account.owner = "eve"
        return account.deposit(1)

    policy = SnapshotPolicy(floor=0, ratio=0.01, inline=True)
    accounts = Repository(Account, store, snapshots=policy)
    before = await here.load("a-1")
    await accounts.execute("a-1", tamper)
    assert (await store.load("account-a-1")).snapshot is not None
    loaded = await Repository(Account, store).load("a-1")
    remembered = await accounts.execute("a-1", lambda account: (account.owner, account.balance))
    assert (loaded.owner, loaded.balance) == remembered == (before.owner, before.balance + 1)


async def test_a_failed_command_changes_nothing(here: Repository[Account]) -> None:
    def half(account: Account) -> None:
        account.deposit(1000)
        raise InsufficientFunds

    for _ in range(2):
        with pytest.raises(InsufficientFunds):
            await here.execute("a-1", half)
        assert await here.execute("a-1", lambda account: account.balance) == 10


@pytest.mark.parametrize(
    "error",
    [CommitOutcomeUnknown(make_commit("account-a-1", 3)), RuntimeError(), ConflictError("account-a-1", 2, 3)],
)
async def test_the_state_of_a_failed_save_is_not_remembered(
    here: Repository[Account], store: CountingStore, error: Exception
) -> None:
    once = Repository(Account, store, attempts=1)
    await once.execute("a-1", Account.deposit, 1)
    store.fails = error
    with pytest.raises(type(error)):
        await once.execute("a-1", Account.deposit, 1000)
    assert once.cache_use.entries == 0
    assert await once.execute("a-1", Account.deposit, 1) == 12


async def test_a_cancelled_command_leaves_no_wrong_state(here: Repository[Account], store: CountingStore) -> None:
    for turns in range(12):
        executing = asyncio.create_task(here.execute("a-1", Account.deposit, 1))
        for _ in range(turns):
            await asyncio.sleep(0)
        executing.cancel()
        await asyncio.wait([executing])
        known = (await Repository(Account, store).load("a-1")).balance
        assert await here.execute("a-1", lambda account: account.balance) == known


async def test_a_redelivery_is_recognised_and_only_its_commit_is_read(
    here: Repository[Account], there: Repository[Account], store: CountingStore
) -> None:
    assert (await here.execute("a-1", Account.deposit, 5, command_id="c-1")).result == 15
    store.asked.clear()
    assert (await here.execute("a-1", Account.deposit, 5, command_id="c-1")).duplicate
    assert store.asked == {"read": 1}
    with pytest.raises(IdempotencyError):
        await here.execute("a-1", Account.deposit, 6, command_id="c-1")
    assert store.asked == {"read": 1}
    await there.execute("a-1", Account.deposit, 7, command_id="c-2")
    assert (await here.execute("a-1", Account.deposit, 7, command_id="c-2")).duplicate
    assert (await there.load("a-1")).balance == 22


async def test_commands_on_one_id_run_one_at_a_time_and_other_ids_do_not_wait(store: CountingStore) -> None:
    here = Repository(Account, store)
    for id in ("a-1", "b-2"):
        await here.save(Account.open(id, owner="ann"))
    balances = await asyncio.gather(*(here.execute(id, Account.deposit, 1) for _ in range(50) for id in ("a-1", "b-2")))
    assert sorted(balances) == [each for each in range(1, 51) for _ in range(2)]
    assert store.asked == {"append": 102, "load": 2}  # there were no conflicts
    assert not here._cache._locks


def test_a_command_waits_for_others_on_its_id_no_longer_than_the_deadline() -> None:
    """In virtual time: the first command hangs, and then the store answers again."""

    async def check() -> None:
        async with ScriptedStore() as store:
            store.deadline = 1.0
            accounts = Repository(Account, store)
            await accounts.save(Account.open("a-1", owner="ann"))
            store.appends = [("hang", None)]
            executing = [asyncio.create_task(accounts.execute("a-1", Account.deposit, 1)) for _ in range(30)]
            done, _ = await asyncio.wait(executing, timeout=1.5)
            assert len(done) == 29
            assert {type(task.exception()) for task in done} == {Throttled}
            executing[0].cancel()
            await asyncio.wait(executing)
            assert await accounts.execute("a-1", Account.deposit, 1) == 2  # the first deposit was stored

    run(check(), VirtualLoop())


@pytest.mark.parametrize(("seconds", "loads"), [(299, 0), (301, 1)])
async def test_a_state_is_remembered_up_to_its_age(
    here: Repository[Account], store: CountingStore, monkeypatch: pytest.MonkeyPatch, seconds: float, loads: int
) -> None:
    now = 1000.0
    monkeypatch.setattr("eventsrc.repository.cache.monotonic", lambda: now)
    await here.execute("a-1", Account.deposit, 1)
    store.asked.clear()
    now += seconds
    await here.execute("a-1", Account.deposit, 1)
    assert store.asked == {"append": 1, **({"load": 1} if loads else {})}


class Noted(Event, tag="list.noted"):
    notes: list[str]


class Notes(Aggregate, tag="list"):
    notes: list[str] = msgspec.field(default_factory=list)

    def note(self, *notes: str) -> list[str]:
        self.record(Noted(notes=list(notes)))
        return self.notes

    def apply_noted(self, event: Noted) -> None:
        self.notes += event.notes


async def test_a_remembered_state_cannot_be_changed_from_outside(store: CountingStore) -> None:
    lists = Repository(Notes, store)
    first = Notes(id="1")
    first.note("a")
    await lists.save(first)
    given = await lists.execute("1", Notes.note, "b")
    given.append("forged")
    assert await lists.execute("1", Notes.note, "c") == ["a", "b", "c"]


async def test_the_cache_stays_within_max_bytes(store: CountingStore) -> None:
    lists = Repository(Notes, store, cache=CachePolicy(max_bytes=4_500))
    for each in range(9):
        made = Notes(id=str(each))
        made.note("x" * 800)
        await lists.save(made)
        await lists.execute(str(each), Notes.note, "y")
    use = lists.cache_use
    assert (use.hits, use.misses, use.entries) == (0, 9, 3)
    assert 3_600 < use.bytes <= 4_500
    store.asked.clear()
    await lists.execute("8", Notes.note, "z")
    assert store.asked == {"append": 1}  # the most recent entry was kept
    await lists.execute("0", Notes.note, "x" * 4_500)  # larger than max_bytes
    assert lists.cache_use.entries == 3
    store.asked.clear()
    await lists.execute("0", Notes.note, "z")
    assert store.asked == {"load": 1, "append": 1}


@pytest.mark.parametrize("policy", [CachePolicy(enabled=False), CachePolicy(max_age=0.0), CachePolicy(max_bytes=0)])
async def test_a_state_that_may_not_be_remembered_is_loaded(store: CountingStore, policy: CachePolicy) -> None:
    here = Repository(Account, store, cache=policy)
    await here.save(Account.open("a-1", owner="ann"))
    for _ in range(3):
        await here.execute("a-1", Account.deposit, 1)
    assert (store.asked["load"], here.cache_use.hits) == (3, 0)


async def test_cache_use_counts_hits_and_misses(here: Repository[Account]) -> None:
    await here.execute("a-1", Account.deposit, 1)
    use = here.cache_use
    assert use == CacheUse(hits=1, misses=1, entries=1, bytes=use.bytes)
    assert 0 < use.bytes < 800


@pytest.mark.parametrize("max_bytes", [100_000, 400_000])
async def test_the_bytes_of_the_cache_are_the_memory_that_it_holds(store: CountingStore, max_bytes: int) -> None:
    """Small states take several times their own size: ids, objects, numbers and slots of a dict."""
    for each in range(1_200):
        await Repository(Account, store).save(Account.open(f"account-{each}", owner="ann"))
    tracemalloc.start()
    try:
        here = Repository(Account, store, cache=CachePolicy(max_bytes=max_bytes))
        for _ in range(2):
            for each in range(1_200):
                with pytest.raises(InsufficientFunds):  # so that the store holds nothing new
                    await here.execute(f"account-{each}", Account.withdraw, 1)
        gc.collect()
        counted, held = here.cache_use.bytes, tracemalloc.get_traced_memory()[0]
        del here
        gc.collect()
        held -= tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.98 * max_bytes < counted <= max_bytes
    assert 0.7 * counted < held < 1.1 * counted


@pytest.mark.parametrize("wrong", [{"max_bytes": -1}, {"max_age": -1.0}, {"max_age": float("nan")}])
def test_an_invalid_cache_policy_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        CachePolicy(**wrong)


class Unsnapshotable(Account, tag="unsnapshotable"):
    def to_snapshot(self) -> int:
        raise RuntimeError

    @classmethod
    def from_snapshot(cls, id: str, state: int) -> Unsnapshotable:
        return cls(id=id)


async def test_an_aggregate_without_snapshots_is_loaded_each_time(
    store: CountingStore, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = (Repository(Unsnapshotable, store) for _ in range(2))
    await here.save(Unsnapshotable.open("a-1", owner="ann"))
    for balance in (1, 3, 5):
        assert await here.execute("a-1", Unsnapshotable.deposit, 1) == balance
        assert await there.execute("a-1", Unsnapshotable.deposit, 1) == balance + 1
    assert "is not remembered: RuntimeError" in caplog.text
