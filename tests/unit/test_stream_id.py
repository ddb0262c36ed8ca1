"""Stream ids that work as keys everywhere, and the text form of an event's identity."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventsrc import DeclarationError, EventId, InvalidStreamId
from eventsrc.stream_id import MAX_STREAM_BYTES, category_of, check_category, check_stream, stream_id

NUMBERS = st.integers(0, 2**53)


@settings(deadline=None)
@given(st.text(min_size=1), NUMBERS, NUMBERS)
def test_parse_is_the_inverse_of_str(stream: str, version: int, index: int) -> None:
    event_id = EventId(stream, version, index)
    assert EventId.parse(str(event_id)) == event_id


@settings(deadline=None)
@given(st.text())
def test_every_parsed_event_id_survives_a_round_trip(text: str) -> None:
    try:
        event_id = EventId.parse(text)
    except ValueError:
        return
    assert EventId.parse(str(event_id)) == event_id


def test_event_ids_have_the_documented_text() -> None:
    assert str(EventId("account-a@b-1", 7, 0)) == "account-a@b-1@7.0"
    assert EventId.parse("account-a@b-1@7.0") == EventId("account-a@b-1", 7, 0)
    assert str(EventId("a-1", 7, 0, 2)) == "a-1@7.0.2"
    assert EventId.parse("a-1@7.0.2") == EventId("a-1", 7, 0, 2)
    assert sorted([EventId("a-1", 10, 0), EventId("a-1", 9, 1), EventId("a-1", 9, 0)])[0] == EventId("a-1", 9, 0)


@pytest.mark.parametrize(
    "text",
    [
        *("", "a-1", "a-1@", "a-1@7", "a-1@7.", "a-1@.0", "@7.0", "a-1@7.0.0", "a-1@-7.0", "a-1@7.+0", "a-1@7. 0"),
        *("a-1@7.0 ", "a-1@7,0", "a-1@7.x", "a-1@7.²", "a-1@\u0667.0"),
    ],
)
def test_invalid_event_ids_are_refused_and_named(text: str) -> None:
    with pytest.raises(ValueError, match="not an event id") as raised:
        EventId.parse(text)
    assert repr(text) in str(raised.value)


@pytest.mark.parametrize("id", ["a", "a-1", "Ünïcödé", "日本", "a b", "a/b:c#d@e", "😀", "0"])
def test_ordinary_ids_give_a_stream(id: str) -> None:
    assert stream_id("account", id) == f"account-{id}"
    assert category_of(stream_id("account", id)) == "account"


@pytest.mark.parametrize(
    ("id", "reason"),
    [
        ("", "empty"),
        (7, "string, not int"),
        (None, "string, not NoneType"),
        (b"a", "string, not bytes"),
        (" a", "starts with a space"),
        ("a ", "ends with a space"),
        ("a\u3000", "ends with a space"),
        ("a|b", "separates tenants"),
        ("a\nb", "control characters"),
        ("a\0", "control characters"),
        ("a\x7f", "control characters"),
        ("a\x85b", "control characters"),
        ("a\u2028b", "line separators"),
        ("a\u2029b", "paragraph separators"),
        ("a\ud800", "lone surrogates"),
        ("a\u202eb", "bidirectional"),
        ("a\u2066b", "bidirectional"),
        ("a\u200fb", "bidirectional"),
    ],
)
def test_ids_that_cannot_be_keys_are_refused(id: str, reason: str) -> None:
    with pytest.raises(InvalidStreamId, match=reason) as raised:
        stream_id("account", id)
    assert str(raised.value).isprintable()
    assert str(raised.value).isascii()


@pytest.mark.parametrize("character", ["a", "é", "日", "😀"])
def test_a_stream_has_up_to_2048_bytes_in_utf8(character: str) -> None:
    room = MAX_STREAM_BYTES - len("account-")
    fits = character * (room // len(character.encode()))
    fits += "a" * (room - len(fits.encode()))
    assert len(stream_id("account", fits).encode()) == MAX_STREAM_BYTES
    with pytest.raises(InvalidStreamId, match=r"2,049 bytes, the limit is 2,048") as raised:
        stream_id("account", fits + "a")
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("stream", ["", None, 7, "a|b", " a-1", "a-1 ", "a\n", "a" * 2049])
def test_a_store_refuses_invalid_streams_too(stream: str) -> None:
    with pytest.raises(InvalidStreamId):
        check_stream(stream)


@pytest.mark.parametrize("category", ["a-b", "", "a|b", " a", "a\n", "x" * 2049])
def test_the_error_for_an_invalid_category_names_the_class(category: str) -> None:
    with pytest.raises(DeclarationError, match=r"^Account: the tag") as raised:
        check_category(category, "Account")
    assert raised.value.culprit == "Account"


def test_other_categories_are_accepted() -> None:
    check_category("bank.account_2", "Account")
