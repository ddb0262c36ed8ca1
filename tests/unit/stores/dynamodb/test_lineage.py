"""The lineage of shards: where reading starts, which shards may be read next, and what a checkpoint keeps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsrc.stores.dynamodb.feed.checkpoint import Checkpoint, find_earliest, parse_checkpoint
from eventsrc.stores.dynamodb.feed.lineage import Cursor, Lineage, Range, Shard, cursor_before_scan, cursor_from_now


def shards(tree: str) -> list[Shard]:
    """Return the shards of a text of `name<parent`. A dot after the name marks a closed shard."""
    found: list[Shard] = []
    for each in tree.split():
        name, _, parent = each.partition("<")
        ending = "9" if name.endswith(".") else None
        found.append(Shard(name.rstrip("."), parent or None, Range(ending)))
    return found


FAMILY = shards("a. b.<a c.<a d<b e<b f<c")  # a was split twice, c was closed by time


def test_children_start_after_their_parent() -> None:
    lineage = Lineage([Cursor()], FAMILY)
    assert lineage.start_ready() == ["a"]
    assert lineage.start_ready() == []
    assert lineage.has_waiting
    lineage.finish("a")
    assert lineage.start_ready() == ["b", "c"]
    lineage.finish("c")
    assert lineage.start_ready() == ["f"]
    assert lineage.cursor() == Cursor({"b": "", "f": ""}, [])
    lineage.finish("b")
    assert lineage.start_ready() == ["d", "e"]
    assert not lineage.has_waiting


def test_a_parent_that_is_no_longer_listed_counts_as_read() -> None:
    assert Lineage([Cursor()], shards("d<b e<b f<c")).start_ready() == ["d", "e", "f"]


def test_children_wait_for_a_parent_that_is_being_read_and_no_longer_listed() -> None:
    lineage = Lineage([Cursor({"b": "7"})], shards("d<b"))
    assert lineage.start_ready() == []
    lineage.finish("b")
    assert lineage.start_ready() == ["d"]


def test_children_wait_for_a_parent_that_was_never_listed() -> None:
    lineage = Lineage([Cursor()], shards("a."))
    lineage.start_ready()
    lineage.finish("a")
    lineage.update(shards("a. f<c"))  # c exists already, but the list lags
    assert lineage.start_ready() == []
    lineage.update(shards("a. c.<a f<c"))
    assert lineage.start_ready() == ["c"]
    lineage.update(shards("f<c"))
    lineage.finish("c")
    assert lineage.start_ready() == ["f"]


def test_a_shard_that_was_read_is_kept_until_its_children_start() -> None:
    lineage = Lineage([Cursor()], before := shards("a."))
    lineage.start_ready()
    lineage.finish("a")
    assert lineage.cursor() == Cursor({}, ["a"])
    assert Lineage([lineage.cursor()], before).start_ready() == []  # it is not read again
    lineage.update(shards("a. b<a"))
    assert lineage.start_ready() == ["b"]
    assert lineage.cursor() == Cursor({"b": ""}, [])
    late = Lineage([lineage.cursor()], shards("a. b<a c<a"))  # the list lagged
    assert late.start_ready() == ["c"]


def test_a_cursor_from_now_has_the_open_shards_only() -> None:
    assert cursor_from_now(FAMILY) == Cursor({"d": "", "e": "", "f": ""}, [])
    assert cursor_from_now(shards("a. b.<a")) == Cursor({}, ["b"])
    assert cursor_from_now([]) == Cursor()


def test_a_cursor_before_a_scan_starts_one_shard_earlier_and_never_has_a_shard_and_its_ancestor() -> None:
    assert cursor_before_scan(FAMILY) == Cursor({"b": "", "c": ""})
    assert cursor_before_scan(shards("a. b<a c.<a d<c")) == Cursor({"a": ""})
    assert cursor_before_scan(shards("b<a")) == Cursor({"b": ""})
    assert cursor_before_scan([]) == Cursor()


@pytest.mark.parametrize(
    ("one", "other", "at", "started"),
    [
        (Cursor({"a": "5"}), Cursor({"a": "10"}), {"a": "5"}, []),  # as numbers
        (Cursor({"a": "5"}), Cursor({"d": "1", "e": "2", "f": ""}), {"a": "5"}, []),
        (Cursor({"b": "5", "f": "2"}), Cursor({"d": "1", "e": "2", "c": "8"}), {"b": "5", "c": "8"}, []),
        (Cursor({}, ["a"]), Cursor({"b": "1", "c": "1"}), {}, ["b", "c"]),
        (Cursor({"b": "3"}, ["c"]), Cursor({"b": ""}, ["f"]), {"b": ""}, ["f"]),
        (
            Cursor({"x": "3"}),
            Cursor({"d": "", "e": "", "f": ""}),
            {"x": "3"},
            ["a"],
        ),  # x is kept, so that reading it reports that it is gone
    ],
)
def test_each_shard_is_read_from_the_earliest_of_several_cursors(
    one: Cursor, other: Cursor, at: dict[str, str], started: list[str]
) -> None:
    for cursors in ([one, other], [other, one], [one, other, one]):
        lineage = Lineage(cursors, FAMILY)
        assert lineage.at == at
        assert lineage.start_ready() == started


def text(cursor: Cursor, since: int = 100, stream: str = "s", scan: str | None = None) -> str:
    return Checkpoint(stream, since, [cursor], scan).text()


def test_the_earliest_checkpoint() -> None:
    here, there = Cursor({"a": "9", "b": "9"}), Cursor({"a": "10", "b": "8"})
    assert find_earliest([text(here), text(there, since=50)]) == text(Cursor({"a": "9", "b": "8"}), since=50)
    assert parse_checkpoint(find_earliest([text(here), text(Cursor({"a": "3"}))])).cursors == [here, Cursor({"a": "3"})]
    assert find_earliest([text(here), ""]) == find_earliest([]) == ""
    assert find_earliest([text(here), text(here, stream="t")]) == ""
    one, other = '[{"done":true},{}]', "[{},{}]"
    assert parse_checkpoint(find_earliest([text(here), text(here, scan=one)])).scan == one
    assert (
        parse_checkpoint(find_earliest([text(here, scan=one), text(here, scan=other)])).scan == ""
    )  # the scan starts again
    with pytest.raises(ValueError, match="not a checkpoint"):
        find_earliest(["", "7"])


NONSENSE = ["7", "{}", "[]", '[{"done":true}]', '{"stream":"s","since":1,"cursors":[]}', "[" * 100_000]
NONSENSE += [text(Cursor({"a": "x"})), text(Cursor(), scan="7"), "\udc80"]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=range(len(NONSENSE)))
def test_texts_that_are_not_checkpoints_raise_value_error(nonsense: str) -> None:
    with pytest.raises(ValueError, match="not a checkpoint"):
        parse_checkpoint(nonsense)


@given(st.text())
def test_random_text_is_not_a_checkpoint(text: str) -> None:
    with pytest.raises(ValueError, match="not a checkpoint"):
        parse_checkpoint(text)
