"""Snapshots of a repository: when they are written and used, and that a bad one never does harm."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
import pytest
from support.bank import Account, Deposited, Opened, Withdrawn
from support.flaky import ScriptedStore

from eventsrc import Aggregate, CachePolicy, Event, Repository, Snapshot, SnapshotPolicy, StoreUnavailable
from eventsrc.repository.snapshots import SnapshotCodec

EAGER = SnapshotPolicy(floor=0, inline=True)


class Noted(Event, tag="notebook.noted"):
    text: str


class Cleared(Event, tag="notebook.cleared"):
    pass


class Notes(Aggregate):
    """A state that grows with every event."""

    notes: list[str] = msgspec.field(default_factory=list)

    def note(self, text: str) -> None:
        self.record(Noted(text=text))

    def clear(self) -> None:
        self.record(Cleared())

    def apply_noted(self, event: Noted) -> None:
        self.notes.append(event.text)

    def apply_cleared(self, event: Cleared) -> None:
        self.notes.clear()


class Notebook(Notes, tag="notebook"): ...


class Summary(msgspec.Struct):
    owner: str
    cents: int


class Purse(Aggregate, tag="purse"):
    """Defines its own snapshot."""

    owner: str = ""
    euros: float = 0.0

    def to_snapshot(self) -> Summary:
        return Summary(self.owner, round(self.euros * 100))

    @classmethod
    def from_snapshot(cls, id: str, state: Summary) -> Purse:
        purse = cls(id=id)
        purse.owner, purse.euros = state.owner, state.cents / 100
        return purse

    def apply_opened(self, event: Opened) -> None:
        self.owner = event.owner

    def apply_movement(self, event: Deposited | Withdrawn) -> None:
        self.euros += (event.amount if isinstance(event, Deposited) else -event.amount) / 100


@pytest.fixture
async def store() -> AsyncIterator[ScriptedStore]:
    async with ScriptedStore() as store:
        yield store


async def filled(store: ScriptedStore, policy: SnapshotPolicy = EAGER, commits: int = 50) -> Repository[Account]:
    accounts = Repository(Account, store, snapshots=policy)
    account = Account.open("a-1", owner="ann")
    await accounts.save(account)
    for _ in range(commits):
        account.deposit(1)
        await accounts.save(account)
    return accounts


async def test_snapshots_shorten_loads_and_change_nothing_else(store: ScriptedStore) -> None:
    accounts = await filled(store)
    snapshot, commits = await store.load("account-a-1")
    assert snapshot is not None
    assert commits[0].version == snapshot.version > 40
    account = await accounts.load("a-1")
    assert (account.balance, account.owner, account.version) == (50, "ann", 51)
    await accounts.execute("a-1", Account.deposit, 1)
    assert (await accounts.load("a-1")).balance == 51


async def test_small_streams_get_no_snapshot(store: ScriptedStore) -> None:
    await filled(store, SnapshotPolicy(inline=True), commits=20)
    assert not store.snapshots
    await filled_more(store)
    assert store.snapshots


async def filled_more(store: ScriptedStore) -> None:
    accounts = Repository(Account, store, snapshots=SnapshotPolicy(inline=True))
    for _ in range(20):
        await accounts.execute("a-1", Account.deposit, 1)


async def test_a_disabled_policy_writes_no_snapshots(store: ScriptedStore) -> None:
    await filled(store, SnapshotPolicy(enabled=False, floor=0))
    assert not store.snapshots


async def test_a_background_write_ends_before_the_store_closes(store: ScriptedStore) -> None:
    await filled(store, SnapshotPolicy(floor=0), commits=1)
    await store.aclose()
    assert store.snapshots
    await store.open()


@pytest.mark.parametrize("policy", [EAGER, SnapshotPolicy(floor=0)])
async def test_a_failed_snapshot_write_does_not_fail_the_save(
    store: ScriptedStore, policy: SnapshotPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    store.snapshot_error = StoreUnavailable("gone")
    accounts = await filled(store, policy)
    await store.aclose()
    await store.open()
    assert (await accounts.load("a-1")).balance == 50
    assert re.search(r"snapshot account-a-1@\d+ was not written", caplog.text)


class Unsnapshotable(Account, tag="unsnapshotable"):
    def to_snapshot(self) -> Summary:
        raise RuntimeError("secret-91")

    @classmethod
    def from_snapshot(cls, id: str, state: Summary) -> Unsnapshotable:
        return cls(id=id)


async def test_a_snapshot_that_cannot_be_encoded_does_not_fail_the_save(
    store: ScriptedStore, caplog: pytest.LogCaptureFixture
) -> None:
    accounts = Repository(Unsnapshotable, store, snapshots=EAGER)
    account = Unsnapshotable.open("a-1", owner="ann")
    for _ in range(200):
        account.deposit(1)
        await accounts.save(account)
    assert (await accounts.load("a-1")).balance == 200
    assert 0 < len(caplog.records) < 40  # tried less and less often
    assert "secret-91" not in caplog.text


class Aged(Event, tag="aged"):
    by: int
    mood: str


class Person(Aggregate, tag="person"):
    """A state whose fields refuse some values, which its handler does not check."""

    age: Annotated[int, msgspec.Meta(ge=0)] = 0
    mood: Literal["good", "bad"] = "good"

    def grow(self, by: int, mood: str) -> None:
        self.record(Aged(by=by, mood=mood))

    def apply_aged(self, event: Aged) -> None:
        self.age += event.by
        self.mood = event.mood  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("by", "mood", "reason"),
    [
        (-1_000, "good", r"Person.age holds a value that its own declaration refuses (Expected `int` >= 0)"),
        (1, "secret-91", r"Person.mood holds a value that its own declaration refuses; check it"),
    ],
)
async def test_a_state_that_its_declaration_refuses_is_not_kept(
    store: ScriptedStore, caplog: pytest.LogCaptureFixture, by: int, mood: str, reason: str
) -> None:
    people = Repository(Person, store, snapshots=EAGER)
    person = Person(id="1")
    for _ in range(50):
        person.grow(by, mood)
        await people.save(person)
    await people.execute("1", Person.grow, by, mood)
    assert store.snapshots == []
    assert reason in caplog.text
    assert "secret-91" not in caplog.text
    assert (await people.load("1")).age == person.age + by


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda snapshot: msgspec.structs.replace(snapshot, shape="0" * 16), "another shape"),
        (lambda snapshot: msgspec.structs.replace(snapshot, payload=snapshot.payload[:-1]), "checksum"),
        (lambda snapshot: msgspec.structs.replace(snapshot, payload=b""), "checksum"),
        (lambda snapshot: msgspec.structs.replace(snapshot, version=99), "ahead of the log"),
    ],
)
async def test_an_unusable_snapshot_is_ignored_with_a_warning(
    store: ScriptedStore, caplog: pytest.LogCaptureFixture, change: object, reason: str
) -> None:
    accounts = await filled(store)
    store.change = change  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    account = await accounts.load("a-1")
    assert (account.balance, account.version) == (50, 51)
    assert reason in caplog.text
    assert caplog.records[0].levelno == logging.WARNING


async def test_a_snapshot_of_a_replaced_log_is_ignored(store: ScriptedStore, caplog: pytest.LogCaptureFixture) -> None:
    """The stream was truncated, and then other commits reached the version of the snapshot again."""
    await filled(store)
    accounts = Repository(Account, store, snapshots=SnapshotPolicy(enabled=False))
    del store._streams["account-a-1"][10:]
    account = await accounts.load("a-1")
    for _ in range(41):
        account.deposit(7)
        await accounts.save(account)
    assert (await accounts.load("a-1")).balance == 9 + 41 * 7
    assert "it was made at another commit" in caplog.text


async def test_a_snapshot_of_another_aggregate_is_ignored(store: ScriptedStore) -> None:
    accounts = await filled(store)
    other = Account.open("b-2", owner="bob")
    for _ in range(51):
        other.deposit(7)
        await accounts.save(other)
    theirs = await store.load("account-b-2")
    stolen = theirs.snapshot
    assert stolen is not None
    store.change = lambda snapshot: msgspec.structs.replace(stolen, version=snapshot.version)
    assert (await accounts.load("a-1")).balance == 50


async def test_an_increased_snapshot_version_ignores_older_snapshots(
    store: ScriptedStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(store)
    monkeypatch.setattr(Account, "snapshot_version", 1)
    accounts = Repository(Account, store, snapshots=EAGER)
    assert (await accounts.load("a-1")).balance == 50
    assert "another shape" in caplog.text


class Diary(Notes, tag="notebook"):
    """The next release of a notebook: its state has one more field."""

    entries: int = 0

    def apply_noted(self, event: Noted) -> None:
        super().apply_noted(event)
        self.entries += 1


async def test_two_releases_that_ignore_each_others_snapshots_do_not_write_more_of_them(store: ScriptedStore) -> None:
    uncached = CachePolicy(enabled=False)  # so that each sees the snapshots of the other
    old = Repository(Notebook, store, snapshots=EAGER, cache=uncached)
    new = Repository(Diary, store, snapshots=EAGER, cache=uncached)
    notebook = Notebook(id="n-1")
    notebook.note("x" * 5000)
    await old.save(notebook)
    for each in range(100):
        await old.execute("n-1", Notebook.note, str(each))
        await new.execute("n-1", Diary.note, str(each))
    commits = sum([commit.size async for commit in store.read("notebook-n-1")])
    assert 0 < sum(snapshot.size for snapshot in store.snapshots) <= commits
    assert (await new.load("n-1")).entries == 201


async def test_a_release_replaces_the_snapshots_of_the_previous_one(store: ScriptedStore) -> None:
    await filled(store)
    before = store.snapshots[-1].version
    assert (await store.load("account-a-1")).snapshot is not None

    class Renamed(Aggregate, tag="account"):
        holder: str = ""
        balance: int = 0

        def deposit(self, amount: int) -> None:
            self.record(Deposited(amount=amount))

        def apply_opened(self, event: Opened) -> None:
            self.holder = event.owner

        def apply_deposited(self, event: Deposited) -> None:
            self.balance += event.amount

    renamed = Repository(Renamed, store, snapshots=EAGER)
    for _ in range(10):
        await renamed.execute("a-1", Renamed.deposit, 1)
    snapshot, commits = await store.load("account-a-1")
    assert snapshot is not None
    assert snapshot.version > before
    assert len(commits) < 10
    assert (await renamed.load("a-1")).balance == 60


async def test_a_postponement_ends_with_the_next_snapshot_of_any_writer(store: ScriptedStore) -> None:
    """A threshold counts commits since one snapshot, so it must not apply after a newer snapshot of a smaller state."""
    ours, theirs = (Repository(Notebook, store, snapshots=EAGER) for _ in range(2))
    notebook = Notebook(id="n-1")
    for size in (60_000, 10_000):  # slightly less than the snapshot, so it is refused
        notebook.note(os.urandom(size // 2).hex())
        await ours.save(notebook)
    assert not store.snapshots
    await theirs.execute("n-1", Notebook.clear)
    assert [snapshot.version for snapshot in store.snapshots] == [3]
    for each in range(40):
        await ours.execute("n-1", Notebook.note, f"{each} " * 40)
    assert len((await store.load("notebook-n-1")).commits) < 30


async def test_no_snapshot_is_written_below_one_that_is_ahead_of_the_log(store: ScriptedStore) -> None:
    await filled(store)
    await store.put_snapshot(msgspec.structs.replace(store.snapshots[-1], version=10_000))
    store.snapshots.clear()
    accounts = Repository(Account, store, snapshots=SnapshotPolicy(floor=0, ratio=0.1, inline=True))
    for _ in range(100):
        await accounts.execute("a-1", Account.deposit, 1)
    assert not store.snapshots  # the store would have refused each
    assert (await accounts.load("a-1")).balance == 150


class Loan(Purse, tag="loan"):
    """Restores its snapshots as an object of its base class."""

    @classmethod
    def from_snapshot(cls, id: str, state: Summary) -> Any:
        return Purse(id=id)

    def to_snapshot(self) -> Summary:
        return Summary("", 0)


class Recorder(Purse, tag="recorder"):
    @classmethod
    def from_snapshot(cls, id: str, state: Summary) -> Any:
        purse = cls(id=id)
        purse.record(Opened(owner=state.owner))
        return purse

    def to_snapshot(self) -> Summary:
        return Summary(self.owner, 0)


@pytest.mark.parametrize(("kind", "reason"), [(Loan, "another aggregate"), (Recorder, "recorded events")])
async def test_a_state_with_an_invalid_result_of_from_snapshot_is_not_kept(
    store: ScriptedStore, caplog: pytest.LogCaptureFixture, kind: type[Purse], reason: str
) -> None:
    purses = Repository(kind, store, snapshots=SnapshotPolicy(floor=0, ratio=0.1, inline=True))
    purse = kind(id="p-1")
    purse.record(Deposited(amount=100))
    await purses.save(purse)
    loaded = await purses.load("p-1")
    assert (type(loaded), loaded.euros, loaded.uncommitted) == (kind, 1.0, ())
    assert reason in caplog.text


async def test_an_aggregate_may_define_its_own_snapshots(store: ScriptedStore) -> None:
    purses = Repository(Purse, store, snapshots=EAGER)
    purse = Purse(id="p-1")
    purse.record(Opened(owner="ann"))
    for _ in range(40):
        purse.record(Deposited(amount=25))
        await purses.save(purse)
    loaded = await purses.load("p-1")
    snapshot, commits = await store.load("purse-p-1")
    assert snapshot is not None
    assert len(commits) < 40
    assert (loaded.owner, loaded.euros) == ("ann", 10.0)


async def test_all_snapshots_together_have_at_most_the_size_of_all_commits(store: ScriptedStore) -> None:
    notebooks = Repository(Notebook, store, snapshots=EAGER)
    notebook = Notebook(id="n-1")
    for each in range(300):
        notebook.note(f"note {each}: {each**9:x}")
        await notebooks.save(notebook)
        commits = sum(commit.size for commit in store.appended)
        assert sum(snapshot.size for snapshot in store.snapshots) <= commits
    assert (await notebooks.load("n-1")).notes == notebook.notes
    assert len(store.snapshots) > 2


@pytest.mark.parametrize("executed", [False, True])
async def test_a_growing_state_is_not_encoded_on_every_save(
    store: ScriptedStore, monkeypatch: pytest.MonkeyPatch, executed: bool
) -> None:
    encoded = 0
    encode = SnapshotCodec.encode

    def counted(self: SnapshotCodec[Notebook], aggregate: Notebook) -> Snapshot:
        nonlocal encoded
        encoded += 1
        return encode(self, aggregate)

    monkeypatch.setattr(SnapshotCodec, "encode", counted)
    notebooks = Repository(Notebook, store, snapshots=EAGER)
    notebook = Notebook(id="n-1")
    for each in range(500):
        text = f"{each**30:x}" * 4
        if executed and each:
            await notebooks.execute("n-1", Notebook.note, text)  # a new object for each call
        else:
            notebook.note(text)
            await notebooks.save(notebook)
    assert 3 < len(store.snapshots) <= encoded < 60


async def test_a_snapshot_that_is_always_refused_is_tried_less_and_less_often(store: ScriptedStore) -> None:
    store.snapshot_error = StoreUnavailable("too large, say")
    refused = 0

    class Counted(StoreUnavailable):
        def __str__(self) -> str:
            nonlocal refused
            refused += 1
            return "refused"

    store.snapshot_error = Counted()
    accounts = await filled(store, commits=1)
    for _ in range(300):
        await accounts.execute("a-1", Account.deposit, 1)
    assert 0 < refused < 150
