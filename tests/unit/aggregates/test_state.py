"""The types that a state may have, and the values that are restored exactly: same types, same values, a tree."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.inspect import type_info

from eventsrc import Aggregate, DeclarationError, Event
from eventsrc.aggregates.differences import find_difference
from eventsrc.aggregates.state import Inexact, StateType

T = TypeVar("T")
BERLIN = ZoneInfo("Europe/Berlin")
SHARED: list[str] = []


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


class Access(Flag):
    READ = 1
    WRITE = 2


class Line(msgspec.Struct):
    sku: str
    count: int = 1


class Cent(msgspec.Struct, frozen=True):
    amount: int


class Token(msgspec.Struct, frozen=True, eq=False):
    """Equal only to itself."""

    name: str


class Box(msgspec.Struct, Generic[T]):
    item: T | None = None


class Node(msgspec.Struct, tag=True):
    children: list[Node] = []
    parents: dict[str, Node] = {}


class Sparse(msgspec.Struct, omit_defaults=True, array_like=False):
    """Does not store a value that is the default."""

    real: float = 0.0
    whole: int = 0
    exact: Decimal = Decimal(0)
    items: list[int] = []
    pair: tuple[int, ...] = ()


class Leaf(msgspec.Struct, tag=True):
    of: str


@dataclass
class Point:
    x: float
    y: float = 0.0


class Pair(NamedTuple):
    name: str
    lines: list[Line]


class Options(TypedDict):
    size: int
    inner: NotRequired[Options]


ALLOWED: dict[str, Any] = {
    "none": None,
    "leaf": bool | int | float | str | None,
    "bytes": bytes | None,
    "buffer": bytearray,
    "uuid": UUID,
    "decimal": Decimal | float | int,
    "day": date,
    "gap": timedelta,
    "moment": datetime | None,
    "time": time,
    "colour": Colour,
    "level": Level,
    "access": Access,
    "chosen": Literal["a", "b", 1, None],
    "list": list[int | str],
    "nested": dict[str, list[dict[int, tuple[int, ...]]]],
    "sets": frozenset[tuple[int, str]] | None,
    "tuple": tuple[int, Line, list[str]],
    "keys": dict[tuple[int, str] | None, set[UUID]],
    "lines": dict[UUID, Line],
    "annotated": Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=9)],
    "sequence": Sequence[Cent],
    "mapping": Mapping[Cent, Token],
    "tree": Node | Leaf,
    "box": Box[Point],
    "pair": Pair,
    "options": Options,
    "points": list[Point],
    "sparse": Sparse,
}


def state_type(kind: Any) -> StateType:
    return StateType(type_info(kind), "State.field")


def restore(kind: Any, value: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)


INTEGERS = st.integers(-(2**63), 2**64 - 1)
TIMES: Any = st.sampled_from([None, UTC, BERLIN, timezone(timedelta(hours=2)), timezone(timedelta(0), "Z")])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
HASHABLE = st.one_of(
    st.none(),
    st.booleans(),
    INTEGERS,
    st.floats(),
    TEXTS,
    st.binary(max_size=3),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.dates(),
    st.timedeltas(),
    st.datetimes(datetime(1, 1, 3), datetime(9998, 1, 1), timezones=TIMES, allow_imaginary=True),  # noqa: DTZ001  # bounds
    st.times(timezones=TIMES),
    st.sampled_from([*Colour, *Level, *Access, Access.READ | Access.WRITE, "a", "b", 1]),
    st.builds(Cent, amount=INTEGERS),
    st.tuples(st.integers(0, 3), TEXTS),
)
SHARED_LINE = Line("shared")
LINES = st.builds(Line, sku=TEXTS, count=st.integers() | st.booleans()) | st.just(SHARED_LINE)
POINTS = st.builds(Point, x=st.floats(), y=st.floats() | st.integers(0, 3))
VALUES = st.recursive(
    HASHABLE | LINES | POINTS | st.decimals() | st.builds(bytearray),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(HASHABLE, max_size=3),
        st.sets(HASHABLE, max_size=3),
        st.dictionaries(HASHABLE, inner, max_size=3),
        st.dictionaries(TEXTS, st.integers(), max_size=3).map(lambda it: defaultdict(int, it)),
        st.builds(Node, children=st.lists(inner, max_size=2)),
        st.builds(Box, item=inner),
        st.builds(Sparse, real=inner, whole=inner, exact=inner, items=inner, pair=inner),
        st.builds(Pair, name=TEXTS, lines=st.lists(LINES, max_size=3)),
        st.fixed_dictionaries({"size": st.integers(0, 3)}, optional={"inner": inner, "other": inner}),
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.sampled_from([*ALLOWED]), st.data())
def test_every_state_that_passes_is_restored_exactly(name: str, data: st.DataObject) -> None:
    """Of any value, be it of the annotated type or not: it is refused, or cannot be encoded, or is restored exactly."""
    kind = ALLOWED[name]
    value = data.draw(VALUES if name in ("none", "tree", "options", "box") else VALUES | st.from_type(kind))
    try:
        state_type(kind).check(value)
        body = msgspec.msgpack.encode(value)
    except (Inexact, TypeError, ValueError, OverflowError, UnicodeError):
        return
    try:
        restored = msgspec.msgpack.decode(body, type=kind)
    except msgspec.ValidationError:
        return  # beyond the limits of an annotation: such a state is not used
    assert find_difference(value, restored) is None, (value, restored)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("leaf", math.nan),
        ("decimal", Decimal("sNaN")),
        ("moment", datetime(2026, 1, 1, tzinfo=UTC)),
        ("moment", datetime.fromisoformat("2026-10-25T02:30")),
        ("access", Access.READ | Access.WRITE),
        ("nested", {"a": [{1: (1, 2), 2: ()}], "b": []}),
        ("tuple", (1, Line("a"), ["b"])),
        ("keys", {(1, "a"): {UUID(int=1)}, None: set()}),
        ("lines", {UUID(int=number): Line("a", number) for number in range(50)}),
        ("sequence", [Cent(1)] * 3),
        ("mapping", {Cent(1): Token("a"), Cent(2): Token("b")}),
        ("tree", Node([Node(), Node([Node()])], {"a": Node()})),
        ("tree", Leaf("a")),
        ("box", Box(Point(1.0))),
        ("pair", Pair("a", [Line("a"), Line("b")])),
        ("options", {"size": 1, "inner": {"size": 2}}),
        ("sparse", Sparse(-0.0, 0, Decimal("-0.00"))),
    ],
)
def test_exact_states_pass(name: str, value: Any) -> None:
    state_type(ALLOWED[name]).check(value)
    assert find_difference(value, restore(ALLOWED[name], value)) is None


LINE, TOKEN, LIST, NUMBERS = Line("a"), Token("a"), [Line("a")], {1}
CYCLE = Node()
CYCLE.children.append(CYCLE)
POINT: Any = Point(1.0)
POINT.label = "not a field"
OTHER: Any = {}


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (int, True, "holds bool, and is annotated with int"),
        (float, 1, "holds int"),
        (str, Colour.RED, "holds Colour"),
        (int, Level.LOW, "holds Level"),
        (list[str | int], ["a", 1, None], "holds NoneType, and is annotated with int and str"),
        (dict[str, int], defaultdict(int), "holds defaultdict"),
        (Mapping[str, int], Counter("a"), "holds Counter"),
        (dict[str, int], OrderedDict(), "holds OrderedDict"),
        (Sequence[int], (1, 2), "holds tuple, and is annotated with list"),
        (list[int], deque([1]), "holds deque"),
        (dict[str, list[int]], {"a": [1], "b": [1, 2.0]}, "holds float"),
        (dict[str, int], {"a": 1, 2: 2}, "holds int, and is annotated with str"),
        (list[Line], [Line("a"), Line("b", count=OTHER)], r"Line\.count holds dict"),
        (Line, type("Priced", (Line,), {})("a"), "holds Priced"),
        (tuple[int, int], (1, 2, 3), "another length; store 2 items"),
        (tuple[int, str], (1, 2), "holds int"),
        (datetime, datetime(2026, 6, 30, 22, 30, tzinfo=BERLIN), "restored in UTC"),
        (datetime, datetime(2026, 6, 30, tzinfo=ZoneInfo("UTC")), "restored in UTC"),
        (datetime | None, datetime(2026, 10, 25, 1, 30, tzinfo=UTC, fold=1), "without its zone or fold"),
        (time | None, time(1, 30, tzinfo=UTC, fold=1), "without its zone or fold"),
        (datetime | None, datetime.fromisoformat("2026-10-25T02:30").replace(fold=1), "without its zone or fold"),
        (list[time], [time(1), time(1, tzinfo=BERLIN)], "without its zone"),
        (tuple[Line, Line], (LINE, LINE), "Line is one object at two places"),
        (list[list[Line]], [LIST, LIST], "is one object at two places"),
        (dict[str, set[int]], dict.fromkeys("ab", NUMBERS), "is one object at two places"),
        (tuple[Token, Token], (TOKEN, TOKEN), "Token is one object at two places"),
        (dict[str, tuple[Pair, ...]], {"a": (Pair("a", LIST), Pair("b", LIST))}, "at two places"),
        (tuple[bytearray, ...], (bytearray(),) * 2, "at two places"),
        (Node, CYCLE, "Node is one object at two places"),
        (list[Point], [POINT], "Point has an attribute that is not a field"),
        (Options, {"size": 1, "colour": 2}, "Options has other keys"),
        (Options, {}, "Options has other keys"),
        (Options, {"size": 1, "inner": {"size": "2"}}, r"Options\['size'\] holds str"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_states_that_would_be_restored_changed_are_refused(kind: Any, value: Any, said: str) -> None:
    with pytest.raises(Inexact, match=said):
        state_type(kind).check(value)


class Loose(msgspec.Struct, dict=True):
    name: str = ""


class Extra(msgspec.Struct):
    facts: dict[str, object] = {}


class Done(Event, tag="state.done"):
    pass


def declare(kind: Any, default: Any = None) -> None:
    """Declare an aggregate with a field of this type, and use it."""
    made: Any = msgspec.field(default_factory=default or list)
    namespace = {"__annotations__": {"field": kind}, "field": made, "apply_done": apply_done, "__module__": __name__}
    type("State", (Aggregate,), namespace, tag="state")(id="1")


def apply_done(self: Aggregate, event: Done) -> None: ...


@pytest.mark.parametrize(
    ("kind", "culprit", "said"),
    [
        (Any, "State.field", "may hold values of any type"),
        (object, "State.field", "holds object"),
        (list, "State.field", r"annotate all types, such as dict\[str, int\]"),
        (dict, "State.field", "any type"),
        (set, "State.field", "any type"),
        (tuple, "State.field", "any type"),
        (dict[str, Any], "State.field", "any type"),
        (list[dict[str, list[Any]]] | None, "State.field", "any type"),
        (Mapping[str, Any], "State.field", "any type"),
        (Box, "Box.item", "any type"),
        (dict[str, Extra], "Extra.facts", "holds object"),
        (defaultdict[str, int], "State.field", "holds defaultdict, .*; use dict, or override to_snapshot"),
        (Counter[str], "State.field", "holds Counter, .*; use dict"),
        (deque[int], "State.field", "use list"),
        (Iterable[int], "State.field", "use list"),
        (memoryview, "State.field", "holds MemoryView"),
        (msgspec.Raw, "State.field", "holds Raw"),
        (ZoneInfo, "State.field", "holds ZoneInfo"),
        (list[Loose], "Loose", "remove dict=True"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_types_that_are_not_restored_exactly_are_refused_at_declaration(kind: Any, culprit: str, said: str) -> None:
    with pytest.raises(DeclarationError, match=said) as raised:
        declare(kind)
    assert raised.value.culprit == culprit


class Frozen(msgspec.Struct, frozen=True):
    items: list[str] = msgspec.field(default_factory=list)


@dataclass(frozen=True)
class FrozenPoint:
    items: tuple[list[int], ...] = ()


class Named(NamedTuple):
    items: list[str] = []  # noqa: RUF012  # the fault


@dataclass
class Holder:
    frozen: Frozen = field(default=Frozen())


class Given(Event, tag="state.given"):
    frozen: Frozen = Frozen()


class Initial(Aggregate, tag="initial"):
    """Starts from its own values."""

    line: Line = msgspec.field(default_factory=lambda: Line("a"))
    token: Cent = Cent(1)
    pair: tuple[int, tuple[str, ...]] = (1, ("a",))
    chosen: frozenset[Cent] = frozenset({Cent(1)})
    point: FrozenPoint = FrozenPoint()
    lines: list[Line] = []  # noqa: RUF012  # msgspec copies it

    def apply_done(self, event: Done) -> None: ...


def test_defaults_of_values_that_cannot_be_changed_may_be_shared() -> None:
    assert Initial(id="1").line is not Initial(id="2").line
    assert Initial(id="1").token is Initial(id="2").token


def aggregate(**members: Any) -> type[Aggregate]:
    annotations = {name: kind for name, (kind, _) in members.items()}
    defaults = {name: default for name, (_, default) in members.items()}
    namespace = {"__annotations__": annotations, **defaults, "apply_done": apply_done, "__module__": __name__}
    return type("State", (Aggregate,), namespace, tag="state")


def apply_given(self: Aggregate, event: Given) -> None: ...


@pytest.mark.parametrize(
    ("culprit", "members"),
    [
        ("State.field", {"field": (Frozen, Frozen())}),
        ("State.field", {"field": (FrozenPoint, FrozenPoint(([1],)))}),
        ("State.field", {"field": (tuple[list[int], ...], ([],))}),
        ("State.field", {"field": (Pair, Pair("a", []))}),
        ("State.field", {"field": (list[str], msgspec.field(default_factory=lambda: SHARED))}),
        ("Named.items", {"field": (list[Named], msgspec.field(default_factory=list))}),
        ("Holder.frozen", {"field": (dict[str, Holder], msgspec.field(default_factory=dict))}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_default_that_objects_would_share_is_refused(culprit: str, members: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match="a mutable default that all objects would share") as raised:
        aggregate(**members)(id="1")
    assert raised.value.culprit == culprit


class Receiver(Aggregate, tag="receiver"):
    def apply_given(self, event: Given) -> None: ...


def test_a_default_that_events_would_share_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"Given\.frozen: has a mutable default"):
        Receiver(id="1")


@pytest.mark.parametrize(
    ("kind", "default", "said"),
    [
        (dict[str, int], msgspec.field(default_factory=lambda: defaultdict(int)), "its default holds defaultdict"),
        (float, 0, "its default holds int, and is annotated with float"),
        (str, None, "its default holds NoneType"),
        (datetime, datetime(2026, 1, 1, tzinfo=BERLIN), "its default holds a time"),
        (UUID, msgspec.field(default_factory=uuid4), "has another default each time"),
        (datetime, msgspec.field(default_factory=lambda: datetime.now(UTC)), "set it in a handler"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_default_that_is_not_restored_exactly_is_refused(kind: Any, default: Any, said: str) -> None:
    with pytest.raises(DeclarationError, match=rf"State\.field: {said}" if said.startswith("its") else said):
        aggregate(field=(kind, default))(id="1")
