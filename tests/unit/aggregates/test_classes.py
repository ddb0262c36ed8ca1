"""Dataclasses, attrs classes and Structs as types of fields: each object is read back exactly, or is refused."""

from __future__ import annotations

import dataclasses
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import attrs
import msgspec
import pytest
from support.field_types import declare, store

from eventsrc import DeclarationError, InvalidEvent

T = TypeVar("T")


@dataclass
class Line:
    sku: str
    count: int = 1
    _note: str = ""
    tags: list[str] = field(default_factory=list)
    total: int = field(init=False, default=0)
    known: ClassVar[int] = 5


@dataclass
class LongLine(Line):
    length: int = 0


@dataclass
class SameLine(Line):
    """Has no field that its base does not have."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Slotted:
    number: int
    text: str = "a"


@dataclass(eq=False)
class Identical:
    number: int


@dataclass
class Generically(Generic[T]):
    item: T


@dataclass(frozen=True)
class Lazy:
    number: int

    @cached_property
    def half(self) -> float:
        return self.number / 2

    @cached_property
    def unstorable(self) -> object:
        return object()


@dataclass
class LazyAndChangeable:
    number: int

    @cached_property
    def half(self) -> float:
        return self.number / 2


@dataclass
class Growing:
    number: int

    def __post_init__(self) -> None:
        self.number += 1


@dataclass
class Derived:
    number: int
    double: int = field(init=False)

    def __post_init__(self) -> None:
        self.double = 2 * self.number


@dataclass
class Initial:
    number: InitVar[int]


@attrs.define
class Wide:
    number: int = attrs.field(converter=int)
    tags: list[str] = attrs.field(factory=list)
    positive: int = attrs.field(default=1, validator=attrs.validators.gt(0))
    later: int = attrs.field(default=7, init=False)


@attrs.define
class Wider(Wide):
    width: int = 0


@attrs.frozen(kw_only=True)
class Frozen:
    number: int


@attrs.define(slots=False)
class Loose:
    number: int
    unseen: int = attrs.field(default=0, eq=False)


@attrs.define
class Incremented:
    number: int

    def __attrs_post_init__(self) -> None:
        self.number += 1


@attrs.define
class Hidden:
    number: int
    _hidden: int = 0


@attrs.define
class SelfMade:
    number: int
    double: int = attrs.field(default=attrs.Factory(lambda self: 2 * self.number, takes_self=True))


class Plate(msgspec.Struct):
    number: int


class DeepPlate(Plate):
    depth: int = 0


@attrs.define(eq=False)
class Shared:
    number: int


def with_attributes(value: Any, **attributes: Any) -> Any:
    for name, each in attributes.items():
        setattr(value, name, each)
    return value


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Line, Line("a", 2, "note", ["b"])),
        (Line, with_attributes(Line("a"), total=9)),
        (Slotted, Slotted(number=1)),
        (Generically[int], Generically(1)),
        (Generically[Line], Generically(Line("a"))),
        (Lazy, Lazy(3)),
        (Derived, Derived(3)),
        (Derived, with_attributes(Derived(3), double=6)),
        (Wide, Wide("1", ["a"])),
        (Wide, with_attributes(Wide(1), later=8)),
        (Wider, Wider(1, width=3)),
        (Frozen, Frozen(number=1)),
        (Loose, Loose(1, unseen=2)),
        (list[Line], [Line("a"), Line("a")]),
        (LongLine, LongLine("a", length=3)),
    ],
)
def test_an_object_is_read_back_with_all_its_fields(kind: Any, value: Any) -> None:
    found = store(kind, value)
    assert type(found) is type(value)
    if not isinstance(found, list):
        fields = dataclasses.fields(found) if dataclasses.is_dataclass(found) else attrs.fields(type(found))
        assert all(getattr(found, each.name) == getattr(value, each.name) for each in fields)


def test_objects_without_an_eq_are_compared_by_their_fields() -> None:
    assert declare(Identical)(id="1").put(Identical(1)) is None
    assert declare(Shared)(id="1").put(Shared(1)) is None


@pytest.mark.parametrize(
    ("kind", "value", "place"),
    [
        (Line, LongLine("a", length=3), "$.value"),
        (Line, SameLine("a"), "$.value"),
        (list[Line], [LongLine("a")], "$.value[...]"),
        (Generically[Line], Generically(SameLine("a")), "$.value.item"),
        (Plate, DeepPlate(1, 2), "$.value"),
        (Wide, Wider(1), "$.value"),
        (Line, with_attributes(Line("a"), extra=1), "$.value"),
        (Loose, with_attributes(Loose(1), extra=1), "$.value"),
        (Growing, Growing(1), "$.value.number"),
        (Incremented, Incremented(1), "$.value.number"),
        (Derived, with_attributes(Derived(3), double=7), "$.value.double"),
    ],
)
def test_an_object_that_would_be_read_back_changed_is_refused(kind: Any, value: Any, place: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        declare(kind)(id="1").put(value)
    assert f"it would be read back as another value, at `{place}`" in str(caught.value)


def test_a_validator_of_attrs_runs_when_an_event_is_recorded() -> None:
    with attrs.validators.disabled():
        wide = Wide(1, positive=-5)
    with pytest.raises(InvalidEvent, match="its own check raises ValueError"):
        declare(Wide)(id="1").put(wide)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Initial, "InitVar"),
        (Hidden, r"Put\.value: _hidden: is not stored"),
        (list[Hidden], "is not stored"),
        (SelfMade, "takes_self"),
    ],
)
def test_a_class_that_cannot_be_restored_is_refused_when_declared(kind: Any, reason: str) -> None:
    with pytest.raises(DeclarationError, match=reason):
        declare(kind)(id="1")


def test_a_cached_property_is_computed_again() -> None:
    lazy = Lazy(3)
    assert lazy.half == 1.5
    assert lazy.unstorable is not None
    assert store(Lazy, lazy) == lazy
    assert vars(store(Lazy, lazy)) == {"number": 3}


def test_a_state_keeps_no_cached_property_that_may_be_outdated() -> None:
    lazy = LazyAndChangeable(3)
    assert lazy.half == 1.5
    holder = declare(LazyAndChangeable)
    aggregate = holder(id="1")
    aggregate.put(lazy)
    assert vars(aggregate.value) == {"number": 3}


@pytest.mark.parametrize(
    ("kind", "default", "is_refused"),
    [
        (Frozen, Frozen(number=1), False),
        (Slotted, Slotted(number=1), False),
        (Shared, Shared(1), True),
        (Identical, Identical(1), True),
        (Wide, Wide(1), True),
    ],
)
def test_a_default_object_that_may_change_is_refused(kind: Any, default: Any, is_refused: bool) -> None:
    holder = declare(kind)
    struct = msgspec.defstruct("Defaulted", [("value", kind, default)])
    if is_refused:
        with pytest.raises(DeclarationError, match=r"Defaulted\.value: has a mutable default"):
            declare(struct)(id="1")
    else:
        assert store(struct, struct()).value == default
    assert holder(id="1").value is None
