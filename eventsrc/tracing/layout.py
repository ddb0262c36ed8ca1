"""Where the marks of lanes are: their columns by cause and time, and their rows in a lane."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

GAP = 18  # px between two columns, at least
_SPAN = 700  # px of all times that are not folded
_FOLDED = 150  # px of a wait that is folded: room for its text and that of the time before it
_LONG = 1_000_000  # µs: shorter waits are not folded
_MANY = 10  # a wait is folded if it is as many times longer than all shorter ones together


class Mark(NamedTuple):
    """What is known of a mark before it has a place."""

    time: int  # µs
    causes: Sequence[int]  # the marks that caused it, each before it in the list
    lane: int
    width: int  # px of its text


class Column(NamedTuple):
    x: int
    time: int  # µs
    folded: int  # µs between the column before it and this one that are not drawn to scale; 0 if they are


class Layout(NamedTuple):
    xs: Sequence[int]  # of each mark
    rows: Sequence[int]  # of each mark, in its lane
    columns: Sequence[Column]  # by x, one for each time
    heights: Sequence[int]  # rows of each lane
    width: int  # px


def find_places(marks: Sequence[Mark], lanes: int) -> Layout:
    """Return the places of marks.

    - A mark is right of its causes, also if its clock says otherwise.
    - A mark that caused another one has its x for itself, so that no other mark is on the line below it.
    - A row is taken by a mark, its text, and the line that leads to it from its first cause.
    """
    is_cause = {cause for mark in marks for cause in mark.causes}
    keys: list[tuple[int, int, int]] = []  # time, steps by cause at this time, number if it is a cause
    for number, mark in enumerate(marks):
        time, depth = max([(mark.time, 0), *((keys[cause][0], keys[cause][1] + 1) for cause in mark.causes)])
        keys.append((time, depth, number + 1 if number in is_cause else 0))
    columns = sorted(set(keys))
    placed = _find_columns([time for time, _, _ in columns])
    by_key = {key: column.x for key, column in zip(columns, placed, strict=True)}
    xs = [by_key[key] for key in keys]
    ends: list[list[int]] = [[] for _ in range(lanes)]
    rows = [0] * len(marks)
    for number in sorted(range(len(marks)), key=lambda number: (xs[number], number)):
        mark, row = marks[number], 0
        start = min([xs[number], *(xs[cause] for cause in mark.causes)]) - GAP // 2
        taken = ends[mark.lane]
        while row < len(taken) and taken[row] > start:
            row += 1
        if row == len(taken):
            taken.append(0)
        taken[row] = xs[number] + mark.width
        rows[number] = row
    width = max((end for taken in ends for end in taken), default=0)
    return Layout(xs, rows, placed, [max(1, len(taken)) for taken in ends], width)


def _find_columns(times: Sequence[int]) -> list[Column]:
    """Return the columns of these ascending times: in proportion, but apart, and without the long waits."""
    waits = [after - before for before, after in pairwise(times)]
    total, longest = 0, 0  # of the waits that are drawn
    for wait in sorted(waits):
        if wait >= _LONG and total and wait > _MANY * total:
            break
        total, longest = total + wait, wait
    found = [Column(GAP, times[0], 0)] if times else []
    for wait, time in zip(waits, times[1:], strict=True):
        if wait > longest:
            found.append(Column(found[-1].x + _FOLDED, time, wait))
        else:
            found.append(Column(found[-1].x + max(GAP, wait * _SPAN // (total or 1)), time, 0))
    return found
