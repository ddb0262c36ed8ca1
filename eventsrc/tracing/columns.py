"""A trace as lanes of text: a column for each service, and a line for each step, in the order of causes."""

from __future__ import annotations

from .cells import count_cells, shorten
from .grouping import Grouping
from .trace import Trace
from .wording import head_lines, name_state, show_count, show_time, summarize

_LANES, _STEPS = 8, 300  # at most
_CELLS = 28  # of a column
_MARKS = {"done": "", "open": "open: ", "failed": "failed: ", "unreadable": "unreadable: "}


def draw_columns(trace: Trace, *, by_stream: bool = False) -> str:
    """Return the head of a trace and a table: a column for each service, or stream, and a line for each step.

    The first column is the time since the first step. Siblings with equal subtrees are one line. At most 8 columns and
    300 lines are drawn; the last column has the other services, and the last line says how many more steps there are.
    """
    groups = sorted(group for _, group in Grouping(trace).walk())
    places = list(dict.fromkeys(trace.steps[group[0]].lane(by_stream=by_stream) for group in groups))
    names = places if len(places) <= _LANES else [*places[: _LANES - 1], "others"]
    rows = [["", *names]]
    start = min((step.time for step in trace.steps), default=0)
    for group in groups[:_STEPS]:
        step = trace.steps[group[0]]
        about = [step.label, *summarize(trace, group)[:1]] if len(group) > 1 else [step.label]
        mark = _MARKS[name_state([trace.steps[number] for number in group])] if step.events else ""
        text = mark + " ".join(about)
        lane = min(places.index(step.lane(by_stream=by_stream)), len(names) - 1)
        rows.append([f"+{show_time((step.time - start) / 1e6)}", *([""] * lane), text])
    left_out = sum(map(len, groups[_STEPS:]))
    return "\n".join(
        [
            *head_lines(trace),
            "",
            *_align(rows),
            *([f"and {show_count(left_out, 'more step')}, not drawn"] if left_out else []),
        ]
    )


def _align(rows: list[list[str]]) -> list[str]:
    cells = [[shorten(text, _CELLS) for text in row] for row in rows]
    count = max(map(len, cells))
    widths = [max(count_cells(row[each]) for row in cells if each < len(row)) for each in range(count)]
    return [
        "  ".join(text + " " * (width - count_cells(text)) for text, width in zip(row, widths, strict=False)).rstrip()
        for row in cells
    ]
