"""How events become CloudEvents, which declarations are refused, and the tokens that mark a client's position."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bank import Deposited, Opened, Withdrawn

from eventsrc import Commit, DeclarationError, DynamoDBStore, Event, MemoryStore
from eventsrc.aggregates.codec import Codec, join, pack
from eventsrc.publishing import PublishedEvent, events_api
from eventsrc.publishing.asgi import choose_media_type
from eventsrc.publishing.catalogue import Catalogue
from eventsrc.publishing.token import FeedToken, Place
from eventsrc.tracing import trace_cloud_event

DEPOSITED = PublishedEvent(Deposited, type="com.example.deposited.v1")


class Renamed(Event, tag="internal.name", rename="camel"):
    at_once: datetime
    exact: Decimal
    raw: bytes
    day: date


class Paid(Event, tag="account.paid"):
    cents: int


def in_cents(old: Deposited) -> Paid | Withdrawn:
    return Paid(cents=old.amount * 100) if old.amount else Withdrawn(amount=0)


def commit_of(*events: Event, **fields: Any) -> Commit:
    codec = Codec({type(event) for event in events}, {})
    given: dict[str, Any] = {
        "stream": "account-a-1",
        "version": 7,
        "id": UUID("01890a5d-ac96-774b-bcce-b302099a8057").bytes,
        "time": 1_767_323_045_000_006,
        "events": len(events),
        "tags": tuple(dict.fromkeys(str(event.__struct_config__.tag) for event in events)),
        "payload": pack(join([codec.encode(event)[0] for event in events]), "account-a-1", 7),
    }
    return Commit(**(given | fields))


def cloud_events(
    commit: Commit,
    *published: PublishedEvent[Any],
    source: str = "/ledger",
    upcasters: object = (),
    tracing: bool = False,
) -> list[dict[str, Any]]:
    catalogue = Catalogue(published, upcasters, source, tracing=tracing)
    return [msgspec.json.decode(body) for _, _, body in catalogue.encode(commit)]


def test_an_event_is_published_as_a_cloud_event() -> None:
    commit = commit_of(Deposited(amount=5), correlation_id="req-9", causation_ids=("order-1@2.0",))
    assert cloud_events(commit, DEPOSITED) == [
        {
            "specversion": "1.0",
            "id": "account-a-1@7.0",
            "source": "/ledger",
            "type": "com.example.deposited.v1",
            "subject": "account-a-1",
            "time": "2026-01-02T03:04:05.000006Z",
            "datacontenttype": "application/json",
            "data": {"amount": 5},
        }
    ]


def test_only_published_events_are_encoded_with_their_index_in_the_commit() -> None:
    commit = commit_of(Withdrawn(amount=1), Deposited(amount=2), Opened(owner="ann"), Deposited(amount=3))
    events = cloud_events(commit, DEPOSITED)
    assert [(event["id"], event["data"]) for event in events] == [
        ("account-a-1@7.1", {"amount": 2}),
        ("account-a-1@7.3", {"amount": 3}),
    ]
    assert cloud_events(commit_of(Opened(owner="ann")), DEPOSITED) == []


def test_data_can_be_replaced_by_a_function() -> None:
    [event] = cloud_events(
        commit_of(Opened(owner="ann")), PublishedEvent(Opened, type="opened", data=lambda e: [len(e.owner)])
    )
    assert event["data"] == [3]
    assert "ann" not in str(event)


def test_fields_have_their_encoded_names_and_the_tag_is_left_out() -> None:
    event = Renamed(at_once=datetime(2026, 1, 2, tzinfo=UTC), exact=Decimal("1.50"), raw=b"\0", day=date(2026, 1, 2))
    [cloud] = cloud_events(commit_of(event), PublishedEvent(Renamed, type="renamed"))
    assert cloud["data"] == {"atOnce": "2026-01-02T00:00:00Z", "exact": "1.50", "raw": "AA==", "day": "2026-01-02"}
    assert "internal.name" not in str(cloud)


def test_a_hidden_stream_appears_nowhere_and_ids_stay_distinct() -> None:
    commit = commit_of(Deposited(amount=5), Deposited(amount=6))
    events = cloud_events(commit, PublishedEvent(Deposited, type="deposited", hide_stream=True))
    assert [event["id"] for event in events] == [f"{commit.uuid}.0", f"{commit.uuid}.1"]
    assert "account-a-1" not in str(events)


def test_correlation_and_causation_are_included_only_with_tracing() -> None:
    commit = commit_of(Deposited(amount=5), correlation_id="req-9", causation_ids=("order-1@2.0", "order-a b%@3.1"))
    [event] = cloud_events(commit, DEPOSITED, tracing=True)
    assert (event["correlationid"], event["causationid"]) == ("req-9", "order-1@2.0 order-a%20b%25@3.1")
    [event] = cloud_events(commit_of(Deposited(amount=5)), DEPOSITED, tracing=True)
    assert not event.keys() & {"correlationid", "causationid"}


def test_a_valid_traceparent_is_included_only_with_tracing() -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    [event] = cloud_events(commit_of(Deposited(amount=5), metadata={"traceparent": parent}), DEPOSITED, tracing=True)
    assert event["traceparent"] == parent
    [event] = cloud_events(commit_of(Deposited(amount=5), metadata={"traceparent": parent}), DEPOSITED)
    assert "traceparent" not in event
    [event] = cloud_events(commit_of(Deposited(amount=5), metadata={"traceparent": "00-1\n"}), DEPOSITED, tracing=True)
    assert "traceparent" not in event


async def test_what_another_service_commits_belongs_to_the_trace_of_the_event() -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    commit = commit_of(Deposited(amount=5), correlation_id="req-9", metadata={"traceparent": parent})
    [event] = cloud_events(commit, DEPOSITED, tracing=True)
    with trace_cloud_event(event) as found:
        assert (found.correlation_id, found.causation_ids) == ("req-9", (event["id"],))
        assert found.metadata == {"traceparent": parent}
    [event] = cloud_events(commit_of(Deposited(amount=5)), DEPOSITED)
    with trace_cloud_event({**event, "traceparent": "00-1"}) as found:
        assert (found.correlation_id, found.metadata) == ("account-a-1@7", {})


@pytest.mark.parametrize("event", [{}, {"id": 7}, {"id": ""}, {"id": "a-1@1.0", "correlationid": 7}, {"id": "\ud800"}])
def test_what_is_not_a_cloud_event_is_refused(event: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not a CloudEvent|correlationid|surrogate"), trace_cloud_event(event):
        pass


def test_old_events_are_upcast_or_left_out() -> None:
    commit = commit_of(Deposited(amount=5), Deposited(amount=0))
    [event] = cloud_events(commit, PublishedEvent(Paid, type="paid"), upcasters=[in_cents])
    assert (event["id"], event["data"]) == ("account-a-1@7.0", {"cents": 500})


def test_a_cloud_event_is_one_line() -> None:
    """A line end would end the field `data` of a server-sent event."""
    catalogue = Catalogue([PublishedEvent(Opened, type="opened")], (), "/", tracing=False)
    [(_, _, body)] = catalogue.encode(commit_of(Opened(owner="a\nb\r\nc\rd")))
    assert len(body.splitlines()) == 1


def test_raw_json_from_data_becomes_one_line_too() -> None:
    made = msgspec.Raw(b'{\n"a": "\xe2\x80\xa8",\r\n\r\n"b": 2}\n')
    catalogue = Catalogue([PublishedEvent(Opened, type="opened", data=lambda event: made)], (), "/", tracing=False)
    [(_, _, body)] = catalogue.encode(commit_of(Opened(owner="ann")))
    assert len(body.splitlines()) == 1
    assert msgspec.json.decode(body)["data"] == {"a": "\u2028", "b": 2}


class Untagged(Event):
    pass


class Twin(Event, tag="account.deposited"):
    pass


@pytest.mark.parametrize(
    ("published", "options", "culprit"),
    [
        ([], {}, "nothing"),
        ([DEPOSITED, PublishedEvent(Deposited, type="other")], {}, "Deposited"),
        ([DEPOSITED, PublishedEvent(Twin, type="twin")], {}, "Twin"),
        ([DEPOSITED], {"upcasters": [in_cents]}, "Deposited"),
        ([DEPOSITED], {"source": ""}, "source"),
        ([DEPOSITED], {"source": "/a b"}, "source"),
        ([DEPOSITED], {"source": "/a\n"}, "source"),
    ],
)
def test_a_list_that_cannot_be_published_is_refused_when_the_app_is_made(
    published: list[PublishedEvent[Any]], options: dict[str, Any], culprit: str
) -> None:
    options = {"source": "/"} | options
    with pytest.raises(DeclarationError, match=culprit):
        events_api(MemoryStore(), published, **options)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (Deposited, r"the class Deposited is not a PublishedEvent; write PublishedEvent\(Deposited, type="),
        (Deposited(amount=5), r"of type Deposited is not a PublishedEvent; write PublishedEvent\(Deposited, type="),
        ("deposited", r"an object of type str is not a PublishedEvent; write PublishedEvent\(X, type="),
    ],
)
def test_something_else_than_a_published_event_is_refused(wrong: Any, named: str) -> None:
    with pytest.raises(DeclarationError, match=named):
        events_api(MemoryStore(), [wrong], source="/")


def test_a_published_event_has_a_tag_and_a_type() -> None:
    with pytest.raises(DeclarationError, match="Untagged"):
        PublishedEvent(Untagged, type="untagged")
    for type in ("", "a\nb", "a\rid: 5"):
        with pytest.raises(DeclarationError, match="Deposited"):
            PublishedEvent(Deposited, type=type)


def test_a_store_without_an_order_is_refused_and_the_error_says_what_to_do() -> None:
    with pytest.raises(TypeError, match="SQLiteStore"):
        events_api(DynamoDBStore("ledger"), [DEPOSITED], source="/")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "wrong", [{"page": 0}, {"heartbeat": 0}, {"retry": -1}, {"max_clients": 0}, {"max_page_bytes": 0}]
)
def test_numbers_that_are_not_positive_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="positive"):
        events_api(MemoryStore(), [DEPOSITED], source="/", **wrong)


# --- tokens

places = st.builds(Place, st.integers(0, 2**56 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**24 - 1))
marks = st.binary(min_size=4, max_size=4), st.binary(min_size=5, max_size=5)
tokens = st.builds(FeedToken, places, *marks)


@given(tokens)
def test_parsing_returns_the_token_that_made_the_text(token: FeedToken) -> None:
    assert FeedToken.parse(token.text) == token
    assert len(token.text) == 32
    assert token.text.isascii()
    assert token.text.replace("-", "").replace("_", "").isalnum(), "URLs need no quoting for it"


@given(tokens, tokens)
def test_different_positions_have_different_texts(one: FeedToken, other: FeedToken) -> None:
    assert (one.text == other.text) == (one == other)


@given(st.text(max_size=20) | st.text("AQ-_+/=", min_size=32, max_size=32) | st.binary(max_size=20).map(repr))
def test_any_other_text_is_refused_without_quoting_it(text: str) -> None:
    try:
        token = FeedToken.parse(text)
    except ValueError as error:
        assert str(error) == "this is not an id of this API; send ids exactly as they were received"  # noqa: PT017
    else:
        assert token.text == text


def test_a_token_of_another_version_is_refused() -> None:
    raw = b"\x01" + bytes(20)
    with pytest.raises(ValueError, match="not an id"):
        FeedToken.parse(urlsafe_b64encode(raw).decode())


# --- media types


@pytest.mark.parametrize(
    ("accept", "best"),
    [
        ("", "a/json"),
        ("*/*", "a/json"),
        ("text/sse", "text/sse"),
        ("TEXT/SSE", "text/sse"),
        ("text/*", "text/sse"),
        ("text/html, */*;q=0.8", "a/json"),
        ("a/json;q=0.5, text/sse", "text/sse"),
        ("a/json;q=0.5, text/sse;q=0.4", "a/json"),
        ("*/*, a/json;q=0", "a/batch"),
        ("a/*;q=0, */*", "text/sse"),
        ("text/html", None),
        ("*/*;q=0", None),
        ("a/json;q=nan", None),
        ("a/json;q=", None),
        ("a/json; charset=utf-8; q=1.0", "a/json"),
        (",;,", None),
    ],
)
def test_the_accepted_media_type_with_the_highest_quality_is_chosen(accept: str, best: str | None) -> None:
    assert choose_media_type(accept, ("a/json", "a/batch", "text/sse")) == best


def test_two_events_of_one_type_are_refused() -> None:
    with pytest.raises(DeclarationError, match="two events are published as 'moved'"):
        events_api(
            MemoryStore(),
            [PublishedEvent(Deposited, type="moved"), PublishedEvent(Withdrawn, type="moved")],
            source="/l",
        )


def test_an_event_class_alone_is_refused() -> None:
    with pytest.raises(DeclarationError, match="write PublishedEvent"):
        events_api(MemoryStore(), [Deposited], source="/l")  # type: ignore[list-item]
