"""A trace as lanes, an SVG: a lane for each service, time to the right, and lines from causes to effects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from .cells import CELL, STYLE, count_cells, draw_text, shorten
from .grouping import Group, Grouping, find_causes
from .layout import GAP, Layout, Mark, find_places
from .trace import Link, Trace
from .wording import (
    name_state,
    note,
    plain,
    show_count,
    show_latency,
    show_step,
    show_time,
    size_lines,
    summarize,
)

_MARKS, _LANES, _CAUSES = 300, 30, 4  # at most: marks, lanes, and lines to one mark
_BYTES = 100_000  # of marks with their texts; the lines, the axis and the lanes take at most as many
_ROW, _TITLE, _AXIS = 24, 26, 44  # px: height of a row, of the title of a lane, and of the axis
_NARROWEST = 640  # px
_MORE = "others"

_SHAPES = {
    "done": '<circle class="done" cx="{x}" cy="{y}" r="5"/>',
    "open": '<path class="open" d="M{x} {y}m-6.5 0 6.5-6.5 6.5 6.5-6.5 6.5z"/>',
    "failed": '<path class="failed" d="M{x} {y}m-7 5.5 7-12 7 12z"/>',
    "unreadable": '<path class="failed" d="M{x} {y}m-5-5h10v10h-10zl10 10m0-10-10 10"/>',
}
_MEANINGS = {
    "done": "nothing known to be open",
    "open": "open: a processor has not handled it",
    "failed": "failed: parked or retried",
    "unreadable": "cannot be read",
}
_SEVERAL = '<circle class="several" cx="{x}" cy="{y}" r="9"/>'


class Drawn(NamedTuple):
    """A group of steps, and its texts."""

    group: Group
    state: str  # a key of _SHAPES
    name: str
    notes: str
    title: str


def draw_lanes(trace: Trace, link: Link | None = None, *, by_stream: bool = False) -> str:
    """Return a trace as an SVG of at most 250 KB and its links, without scripts and without anything from outside.

    - A lane for each service, or store, or stream (`by_stream`), in the order of their first steps. Lines lead from
      causes to effects.
    - Time goes to the right. A step is right of its causes also if the clocks differ, which it then says. Long waits
      are folded, and two steps may be farther apart than their times, so that each can be seen.
    - Siblings with equal subtrees are one mark, as in the tree. Marks that do not fit are left out, and counted.
    - What is open, has failed or cannot be read has a shape of its own, and says so.
    - `link` returns the address of a step's page: its mark leads there.
    - It is light or dark as its reader prefers. Names that are too long are shortened; a title has more of them.
    """
    drawn, left_out = _choose(trace)
    places = list(dict.fromkeys(trace.steps[each.group[0]].lane(by_stream=by_stream) for each in drawn))
    lanes = {place: min(number, _LANES - 1) for number, place in enumerate(places)}
    names = places if len(places) <= _LANES else [*places[: _LANES - 1], _MORE]
    causes = find_causes(trace, [each.group for each in drawn])
    marks = [
        Mark(
            trace.steps[each.group[0]].time,
            some[-_CAUSES:],
            lanes[trace.steps[each.group[0]].lane(by_stream=by_stream)],
            round(CELL * (count_cells(each.name) + count_cells(each.notes) + 3)) + 16,
        )
        for each, some in zip(drawn, causes, strict=True)
    ]
    layout = find_places(marks, len(names))
    width = max(_NARROWEST, layout.width + GAP)
    head = _choose_head(trace, left_out)
    top = 20 + 18 * len(head) + _AXIS  # of the lanes
    tops = [top]
    for height in layout.heights:
        tops.append(tops[-1] + _TITLE + height * _ROW)
    legend = [(_SHAPES[state], _MEANINGS[state]) for state in _SHAPES if any(each.state == state for each in drawn)]
    if any(len(each.group) > 1 for each in drawn):
        legend.append((_SEVERAL + _SHAPES["done"], "several steps with equal effects"))
    bottom = tops[-1] + 12 + 20 * len(legend)
    role = "img" if link is None else "group"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lanes" role="{role}" aria-label="{escape(head[0])}"',
        f'width="{width}" height="{bottom}" viewBox="0 0 {width} {bottom}">',
        f"<title>{escape(head[0])}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{width}" height="{bottom}"/>',
    ]
    for number, line in enumerate(head):
        parts.append(draw_text(8, 22 + 18 * number, line, "" if number else "strong", int((width - 16) / CELL)))
    parts += _draw_axis(layout, top, tops[-1])
    parts += [f'<path class="rule" d="M0 {y}H{width}"/>' for y in tops]
    ys = [tops[mark.lane] + _TITLE + row * _ROW + _ROW // 2 for mark, row in zip(marks, layout.rows, strict=True)]
    lines = "".join(_draw_lines(number, mark.causes, layout.xs, ys) for number, mark in enumerate(marks))
    parts += [f'<path class="line" d="{lines}"/>'] if lines else []
    parts += [draw_text(8, tops[number] + 17, name, "dim", 60) for number, name in enumerate(names)]
    for each, x, y in zip(drawn, layout.xs, ys, strict=True):
        address = link(trace.steps[each.group[0]]) if link is not None and len(each.group) == 1 else ""
        parts.append(_draw_mark(each, x, y, address))
    for y, (shape, meaning) in zip(range(tops[-1] + 20, bottom, 20), legend, strict=True):
        parts.append(shape.format(x=GAP, y=y) + draw_text(GAP + 14, y + 4, meaning, "dim", 40))
    return "\n".join([*parts, "</svg>"])


def _choose_head(trace: Trace, left_out: int) -> list[str]:
    """Return the first lines of the head, and numbers instead of the others."""
    failed = len(trace.failed)
    counts = {"failed": failed, "open": len(trace.open) - failed, "missing": len(trace.missing)}
    counts["not read"] = len(trace.failures)
    return [
        *size_lines(trace),
        *filter(None, [", ".join(f"{count:,} {name}" for name, count in counts.items() if count)]),
        *([f"and {show_count(left_out, 'more step')}, not drawn"] if left_out else []),
    ]


def _choose(trace: Trace) -> tuple[list[Drawn], int]:
    """Return what is drawn, in the order of causes, and the number of steps that are left out."""
    groups = sorted(group for _, group in Grouping(trace).walk())
    drawn: list[Drawn] = []
    size = 0
    for group in groups[:_MARKS]:
        each = _word(trace, group)
        size += 200 + sum(len(escape(text).encode()) for text in (each.name, each.notes, each.title))
        if size > _BYTES:
            break
        drawn.append(each)
    return drawn, sum(map(len, groups[len(drawn) :]))


def _word(trace: Trace, group: Group) -> Drawn:
    steps, latency = [trace.steps[number] for number in group], trace.latency(group[0])
    step = steps[0]
    notes: list[str] = []
    if len(group) > 1:
        notes += summarize(trace, group)
    else:
        waiting = [each for each in step.handled if each.is_open]
        notes += ["unreadable"] if step.damage and step.events else []
        notes += [show_latency(latency)] if latency is not None and latency < 0 else []
        notes += [f"{'failed' if each.error else 'open'}: {plain(each.processor)}" for each in waiting[:1]]
        notes += [f"and {len(waiting) - 1:,} more"] if len(waiting) > 1 else []
    title = "\n".join(["  ".join(show_step(trace, group)), *note(trace, group)])
    return Drawn(group, name_state(steps), shorten(step.label, 30), shorten(", ".join(notes), 44), title[:400])


def _draw_axis(layout: Layout, top: int, bottom: int) -> Iterator[str]:
    ticks, folds, end, last = "", "", 0, ""
    for place, column in enumerate(layout.columns):
        if column.folded:
            middle = (layout.columns[place - 1].x + column.x) // 2
            folds += f"M{middle - 4} {top - 6}V{bottom}M{middle + 4} {top - 6}V{bottom}"
            yield draw_text(middle, top - 12, f"… {show_time(column.folded / 1e6)} …", "dim", 40, anchor="middle")
        text = f"+{show_time((column.time - layout.columns[0].time) / 1e6)}" if place else "0"
        if column.x > end and text != last:
            ticks += f"M{column.x} {top - 26}V{bottom}"
            yield draw_text(column.x, top - 30, text, "dim", 40)
            end, last = column.x + round(CELL * (len(text) + 2)), text
    yield f'<path class="tick" d="{ticks}"/><path class="fold" d="{folds}"/>'


def _draw_lines(number: int, causes: Sequence[int], xs: Sequence[int], ys: Sequence[int]) -> str:
    """Return the path of the lines to a mark: down or up from each cause, then to the right."""
    x, y, path = xs[number], ys[number], ""
    for cause in causes:
        down = 5 if y > ys[cause] else -5
        path += f"M{xs[cause]} {ys[cause]}V{y - down}q0 {down} 5 {down}H{x - 7}"
    return f"{path}m-4-4 4 4-4 4" if path else ""


def _draw_mark(each: Drawn, x: int, y: int, address: str) -> str:
    shape = (_SEVERAL if len(each.group) > 1 else "") + _SHAPES[each.state]
    texts = draw_text(x + 14, y + 4, each.name, "", 30)
    if each.notes:
        texts += draw_text(x + 14 + round(CELL * (count_cells(each.name) + 1)), y + 4, each.notes, "strong", 44)
    mark = f"<g><title>{escape(each.title)}</title>{shape.format(x=x, y=y)}{texts}</g>"
    return f'<a href="{escape(address)}">{mark}</a>' if address else mark
