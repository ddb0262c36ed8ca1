"""Events of other services: how they are parsed, and which orders of them are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsrc import NotAnEventsApi, SourceGap, SourceOutOfOrder
from eventsrc.messaging.order import REMEMBERED, Order
from eventsrc.messaging.received_event import parse_event
from eventsrc.messaging.sse import Block, Parser, TooLong
from eventsrc.publishing.token import FeedToken, Place

EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "account-a-1@1.0",
    "source": "/ledger",
    "type": "deposited.v1",
    "subject": "account-a-1",
    "time": "2026-01-02T03:04:05.000006Z",
    "correlationid": "request-9",
    "sampled": True,
    "datacontenttype": "application/json",
    "data": {"amount": 100},
}


class Amount(msgspec.Struct):
    amount: int


def token(position: int, event: int = 0, part: int = 0, store: bytes = b"here") -> str:
    return FeedToken(Place(position, event, part), store).text


def test_an_event_is_read_with_all_its_attributes() -> None:
    event = parse_event(json.dumps(EVENT).encode(), "after-it")
    assert (event.id, event.source, event.type) == ("account-a-1@1.0", "/ledger", "deposited.v1")
    assert (event.subject, event.time) == ("account-a-1", datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC))
    assert event.data == {"amount": 100}
    assert event.read(Amount) == Amount(amount=100)
    assert event.extensions == {"correlationid": "request-9", "sampled": True, "datacontenttype": "application/json"}
    assert (event.correlation_id, event.traceparent, event.token) == ("request-9", None, "after-it")
    assert event.attributes["correlationid"] == "request-9"
    assert "amount" not in repr(event)


@pytest.mark.parametrize(
    "change",
    [
        {"specversion": "0.3"},
        {"specversion": None},
        {"id": ""},
        {"id": 7},
        {"source": None},
        {"type": ["secret"]},
        {"time": "secret"},
        {"time": "2026-01-02T03:04:05"},
        {"subject": {"secret": 1}},
        {"extension": {"secret": 1}},
    ],
    ids=str,
)
def test_what_is_not_a_cloud_event_is_refused_without_its_content(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="event") as caught:
        parse_event(json.dumps({**EVENT, **change}).encode())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"[]", b'"secret"', b'{"id": "secret', b"\xff"])
def test_what_is_not_an_object_of_json_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a JSON object"):
        parse_event(body)


STREAM = (
    b":\n\nretry: 3000\nid: a\n\n:\r\n\r\nid: b\r\nevent: t\r\ndata: 1\r\n\r\nid:c\nevent:t\ndata:2\ndata:3\n\n"
    b"unknown: x\nid: d\n\nid: never"
)
BLOCKS = [Block(id="a", retry=3000), Block("b", "t", b"1"), Block("c", "t", b"2\n3"), Block(id="d")]


@given(st.lists(st.integers(0, len(STREAM)), max_size=10))
def test_a_stream_is_parsed_wherever_it_is_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    parser = Parser(100)
    parts = [STREAM[start:end] for start, end in pairwise(places)]
    assert [block for part in parts for block in parser.feed(part)] == BLOCKS


@pytest.mark.parametrize("chunk", [b"data: x\n", b"data: without an end "])
def test_an_event_of_a_stream_takes_no_more_memory_than_allowed(chunk: bytes) -> None:
    parser = Parser(1000)
    with pytest.raises(TooLong):
        [list(parser.feed(chunk)) for _ in range(1000)]


def begun(at: str = "") -> Order:
    order = Order("http://ledger/")
    order.resume(at)
    order.begin_stream(at or token(0))
    return order


def test_the_order_of_the_api_is_accepted() -> None:
    order = begun()
    order.add("a-1@1.0", token(0, 0, 1))
    order.add("a-1@1.2", token(0, 2, 1))  # one between them is not published
    order.add("a-1@1.2.1", token(0, 2, 2))
    order.advance(token(7))
    order.add("b-1@9.1", token(7, 1, 1))
    order.add("a-1@5.0", token(8, 0, 1))
    order.begin_stream(token(8, 0, 1))  # again after a lost connection
    order.add("018f3c1e-7a4b-7c3d-8e2f-0123456789ab.0", token(9, 0, 1))  # of a stream that is hidden


WRONG: dict[str, tuple[type[Exception], Callable[[Order], object]]] = {
    "the same event": (SourceOutOfOrder, lambda order: order.add("a-1@3.1", token(4, 1, 1))),
    "an older event": (SourceOutOfOrder, lambda order: order.add("b-1@1.0", token(2, 0, 1))),
    "an older event of the stream": (SourceOutOfOrder, lambda order: order.add("a-1@2.0", token(9, 0, 1))),
    "an older event of the stream in a page": (SourceOutOfOrder, lambda order: order.add_to_page("a-1@3.0")),
    "another index than the token's": (SourceOutOfOrder, lambda order: order.add("a-1@4.0", token(9, 1, 1))),
    "another part than the token's": (SourceOutOfOrder, lambda order: order.add("a-1@4.0", token(9, 0, 2))),
    "another store": (SourceOutOfOrder, lambda order: order.add("a-1@4.0", token(9, 0, 1, store=b"else"))),
    "a place that goes back": (SourceOutOfOrder, lambda order: order.advance(token(4))),
    "a page that leads to itself": (SourceOutOfOrder, lambda order: order.advance(token(4, 1, 1), page=True)),
    "a stream that starts too late": (SourceGap, lambda order: order.begin_stream(token(5))),
    "a stream that starts too early": (SourceOutOfOrder, lambda order: order.begin_stream(token(0))),
    "a token of another version": (NotAnEventsApi, lambda order: order.advance("A" * 32)),
    "a place that is after no event": (NotAnEventsApi, lambda order: order.add("a-1@4.0", token(9))),
    "an id of another form": (NotAnEventsApi, lambda order: order.add("a-1", token(9, 0, 1))),
    "an id of another form in a page": (NotAnEventsApi, lambda order: order.add_to_page("a-1.7")),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_another_order_is_refused(wrong: str) -> None:
    order = begun(token(4))
    order.add("a-1@3.1", token(4, 1, 1))
    error, act = WRONG[wrong]
    with pytest.raises(error) as caught:
        act(order)
    assert "http://ledger/" in str(caught.value)


def test_a_first_stream_that_leaves_out_the_beginning_has_a_gap() -> None:
    with pytest.raises(SourceGap):
        Order("http://ledger/").begin_stream(token(1))


def test_the_memory_of_the_order_is_bounded() -> None:
    order = begun()
    for number in range(REMEMBERED + 1):
        order.add(f"a-{number}@5.0", token(number, 0, 1))
    order.add_to_page("a-0@1.0")  # forgotten
    with pytest.raises(SourceOutOfOrder):
        order.add_to_page(f"a-{REMEMBERED}@1.0")
