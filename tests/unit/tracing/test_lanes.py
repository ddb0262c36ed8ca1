"""Lanes: where marks, lines and texts are, what they say, and how large the picture may be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.traces import HOUR, many, small_trace, step, trace_of, worst_trace

from eventsrc.tracing import Handling, Step, Trace, draw_lanes, draw_mermaid
from eventsrc.tracing.cells import CELL, count_cells
from eventsrc.tracing.layout import GAP, Mark, find_places

SVG = "{http://www.w3.org/2000/svg}"


class Seen(NamedTuple):
    """A mark of an SVG: its texts from left to right, its shape, and the place of its shape."""

    texts: list[str]
    shape: str
    x: float
    y: float
    end: float
    title: str


def read(svg: str) -> list[Seen]:
    found: list[Seen] = []
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        shape = [each for each in group if each.tag in (f"{SVG}circle", f"{SVG}path")][-1]
        texts = group.findall(f"{SVG}text")
        place = shape.get("cx", ""), shape.get("cy", "")
        if shape.tag == f"{SVG}path":
            move = re.match(r"M(\d+) (\d+)", shape.get("d", ""))
            assert move is not None
            place = move[1], move[2]
        end = float(texts[-1].get("x", "")) + CELL * count_cells(texts[-1].text or "")
        title = group.findtext(f"{SVG}title", "")
        name = f"{shape.get('class')} {shape.tag.removeprefix(SVG)}"
        found.append(Seen([each.text or "" for each in texts], name, float(place[0]), float(place[1]), end, title))
    return found


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    steps: list[Step] = []
    for number in range(draw(st.integers(0, 25))):
        parents = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        steps.append(
            step(
                f"a-{number}@1",
                *sorted(parents),
                ms=draw(st.sampled_from([0, 0, 1, 2, 500, HOUR, 30 * HOUR])) + draw(st.integers(-3, 3)),
                tag=draw(st.sampled_from(["placed", "order.placed", "計測.開始", "a" * 50])) + str(number),
                service=draw(st.sampled_from(["shop", "stock", "payments"])),
            )
        )
    return trace_of(*steps)


@given(traces())
def test_steps_are_right_of_their_causes_and_nothing_overlaps(trace: Trace) -> None:
    svg = draw_lanes(trace)
    seen = {each.title.split("  ")[1]: each for each in read(svg)}
    assert len(seen) == len(trace.steps)
    for one in trace.steps:
        for parent in one.parents:
            assert seen[one.id].x >= seen[trace.steps[parent].id].x + GAP
    for mark, other in combinations(seen.values(), 2):
        assert mark.y != other.y or mark.x - 9 >= other.end or other.x - 9 >= mark.end
    width = ElementTree.fromstring(svg).get("width")
    assert width is not None
    assert all(each.end <= float(width) for each in seen.values())


@given(traces())
def test_no_mark_or_text_is_on_a_line_of_others(trace: Trace) -> None:
    places = list(dict.fromkeys(one.place for one in trace.steps))
    marks = [Mark(one.time, one.parents, places.index(one.place), 100) for one in trace.steps]
    found = find_places(marks, len(places))
    causes = {parent for one in trace.steps for parent in one.parents}
    taken: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for number, mark in enumerate(marks):
        start = min([found.xs[number], *(found.xs[cause] for cause in mark.causes)])
        taken.setdefault((mark.lane, found.rows[number]), []).append((start, found.xs[number] + mark.width))
        assert number not in causes or found.xs.count(found.xs[number]) == 1
    for each in taken.values():
        assert all(end < start for (_, end), (start, _) in pairwise(sorted(each)))


def test_a_slow_clock_is_named_and_not_drawn_backwards() -> None:
    first, second = read(draw_lanes(trace_of(step("a-1@1", ms=50), step("b-1@1", 0, ms=10, tag="order.paid"))))
    assert second.texts == ["order.paid", "clock skew 40 ms"]
    assert second.x > first.x


def test_long_waits_are_folded() -> None:
    steps = [step("a-1@1"), step("a-2@1", 0, ms=40, tag="b"), step("a-3@1", 1, ms=40 + 2 * HOUR + 240_000, tag="c")]
    svg = draw_lanes(trace_of(*steps))
    first, second, third = read(svg)
    assert ">… 2 h 4 min …<" in svg
    assert ">+2 h 4 min<" in svg
    assert third.x - second.x < second.x - first.x
    assert " …<" not in draw_lanes(trace_of(*steps[:2]))


def test_equal_siblings_are_one_mark() -> None:
    failed = (Handling("mail@1", "parked", "no route", 5),)
    letters = [
        step(f"b-{number}@1", 0, ms=80, tag="letter.sent", handled=failed if number < 3 else ())
        for number in range(212)
    ]
    _, letter = read(draw_lanes(trace_of(step("a-1@1"), *letters)))
    assert letter.texts == ["letter.sent", "x 212, p95 80 ms, 3 failed"]


def test_a_circle_between_steps_drawn_as_one_is_drawn_forwards_only() -> None:
    steps: list[Step] = []
    for n in range(4):  # of the letters, the last one has a cause among the answers to the others
        steps.append(step(f"a-{n}@1", ms=n))
        steps.append(step(f"b-{n}@1", *([2] if n == 3 else []), 3 * n, ms=n, tag="letter.sent"))
        steps.append(step(f"c-{n}@1", 3 * n + 1, ms=n, tag="letter.answered"))
    trace = trace_of(*steps)
    first, second, third = read(draw_lanes(trace))
    assert first.x < second.x < third.x
    assert draw_mermaid(trace).split("\n")[-2:] == ["  n0 --> n1", "  n1 --> n2"]


def test_states_differ_in_shape_and_text() -> None:
    seen = {each.texts[0]: each for each in read(draw_lanes(small_trace()))}
    states = [seen[name] for name in ("order.placed", "order.confirmed", "parcel.sent", "unreadable")]
    assert len({each.shape for each in states[:3]}) == 3
    assert [each.texts[1:] for each in states] == [[], ["failed: mail@1"], ["open: track@1, and 1 more"], []]
    assert "SMTPException: no route" in seen["order.confirmed"].title


def test_shortened_names_are_whole_in_the_title() -> None:
    [mark] = read(draw_lanes(trace_of(step("a-1@1", tag="order." + "long" * 20))))
    assert len(mark.texts[0]) == 30
    assert "long" * 20 in mark.title


@pytest.mark.parametrize("trace", [many(10_000), worst_trace(2_000)], ids=["many", "worst"])
def test_large_traces_are_bounded_and_the_rest_is_counted(trace: Trace) -> None:
    svg = draw_lanes(trace)
    drawn = len(read(svg))
    assert 30 <= drawn <= 300
    assert len(svg.encode()) < 250_000
    assert f">and {len(trace.steps) - drawn:,} more steps, not drawn<" in svg


def test_many_services_share_the_last_lane() -> None:
    svg = draw_lanes(trace_of(*(step(f"a-{n}@1", ms=n, service=f"service {n}") for n in range(50))))
    assert ">service 28<" in svg
    assert ">service 29<" not in svg
    assert ">others<" in svg
    assert len(read(svg)) == 50


@pytest.mark.parametrize("trace", [trace_of(), trace_of(failures=("shop: StoreUnavailable",))])
def test_an_empty_trace_is_drawn(trace: Trace) -> None:
    svg = draw_lanes(trace)
    assert read(svg) == []
    assert ("1 not read" in svg) == bool(trace.failures)


def luminance(colour: str) -> float:
    digits = colour if len(colour) == 6 else "".join(each * 2 for each in colour)
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def colours(style: str, names: Sequence[str], what: str) -> list[str]:
    found = [re.search(rf"\.lanes {name}{{[^}}]*{what}:#([0-9a-f]+)", style) for name in names]
    return [each[1] for each in found if each is not None]


def test_texts_and_shapes_have_contrast_in_light_and_dark() -> None:
    style = draw_lanes(trace_of()).split("<style>")[1].split("</style>")[0]
    for mode in style.split("@media(prefers-color-scheme:dark)"):
        [ground] = colours(mode, [r"\.ground"], "fill")
        texts = colours(mode, ["text", r"\.dim"], "fill")
        shapes = colours(mode, [r"\.line", r"\.open", r"\.several"], "stroke") + colours(
            mode, [r"\.done", r"\.failed"], "fill"
        )
        assert (len(texts), len(shapes)) == (2, 5)
        assert all(contrast(each, ground) >= 4.5 for each in texts)
        assert all(contrast(each, ground) >= 3 for each in shapes)
