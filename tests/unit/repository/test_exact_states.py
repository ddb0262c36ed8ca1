"""A state that is remembered or snapshotted is the one that a replay has; otherwise it is neither."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from support.flaky import ScriptedStore

from eventsrc import Aggregate, Event, Repository, SnapshotPolicy

EARLY = SnapshotPolicy(floor=0, ratio=0.001, inline=True)
NEVER = SnapshotPolicy(enabled=False)


class Did(Event, tag="exact.did"):
    what: str


class Line(msgspec.Struct):
    what: str
    count: int = 1


class Doer(Aggregate, tag="doer"):
    """Has a state that a snapshot would change, after some events."""

    votes: dict[str, int] = {}  # noqa: RUF012  # msgspec copies it
    opened: datetime | None = None
    day: str = ""
    lines: list[Line] = []  # noqa: RUF012
    current: Line | None = None

    def do(self, what: str) -> str:
        self.record(Did(what=what))
        return self.shown

    @property
    def shown(self) -> str:
        return f"{self.votes} {self.day} {[line.count for line in self.lines]}"

    def apply_did(self, event: Did) -> None:
        match event.what.split():
            case ["count"]:
                self.votes = defaultdict(int)
            case ["vote", name]:
                self.votes[name] += 1
            case ["open"]:
                self.opened = datetime(2026, 6, 30, 22, 30, tzinfo=UTC).astimezone(ZoneInfo("Europe/Berlin"))
            case ["note"]:
                assert self.opened
                self.day = str(self.opened.date())
            case ["add", what]:
                self.current = Line(what)
                self.lines.append(self.current)
            case ["more"]:
                assert self.current
                self.current.count += 1


@pytest.fixture
async def store() -> AsyncIterator[ScriptedStore]:
    async with ScriptedStore() as store:
        yield store


HISTORIES = [["count", "vote ann", "vote bob", "vote ann"], ["open", "note"], ["add pen", "more", "more"]]


@pytest.mark.parametrize("whats", HISTORIES, ids=lambda whats: whats[0])
async def test_execute_decides_on_the_state_of_a_replay(
    store: ScriptedStore, caplog: pytest.LogCaptureFixture, whats: list[str]
) -> None:
    doers = Repository(Doer, store, snapshots=EARLY)
    first = Doer(id="1")
    first.do(whats[0])
    await doers.save(first)
    for version, what in enumerate(whats[1:], 2):
        result = await doers.execute("1", Doer.do, what)
        assert result == (await doers.load("1", version=version)).shown
    assert re.search(r"doer-1@\d is not remembered: (Doer|Line)", caplog.text)
    assert re.search(r"snapshot doer-1@\d was not written: (Doer|Line)", caplog.text)


@pytest.mark.parametrize("whats", HISTORIES, ids=lambda whats: whats[0])
async def test_a_load_has_the_state_of_a_replay(store: ScriptedStore, whats: list[str]) -> None:
    doers = Repository(Doer, store, snapshots=EARLY)
    for what in whats:
        doer = await doers.load("1") if store.appended else Doer(id="1")
        doer.do(what)
        await doers.save(doer)
    loaded, replayed = await doers.load("1"), await doers.load("1", version=len(whats))
    assert loaded.shown == replayed.shown
    assert not store.snapshots


class Rounded(msgspec.Struct):
    """Changes its values when it is restored."""

    value: float = 0.0

    def __post_init__(self) -> None:
        self.value = float(round(self.value))


class Meter(Aggregate, tag="meter"):
    rounded: Rounded = msgspec.field(default_factory=Rounded)

    def apply_did(self, event: Did) -> None:
        self.rounded.value += 0.4


class Forgetful(Aggregate, tag="forgetful"):
    """Leaves out a field of its snapshot."""

    count: int = 0
    last: str = ""

    def to_snapshot(self) -> int:
        return self.count

    @classmethod
    def from_snapshot(cls, id: str, state: int) -> Forgetful:
        restored = cls(id=id)
        restored.count = state
        return restored

    def apply_did(self, event: Did) -> None:
        self.count, self.last = self.count + 1, event.what


@pytest.mark.parametrize("kind", [Meter, Forgetful])
async def test_a_state_that_restoring_changes_is_not_kept(
    store: ScriptedStore, caplog: pytest.LogCaptureFixture, kind: Any
) -> None:
    things = Repository(kind, store, snapshots=EARLY)
    thing = kind(id="1")
    thing.record(Did(what="a"))
    await things.save(thing)
    for _ in range(3):
        await things.execute("1", lambda it: it.record(Did(what="b")))
    assert repr(await things.load("1")) == repr(await things.load("1", version=4))
    assert not store.snapshots
    place = {Meter: r"Meter\.rounded\.value", Forgetful: r"Forgetful\.last"}[kind]
    assert re.search(rf"not remembered: {place} is restored with another type or value", caplog.text)


class Money(Aggregate, tag="money"):
    """Has a type that only its own snapshot can store."""

    amounts: Any = msgspec.field(default_factory=lambda: defaultdict(int))

    def to_snapshot(self) -> dict[str, int]:
        return dict(self.amounts)

    @classmethod
    def from_snapshot(cls, id: str, state: dict[str, int]) -> Money:
        restored = cls(id=id)
        restored.amounts.update(state)
        return restored

    def apply_did(self, event: Did) -> None:
        self.amounts[event.what] += 1


async def test_a_snapshot_of_its_own_may_store_any_type(store: ScriptedStore) -> None:
    things = Repository(Money, store, snapshots=EARLY)
    thing = Money(id="1")
    thing.record(Did(what="a"))
    await things.save(thing)
    for what in ("a", "b", "c"):
        await things.execute("1", lambda it, what: it.record(Did(what=what)), what)
    assert store.snapshots
    assert things.cache_use.hits == 2
    assert (await things.load("1")).amounts == {"a": 2, "b": 1, "c": 1}


class OldTally(Aggregate, tag="tally"):
    by_name: dict[str, int] = {}  # noqa: RUF012

    def apply_did(self, event: Did) -> None: ...


class Tally(Aggregate, tag="tally"):
    """The next release, which needs what the handlers of the previous one did not write."""

    by_name: dict[str, int] = {}  # noqa: RUF012

    def apply_did(self, event: Did) -> None:
        if event.what == "start":
            self.by_name["a"] = 0
        self.by_name["a"] += 1


OldTally.__qualname__ = "Tally"


async def test_a_handler_that_fails_after_a_snapshot_is_run_on_all_commits(
    store: ScriptedStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The handlers changed, and `snapshot_version` did not."""
    old = OldTally(id="1")
    for what in ("start", "go"):
        old.record(Did(what=what))
        await Repository(OldTally, store, snapshots=EARLY).save(old)
    old.record(Did(what="go"))
    await Repository(OldTally, store, snapshots=NEVER).save(old)
    assert store.snapshots
    tallies = Repository(Tally, store)
    assert (await tallies.load("1")).by_name == {"a": 3}
    assert "tally-1: a handler raised KeyError after a snapshot; reading all commits" in caplog.text


async def test_a_handler_that_fails_in_a_replay_fails_the_load(store: ScriptedStore) -> None:
    old = OldTally(id="1")
    old.record(Did(what="go"))
    await Repository(OldTally, store, snapshots=EARLY).save(old)
    old.record(Did(what="go"))
    await Repository(OldTally, store, snapshots=NEVER).save(old)
    with pytest.raises(KeyError):
        await Repository(Tally, store).load("1")


class Count(Aggregate, tag="account"):
    total: int = 0

    def apply_did(self, event: Did) -> None:
        self.total += 1


class Summing(Aggregate):
    total: int = 0

    def apply_did(self, event: Did) -> None:
        self.total += len(event.what)


class Sum(Summing, tag="account"):
    """Has the handlers of its base."""


class Rate(Summing, tag="account"):
    """Has the handlers of its base, and another state."""

    def apply_did(self, event: Did) -> None:
        super().apply_did(event)
        self.total += 100


async def test_classes_of_one_category_do_not_use_each_others_snapshots(store: ScriptedStore) -> None:
    kinds: list[Any] = [Count, Sum, Rate]
    for _ in range(3):
        for kind in kinds:
            things = Repository(kind, store, snapshots=EARLY)
            thing = await things.load("1") if store.appended else kind(id="1")
            thing.record(Did(what="four"))
            await things.save(thing)
            for other in kinds:
                repository = Repository(other, store)
                loaded, replayed = await repository.load("1"), await repository.load("1", version=thing.version)
                assert loaded.total == replayed.total
    assert len(store.snapshots) > 3
