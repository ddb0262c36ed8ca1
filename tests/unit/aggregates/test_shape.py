"""The shape of a state changes with the names, types and defaults in it, and only with them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Optional, TypedDict, Union

import msgspec
import pytest
from msgspec import NODEFAULT, Meta, Struct, defstruct
from support.bank import Account

from eventsrc import Aggregate
from eventsrc.aggregates.shape import shape_of

ROOT = Path(__file__).parents[3]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Line(Struct):
    text: str
    colour: Colour = Colour.RED


class Node(Struct):
    value: int
    children: list[Node] = []
    parent: Node | None = None


class Other(Struct):
    value: int
    children: list[Other] = []
    parent: Other | None = None


class Husband(Struct):
    wife: Wife | None = None


class Wife(Struct):
    husband: Husband | None = None
    age: int = 0


@dataclass
class Point:
    x: int
    y: int


class Pair(NamedTuple):
    x: int
    y: int


class Options(TypedDict):
    x: int
    y: int


class Money:
    """A type that msgspec does not know and that needs a hook."""


TYPES: list[Any] = [
    int, str, bytes, bool, float, None, Any, date, datetime, Decimal,
    list[int], list[str], tuple[int, ...], tuple[int, int], tuple[int, str], set[int], frozenset[int],
    dict[str, int], dict[str, str], dict[int, int], int | None, int | str, int | str | None,
    Literal["a"], Literal["a", "b"], Literal[1], Colour, Line, Node, Husband, Wife, Point, Pair, Options, Money,
    list[Line], dict[str, Line], Line | None, Annotated[int, Meta(gt=0)], Annotated[str, Meta(max_length=3)],
]  # fmt: skip


def state(**fields: Any) -> type[Struct]:
    return defstruct("State", [(name.rstrip("_"), kind) for name, kind in fields.items()], tag="state")


BASE = shape_of(state(owner=str, balance=int, lines=list[Line]))


def test_a_shape_is_16_hexadecimal_digits() -> None:
    assert len(bytes.fromhex(BASE)) == 8


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"holder": str, "balance": int, "lines": list[Line]}, id="renamed"),
        pytest.param({"owner": str, "balance": float, "lines": list[Line]}, id="retyped"),
        pytest.param({"owner": str | None, "balance": int, "lines": list[Line]}, id="made optional"),
        pytest.param({"owner": str, "balance": int, "lines": list[Line], "more": int}, id="added"),
        pytest.param({"owner": str, "balance": int}, id="removed"),
        pytest.param({"owner": str, "balance": int, "lines": list[Node]}, id="other elements"),
        pytest.param({"owner": str, "balance": int, "lines": set[str]}, id="other container"),
    ],
)
def test_a_shape_changes_with_every_field(fields: dict[str, Any]) -> None:
    assert shape_of(state(**fields)) != BASE


def test_a_shape_stays_when_the_class_is_renamed_or_moved() -> None:
    fields = [("owner", str), ("balance", int), ("lines", list[Line])]
    assert shape_of(defstruct("Renamed", fields, tag="state", module="elsewhere")) == BASE


def test_a_shape_changes_with_a_default() -> None:
    """A replay starts from the default, so an older snapshot holds another state than a replay returns."""

    def shape(balance: Any) -> str:
        return shape_of(defstruct("State", [("balance", Any, balance)]))

    assert shape(7) == shape(7)
    assert len({shape(each) for each in (NODEFAULT, 0, 7, None, "", (), object(), object)}) == 8


def test_a_shape_changes_with_a_nested_field() -> None:
    def nested(*fields: tuple[str, Any]) -> str:
        inner = defstruct("Inner", fields)
        return shape_of(state(pages=dict[str, list[tuple[inner, ...]]]))  # type: ignore[valid-type]

    shapes = {
        nested(("text", str)),
        nested(("body", str)),
        nested(("text", bytes)),
        nested(("text", str), ("colour", Colour)),
        nested(("text", str), ("colour", Literal["red"])),
    }
    assert len(shapes) == 5


def test_a_shape_changes_with_the_tag() -> None:
    fields = [("owner", str)]
    assert len({shape_of(defstruct("State", fields, tag=tag)) for tag in (None, "a", "b")}) == 3


def test_a_shape_changes_with_the_encoded_name() -> None:
    plain, renamed = defstruct("S", [("some_name", int)]), defstruct("S", [("some_name", int)], rename="camel")
    assert shape_of(plain) != shape_of(renamed)


def test_a_shape_changes_with_the_values_of_an_enum_but_not_their_names() -> None:
    one, renamed, more = Enum("E", {"A": "a"}), Enum("E", {"B": "a"}), Enum("E", {"A": "a", "B": "b"})
    assert shape_of(one) == shape_of(renamed) != shape_of(more)
    assert shape_of(Enum("E", {"A": 1})) != shape_of(Enum("E", {"A": "1"}))


def test_a_shape_changes_with_the_snapshot_version() -> None:
    assert len({shape_of(Line, version) for version in range(10)}) == 10


def test_types_that_encode_differently_have_different_shapes() -> None:
    shapes = {shape_of(kind): kind for kind in TYPES}
    assert len(shapes) == len(TYPES)


def test_two_ways_to_write_a_type_have_one_shape() -> None:
    assert shape_of(Optional[int]) == shape_of(int | None) == shape_of(Union[int, None])  # noqa: UP007, UP045


def test_recursive_types_have_shapes_that_distinguish_them() -> None:
    assert shape_of(Node) == shape_of(Other)  # they differ only in the name of the class
    assert shape_of(Husband) != shape_of(Wife)
    assert shape_of(Node) != shape_of(Line)


def test_an_aggregate_has_a_shape() -> None:
    class Sub(Account, tag="account"):
        pass

    assert shape_of(Account) == shape_of(Sub)
    assert shape_of(Account) != shape_of(Aggregate)


def test_a_shape_is_the_same_in_every_process() -> None:
    code = """
import sys
sys.path[:0] = ["tests", "tests/unit/aggregates"]
from test_shape import TYPES
from eventsrc.aggregates.shape import shape_of
print([shape_of(kind) for kind in TYPES])
"""
    shapes = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "42")
    }
    assert shapes == {f"{[shape_of(kind) for kind in TYPES]}\n"}


def test_a_renamed_field_would_decode_silently() -> None:
    """The reason for shapes: msgspec ignores the old name of a field as unknown."""
    before = defstruct("Before", [("balance", int, 0)])
    after = defstruct("After", [("total", int, 0)])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(before(balance=7)), type=after) == after(total=0)
