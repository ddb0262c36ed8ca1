"""Bad input, whatever it is made of: each kind gets its typed error, before anything is sent, and changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any, TypeVar
from zlib import crc32

import lz4.block
import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.bank import Account
from support.flaky import ScriptedStore

from eventsrc import (
    Aggregate,
    CommitTooLarge,
    CorruptPayload,
    Event,
    IdempotencyError,
    InvalidEvent,
    InvalidStreamId,
    MemoryStore,
    PayloadTooLarge,
    Repository,
    UnknownEventType,
)
from eventsrc.aggregates.codec import LZ4, join, pack, unpack
from eventsrc.aggregates.declaration import declaration_of
from eventsrc.stores.dynamodb.items import Items

T = TypeVar("T")


class Any1(Event, tag="box.any"):
    what: Any


class Line(msgspec.Struct, frozen=True):
    sku: str
    weights: dict[str, float] = {}


class Filled(Event, tag="box.filled"):
    text: str
    whole: int
    real: float
    data: bytes
    at: datetime
    price: Decimal
    lines: list[Line]
    marks: frozenset[str]
    pair: tuple[int, str] | None = None


def as_bytes(event: Event) -> bytes:
    return msgspec.msgpack.encode(event, order="deterministic")


class Box(Aggregate, tag="box"):
    last: bytes = b""  # the last event: a state may not have fields of any type

    def apply_any(self, event: Any1 | Filled) -> None:
        self.last = as_bytes(event)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
REAL = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(-(2**63), 2**64 - 1)
PLAIN = st.none() | st.booleans() | WHOLE | REAL | TEXT
TREES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))
FILLED = st.builds(
    Filled,
    text=TEXT,
    whole=WHOLE,
    real=REAL,
    data=st.binary(max_size=50),
    at=st.datetimes(datetime(1, 1, 2), datetime(9998, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  # bounds
    price=st.decimals(allow_nan=False, allow_infinity=False),
    lines=st.lists(st.builds(Line, sku=TEXT, weights=st.dictionaries(TEXT, REAL, max_size=3)), max_size=3),
    marks=st.frozensets(TEXT, max_size=4),
    pair=st.none() | st.tuples(WHOLE, TEXT),
)

POISON = st.one_of(
    st.sampled_from([float("nan"), float("inf"), float("-inf")]),
    st.integers(min_value=2**64) | st.integers(max_value=-(2**63) - 1),
    st.builds(lambda a, b: f"{a}\ud800{b}", TEXT, TEXT),
    st.dictionaries(st.integers() | st.booleans() | st.none(), PLAIN, min_size=1, max_size=3),
    st.integers(70, 2000).map(lambda levels: nested(levels)),
    st.builds(object),
)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@st.composite
def poisoned(draw: st.DrawFn) -> Any:
    """A tree with poison somewhere in it."""
    value = draw(POISON)
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            value = [*draw(st.lists(PLAIN, max_size=2)), value]
        else:
            value = {**draw(st.dictionaries(TEXT, PLAIN, max_size=2)), draw(TEXT): value}
    return value


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def saved_and_loaded(*events: Event) -> tuple[Box, list[Event]]:
    async with MemoryStore() as store:
        boxes = Repository(Box, store)
        box = Box(id="1")
        for event in events:
            box.record(event)
        await boxes.save(box)
        [(_, stored)] = [entry async for entry in boxes.history("1")]
        return await boxes.load("1"), stored


@given(poisoned())
def test_poison_anywhere_is_refused_and_changes_nothing(value: Any) -> None:
    box = Box(id="1")
    box.record(Any1(what=1))
    with pytest.raises(InvalidEvent) as raised:
        box.record(Any1(what=value))
    assert raised.value.event == "box.any"
    assert (box.last, box.uncommitted) == (as_bytes(Any1(what=1)), (Any1(what=1),))


@settings(max_examples=60)
@given(st.lists(FILLED | TREES.map(lambda tree: Any1(what=tree)), min_size=1, max_size=4))
def test_what_is_good_comes_back_equal(events: list[Event]) -> None:
    box, stored = run(saved_and_loaded(*events))
    assert stored == events
    assert box.last == as_bytes(events[-1])


@given(FILLED, st.sampled_from(Filled.__struct_fields__), PLAIN | TREES)
def test_a_value_of_another_type_is_refused(event: Filled, field: str, wrong: Any) -> None:
    right = getattr(event, field)
    assume(type(wrong) is not type(right) and not (field == "pair" and wrong is None))
    assume(not (field in ("real", "price") and type(wrong) in (int, float)))  # an equal number is as good
    box = Box(id="1")
    with pytest.raises(InvalidEvent):
        box.record(Filled(**{**{name: getattr(event, name) for name in Filled.__struct_fields__}, field: wrong}))
    assert box.uncommitted == ()


FORBIDDEN = st.sampled_from("\x00\x01\x1f\x7f\x85\u200e\u202e\u2066|")


@given(st.text(max_size=8), FORBIDDEN, st.text(max_size=8))
def test_ids_with_such_characters_are_refused(before: str, forbidden: str, after: str) -> None:
    with pytest.raises(InvalidStreamId):
        Box(id=f"{before}{forbidden}{after}")


@given(st.sampled_from([" ", "\t", "\u3000"]), st.text("ab", max_size=3), st.booleans())
def test_ids_that_are_empty_or_begin_or_end_with_space_are_refused(space: str, text: str, first: bool) -> None:
    with pytest.raises(InvalidStreamId):
        Box(id=f"{space}{text}" if first else f"{text}{space}")
    with pytest.raises(InvalidStreamId):
        Box(id="")


@given(st.text("aé€😀", min_size=500, max_size=2500))
def test_ids_beyond_what_a_key_holds_are_refused(id: str) -> None:
    fits = len(f"box-{id}".encode()) <= 2048
    if fits:
        assert Box(id=id).stream == f"box-{id}"
    else:
        with pytest.raises(InvalidStreamId):
            Box(id=id)


@given(st.one_of(st.floats(), st.booleans(), st.text(), st.integers(max_value=0), st.integers(min_value=2**53)))
def test_what_is_no_version_is_refused(version: Any) -> None:
    async def work() -> None:
        async with ScriptedStore() as store:
            with pytest.raises((TypeError, ValueError)):
                await Repository(Box, store).load("1", version=version)

    run(work())


@settings(max_examples=40)
@given(st.integers(1, 100), st.integers(1, 100), TEXT.filter(bool))
def test_a_command_id_with_other_content_is_refused(one: int, other: int, command_id: str) -> None:
    async def work() -> None:
        async with MemoryStore() as store:
            accounts = Repository(Account, store)
            await accounts.save(Account.open("a-1", owner="ann"))
            assert (await accounts.execute("a-1", Account.deposit, one, command_id=command_id)).result == one
            if one == other:
                assert (await accounts.execute("a-1", Account.deposit, other, command_id=command_id)).duplicate
            else:
                with pytest.raises(IdempotencyError):
                    await accounts.execute("a-1", Account.deposit, other, command_id=command_id)
            assert (await accounts.load("a-1")).balance == one

    run(work())


@given(st.integers(16 * 1024 * 1024 + 1, 2**32 - 1), st.binary(max_size=200))
def test_a_forged_size_is_refused_before_anything_is_expanded(claimed: int, rest: bytes) -> None:
    content = LZ4 + claimed.to_bytes(4, "little") + rest
    payload = content + (crc32(content) ^ 0xFFFFFFFF).to_bytes(4, "little")
    with pytest.raises(PayloadTooLarge) as raised:
        unpack(payload, "s-1", 1)
    assert raised.value.size == claimed


def test_a_bomb_is_refused() -> None:
    bomb = LZ4 + lz4.block.compress(bytes(400 * 1024 * 1024))
    assert len(bomb) > 1_000_000  # of zeros; an item of DynamoDB holds a quarter of it
    with pytest.raises(PayloadTooLarge):
        unpack(bomb + (crc32(bomb) ^ 0xFFFFFFFF).to_bytes(4, "little"), "s-1", 1)


@given(FILLED, st.data())
def test_a_damaged_payload_is_never_decoded(event: Filled, data: st.DataObject) -> None:
    codec = declaration_of(Box).codec
    payload = pack(join([codec.encode(event)[0]]), "box-1", 7)
    at = data.draw(st.integers(0, len(payload) - 1))
    bad = data.draw(
        st.sampled_from(
            [
                payload[:at],
                payload[:at] + bytes([payload[at] ^ (1 << data.draw(st.integers(0, 7)))]) + payload[at + 1 :],
            ]
        )
    )
    with pytest.raises(CorruptPayload) as raised:
        codec.decode(bad, "box-1", 7)
    assert (raised.value.stream, raised.value.version) == ("box-1", 7)


@given(TEXT)
def test_an_unknown_type_is_told_by_its_tag(tag: str) -> None:
    assume(tag not in ("box.any", "box.filled"))
    payload = pack(msgspec.msgpack.encode([{"$": tag, "x": 1}]), "box-1", 1)
    with pytest.raises(UnknownEventType) as raised:
        declaration_of(Box).codec.decode(payload, "box-1", 1)
    assert raised.value.tag == tag


@settings(max_examples=20)
@given(st.integers(410_000, 600_000), st.integers())
def test_a_commit_too_large_is_never_sent(size: int, seed: int) -> None:
    async def work() -> None:
        async with ScriptedStore() as store:
            box = Box(id="1")
            box.record(Any1(what=Random(seed).randbytes(size).hex()))
            with pytest.raises(CommitTooLarge) as raised:
                await Repository(Box, store).save(box)
            assert raised.value.size > raised.value.limit
            assert len(box.uncommitted) == 1
            assert not store._streams

    run(work())


NAMES = st.text("ab-c", min_size=1, max_size=6)


@given(st.none() | NAMES, NAMES, st.none() | NAMES, NAMES)
def test_no_two_tenants_share_a_partition(one: str | None, id: str, other: str | None, other_id: str) -> None:
    assume((one, id) != (other, other_id))
    keys = [Items("PK", "SK", tenant).partition(stream) for tenant, stream in ((one, id), (other, other_id))]
    assert keys[0] != keys[1]


@given(st.text(max_size=4), st.text(max_size=4))
def test_no_tenant_or_stream_holds_the_delimiter(before: str, after: str) -> None:
    name = f"{before}|{after}"
    with pytest.raises(InvalidStreamId):
        Items("PK", "SK", name)
    with pytest.raises(InvalidStreamId):
        Items("PK", "SK", "acme").partition(name)
