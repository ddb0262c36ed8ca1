"""Aggregates without a repository: record applies events, nothing else changes state, copies are refused."""

from __future__ import annotations

import copy
import pickle
from enum import Enum
from typing import Any

import msgspec
import pytest
from support.bank import Account, Deposited, InsufficientFunds, Opened, Withdrawn

from eventsrc import Aggregate, DeclarationError, Event, InvalidEvent, InvalidStreamId, UnhandledEvent, tag_of


class Moved(Event, tag="parcel.moved"):
    to: str


class Lost(Event, tag="parcel.lost"):
    pass


class Untagged(Event):
    pass


class Numbered(Event, tag=7):  # type: ignore[arg-type]
    pass


class Empty(Event, tag=""):
    pass


class Refused(Exception):
    pass


class Parcel(Aggregate, tag="parcel"):
    place: str = ""
    stops: list[str] = []  # noqa: RUF012  # msgspec gives every object a list of its own

    def move(self, to: str) -> None:
        self.record(Moved(to=to))

    def apply_moved(self, event: Moved) -> None:
        if not event.to:
            raise Refused
        self.place = event.to
        self.stops.append(event.to)


def test_a_new_aggregate_has_version_0_and_no_events() -> None:
    account = Account(id="a-1")
    assert (account.id, account.stream, account.version, account.uncommitted) == ("a-1", "account-a-1", 0, ())
    assert (account.owner, account.balance) == ("", 0)


def test_record_applies_events_in_order_without_committing_them() -> None:
    account = Account.open("a-1", owner="ann")
    assert account.deposit(5) == 5
    assert account.withdraw(2) == 3
    assert account.uncommitted == (Opened(owner="ann"), Deposited(amount=5), Withdrawn(amount=2))
    assert account.version == 0


def test_a_refused_command_changes_nothing() -> None:
    account = Account.open("a-1", owner="ann")
    before = account.uncommitted
    with pytest.raises(InsufficientFunds):
        account.withdraw(1)
    assert (account.uncommitted, account.balance) == (before, 0)


def test_an_event_whose_handler_raises_is_not_recorded() -> None:
    parcel = Parcel(id="p-1")
    with pytest.raises(Refused):
        parcel.move("")
    assert parcel.uncommitted == ()


@pytest.mark.parametrize("event", [Lost(), Untagged(), Opened(owner="ann")])
def test_an_event_without_handler_raises_an_error_that_names_it(event: Event) -> None:
    parcel = Parcel(id="p-1")
    with pytest.raises(UnhandledEvent, match=f"Parcel has no .* annotated with {type(event).__name__}") as raised:
        parcel.record(event)
    assert (raised.value.aggregate, raised.value.event) == ("Parcel", type(event).__name__)
    assert parcel.uncommitted == ()


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Moved, r"Parcel: the class Moved is not an event; write Moved\(\.\.\.\)$"),
        (Parcel, "Parcel: the class Parcel is not an event; give an object of a subclass of Event$"),
        (None, "Parcel: an object of type NoneType is not an event; give"),
        ({"to": "Rome"}, "Parcel: an object of type dict is not an event; give an object of a subclass of Event$"),
    ],
)
def test_only_events_can_be_recorded(event: Any, reason: str) -> None:
    parcel = Parcel(id="p-1")
    with pytest.raises(UnhandledEvent, match=reason) as raised:
        parcel.record(event)
    assert "Rome" not in str(raised.value)
    assert parcel.uncommitted == ()


def test_uncommitted_events_cannot_be_changed_from_outside() -> None:
    parcel = Parcel(id="p-1")
    parcel.move("Rome")
    assert isinstance(parcel.uncommitted, tuple)
    with pytest.raises(AttributeError):
        parcel.uncommitted = ()  # type: ignore[misc]
    with pytest.raises(AttributeError, match="immutable"):
        parcel.uncommitted[0].to = "Oslo"  # type: ignore[attr-defined]
    assert parcel.uncommitted == (Moved(to="Rome"),)


class Colour(Enum):
    RED = "red"


class Placed(Event, tag="basket.placed"):
    items: list[str]
    colour: Colour = Colour.RED


class Basket(Aggregate, tag="basket"):
    items: list[str] = msgspec.field(default_factory=list)
    colours: list[Colour] = msgspec.field(default_factory=list)

    def place(self, *items: str) -> list[str]:
        placing = list(items)
        self.record(Placed(items=placing))
        return placing

    def apply_placed(self, event: Placed) -> None:
        self.colours.append(event.colour)
        if self.items:
            self.items.extend(event.items)
        else:
            self.items = event.items  # the state and the event now share the list


def test_a_list_changed_after_record_does_not_change_the_event() -> None:
    basket = Basket(id="b-1")
    basket.place("pen").append("ink")
    basket.place("cup")
    assert basket.items == ["pen", "cup"]
    assert basket.uncommitted == (Placed(items=["pen"]), Placed(items=["cup"]))
    first = basket.uncommitted[0]
    assert isinstance(first, Placed)
    first.items.append("ink")
    assert basket.uncommitted[0] == Placed(items=["pen"])


@pytest.mark.parametrize("wrong", [{"colour": "red"}, {"items": ("pen",)}, {"items": {"pen"}}, {"items": "pen"}])
def test_a_value_of_another_type_is_refused_and_changes_nothing(wrong: dict[str, Any]) -> None:
    basket = Basket(id="b-1")
    with pytest.raises(InvalidEvent, match=next(iter(wrong))):
        basket.record(Placed(**{"items": ["pen"], **wrong}))
    assert (basket.items, basket.colours, basket.uncommitted) == ([], [], ())


def test_aggregates_do_not_share_mutable_defaults() -> None:
    one, other = Parcel(id="p-1"), Parcel(id="p-2")
    one.move("Rome")
    assert (one.stops, other.stops) == (["Rome"], [])


def test_a_misspelt_attribute_is_an_error() -> None:
    account = Account(id="a-1")
    with pytest.raises(AttributeError, match="balence"):
        account.balence = 5  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="balence"):
        _ = account.balence  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["version", "stream"])
def test_stream_and_version_cannot_be_assigned(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(Account(id="a-1"), name, 7)


def test_aggregates_cannot_be_copied_or_pickled() -> None:
    account = Account.open("a-1", owner="ann")
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="load it again"):
            attempt(account)


def test_events_can_be_compared_copied_and_pickled() -> None:
    event = Moved(to="Rome")
    assert copy.copy(event) == event == Moved(to="Rome") != Moved(to="Oslo")
    assert pickle.loads(pickle.dumps(event)) == event
    with pytest.raises(TypeError, match="to"):
        Moved()  # type: ignore[call-arg]


def test_tag_of_returns_the_stored_name_of_an_event() -> None:
    assert tag_of(Moved) == "parcel.moved"
    for thing in (Untagged, Numbered, Empty, Event, Parcel, int, 7, "parcel.moved", None):
        with pytest.raises(DeclarationError) as raised:
            tag_of(thing)
        assert raised.value.culprit == getattr(thing, "__qualname__", repr(thing))


@pytest.mark.parametrize("id", ["", " a", "a ", "a|b", "a\n", "x" * 2048, "a\ud800"])
def test_a_bad_id_is_refused_at_once(id: str) -> None:
    with pytest.raises(InvalidStreamId) as raised:
        Account(id=id)
    assert raised.value.id in (id, f"account-{id}")


@pytest.mark.parametrize("id", [7, None, b"a-1"])
def test_an_id_must_be_a_string(id: str) -> None:
    with pytest.raises(InvalidStreamId, match="string"):
        Account(id=id)


def test_an_aggregate_needs_its_id() -> None:
    with pytest.raises(TypeError, match="id"):
        Account()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Account("a-1")  # type: ignore[call-arg]


def test_the_base_class_cannot_be_used() -> None:
    with pytest.raises(DeclarationError, match="Aggregate"):
        Aggregate(id="a-1")
