"""The lineage of shards: where to begin, what may be read next, and what of it a checkpoint keeps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsrc.stores.dynamodb.feed.checkpoint import Checkpoint, find_earliest, parse_checkpoint
from eventsrc.stores.dynamodb.feed.lineage import Cursor, Lineage, Range, Shard, cursor_before_scan, cursor_from_now


def shards(tree: str) -> list[Shard]:
    """Of `name<parent`; a closed one has a dot behind its name."""
    found: list[Shard] = []
    for each in tree.split():
        name, _, parent = each.partition("<")
        ending = "9" if name.endswith(".") else None
        found.append(Shard(name.rstrip("."), parent or None, Range(ending)))
    return found


FAMILY = shards("a. b.<a c.<a d<b e<b f<c")  # a was split twice, c was closed by time


def test_children_wait_for_their_parent_and_then_begin() -> None:
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


def test_a_parent_that_is_listed_no_more_counts_as_read() -> None:
    assert Lineage([Cursor()], shards("d<b e<b f<c")).start_ready() == ["d", "e", "f"]


def test_a_parent_that_is_being_read_holds_its_children_back_though_it_is_listed_no_more() -> None:
    lineage = Lineage([Cursor({"b": "7"})], shards("d<b"))
    assert lineage.start_ready() == []
    lineage.finish("b")
    assert lineage.start_ready() == ["d"]


def test_a_parent_that_has_never_been_listed_is_waited_for() -> None:
    lineage = Lineage([Cursor()], shards("a."))
    lineage.start_ready()
    lineage.finish("a")
    lineage.update(shards("a. f<c"))  # c is there already, but the list lags behind
    assert lineage.start_ready() == []
    lineage.update(shards("a. c.<a f<c"))
    assert lineage.start_ready() == ["c"]
    lineage.update(shards("f<c"))
    lineage.finish("c")
    assert lineage.start_ready() == ["f"]


def test_what_ended_is_kept_only_until_its_children_are_begun() -> None:
    lineage = Lineage([Cursor()], before := shards("a."))
    lineage.start_ready()
    lineage.finish("a")
    assert lineage.cursor() == Cursor({}, ["a"])
    assert Lineage([lineage.cursor()], before).start_ready() == []  # it is not read again
    lineage.update(shards("a. b<a"))
    assert lineage.start_ready() == ["b"]
    assert lineage.cursor() == Cursor({"b": ""}, [])
    late = Lineage([lineage.cursor()], shards("a. b<a c<a"))  # the list lagged behind
    assert late.start_ready() == ["c"]


def test_from_now_on_only_open_shards_are_read() -> None:
    assert cursor_from_now(FAMILY) == Cursor({"d": "", "e": "", "f": ""}, [])
    assert cursor_from_now(shards("a. b.<a")) == Cursor({}, ["b"])
    assert cursor_from_now([]) == Cursor()


def test_a_scan_begins_one_shard_back_and_no_shard_beside_its_ancestor() -> None:
    assert cursor_before_scan(FAMILY) == Cursor({"b": "", "c": ""})
    assert cursor_before_scan(shards("a. b<a c.<a d<c")) == Cursor({"a": ""})
    assert cursor_before_scan(shards("b<a")) == Cursor({"b": ""})
    assert cursor_before_scan([]) == Cursor()


@pytest.mark.parametrize(
    ("one", "other", "at", "begun"),
    [
        (Cursor({"a": "5"}), Cursor({"a": "10"}), {"a": "5"}, []),  # as numbers
        (Cursor({"a": "5"}), Cursor({"d": "1", "e": "2", "f": ""}), {"a": "5"}, []),
        (Cursor({"b": "5", "f": "2"}), Cursor({"d": "1", "e": "2", "c": "8"}), {"b": "5", "c": "8"}, []),
        (Cursor({}, ["a"]), Cursor({"b": "1", "c": "1"}), {}, ["b", "c"]),
        (Cursor({"b": "3"}, ["c"]), Cursor({"b": ""}, ["f"]), {"b": ""}, ["f"]),
        (Cursor({"x": "3"}), Cursor({"d": "", "e": "", "f": ""}), {"x": "3"}, ["a"]),  # that x is gone must show
    ],
)
def test_of_several_cursors_the_one_behind_counts_for_each_shard(
    one: Cursor, other: Cursor, at: dict[str, str], begun: list[str]
) -> None:
    for cursors in ([one, other], [other, one], [one, other, one]):
        lineage = Lineage(cursors, FAMILY)
        assert lineage.at == at
        assert lineage.start_ready() == begun


def text(cursor: Cursor, since: int = 100, stream: str = "s", scan: str | None = None) -> str:
    return Checkpoint(stream, since, [cursor], scan).text()


def test_the_earliest_of_checkpoints() -> None:
    here, there = Cursor({"a": "9", "b": "9"}), Cursor({"a": "10", "b": "8"})
    assert find_earliest([text(here), text(there, since=50)]) == text(Cursor({"a": "9", "b": "8"}), since=50)
    assert parse_checkpoint(find_earliest([text(here), text(Cursor({"a": "3"}))])).cursors == [here, Cursor({"a": "3"})]
    assert find_earliest([text(here), ""]) == find_earliest([]) == ""
    assert find_earliest([text(here), text(here, stream="t")]) == ""
    one, other = '[{"done":true},{}]', "[{},{}]"
    assert parse_checkpoint(find_earliest([text(here), text(here, scan=one)])).scan == one
    assert (
        parse_checkpoint(find_earliest([text(here, scan=one), text(here, scan=other)])).scan == ""
    )  # the scan begins anew
    with pytest.raises(ValueError, match="not a checkpoint"):
        find_earliest(["", "7"])


NONSENSE = ["7", "{}", "[]", '[{"done":true}]', '{"stream":"s","since":1,"cursors":[]}', "[" * 100_000]
NONSENSE += [text(Cursor({"a": "x"})), text(Cursor(), scan="7"), "\udc80"]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=range(len(NONSENSE)))
def test_what_is_no_checkpoint_is_a_value_error(nonsense: str) -> None:
    with pytest.raises(ValueError, match="not a checkpoint"):
        parse_checkpoint(nonsense)


@given(st.text())
def test_any_text_is_no_checkpoint(text: str) -> None:
    with pytest.raises(ValueError, match="not a checkpoint"):
        parse_checkpoint(text)
