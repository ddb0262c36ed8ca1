"""A map as a table of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .cells import count_cells, shorten
from .map import Map
from .map_wording import map_lines
from .wording import plain, show_time

_CELLS = 40  # of a name
_ROWS = 200  # of each table


def draw_map_table(map: Map) -> str:
    """Return a map as two tables: the kinds of causes, and the types of events, each by frequency.

    A table has at most 200 rows, and says how many more there are. Control characters are escaped.
    """
    causes = [
        [
            f"{shorten(edge.cause, _CELLS)} -> {shorten(edge.effect, _CELLS)}",
            f"{edge.count:,}",
            f"{map.share(edge):.0%}",
            "" if edge.p50 is None else show_time(edge.p50),
            "" if edge.p95 is None else show_time(edge.p95),
            f"{edge.failed:,}" if edge.failed else "",
            f"{edge.skewed:,}" if edge.skewed else "",
        ]
        for edge in map.edges
    ]
    kinds = [
        [
            shorten(kind.tag, _CELLS),
            f"{kind.count:,}",
            f"{kind.failed:,}" if kind.failed else "",
            shorten(plain(", ".join(kind.places)), _CELLS),
        ]
        for kind in map.kinds
    ]
    lines = list(map_lines(map))
    if causes:
        lines += ["", *_align([["causes", "count", "share", "p50", "p95", "failed", "clock skew"], *causes])]
    if kinds:
        lines += ["", *_align([["type", "count", "failed", "in"], *kinds])]
    return "\n".join(lines)


def _align(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    shown = rows[: _ROWS + 1]
    widths = [max(map(count_cells, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        yield "  ".join(
            cell + " " * (width - count_cells(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
    if len(rows) > len(shown):
        yield f"and {len(rows) - len(shown):,} more"
