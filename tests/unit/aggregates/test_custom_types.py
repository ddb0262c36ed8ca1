"""Types that users register with functions of their own: each value is read back exactly, or is refused."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from decimal import Decimal
from enum import Enum
from typing import Any, Generic, NamedTuple, TypeVar, cast
from uuid import UUID

import msgspec
import pytest
from support.field_types import declare, store

from eventsrc import (
    Aggregate,
    DeclarationError,
    Event,
    IdempotencyError,
    InvalidEvent,
    MemoryStore,
    Repository,
    SchemaMismatch,
    SnapshotPolicy,
    register_type,
)
from eventsrc.aggregates import custom_types
from eventsrc.aggregates.declaration import declaration_of
from eventsrc.aggregates.shape import shape_of
from eventsrc.processing import MemoryProjection, Processor
from eventsrc.publishing import PublishedEvent
from eventsrc.publishing.catalogue import Catalogue
from eventsrc.testing import given

T = TypeVar("T")


class Money:
    """An amount in a currency; hashable, so it may be a key."""

    def __init__(self, amount: Decimal, currency: str) -> None:
        self.amount, self.currency = amount, currency

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and (self.amount, self.currency) == (other.amount, other.currency)

    def __hash__(self) -> int:
        return hash((self.amount, self.currency))

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"

    @classmethod
    def parse(cls, text: str) -> Money:
        amount, currency = text.split()
        return cls(Decimal(amount), currency)


class Fee(Money):
    pass


def parse_fee(text: str) -> Fee:
    amount, currency = text.split()
    return Fee(Decimal(amount), currency)


class Bag:
    """Items that may change, compared by value."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bag) and self.items == other.items

    __hash__ = None  # type: ignore[assignment]


class Box(Generic[T]):
    def __init__(self, item: T) -> None:
        self.item = item

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and bool(self.item == other.item)

    __hash__ = None  # type: ignore[assignment]


class Point(NamedTuple):
    x: int


class Colour(Enum):
    RED = 1


@dataclass
class Line:
    x: int


@dataclass
class Varied:
    x: InitVar[int]


class Plain:
    pass


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_types, "_registered", {})
    register_type(Money, encode=str, decode=Money.parse)


EUR = Money(Decimal("1.50"), "EUR")
USD = Money(Decimal(2), "USD")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Money, EUR),
        (list[Money], [EUR, USD, EUR]),
        (dict[str, Money], {"a": EUR}),
        (dict[Money, int], {EUR: 1, USD: 2}),
        (set[Money], {EUR, USD}),
        (frozenset[Money], frozenset([EUR, USD])),
        (tuple[Money, str], (EUR, "a")),
        (dict[str, list[Money | None]], {"a": [None, EUR]}),
    ],
    ids=["alone", "list", "dict", "keys", "set", "frozenset", "tuple", "nested"],
)
def test_a_registered_type_is_stored_also_within_others(kind: Any, value: Any) -> None:
    found = store(kind, value)
    assert found == value
    assert type(found) is type(value)


def test_what_encode_returns_is_what_an_event_stores() -> None:
    holder = declare(Money)
    body, back = declaration_of(holder).codec.encode(holder.Put(value=EUR))
    assert msgspec.msgpack.decode(body)["value"] == "1.50 EUR"
    assert back.value == EUR  # type: ignore[attr-defined]
    assert back.value is not EUR  # type: ignore[attr-defined]


def test_a_generic_class_is_registered_for_all_its_parameters() -> None:
    register_type(Box, encode=lambda box: [box.item], decode=lambda stored: Box(stored[0]))
    assert store(Box[int], Box(7)) == Box(7)


def test_a_subclass_of_a_builtin_class_can_be_registered() -> None:
    class Name(str):
        __slots__ = ()

    register_type(Name, encode=str, decode=Name)
    assert type(store(Name, Name("ann"))) is Name


@pytest.mark.parametrize(
    "kind",
    [int, str, Decimal, UUID, list, Point, Colour, Line, msgspec.Struct, defaultdict, type("MyDict", (dict,), {})],
)
def test_a_type_that_is_stored_without_functions_is_refused(kind: Any) -> None:
    with pytest.raises(DeclarationError, match="is stored without functions of its own"):
        register_type(kind, encode=str, decode=kind)


@pytest.mark.parametrize(
    ("kind", "encode", "reason"),
    [
        ("Money", str, "is not a class"),
        (list[int], str, "is not a class"),
        (Money, "str", "is not a function"),
        (Plain, str, "has no __eq__"),
    ],
)
def test_a_wrong_registration_is_refused(kind: Any, encode: Any, reason: str) -> None:
    with pytest.raises(DeclarationError, match=reason):
        register_type(kind, encode=encode, decode=Money.parse)


def test_a_type_is_registered_once_but_a_module_may_run_again() -> None:
    register_type(Money, encode=str, decode=Money.parse)
    with pytest.raises(DeclarationError, match=r"Money: is registered already, with builtins\.str and .*Money\.parse"):
        register_type(Money, encode=repr, decode=Money.parse)


def test_a_field_of_a_type_that_is_not_registered_is_refused_by_name() -> None:
    for kind in (Plain, list[Plain], defaultdict):
        with pytest.raises(DeclarationError, match=r"Put\.value: holds (Plain|defaultdict), .*register_type"):
            declare(kind)(id="1")


def test_a_subclass_is_refused_unless_it_is_registered_itself() -> None:
    with pytest.raises(InvalidEvent, match="objects of type Fee"):
        store(Money, Fee(Decimal(1), "EUR"))
    register_type(Fee, encode=str, decode=parse_fee)
    with pytest.raises(InvalidEvent, match=r"another value, at `\$\.value`"):
        store(Money, Fee(Decimal(1), "EUR"))
    _replace(Fee, encode=str, decode=Money.parse)
    with pytest.raises(InvalidEvent, match="decode function of Fee returns an object of type Money - at"):
        store(Fee, Fee(Decimal(1), "EUR"))


def _replace(kind: Any, **functions: Callable[..., Any]) -> None:
    """Give a type other functions, as a cell does that is edited and run again."""
    functions = {"encode": read_items, "decode": Bag, **functions}
    custom_types._registered[kind] = custom_types.Converter(**functions)


def read_items(bag: Bag) -> list[Any]:
    return bag.items


def pop(bag: Bag) -> list[Any]:
    bag.items.pop()
    return bag.items


def sort(bag: Bag) -> list[Any]:
    bag.items.sort()
    return bag.items


def fail(value: Any) -> Any:
    raise KeyError("a secret of the value")


SHARED = Bag([])


def share(stored: list[Any]) -> Bag:
    SHARED.items = stored
    return SHARED


@pytest.mark.parametrize(
    ("functions", "reason"),
    [
        ({"encode": fail}, "the encode function of Bag raises KeyError, at `$.value`"),
        ({"encode": lambda bag: bag}, "the encode function of Bag returns an object of type Bag that cannot be stored"),
        ({"encode": lambda bag: [Plain()]}, "the encode function of Bag returns an object of type list that cannot"),
        ({"encode": lambda bag: {1: 2}}, "a map key is int, not a string, at $.value"),
        ({"encode": lambda bag: [float("nan")]}, "a number is not finite, at $.value"),
        ({"encode": lambda bag: 2**70}, "an integer needs more than 64 bits"),
        ({"encode": pop}, "the encode function of Bag changes the object, at `$.value`"),
        ({"encode": sort}, "the encode function of Bag changes the object"),
        ({"decode": fail}, "the decode function of Bag raises KeyError - at `$.value`"),
        ({"decode": lambda stored: stored}, "the decode function of Bag returns an object of type list - at"),
        ({"decode": share}, "the decode function of Bag returns one object for several values"),
        ({"decode": lambda stored: Bag(stored[:1])}, "it would be read back as another value, at `$.value`"),
        (
            {"decode": lambda stored: Bag(cast("Any", tuple(stored)))},
            "it would be read back as another value, at `$.value`",
        ),
    ],
)
def test_functions_that_do_not_keep_the_value_are_refused(functions: dict[str, Any], reason: str) -> None:
    _replace(Bag, **functions)
    holder = declare(Bag)
    aggregate = holder(id="1")
    with pytest.raises(InvalidEvent) as caught:
        aggregate.put(Bag([3, 2, 1]))
    assert reason in str(caught.value)
    assert "secret" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert aggregate.uncommitted == ()


def test_values_that_are_equal_but_stored_otherwise_are_refused() -> None:
    class Loose(Bag):
        def __eq__(self, other: object) -> bool:
            return True

    register_type(Loose, encode=lambda bag: bag.items, decode=lambda stored: Loose([]))
    with pytest.raises(InvalidEvent, match="read back as another value"):
        store(Loose, Loose([1]))


def test_encode_may_cache_in_a_new_attribute() -> None:
    def encode(bag: Bag) -> list[Any]:
        vars(bag)["cache"] = 1
        return bag.items

    register_type(Bag, encode=encode, decode=Bag)
    assert store(Bag, Bag([1])) == Bag([1])


class Paid(Event, tag="paid"):
    price: Money


class Wallet(Aggregate, tag="wallet"):
    prices: list[Money] = msgspec.field(default_factory=list)
    last: Money | None = None

    def pay(self, price: Money) -> int:
        self.record(Paid(price=price))
        return len(self.prices)

    def apply_paid(self, event: Paid) -> None:
        self.last = event.price
        self.prices.append(event.price)


async def save_one(store: MemoryStore) -> Repository[Wallet]:
    wallets = Repository(Wallet, store, snapshots=SnapshotPolicy(inline=True, floor=0))
    wallet = Wallet(id="w-1")
    wallet.pay(EUR)
    await wallets.save(wallet)
    return wallets


class Total(MemoryProjection, tag="total"):
    version = 1

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Money] = []

    def handle_paid(self, event: Paid) -> None:
        self.seen.append(event.price)


async def test_execute_snapshots_projections_and_the_test_kit_use_the_functions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with MemoryStore() as store:
        wallets = await save_one(store)
        for count in range(2, 9):
            assert await wallets.execute("w-1", Wallet.pay, EUR) == count
        snapshot, commits = await store.load("wallet-w-1")
        assert snapshot is not None
        assert len(commits) < 8
        assert (await wallets.load("w-1")).prices == [EUR] * 8
        assert wallets.cache_use.hits == 6
        total = Total()
        await Processor(total, store).run(until_caught_up=True)
        assert total.seen == [EUR] * 8
    given(Wallet, Paid(price=USD)).when(Wallet.pay, EUR).then(Paid(price=EUR)).then_state(last=EUR)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_value_that_no_longer_decodes_names_the_stream_and_the_version() -> None:
    async with MemoryStore() as store:
        await save_one(store)
        _replace(Money, encode=str, decode=fail)
        with pytest.raises(SchemaMismatch, match=r"decode function of Money raises KeyError") as caught:
            await Repository(Wallet, store).load("w-1")
        assert (caught.value.stream, caught.value.version, caught.value.event) == ("wallet-w-1", 1, "paid")
        assert "secret" not in str(caught.value)


async def test_a_state_that_the_functions_do_not_keep_is_not_remembered(caplog: pytest.LogCaptureFixture) -> None:
    class Filled(Event, tag="filled"):
        items: list[int]

    class Shelf(Aggregate, tag="shelf"):
        bags: list[Bag] = msgspec.field(default_factory=list)

        def fill(self, items: list[int]) -> None:
            self.record(Filled(items=items))

        def apply_filled(self, event: Filled) -> None:
            bag = Bag(event.items)
            self.bags += [bag, bag]

    Shelf.apply_filled.__annotations__["event"] = Filled
    register_type(Bag, encode=lambda bag: bag.items, decode=Bag)
    with pytest.raises(AssertionError, match=r"Shelf\.bags is one object at two places"):
        given(Shelf).when(Shelf.fill, [1]).then(Filled(items=[1]))
    async with MemoryStore() as store:
        shelves, shelf = Repository(Shelf, store), Shelf(id="s-1")
        shelf.fill([1])
        await shelves.save(shelf)
        await shelves.execute("s-1", Shelf.fill, [2])
    assert "Shelf.bags is one object at two places of the state" in caplog.text


async def test_the_content_of_a_registered_type_counts_for_a_command_id() -> None:
    async with MemoryStore() as store:
        wallets = await save_one(store)
        await wallets.execute("w-1", Wallet.pay, EUR, command_id="c-1")
        await wallets.execute("w-1", Wallet.pay, Money.parse("1.50 EUR"), command_id="c-1")
        with pytest.raises(IdempotencyError):
            await wallets.execute("w-1", Wallet.pay, USD, command_id="c-1")


def test_the_shape_changes_with_the_functions() -> None:
    before = shape_of(Wallet)
    _replace(Money, encode=repr, decode=Money.parse)
    assert shape_of(Wallet) != before
    custom_types._registered.pop(Money)
    register_type(Money, encode=str, decode=Money.parse)
    assert shape_of(Wallet) == before


async def test_a_published_event_shows_what_is_stored() -> None:
    async with MemoryStore() as store:
        await save_one(store)
        catalogue = Catalogue([PublishedEvent(Paid, type="paid")], (), "/wallets", tracing=False)
        [(_, _, body)] = catalogue.encode((await store.load("wallet-w-1"))[1][0])
        assert msgspec.json.decode(body)["data"] == {"price": "1.50 EUR"}
