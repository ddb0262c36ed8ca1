"""Traces as OCEL 2.0: the shape that the standard says, and the counts and relationships of the trace."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from support.traces import small_trace, step, trace_of

from eventsrc.tracing import Trace, TracedEvent, to_ocel


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    pass


class Declared(Strict):
    name: str
    type: Literal["string", "time", "integer", "float", "boolean"]


class Type(Strict):
    name: str
    attributes: list[Declared]


class Relationship(Strict):
    objectId: str  # noqa: N815  # as the standard spells it
    qualifier: str


class Attribute(Strict):
    name: str
    value: str | int


class ObjectAttribute(Attribute):
    time: datetime


class Object(Strict):
    id: str
    type: str
    attributes: list[ObjectAttribute]
    relationships: list[Relationship]


class Event(Strict):
    id: str
    type: str
    time: datetime
    attributes: list[Attribute]
    relationships: list[Relationship]


class Log(Strict):
    """The JSON schema of OCEL 2.0, https://www.ocel-standard.org, as types."""

    objectTypes: list[Type]  # noqa: N815
    eventTypes: list[Type]  # noqa: N815
    objects: list[Object]
    events: list[Event]


def read(trace: Trace) -> Log:
    """Return the log of a trace, as its readers check it."""
    log = msgspec.json.decode(msgspec.json.encode(to_ocel(trace)), type=Log)
    objects, types = {each.id for each in log.objects}, {each.name: each for each in log.objectTypes}
    assert len(objects) == len(log.objects)
    assert len(types) == len(log.objectTypes)
    kinds = {each.name: {declared.name: declared.type for declared in each.attributes} for each in log.eventTypes}
    for one in log.objects:
        assert {each.objectId for each in one.relationships} <= objects
        assert {each.name for each in one.attributes} <= {each.name for each in types[one.type].attributes}
    for event in log.events:
        assert {each.objectId for each in event.relationships} <= objects
        for attribute in event.attributes:
            sort: Any = {"string": str, "integer": int}[kinds[event.type][attribute.name]]
            assert isinstance(attribute.value, sort)
    return log


def test_streams_are_objects_and_causes_are_relationships() -> None:
    steps = (
        step("order-7@1", actor="ann", outside=("foreign-1@2.0",)),
        step("item-a-1@8", 0, ms=1.5, tag="stock.reserved", handler="reserve@1.handle_placed", attempt=2),
        step("order-7@2", 0, 1, ms=2, events=(TracedEvent("order-7@2.0", "a"), TracedEvent("order-7@2.1", "b"))),
    )
    log = read(trace_of(*steps))
    assert [(each.id, each.type) for each in log.objects] == [("order-7", "order"), ("item-a-1", "item")]
    assert [each.relationships for each in log.objects] == [
        [Relationship("item-a-1", "caused by")],
        [Relationship("order-7", "caused by")],
    ]
    placed, reserved, first, second = log.events
    assert [each.id for each in log.events] == ["order-7@1.0", "item-a-1@8.0", "order-7@2.0", "order-7@2.1"]
    assert reserved.relationships == [Relationship("item-a-1", "stream"), Relationship("order-7", "cause")]
    assert first.relationships == [Relationship("order-7", "stream"), Relationship("item-a-1", "cause")]
    assert (second.type, second.relationships) == ("b", first.relationships)
    assert {each.name: each.value for each in placed.attributes} == {
        "store": "orders",
        "actor": "ann",
        "attempt": 1,
        "causes": "foreign-1@2.0",
    }
    assert {each.name: each.value for each in first.attributes}["causes"] == "order-7@1 item-a-1@8"
    assert (reserved.time - placed.time).total_seconds() == 0.0015


def test_what_is_damaged_is_there() -> None:
    log = read(small_trace())
    assert len(log.events) == len(small_trace().steps)
    assert [(each.id, each.type) for each in log.events if each.type == "unreadable"] == [("order-7@4", "unreadable")]


def test_streams_of_one_name_in_two_stores_are_two_objects() -> None:
    log = read(trace_of(step("order-7@1"), step("order-7@1", 0, store="stock"), step("mail-1@1", 1)))
    assert [each.id for each in log.objects] == ["orders/order-7", "stock/order-7", "orders/mail-1"]
    assert log.events[1].relationships[1] == Relationship("orders/order-7", "cause")


@given(st.lists(st.tuples(st.text(), st.text(), st.sampled_from("ab")), max_size=6))
def test_any_names_are_kept(names: list[tuple[str, str, str]]) -> None:
    steps = [
        step(f"{id}-{number % 3}@{number + 1}", *range(max(0, number - 2), number), tag=tag, store=store, service=tag)
        for number, (id, tag, store) in enumerate(names)
    ]
    assert [event.type for event in read(trace_of(*steps)).events] == [tag for _, tag, _ in names]


def test_an_empty_trace_is_a_log() -> None:
    assert read(trace_of()) == Log([], [], [], [])
