"""A map as an SVG: a box for each type of events, and lines from causes to effects."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from .cells import CELL, STYLE, count_cells, draw_text, shorten
from .map import Edge, Kind, Map
from .map_layout import ROW, Line, MapLayout, Route, find_layout
from .map_wording import describe_edge, describe_kind, map_lines
from .wording import plain, show_count

BOXES, LINES = 40, 120
"""Types of events, and kinds of causes, that are drawn at most. The most frequent ones are."""

_NAME, _ABOUT, _HEAD = 30, 44, 6  # cells of a name, and of what is said of it; lines of the head
_EDGE, _TEXT, _MARGIN, _NARROWEST = 10, 26, 18, 640  # px

_STYLE = """
.lanes .box{fill:#fff;stroke:#0072b2;stroke-width:1.5}
.lanes .back{stroke-dasharray:5 3}
.lanes .loop{stroke:#6b6b6b;fill:none;stroke-width:1.3}
@media(prefers-color-scheme:dark){
.lanes .box{fill:#16181c;stroke:#56b4e9}
.lanes .loop{stroke:#9a9a9a}
}
"""
_FAILED = '<path class="failed" d="M{x} {y}m-6 5 6-10 6 10z"/>'
_LOOP = '<path class="loop" d="M{x} {y}m3-4a5 5 0 1 0 2 5m-5-4h4v-4"/>'


class _Row(NamedTuple):
    """A line of a box about one of its causes."""

    name: str
    about: str
    failed: bool
    itself: bool


def draw_map(map: Map) -> str:
    """Return a map as an SVG of at most 250 KB, without scripts and without anything from outside.

    - A box for each type of events says how often it was recorded, and where. A row in it for each of its causes says
      how often, how fast, and how often a processor has failed. A line leads there from the cause's box.
    - Causes are left of their effects. In a circle some lines lead backward, to the right side of a box; these are
      dashed. A type that causes itself has a row with a loop.
    - The most frequent 40 types and 120 kinds of causes are drawn; the picture says how many more there are.
    - What has failed has a shape and says so. It is light or dark as its reader prefers. Names that are too long are
      shortened; a title has more of them.
    """
    kinds = map.kinds[:BOXES]
    numbers = {kind.tag: number for number, kind in enumerate(kinds)}
    edges = [edge for edge in map.edges if edge.cause in numbers and edge.effect in numbers][:LINES]
    boxes: list[list[_Row]] = [[] for _ in kinds]
    lines: list[Line] = []
    for edge in sorted(edges, key=lambda edge: numbers[edge.cause]):
        effect = numbers[edge.effect]
        boxes[effect].append(_word(edge))
        lines.append(Line(numbers[edge.cause], effect, len(boxes[effect]) + 1))
    layout = find_layout([(_measure(*each), len(each[1]) + 2) for each in zip(kinds, boxes, strict=True)], lines)
    head = list(map_lines(map))
    head = head if len(head) <= _HEAD else [*head[: _HEAD - 1], f"and {len(head) - _HEAD + 1:,} more lines"]
    if len(kinds) < len(map.kinds) or len(edges) < len(map.edges):
        more = show_count(len(map.kinds) - len(kinds), "more type")
        head.append(f"and {more} of events, {len(map.edges) - len(edges):,} more kinds of causes, not drawn")
    top = 20 + 18 * len(head) + _MARGIN
    width, height = max(_NARROWEST, layout.width + 2 * _MARGIN), top + layout.height + _MARGIN
    legend = [
        *(
            [(_FAILED, "failed: parked or retried")]
            if any(each.failed for some in (kinds, edges) for each in some)
            else []
        ),
        *([(_LOOP, "causes itself")] if any(row.itself for box in boxes for row in box) else []),
    ]
    bottom = height + 20 * len(legend)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lanes" role="img" aria-label="{escape(head[0])}"',
        f'width="{width}" height="{bottom}" viewBox="0 0 {width} {bottom}">',
        f"<title>{escape(head[0])}</title>",
        f"<style>{STYLE}{_STYLE}</style>",
        f'<rect class="ground" width="{width}" height="{bottom}"/>',
    ]
    for number, text in enumerate(head):
        parts.append(draw_text(8, 22 + 18 * number, text, "" if number else "strong", int((width - 16) / CELL)))
    parts += [_draw_route(route, top) for route in layout.routes]
    parts += [
        _draw_box(kind, box, place, top, layout) for place, (kind, box) in enumerate(zip(kinds, boxes, strict=True))
    ]
    for y, (shape, meaning) in zip(range(height + 6, bottom + 6, 20), legend, strict=True):
        parts.append(shape.format(x=_MARGIN, y=y) + draw_text(_MARGIN + 14, y + 4, meaning, "dim", 40))
    return "\n".join([*parts, "</svg>"])


def _word(edge: Edge) -> _Row:
    itself = edge.cause == edge.effect
    name = "itself" if itself else shorten(edge.cause, _NAME)
    return _Row(name, shorten(describe_edge(edge), _ABOUT), bool(edge.failed), itself)


def _measure(kind: Kind, rows: Sequence[_Row]) -> int:
    """Return the width of a box in px."""
    texts = [_EDGE + CELL * count_cells(shorten(kind.tag, _NAME)) + (_TEXT if kind.failed else 0)]
    texts.append(_EDGE + CELL * count_cells(_about(kind)))
    texts += [_TEXT + CELL * (count_cells(row.name) + 1 + count_cells(row.about)) for row in rows]
    return round(max(texts)) + _EDGE


def _about(kind: Kind) -> str:
    return shorten(describe_kind(kind), _ABOUT)


def _draw_route(route: Route, top: int) -> str:
    (x, y), *others = [(x + _MARGIN, y + top) for x, y in route.points]
    path, before = f"M{x} {y}", (x, y)
    for point in others:
        path += f"H{point[0]}" if point[1] == before[1] else f"V{point[1]}"
        before = point
    head = f"M{x + 6} {y - 4}l-6 4 6 4" if route.backward else f"M{before[0] - 6} {before[1] - 4}l6 4-6 4"
    return f'<path class="line{" back" if route.backward else ""}" d="{path}{head}"/>'


def _draw_box(kind: Kind, rows: Sequence[_Row], number: int, top: int, layout: MapLayout) -> str:
    place = layout.places[number]
    x, y, width = place.x + _MARGIN, place.y + top, layout.widths[place.column]
    title = "\n".join([plain(kind.tag), describe_kind(kind), *(f"{row.name}: {row.about}" for row in rows)])[:400]
    parts = [
        f"<title>{escape(title)}</title>",
        f'<rect class="box" x="{x}" y="{y}" width="{width}" height="{ROW * (len(rows) + 2)}" rx="4"/>',
        draw_text(x + _EDGE, y + 16, kind.tag, "strong", _NAME),
        draw_text(x + _EDGE, y + ROW + 14, _about(kind), "strong" if kind.failed else "dim", _ABOUT),
    ]
    if kind.failed:
        parts.append(_FAILED.format(x=x + width - 14, y=y + ROW // 2))
    for line, row in enumerate(rows, 2):
        middle = y + ROW * line + ROW // 2
        shape = (_LOOP if row.itself else "") + (_FAILED if row.failed and not row.itself else "")
        parts.append(shape.format(x=x + 14, y=middle))
        parts.append(draw_text(x + _TEXT, middle + 4, row.name, "", _NAME))
        after = x + _TEXT + round(CELL * (count_cells(row.name) + 1))
        parts.append(draw_text(after, middle + 4, row.about, "strong" if row.failed else "dim", _ABOUT))
    return f"<g>{''.join(parts)}</g>"
