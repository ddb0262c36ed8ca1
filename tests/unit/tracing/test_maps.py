"""Maps: what is counted in real stores, what differs between two periods, and pictures in which nothing overlaps."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.bank import Account, Deposited
from support.maps import START, caused, edge, kind, small_map

from eventsrc import MemoryStore, Repository, SQLiteStore, StreamsParked
from eventsrc.processing import Context, Effects, MemoryCheckpoints, Processor
from eventsrc.store import Commit, Store
from eventsrc.tracing import Map, compare_maps, draw_map, draw_map_mermaid, draw_map_table, find_map, mapping
from eventsrc.tracing.map_difference import change_lines
from eventsrc.tracing.map_layout import ROW, Line, find_layout
from eventsrc.tracing.map_picture import BOXES, LINES

SVG = "{http://www.w3.org/2000/svg}"


@asynccontextmanager
async def stores_of(folder: Path, **commits: Sequence[Commit]) -> AsyncGenerator[dict[str, Store]]:
    """Open a file for each name, with these commits."""
    async with AsyncExitStack() as stack:
        stores: dict[str, Store] = {}
        for name, some in commits.items():
            store = stores[name] = await stack.enter_async_context(SQLiteStore(folder / f"{name}.db"))
            for commit in some:
                await store.append(commit)
        yield stores


def at(ms: float) -> datetime:
    return datetime.fromtimestamp((START + ms * 1000) / 1e6, UTC)


def pairs(map: Map) -> dict[str, int]:
    return {f"{edge.cause} {edge.effect}": edge.count for edge in map.edges}


async def test_causes_are_counted_over_two_stores(tmp_path: Path) -> None:
    orders = [caused(f"order-{n}@1", ms=n) for n in range(10)]
    items = [caused(f"item-{n}@1", f"order-{n}@1.0", tags=["stock.reserved"], ms=n + 100) for n in range(10)]
    answers = [caused(f"order-{n}@2", f"item-{n}@1", tags=["order.confirmed"], ms=n + 2100) for n in range(9)]
    made_by: dict[str, Any] = {"metadata": {"service": "the shop", "handler": "confirm@1.handle_reserved"}}
    answers.append(caused("order-9@2", "item-9@1.0", tags=["order.confirmed"], ms=50, **made_by))  # its clock is slow
    async with stores_of(tmp_path, shop=[*orders, *answers], stock=items) as stores:
        found = await find_map(stores)
    assert pairs(found) == {"order.placed stock.reserved": 10, "stock.reserved order.confirmed": 10}
    first, second = found.edges
    assert first.p50 == pytest.approx(0.1, rel=0.01)
    assert second.p95 == pytest.approx(2, rel=0.01)
    assert second.skewed == 1
    assert second.processors == ("confirm@1",)
    assert [found.share(each) for each in found.edges] == [1, 1]
    assert {kind.tag: (kind.count, kind.places) for kind in found.kinds} == {
        "order.placed": (10, ("shop",)),
        "stock.reserved": (10, ("stock",)),
        "order.confirmed": (10, ("shop", "the shop")),
    }
    assert (found.outside, found.unread, found.failures) == (0, 0, ())


async def test_a_cause_stands_for_its_event_and_a_commit_for_all_its_events(tmp_path: Path) -> None:
    commits = [
        caused("a-1@1", tags=["a", "b", "a"]),
        caused("b-1@1", "a-1@1.1", tags=["of.one"], ms=1),
        caused("b-2@1", "a-1@1", tags=["of.all"], ms=2),
        caused("b-3@1", "a-1@1.0", "a-1@1.2", tags=["of.two"], ms=3),
        caused("b-4@1", "a-1@1.7", tags=["of.none"], ms=4),  # it has no such event: each may be meant
    ]
    async with stores_of(tmp_path, shop=commits) as stores:
        found = await find_map(stores["shop"])
    assert pairs(found) == {"b of.one": 1, "a of.all": 1, "b of.all": 1, "a of.two": 1, "a of.none": 1, "b of.none": 1}


async def test_a_period_has_its_own_counts_and_older_causes_are_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "REMEMBERED", 1)
    commits = [caused(f"order-{n}@1", ms=n) for n in range(20)]
    commits += [caused(f"item-{n}@1", f"order-{n}@1.0", tags=["stock.reserved"], ms=n + 10) for n in range(20)]
    async with stores_of(tmp_path, shop=commits) as stores:
        found = await find_map(stores, at(10), at(25))
        [only] = found.edges
        assert (only.count, only.followed) == (15, 5)
        assert only.p50 == pytest.approx(0.01, rel=0.01)
        assert found.counts == {"order.placed": 10, "stock.reserved": 15}
        assert found.share(only) == 0.5
        early = await find_map(stores, at(25))
        assert early.counts == {"order.placed": 0, "stock.reserved": 5}
        assert (await find_map(stores, at(1000))).kinds == ()
        monkeypatch.setattr(mapping, "MAX_LOOKUPS", 5)
        bounded = await find_map(stores)
    assert (pairs(bounded), bounded.unread) == ({"order.placed stock.reserved": 5}, 15)


async def test_an_effect_is_counted_once_for_each_cause_that_led_to_it(tmp_path: Path) -> None:
    commits = [caused(f"order-{n}@1", ms=n) for n in range(4)]
    commits += [caused(f"letter-{n}@1", "order-1@1.0", tags=["letter.sent"], ms=n + 10) for n in range(8)]
    async with stores_of(tmp_path, shop=commits) as stores:
        found = await find_map(stores)
    [only] = found.edges
    assert (only.count, only.followed, found.share(only)) == (8, 1, 0.25)


async def test_a_cause_that_is_read_after_its_effect_is_counted_as_one_that_led_to_it(tmp_path: Path) -> None:
    """As in a scan, or where the clock of a store is slow."""
    orders = [caused(f"order-{n}@1", ms=1000 + n) for n in range(40)]
    items = [caused(f"item-{n}@1", f"order-{n}@1.0", tags=["stock.reserved"], ms=n) for n in range(20)]
    async with stores_of(tmp_path, shop=orders, stock=items) as stores:
        found = await find_map(stores)
    assert [(each.count, each.followed, found.share(each)) for each in found.edges] == [(20, 20, 0.5)]


async def test_a_cause_is_looked_for_in_the_store_of_its_effect_first(tmp_path: Path) -> None:
    one = [caused("x-1@1", tags=["a.one"]), caused("y-1@1", "x-1@1.0", tags=["a.effect"], ms=5)]
    other = [caused("x-1@1", tags=["b.one"], ms=1)]
    async with stores_of(tmp_path, a=one, b=other) as stores:
        assert pairs(await find_map(stores)) == {"a.one a.effect": 1}


async def test_foreign_ids_circles_and_damage_are_counted(tmp_path: Path) -> None:
    commits = [
        caused("a-1@1", "a-2@1.0", "a-1@1.0", tags=["a"]),
        caused("a-2@1", "a-1@1.0", "foreign-1@9.0", "an id of another program", tags=["b"], ms=1),
        caused("a-3@1", tags=["c", "d"], payload=b"damaged"),
        caused("a-4@1", "a-3@1.1", tags=["e"]),
    ]
    async with stores_of(tmp_path, shop=commits) as stores:
        found = await find_map(stores)
    assert pairs(found) == {"b a": 1, "a b": 1, "c e": 1, "d e": 1}
    assert found.outside == 2
    assert ">a</text>" in draw_map(found)


async def test_an_empty_store_and_one_that_cannot_be_read(tmp_path: Path) -> None:
    async with stores_of(tmp_path, shop=[]) as stores, MemoryStore() as memory:
        assert await find_map(stores) == Map(kinds=(), edges=())
        await memory.append(caused("a-1@1"))
        await stores["shop"].aclose()
        found = await find_map({**stores, "memory": memory})
    assert [kind.tag for kind in found.kinds] == ["order.placed"]
    assert found.failures[0].startswith("shop: StoreClosed")
    with pytest.raises(TypeError, match="has no feed"):
        await find_map(object())  # type: ignore[arg-type]


class Refusing(Effects, tag="refusing"):
    async def handle_deposited(self, event: Deposited, context: Context) -> None:
        if event.amount == 13:
            raise ValueError("unlucky")


async def test_commits_at_which_a_processor_failed_are_counted() -> None:
    async with MemoryStore() as store, MemoryCheckpoints() as checkpoints:
        accounts = Repository(Account, store)
        for number in range(3):
            account = Account.open(f"a-{number}", owner="ann")
            account.deposit(13 if number else 5)
            await accounts.save(account)
            made: dict[str, Any] = {"metadata": {"handler": "refusing@1.handle_deposited"}}
            await store.append(caused(f"b-{number}@1", f"account-a-{number}@1.1", tags=["noted"], **made))
        processor = Processor(Refusing(), store, checkpoints, attempts=1)
        with suppress(StreamsParked):
            await processor.run(until_caught_up=True)
        found = await find_map(store, processors=[processor])
    assert {kind.tag: kind.failed for kind in found.kinds} == {
        "account.opened": 2,
        "account.deposited": 2,
        "noted": 0,
    }
    assert [(edge.cause, edge.failed) for edge in found.edges] == [("account.deposited", 2)]


def test_what_differs_between_two_periods() -> None:
    kinds = (kind("a", 100), kind("b", 100))
    before = Map(kinds=kinds, edges=(edge("a", "b", 98), edge("a", "c", 50), edge("b", "c", 19), edge("b", "d", 3)))
    edges = (edge("a", "b", 60), edge("a", "c", 45, 0.06), edge("b", "c", 99), edge("b", "<e>\n", 2, None))
    changes = compare_maps(before, Map(kinds=kinds, edges=edges))
    assert list(change_lines(changes)) == [
        "changed: a -> b: share 98% -> 60%, p95 40 ms -> 40 ms",
        "changed: a -> c: share 50% -> 45%, p95 40 ms -> 60 ms",
        "new: b -> <e>\\n: 2 times",
        "gone: b -> d: 3 times, p95 40 ms",
    ]
    assert compare_maps(before, before) == ()


names = st.text(max_size=60) | st.sampled_from(["</svg><script>", '"]; click', "&" * 90, "\x1b[2J", "計測" * 40])


@st.composite
def maps(draw: st.DrawFn) -> Map:
    tags = draw(st.lists(names, max_size=8, unique=True))
    ends = st.sampled_from(tags) if tags else st.nothing()
    chosen = draw(st.lists(st.tuples(ends, ends), max_size=14, unique=True)) if tags else []
    edges = [
        edge(cause, effect, draw(st.integers(1, 10**9)), failed=draw(st.integers(0, 2)), skewed=draw(st.integers(0, 2)))
        for cause, effect in chosen
    ]
    kinds = tuple(kind(tag, 10, draw(names), failed=draw(st.integers(0, 1))) for tag in tags)
    return Map(kinds=kinds, edges=tuple(edges), failures=tuple(draw(st.lists(names, max_size=2))))


@given(maps())
@example(small_map())
def test_no_name_leaves_its_text(map: Map) -> None:
    root = ElementTree.fromstring(draw_map(map))
    assert {each.tag.removeprefix(SVG) for each in root.iter()} <= {
        "svg",
        "title",
        "style",
        "rect",
        "text",
        "path",
        "g",
    }
    boxes = [each for each in root.iter(f"{SVG}rect") if each.get("class") == "box"]
    assert len(boxes) == len(map.kinds)
    chart = draw_map_mermaid(map).split("\n")
    assert len(chart) == 1 + len(map.kinds) + len(map.edges)
    assert all(line.count('"') == 2 for line in chart[1:])
    for line in draw_map_table(map).split("\n"):
        assert line.isprintable()
    assert msgspec.json.decode(msgspec.json.encode(map), type=Map) == map


@given(st.integers(1, 9), st.data())
def test_boxes_and_lines_do_not_overlap(size: int, data: st.DataObject) -> None:
    ends = st.integers(0, size - 1)
    rows = [1] * size
    lines: list[Line] = []
    for cause, effect in data.draw(st.lists(st.tuples(ends, ends), max_size=24, unique=True)):
        rows[effect] += 1
        lines.append(Line(cause, effect, rows[effect]))
    layout = find_layout([(100 + 10 * box, rows[box] + 1) for box in range(size)], lines)
    boxes = [
        (place.x, place.y, place.x + layout.widths[place.column], place.y + ROW * (rows[box] + 1))
        for box, place in enumerate(layout.places)
    ]
    for (left, top, right, bottom), (left_of, top_of, right_of, bottom_of) in combinations(boxes, 2):
        assert left >= right_of or left_of >= right or top >= bottom_of or top_of >= bottom
    assert len(layout.routes) == sum(line.cause != line.effect for line in lines)
    pieces: list[tuple[int, tuple[int, int], tuple[int, int]]] = []
    for number, route in enumerate(layout.routes):
        for one, other in zip(route.points, route.points[1:], strict=False):
            assert one[0] == other[0] or (one[1] == other[1] and one[0] < other[0])
            pieces.append((number, min(one, other), max(one, other)))
            for left, top, right, bottom in boxes:  # inside no box
                assert (
                    other[0] <= left
                    or one[0] >= right
                    or max(one[1], other[1]) <= top
                    or min(one[1], other[1]) >= bottom
                )
    first, last = ([route.points[place] for route in layout.routes] for place in (0, -1))
    for (number, one, end), (another, two, stop) in combinations(pieces, 2):
        if first[number] == first[another] or last[number] == last[another]:
            continue  # they have an end in common
        if one[0] == end[0] == two[0] == stop[0]:
            assert one[1] >= stop[1] or two[1] >= end[1]
        if one[1] == end[1] == two[1] == stop[1]:
            assert one[0] >= stop[0] or two[0] >= end[0]
    assert all(0 <= x <= layout.width and 0 <= y <= layout.height for _, one, end in pieces for x, y in (one, end))


def test_causes_are_left_of_effects_except_in_a_circle() -> None:
    layout = find_layout([(100, 4)] * 4, [Line(0, 1, 2), Line(1, 2, 2), Line(0, 2, 3), Line(2, 1, 3), Line(3, 3, 2)])
    xs = [place.x for place in layout.places]
    assert xs[0] < xs[1] < xs[2]
    assert [route.backward for route in layout.routes].count(True) == 1


def large(size: int, name: str) -> Map:
    tags = [f"{number}{name}" for number in range(size)]
    edges = tuple(edge(tags[one], tags[other], failed=1) for one, other in combinations(range(size), 2))
    kinds = tuple(kind(tag, 1, *[name] * 20, failed=1) for tag in tags)
    return Map(kinds=kinds, edges=edges, failures=(name,) * 40)


@pytest.mark.parametrize("map", [large(60, "'" * 200), large(60, "\U0001f600" * 200), large(60, "")])
def test_large_maps_are_bounded_and_the_rest_is_counted(map: Map) -> None:
    svg = draw_map(map)
    assert len(svg.encode()) < 250_000
    assert svg.count('class="box"') == BOXES
    assert f"and {60 - BOXES} more types of events, {len(map.edges) - LINES:,} more kinds of causes, not drawn" in svg
    chart = draw_map_mermaid(map)
    assert len(chart) <= 50_000
    assert chart.count("-->") <= 500
    assert "more edges" in chart
    assert "and 1,570 more" in draw_map_table(map)


def test_what_failed_has_a_shape_and_a_text() -> None:
    svg = draw_map(small_map())
    assert svg.count('class="failed"') == 5  # two rows, two boxes and the legend
    assert "p95 2.1 s, 7 failed" in svg
    assert 'class="failed"' not in draw_map(Map(kinds=(kind("a"),), edges=(edge("a", "a"),)))
