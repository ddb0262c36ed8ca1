"""given/when/then: true expectations pass, and others fail with a message that shows both sides."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from support.bank import Account, Deposited, InsufficientFunds, Opened, Withdrawn

from eventsrc import Aggregate, CommitTooLarge, Event, InvalidEvent, InvalidStreamId, UnhandledEvent
from eventsrc.testing import given, when

PAST = (Opened(owner="ann"), Deposited(amount=80))


class Renamed(Event, tag="account.renamed"):
    name: str


def as_opened(old: Renamed) -> Opened:
    return Opened(owner=old.name)


class Evolved(Account, tag="evolved"):
    upcasters = (as_opened,)


class Sloppy(Aggregate, tag="sloppy"):
    """Its handler sets a field to a value of another type."""

    owner: str = ""

    def rename(self, owner: str) -> None:
        self.record(Opened(owner=owner))

    def apply_opened(self, event: Opened) -> None:
        lost: Any = [event.owner]
        self.owner = lost


class Counted(Event, tag="counter.counted"):
    by: int


class CountedOnce(Event, tag="counter.once"):
    """The old event class."""


class Noted(Event, tag="counter.noted"):
    what: Any


def counted_once(old: CountedOnce) -> Counted:
    return Counted(by=1)


class Counter(Aggregate, tag="counter"):
    upcasters = (counted_once,)

    total: int = 0
    calls: int = 0
    note: list[int] | int = 0

    def count(self, by: int) -> int:
        self.record(Counted(by=by))
        return self.total

    def count_unrecorded(self, by: int) -> None:
        self.total += by

    def note_down(self, what: Any) -> None:
        self.record(Noted(what=what))

    def keep(self, what: Any) -> None:
        self.note = what

    @property
    def doubled(self) -> int:
        return 2 * self.total

    async def count_later(self) -> None:
        self.record(Counted(by=1))

    def count_lazily(self) -> Iterator[int]:
        yield self.count(1)

    async def count_later_and_lazily(self) -> AsyncIterator[int]:
        yield self.count(1)

    def apply_counted(self, event: Counted) -> None:
        self.total += event.by

    def apply_noted(self, event: Noted) -> None:
        self.note = event.what


class Forgetful(Counter, tag="forgetful"):
    """Its snapshot leaves out the number of calls."""

    def to_snapshot(self) -> int:
        return self.total

    @classmethod
    def from_snapshot(cls, id: str, state: int) -> Forgetful:
        restored = cls(id=id)
        restored.total = state
        return restored

    def apply_counted(self, event: Counted) -> None:
        super().apply_counted(event)
        self.calls += 1


def test_true_expectations_pass() -> None:
    outcome = given(Account, *PAST, id="a-9").when(Account.withdraw, 30)
    outcome.then(Withdrawn(amount=30)).then_returns(50).then_state(owner="ann", balance=50, id="a-9")
    given(Account, *PAST).when(Account.withdraw, amount=90).then_raises(InsufficientFunds, "holds 80")
    given(Account, *PAST).then_state(balance=80)
    given(Account).when(lambda account: account.balance).then().then_returns(0)
    when(Account.open, "a-1", owner="ann").then(Opened(owner="ann")).then_state(owner="ann")


def test_unexpected_events_fail_and_both_sides_are_shown() -> None:
    outcome = given(Account, *PAST).when(Account.withdraw, 30)
    for expected in (
        (),
        (Withdrawn(amount=31),),
        (Withdrawn(amount=30), Withdrawn(amount=30)),
        (Deposited(amount=30),),
    ):
        with pytest.raises(AssertionError, match=r"recorded:\n  Withdrawn\(amount=30\)\nexpected:"):
            outcome.then(*expected)


def test_an_unexpected_result_or_state_fails_and_both_sides_are_shown() -> None:
    outcome = given(Account, *PAST).when(Account.withdraw, 30)
    with pytest.raises(AssertionError, match="returned 50, expected 51"):
        outcome.then_returns(51)
    with pytest.raises(AssertionError, match="state is balance=50; expected balance=51"):
        outcome.then_state(owner="ann", balance=51)
    with pytest.raises(AssertionError, match="balance=80"):
        given(Account, *PAST).then_state(balance=1)


def test_a_missing_or_unexpected_error_fails() -> None:
    with pytest.raises(AssertionError, match="nothing was raised; expected InsufficientFunds"):
        given(Account, *PAST).when(Account.withdraw, 30).then_raises(InsufficientFunds)
    failed = given(Account, *PAST).when(Account.withdraw, 90)
    with pytest.raises(AssertionError, match="not in"):
        failed.then_raises(InsufficientFunds, "holds 81")
    with pytest.raises(InsufficientFunds):
        failed.then()
    with pytest.raises(InsufficientFunds):
        failed.then_returns(5)
    with pytest.raises(InsufficientFunds):
        failed.then_state()
    with pytest.raises(InsufficientFunds):
        failed.then_raises(KeyError)


def test_a_command_that_records_and_then_raises_fails() -> None:
    def command(account: Account) -> None:
        account.deposit(1)
        raise KeyError

    with pytest.raises(AssertionError, match="recorded before"):
        given(Account, *PAST).when(command).then_raises(KeyError)


def test_old_events_are_upcast() -> None:
    given(Evolved, Renamed(name="bob")).then_state(owner="bob")
    recorded = given(Evolved).when(lambda account: account.record(Renamed(name="bob")))
    recorded.then_raises(UnhandledEvent, "Evolved: Renamed is upcast by as_opened; record Opened")


def test_an_event_that_cannot_be_stored_fails() -> None:
    with pytest.raises(InvalidEvent, match="64 bits"):
        given(Account).when(Account.deposit, 2**70).then(Deposited(amount=2**70))
    wrong: Any = 5
    with pytest.raises(InvalidEvent, match="owner"):
        given(Account, Opened(owner=wrong))


def test_a_state_that_does_not_fit_its_type_fails() -> None:
    with pytest.raises(Exception, match=r"Sloppy\.owner holds list, and is annotated with str"):
        given(Sloppy).when(Sloppy.rename, "ann").then(Opened(owner="ann"))


def test_a_method_of_an_object_is_not_a_command() -> None:
    wrong: Any = Account(id="a-1").deposit
    with pytest.raises(TypeError, match=r"pass the function of the class, Account\.deposit"):
        given(Account, *PAST).when(wrong, 5)


def test_when_without_given_needs_a_function_that_returns_an_aggregate() -> None:
    wrong: Any = lambda: 5  # noqa: E731
    with pytest.raises(AssertionError, match="not an aggregate"):
        when(wrong).then_raises(KeyError)


def test_an_expected_error_of_a_creation_passes() -> None:
    when(Account.open, "", owner="ann").then_raises(InvalidStreamId)


def test_past_events_are_folded_and_not_uncommitted() -> None:
    past = given(Counter, CountedOnce(), Counted(by=4), id="c-7")
    past.then_state(total=5, doubled=10, uncommitted=(), version=2, stream="counter-c-7")
    past.when(Counter.count, 2).then(Counted(by=2)).then_state(total=7)


def test_commands_on_one_past_do_not_affect_each_other() -> None:
    past = given(Account, Opened(owner="ann"))
    for amount in (5, 7):
        past.when(Account.deposit, amount).then(Deposited(amount=amount)).then_state(balance=amount)
    past.then_state(balance=0)


def test_a_past_event_without_a_handler_is_refused() -> None:
    with pytest.raises(UnhandledEvent, match=r"Counter has no .* annotated with Deposited"):
        given(Counter, Deposited(amount=1))
    anything: Any = "opened"
    with pytest.raises(UnhandledEvent, match="Counter: an object of type str is not an event"):
        given(Counter, anything)
    anything = Counted
    with pytest.raises(UnhandledEvent, match=r"Counter: the class Counted is not an event; write Counted\(...\)"):
        given(Counter, anything)


def test_no_events_are_shown_as_nothing() -> None:
    with pytest.raises(AssertionError, match=r"\nexpected: nothing$"):
        given(Account, *PAST).when(Account.deposit, 5).then()
    with pytest.raises(AssertionError, match=r"^recorded: nothing\n"):
        given(Account, *PAST).when(lambda account: None).then(Deposited(amount=5))


def test_only_the_fields_that_differ_are_shown() -> None:
    with pytest.raises(AssertionError, match=r"^state is balance=75; expected balance=5$"):
        given(Account, *PAST).when(Account.withdraw, 5).then_state(owner="ann", balance=5)
    with pytest.raises(AttributeError, match="balence"):
        given(Account, *PAST).then_state(balence=80)


def test_an_event_that_is_decoded_to_another_value_fails() -> None:
    with pytest.raises(InvalidEvent, match=r"another value, at `\$.what`"):
        given(Counter).when(Counter.note_down, (1, 2)).then(Noted(what=(1, 2)))


class Listed(Event, tag="list.listed"):
    items: list[str]


class Lister(Aggregate, tag="list"):
    """Its state is the list of its first event, to which later events add."""

    items: list[str] = msgspec.field(default_factory=list)

    def add(self, item: str) -> int:
        self.record(Listed(items=[item]))
        return len(self.items)

    def apply_listed(self, event: Listed) -> None:
        if self.items:
            self.items += event.items
        else:
            self.items = event.items


def test_no_two_folds_share_a_list_of_an_event() -> None:
    past = given(Lister, Listed(items=["a"]))
    for _ in range(2):
        past.when(Lister.add, "b").then(Listed(items=["b"])).then_returns(2).then(Listed(items=["b"]))
    past.then_state(items=["a"])


def test_a_state_change_without_an_event_fails() -> None:
    with pytest.raises(
        AssertionError, match=r"lead to Counter\(total=0, .* not to Counter\(total=3, .*; change state only"
    ):
        given(Counter).when(Counter.count_unrecorded, 3).then()


def test_a_state_that_a_snapshot_leaves_out_fails() -> None:
    with pytest.raises(AssertionError, match=r"not restore Forgetful\(.*: Forgetful\.calls is restored"):
        given(Forgetful).when(Forgetful.count, 3).then(Counted(by=3))


class Restless(Forgetful, tag="restless"):
    @classmethod
    def from_snapshot(cls, id: str, state: int) -> Restless:
        restored = cls(id=id)
        restored.count(state)
        return restored


def test_a_snapshot_that_records_fails() -> None:
    with pytest.raises(AssertionError, match=r"Restless\.from_snapshot recorded events; record them only"):
        given(Restless).when(Restless.count, 3).then(Counted(by=3))


@pytest.mark.parametrize("what", [object(), 2**70, {1: {2}}, "\ud800", float])
def test_a_state_that_a_snapshot_cannot_hold_fails(what: Any) -> None:
    with pytest.raises(AssertionError, match="a snapshot does not restore"):
        given(Counter).when(Counter.keep, what).then()


class Line(msgspec.Struct):
    item: str
    count: int = 1


class Order(Aggregate, tag="order"):
    """Its state depends on whether a snapshot was used, in five ways."""

    by_item: dict[str, int] = {}  # noqa: RUF012  # msgspec copies it
    at: datetime | None = None
    ratio: float = 0.0
    lines: list[Line] = []  # noqa: RUF012
    current: Line | None = None

    def record_all(self, events: list[Listed]) -> None:
        for event in events:
            self.record(event)

    def listed(self, items: list[str]) -> None:
        self.record(Listed(items=items))

    def apply_listed(self, event: Listed) -> None:
        match event.items:
            case ["count", item]:
                self.by_item = self.by_item or defaultdict(int)
                self.by_item[item] += 1
            case ["open"]:
                self.at = datetime(2026, 6, 30, 22, 30, tzinfo=UTC).astimezone(ZoneInfo("Europe/Berlin"))
            case ["halve"]:
                self.ratio = 1 // 2
            case ["add", item]:
                self.current = Line(item)
                self.lines.append(self.current)
            case ["more"]:
                assert self.current
                self.current.count += 1
            case _:
                self.lines = [*self.lines, Line(event.items[0])]


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([["count", "a"], ["count", "b"]], r"Order\.by_item holds defaultdict"),
        ([["open"]], r"Order\.at holds a time that is restored in UTC"),
        ([["halve"]], r"Order\.ratio holds int, and is annotated with float"),
        ([["add", "pen"], ["more"]], "Line is one object at two places of the state"),
    ],
)
def test_a_state_that_a_snapshot_would_change_fails_as_past_and_as_outcome(events: list[list[str]], said: str) -> None:
    past = [Listed(items=items) for items in events]
    with pytest.raises(AssertionError, match=said):
        given(Order, *past)
    outcome = given(Order).when(Order.record_all, past)
    with pytest.raises(AssertionError, match=said):
        outcome.then(*past)


def test_a_state_that_a_snapshot_restores_exactly_passes() -> None:
    past = [Listed(items=[item]) for item in ("a", "b", "c")]
    given(Order, *past).when(Order.listed, ["d"]).then(Listed(items=["d"]))


class Impatient(Order, tag="impatient"):
    """Restores less than it had, where no comparison of one state sees it."""

    def to_snapshot(self) -> list[Line]:
        return self.lines

    @classmethod
    def from_snapshot(cls, id: str, state: list[Line]) -> Impatient:
        restored = cls(id=id)
        restored.lines = state
        return restored


def test_a_state_that_a_snapshot_of_its_own_leaves_out_fails_in_the_past() -> None:
    given(Impatient, Listed(items=["a"])).then_state(lines=[Line("a")])
    with pytest.raises(AssertionError, match=r"Impatient\.current is restored with another type or value"):
        given(Impatient, Listed(items=["add", "pen"]), Listed(items=["a"]))


def test_the_version_is_that_of_the_past() -> None:
    seen = given(Account, *PAST).then_state(version=2).when(lambda account: account.version)
    seen.then().then_returns(2).then_state(version=2)
    given(Account, *PAST).when(Account.deposit, 5).then(Deposited(amount=5)).then_state(version=2)
    given(Account).then_state(version=0)


def test_events_that_no_store_takes_fail() -> None:
    text = os.urandom(205_000).hex()
    with pytest.raises(CommitTooLarge, match="account-1"):
        given(Account, Opened(owner=text))
    half = text[: len(text) // 2]
    twice = given(Lister).when(lambda lister: [lister.add(half[1:]), lister.add(half)])
    with pytest.raises(CommitTooLarge, match="list-1"):  # they are one commit
        twice.then(Listed(items=[half[1:]]), Listed(items=[half]))
    given(Lister, Listed(items=[half[1:]]), Listed(items=[half]))


@pytest.mark.parametrize("name", ["count_later", "count_lazily", "count_later_and_lazily"])
def test_a_command_whose_body_has_not_run_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} returned .*; a command is a plain function"):
        given(Counter).when(getattr(Counter, name))


async def test_a_command_that_returns_a_future_is_refused() -> None:
    future = asyncio.get_running_loop().create_future()
    with pytest.raises(TypeError, match="Future"):
        given(Counter).when(lambda counter: future)
