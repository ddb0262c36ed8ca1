"""Payloads: their bytes, damage to them, and events that could not be read back."""

from __future__ import annotations

import enum
import os
import traceback
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypedDict
from uuid import UUID
from zlib import crc32

import lz4.block
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventsrc import (
    Commit,
    CorruptPayload,
    Event,
    InvalidEvent,
    PayloadTooLarge,
    SchemaMismatch,
    StoredDataError,
    UnknownEventType,
    tag_of,
)
from eventsrc.aggregates.codec import Codec, join, pack, unpack
from eventsrc.aggregates.declaration import collect_upcasters
from eventsrc.aggregates.event_reader import EventReader
from eventsrc.aggregates.event_values import may_be_unstorable
from eventsrc.aggregates.expansion import MAX_EXPANDED

SECRET = "secret-4711"


class Moved(Event, tag="moved"):
    place: str
    steps: int = 0


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(msgspec.Struct):
    x: int
    label: str | None = None


class Tree(msgspec.Struct):
    child: Tree | None = None


class Rich(Event, tag="rich"):
    text: str
    number: int
    real: float
    raw: bytes
    flag: bool
    exact: Decimal
    at: datetime
    key: UUID
    day: date
    numbers: list[int]
    named: dict[str, Point]
    pair: tuple[int, str]
    either: int | str | None
    colour: Colour
    chosen: Literal["a", "b"]
    members: frozenset[int]


class Loose(Event, tag="loose"):
    anything: Any = None
    reals: list[float] = []  # noqa: RUF012  # msgspec copies it
    by_number: dict[int, str] = {}  # noqa: RUF012
    tree: Tree | None = None
    colour: Colour = Colour.RED
    chosen: Literal["a", "b"] = "a"


class Sample(msgspec.Struct):
    reading: float = 0.0
    parts: list[Any] = []


class Measured(Event, tag="measured"):
    sample: Sample = msgspec.field(default_factory=Sample)
    by_colour: dict[Colour, int] = {}  # noqa: RUF012
    by_key: dict[UUID, int] = {}  # noqa: RUF012
    by_day: dict[date, int] = {}  # noqa: RUF012
    by_choice: dict[Literal["a", "b"], int] = {}  # noqa: RUF012
    at: datetime | None = None


class MovedLater(Event, tag="moved.2"):
    place: str
    paces: int


def in_paces(old: Moved) -> MovedLater:
    return MovedLater(place=old.place, paces=old.steps * 2)


def in_turn(old: Moved) -> list[MovedLater]:
    return [MovedLater(place=old.place, paces=number) for number in range(old.steps)]


codec = Codec([Moved, Rich, Loose, Measured], {})


def stored(body: bytes) -> bytes:
    return pack(body, "s-1", 1)


def encoded(events: Sequence[Event], codec: Codec = codec) -> bytes:
    return join([codec.encode(event)[0] for event in events])


def decode(payload: bytes) -> list[Event]:
    return codec.decode(payload, "s-1", 1)


def commits(*payloads: bytes) -> list[Commit]:
    return [
        Commit(stream="s-1", version=version, id=bytes(16), time=0, events=1, tags=(), payload=payload)
        for version, payload in enumerate(payloads, 1)
    ]


# --- the format


def test_a_plain_payload_byte_for_byte() -> None:
    body = encoded([Moved(place="here", steps=3)])
    assert body == msgspec.msgpack.encode([{"$": "moved", "place": "here", "steps": 3}])
    payload = stored(body)
    assert payload[:1] == b"\x01"
    assert payload[1:-4] == body
    assert int.from_bytes(payload[-4:], "little") == crc32(payload[:-4]) ^ 0x6DD90A9D
    assert crc32(payload) == crc32(payload * 3) == 0


def test_a_compressed_payload_byte_for_byte() -> None:
    body = encoded([Moved(place="far " * 100)])
    payload = stored(body)
    assert payload[:1] == b"\x02"
    assert lz4.block.decompress(payload[1:-4]) == body
    assert int.from_bytes(payload[-4:], "little") == crc32(payload[:-4]) ^ 0xFFFFFFFF
    assert len(payload) < len(body) / 4
    assert decode(payload) == [Moved(place="far " * 100)]


def test_a_body_that_does_not_shrink_is_not_compressed() -> None:
    body = msgspec.msgpack.encode(os.urandom(5000))
    assert stored(body)[:1] == b"\x01"
    assert len(stored(body)) == len(body) + 5


@settings(deadline=None, max_examples=150)
@given(
    st.builds(
        Rich,
        text=st.text(),
        number=st.integers(-(2**63), 2**63 - 1),
        real=st.floats(allow_nan=False, allow_infinity=False),
        raw=st.binary(),
        flag=st.booleans(),
        exact=st.decimals(allow_nan=False, allow_infinity=False),
        at=st.datetimes(timezones=st.just(UTC)),
        key=st.uuids(),
        day=st.dates(),
        numbers=st.lists(st.integers(-(2**63), 2**63 - 1)),
        named=st.dictionaries(st.text(), st.builds(Point, x=st.integers(0, 9), label=st.none() | st.text())),
        pair=st.tuples(st.integers(0, 9), st.text()),
        either=st.none() | st.integers(0, 9) | st.text(),
        colour=st.sampled_from(Colour),
        chosen=st.sampled_from(["a", "b"]),
        members=st.frozensets(st.integers(0, 9)),
    )
)
def test_decoded_events_equal_the_encoded_ones(event: Rich) -> None:
    assert decode(stored(encoded([event, event]))) == [event, event]


# --- damage


PLAIN = stored(encoded([Moved(place="here")]))
PACKED = stored(encoded([Moved(place="far " * 100)]))


@pytest.mark.parametrize("payload", [PLAIN, PACKED], ids=["plain", "packed"])
def test_every_flipped_bit_and_every_truncation_is_detected(payload: bytes) -> None:
    damaged = [payload[:end] for end in range(len(payload))]
    for position in range(len(payload) * 8):
        flipped = bytearray(payload)
        flipped[position // 8] ^= 1 << position % 8
        damaged.append(bytes(flipped))
    for each in damaged:
        with pytest.raises(CorruptPayload) as raised:
            decode(each)
        assert (raised.value.stream, raised.value.version) == ("s-1", 1)
        with pytest.raises(CorruptPayload) as raised:
            codec.decode_run(commits(PLAIN, PLAIN, each, PLAIN))
        assert raised.value.version == 3


def test_a_run_of_plain_and_compressed_payloads_decodes() -> None:
    decoded, size = codec.decode_run(commits(PLAIN, PACKED, PLAIN, PACKED, PACKED))
    assert [event for events in decoded for event in events] == [
        event for payload in (PLAIN, PACKED, PLAIN, PACKED, PACKED) for event in decode(payload)
    ]
    assert size == 2 * len(PLAIN) + 3 * len(PACKED)


def test_an_unknown_format_is_corrupt() -> None:
    content = b"\x03" + encoded([Moved(place="here")])
    for constant in (0x6DD90A9D, 0xFFFFFFFF, 0):
        with pytest.raises(CorruptPayload, match="format"):
            decode(content + (crc32(content) ^ constant).to_bytes(4, "little"))


@pytest.mark.parametrize(
    "block",
    [
        lz4.block.compress(bytes(400 * 1024 * 1024 // 8)),
        (MAX_EXPANDED + 1).to_bytes(4, "little") + b"\x00" * 60,
        b"\xff\xff\xff\xff" + b"\x00" * 60,
    ],
    ids=["bomb", "forged", "negative"],
)
def test_decompression_bombs_are_refused_before_they_expand(block: bytes) -> None:
    content = b"\x02" + block
    payload = content + (crc32(content) ^ 0xFFFFFFFF).to_bytes(4, "little")
    tracemalloc.start()
    with pytest.raises(PayloadTooLarge) as raised:
        unpack(payload, "s-1", 7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert raised.value.size > raised.value.limit == MAX_EXPANDED
    assert peak < 2 * len(payload) + 100_000


def test_a_body_that_could_not_be_read_back_is_not_written() -> None:
    largest = bytes(MAX_EXPANDED)
    assert unpack(stored(largest), "s-1", 1) == largest
    with pytest.raises(PayloadTooLarge):
        stored(largest + b"\0")
    assert MAX_EXPANDED == 16 * 1024 * 1024, "what was written under a higher cap is not read under a lower one"


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_a_typed_error(body: bytes) -> None:
    for payload in (stored(body), body):
        try:
            events = decode(payload)
        except StoredDataError:
            continue
        assert all(isinstance(event, (Moved, Rich, Loose)) for event in events)


RICH = Rich(
    text="text",
    number=5,
    real=1.5,
    raw=b"raw",
    flag=True,
    exact=Decimal("1.50"),
    at=datetime(2026, 1, 2, tzinfo=UTC),
    key=UUID(int=7),
    day=date(2026, 1, 2),
    numbers=[1, 2],
    named={"a": Point(x=1)},
    pair=(1, "x"),
    either=None,
    colour=Colour.RED,
    chosen="a",
    members=frozenset({1, 2}),
)
SOUND = [RICH, Measured(by_key={UUID(int=9): 1}, by_colour={Colour.RED: 1}, at=RICH.at), Loose(tree=Tree(Tree()))]
BODY = encoded(SOUND)


@settings(deadline=None, max_examples=400)
@given(st.lists(st.tuples(st.integers(0, len(BODY) - 1), st.binary(max_size=3)), min_size=1, max_size=4))
def test_a_forged_body_decodes_or_raises_a_typed_error(changes: list[tuple[int, bytes]]) -> None:
    body = bytearray(BODY)
    for position, instead in changes:
        body[position : position + 1] = instead
    block = lz4.block.compress(body)
    block = block[: changes[0][0] % len(block)] + changes[0][1] + block[changes[0][0] % len(block) + 1 :]
    packed = b"\x02" + block
    for payload in (stored(bytes(body)), packed + (crc32(packed) ^ 0xFFFFFFFF).to_bytes(4, "little")):
        try:
            events = decode(payload)
        except StoredDataError:
            continue
        assert all(isinstance(event, (Moved, Rich, Loose, Measured)) for event in events)


# --- events that do not fit the classes


def test_the_error_for_an_unknown_tag_names_it() -> None:
    with pytest.raises(UnknownEventType) as raised:
        decode(stored(msgspec.msgpack.encode([{"$": "moved", "place": "x"}, {"$": "danced"}])))
    assert raised.value.tag == "danced"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"$": "moved"}, "place"),
        ({"$": "moved", "place": 5}, "place"),
        ({"$": "moved", "place": "x", "steps": SECRET}, "steps"),
        ({"$": "loose", "colour": SECRET}, "colour"),
        ({"$": "loose", "chosen": SECRET}, "chosen"),
    ],
)
def test_the_error_for_a_wrong_field_names_it_without_its_value(fields: dict[str, object], said: str) -> None:
    with pytest.raises(SchemaMismatch, match=said) as raised:
        decode(stored(msgspec.msgpack.encode([{"$": "moved", "place": "x"}, fields])))
    assert raised.value.event == fields["$"]
    assert SECRET not in str(raised.value) + repr(raised.value)


@pytest.mark.parametrize("body", [b"", b"\x01", b"\x80", b"\x91\x80", b"\xc1", b"\x91" * 5000, b"\xdf\xff\xff\xff\xff"])
def test_a_body_that_is_not_a_list_of_events_is_corrupt(body: bytes) -> None:
    with pytest.raises(CorruptPayload):
        decode(stored(body))


# --- events that could not be read back


def nested(depth: int) -> Any:
    value: Any = SECRET
    for _ in range(depth):
        value = [value]
    return value


def tree(depth: int) -> Tree:
    node = Tree()
    for _ in range(depth):
        node = Tree(child=node)
    return node


def endless(value: Any, put: Any) -> Any:
    """Return a value that contains itself."""
    put(value)
    return value


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (Loose(anything=NAN), "finite"),
        (Loose(reals=[1.0, INF]), "finite"),
        (Loose(anything={SECRET: [-INF]}), "finite"),
        (Loose(anything={"a": {SECRET: NAN}}), "finite"),
        (Loose(anything={5: SECRET}), "map key"),
        (Loose(by_number={5: SECRET}), "map key"),
        (Loose(anything=2**64), "64 bits"),
        (Moved(place="x", steps=-(2**63) - 1), "64 bits"),
        (Moved(place=f"{SECRET}\ud800"), "surrogate"),
        (Loose(anything={f"{SECRET}\ud800": 1}), "surrogate"),
        (Loose(anything=nested(64)), "64 levels"),
        (Loose(tree=tree(70)), "64 levels"),
        (Loose(anything=nested(100_000)), "nested"),
        (Loose(anything=nested(63)), "64 levels"),
        (Loose(anything=endless([], lambda it: it.append(it))), "nested"),
        (Loose(anything=endless({}, lambda it: it.update(a=it))), "nested"),
        (Measured(sample=endless(Sample(), lambda it: it.parts.append(it))), "nested"),
        (Measured(sample=Sample(reading=NAN)), "finite"),
        (Measured(sample=Sample(parts=[SECRET, Sample(reading=INF)])), "finite"),
        (Loose(anything=Sample(reading=NAN)), "finite"),
        (Loose(anything=(1.0, NAN)), "finite"),
        (Loose(anything={b"5": SECRET}), "map key"),
        (Loose(anything={None: SECRET}), "map key"),
        (Loose(anything=type("Text", (str,), {})(SECRET)), "unsupported"),
        (Loose(anything=msgspec.Raw(b"\xa1x")), "Raw"),
        (Moved(place="x", steps=True), "steps"),
        (Loose(anything=object()), "object"),
        (Moved(place="x", steps=SECRET), "steps"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        (Loose(colour=SECRET), "colour"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        (Loose(chosen=SECRET), "chosen"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unstorable_event_is_refused_with_a_reason_without_its_value(event: Event, said: str) -> None:
    with pytest.raises(InvalidEvent, match=said) as raised:
        encoded([Moved(place="x"), event])
    assert raised.value.event == tag_of(type(event))
    assert SECRET not in str(raised.value) + repr(raised.value)


def test_nesting_up_to_the_limit_is_stored() -> None:
    event = Loose(anything=nested(62))
    assert decode(stored(encoded([event]))) == [event]


def test_keys_that_encode_as_text_are_stored() -> None:
    event = Measured(
        by_colour={Colour.BLUE: 1}, by_key={UUID(int=5): 2}, by_day={date(2026, 1, 2): 3}, by_choice={"b": 4}
    )
    assert decode(stored(encoded([event]))) == [event]


class Checked(Event, tag="checked"):
    """An event with a check of its own, which can start to fail later."""

    value: int
    refuses: ClassVar[Exception | None] = None

    def __post_init__(self) -> None:
        if Checked.refuses:
            raise Checked.refuses


@pytest.mark.parametrize(
    "error", [ValueError(SECRET), TypeError(SECRET), KeyError(SECRET), RuntimeError(SECRET)], ids=repr
)
def test_the_error_of_an_events_own_check_is_reported_without_its_message(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Codec([Checked], {})
    event = Checked(value=1)
    payload = stored(encoded([event], codec))
    monkeypatch.setattr(Checked, "refuses", error)
    with pytest.raises(InvalidEvent) as invalid:
        codec.encode(event)[0]
    with pytest.raises(SchemaMismatch) as mismatch:
        codec.decode(payload, "a-1", 1)
    for raised in (invalid.value, mismatch.value):
        assert raised.event == "checked"
        assert type(error).__name__ in str(raised)
        assert SECRET not in "".join(traceback.format_exception(raised))


class Reading(TypedDict):
    value: float


class Pair(NamedTuple):
    name: str
    value: float


@dataclass
class Gauge:
    value: float


def event_of(kind: Any) -> Any:
    """Return an event class with one field of this type."""
    return msgspec.defstruct("One", [("field", kind)], bases=(Event,), tag="one", frozen=True, kw_only=True)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (float, NAN),
        (float | None, INF),
        (int | float, -INF),
        (Annotated[float, msgspec.Meta(title="x")], NAN),
        (list[Annotated[float, msgspec.Meta(gt=0)]], [INF]),
        (list[float], [1.0, NAN]),
        (list[list[float]], [[], [NAN]]),
        (tuple[float, ...], (1.0, NAN)),
        (tuple[int, float], (1, NAN)),
        (set[float], {NAN}),
        (frozenset[float], frozenset({NAN})),
        (dict[str, float], {"a": NAN}),
        (dict[str, list[float]], {"a": [NAN]}),
        (dict[int, str], {1: "a"}),
        (dict[bytes, str], {b"1": "a"}),
        (dict[float, str], {1.5: "a"}),
        (dict[str, dict[int, str]], {"a": {1: "a"}}),
        (Sample, Sample(reading=NAN)),
        (list[Sample | None], [None, Sample(reading=NAN)]),
        (Reading, Reading(value=NAN)),
        (Pair, Pair("a", NAN)),
        (Gauge, Gauge(NAN)),
        (Tree, tree(64)),
        (Any, NAN),
        (object, NAN),
    ],
    ids=str,
)
def test_every_type_that_can_hold_an_unstorable_value_is_searched(kind: Any, value: Any) -> None:
    one = event_of(kind)
    with pytest.raises(InvalidEvent):
        Codec([one], {}).encode(one(field=value))


@pytest.mark.parametrize(
    "kind",
    [
        *(int, str, bytes, bool, None, datetime, date, UUID, Decimal, Colour, Literal["a", 1], int | str | None),
        *(list[int], tuple[int, ...], tuple[int, str], set[str], dict[str, int], dict[str, list[Point]], Point),
        Annotated[int, msgspec.Meta(gt=0)],
    ],
    ids=str,
)
def test_types_that_cannot_hold_an_unstorable_value_are_not_searched(kind: Any) -> None:
    """Most classes are like that, and a search costs more than the encoding."""
    assert not may_be_unstorable(event_of(kind))


def test_an_unstorable_value_is_found_at_any_depth() -> None:
    clean: list[Event] = [Loose(anything={"a": [1.5, {"b": [None, "c"]}]}), Measured(sample=Sample(reading=1.5))]
    assert decode(stored(encoded(clean))) == clean
    for position in range(3):
        events = [*clean[:position], Loose(anything={"a": [1.5, {"b": [None, NAN]}]}), *clean[position:]]
        with pytest.raises(InvalidEvent, match=r"\$\.anything\[\.\.\.\]\[1\]\[\.\.\.\]\[1\]"):
            encoded(events)


@pytest.mark.parametrize("number", [-(2**63), 2**63 - 1, 2**64 - 1])
def test_integers_of_64_bits_are_stored(number: int) -> None:
    assert decode(stored(encoded([Loose(anything=number)]))) == [Loose(anything=number)]


def test_an_event_of_an_unknown_class_is_refused() -> None:
    with pytest.raises(InvalidEvent):
        encoded([MovedLater(place="x", paces=1)])


# --- upcasters


def test_old_events_are_decoded_as_new_ones() -> None:
    newer = Codec([MovedLater], collect_upcasters([in_paces], "test"))
    payload = stored(encoded([Moved(place="x", steps=2)]))
    expected = [MovedLater(place="x", paces=4)]
    assert newer.decode(payload, "s-1", 1) == expected
    assert newer.decode_run(commits(payload, payload))[0] == [expected, expected]


# --- readers that know only some events


def mixed(*events: Event, tags: Sequence[str] | None = None) -> Commit:
    named = tuple(dict.fromkeys(tag_of(type(event)) for event in events)) if tags is None else tuple(tags)
    return Commit(
        stream="s-1",
        version=7,
        id=bytes(16),
        time=0,
        events=len(events),
        tags=named,
        payload=stored(encoded(events)),
    )


HERE, THERE = Moved(place="here"), Moved(place="there", steps=2)


def test_a_reader_gets_known_events_with_their_indexes() -> None:
    reader = EventReader([Moved], {})
    assert list(reader.read(mixed(HERE, THERE))) == [(0, HERE), (1, THERE)]
    assert list(reader.read(mixed(RICH, HERE, Loose(), Loose(), THERE, RICH))) == [(1, HERE), (4, THERE)]
    assert list(reader.read(mixed(RICH, Loose(anything="far " * 100), HERE))) == [(2, HERE)]  # compressed


def test_a_reader_of_many_commits_gets_of_each_what_it_gets_of_one() -> None:
    kinds = [mixed(HERE, THERE), mixed(HERE), mixed(RICH, HERE), mixed(Loose()), mixed(THERE, *[HERE] * 50)]
    upcasting = [EventReader([MovedLater], collect_upcasters([each], "test")) for each in (in_paces, in_turn)]
    for reader in (EventReader([Moved], {}), *upcasting):
        for count in (0, 1, 63, 64, 65, 200):
            same = [kinds[1]] * count
            differing = [kinds[number % 3 * 2 % 5] for number in range(count)]
            for commits in (same, differing):
                assert [list(each) for each in reader.read_each(commits)] == [list(reader.read(c)) for c in commits]


def test_a_reader_of_many_commits_reads_those_that_expand_to_much_together() -> None:
    large = [mixed(Moved(place=f"{number}" * 3_000_000)) for number in range(8)]
    found = list(EventReader([Moved], {}).read_each(large))
    assert [[(index, event.place[0]) for index, event in each] for each in found] == [  # type: ignore[attr-defined]
        [(0, str(number))] for number in range(8)
    ]


@pytest.mark.parametrize("place", [0, 1, 63, 64, 99])
def test_a_reader_of_many_commits_gets_those_before_a_damaged_one(place: int) -> None:
    commits = [mixed(HERE, THERE)] * 100
    commits[place] = msgspec.structs.replace(commits[place], payload=b"damaged")
    found = EventReader([Moved], {}).read_each(commits)
    assert [list(each) for each in islice(found, place)] == [[(0, HERE), (1, THERE)]] * place
    with pytest.raises(CorruptPayload):
        next(found)


def test_a_payload_without_known_events_is_not_read() -> None:
    reader = EventReader([Moved], {})
    assert list(reader.read(msgspec.structs.replace(mixed(RICH, Loose()), payload=b"damaged"))) == []


def test_a_reader_gets_old_events_upcast() -> None:
    reader = EventReader([MovedLater], collect_upcasters([in_paces], "test"))
    upcast = MovedLater(place="there", paces=4)
    assert list(reader.read(mixed(THERE))) == [(0, upcast)]
    assert list(reader.read(mixed(Loose(), THERE))) == [(1, upcast)]


def test_skipped_events_are_checked_for_damage_too() -> None:
    commit = mixed(Loose(anything="long " * 100), HERE)
    for position in range(len(commit.payload)):
        damaged = bytearray(commit.payload)
        damaged[position] ^= 1
        with pytest.raises(CorruptPayload) as raised:
            EventReader([Moved], {}).read(msgspec.structs.replace(commit, payload=bytes(damaged)))
        assert (raised.value.stream, raised.value.version) == ("s-1", 7)


@pytest.mark.parametrize("other", [{"$": "danced", "with": SECRET}, {"$": "loose"}], ids=["unknown", "known to others"])
def test_the_error_for_a_readers_wrong_field_names_it_without_its_value(other: dict[str, object]) -> None:
    fields = [other, {"$": "moved", "place": "x"}, {"$": "moved", "place": "x", "steps": SECRET}]
    commit = msgspec.structs.replace(
        mixed(tags=(str(other["$"]), "moved")), payload=stored(msgspec.msgpack.encode(fields))
    )
    with pytest.raises(SchemaMismatch, match="steps") as raised:
        EventReader([Moved], {}).read(commit)
    assert (raised.value.stream, raised.value.version, raised.value.event) == ("s-1", 7, "moved")
    assert SECRET not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("body", [b"", b"\x80", b"\x91\x80", b"\x91" * 5000, b"\x92\x81\xa1$\xa5moved"])
def test_a_reader_of_some_events_refuses_a_damaged_body(body: bytes) -> None:
    with pytest.raises(CorruptPayload):
        EventReader([Moved], {}).read(msgspec.structs.replace(mixed(RICH, HERE), payload=stored(body)))


def test_an_event_missing_from_the_tags_is_an_error_for_a_reader() -> None:
    with pytest.raises(UnknownEventType):
        EventReader([Moved], {}).read(mixed(RICH, HERE, tags=["moved"]))
