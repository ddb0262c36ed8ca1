"""Where the boxes and lines of a map are: boxes in layers, causes left of effects, on a grid of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count, pairwise
from typing import NamedTuple

ROW = 24  # px
_TRACK, _MARGIN = 9, 14  # px: between two vertical lines; before the first one and after the last one
_SWEEPS = 4  # over the layers, which bring boxes near those that they have lines to


class Line(NamedTuple):
    """A kind of edge: from the box of its cause to the row of its effect's box that is about it."""

    cause: int
    effect: int
    row: int  # of the effect's box, from 1; row 0 is its head


class Place(NamedTuple):
    x: int  # px, of the left side
    y: int
    column: int


class Route(NamedTuple):
    """The points of the corners of a line, from its left end to its right end."""

    points: Sequence[tuple[int, int]]
    backward: bool  # the cause is at the right end


class MapLayout(NamedTuple):
    places: Sequence[Place]
    routes: Sequence[Route]  # of the lines whose two ends are not the same box
    widths: Sequence[int]  # of each column
    width: int
    height: int


class _Net(NamedTuple):
    """Lines that leave a box by one point: those of a cause, or a single one that leads backward."""

    left: int  # the box
    row: int  # of the box
    rights: Sequence[tuple[int, int]]  # boxes and their rows
    backward: bool


def find_layout(sizes: Sequence[tuple[int, int]], lines: Sequence[Line]) -> MapLayout:
    """Return the places of boxes of these widths in px and heights in rows, and the routes of these lines.

    All boxes of a column get the width of the widest one.

    - Boxes do not overlap, and no line crosses a box. Two lines have no stretch in common unless they have an end in
      common.
    - A cause is left of its effects, except in a circle, of which some lines lead backward.
    """
    order = _order(len(sizes), [(line.cause, line.effect) for line in lines])
    rank = {box: place for place, box in enumerate(order)}
    nets = list(_find_nets(lines, rank))
    layers = _find_layers(order, nets)
    columns, passes = _fill_columns(layers, nets)
    _sort_columns(columns, nets, passes)
    rows = _stack(columns, sizes)
    return _route(columns, rows, sizes, nets, passes, layers)


def _order(size: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """Return the boxes so that few edges lead backward: those without causes first; then what has most effects."""
    ahead: list[set[int]] = [set() for _ in range(size)]
    back: list[set[int]] = [set() for _ in range(size)]
    for cause, effect in edges:
        if cause != effect:
            ahead[cause].add(effect)
            back[effect].add(cause)
    left, found = set(range(size)), list[int]()
    while left:
        best = min(left, key=lambda box: (bool(back[box] & left), len(back[box] & left) - len(ahead[box] & left), box))
        left.remove(best)
        found.append(best)
    return found


def _find_nets(lines: Sequence[Line], rank: Mapping[int, int]) -> Iterable[_Net]:
    forward: dict[int, list[tuple[int, int]]] = {}
    for line in lines:
        if rank[line.cause] < rank[line.effect]:
            forward.setdefault(line.cause, []).append((line.effect, line.row))
        elif line.cause != line.effect:
            yield _Net(line.effect, line.row, [(line.cause, 0)], backward=True)
    for cause, rights in forward.items():
        yield _Net(cause, 0, rights, backward=False)


def _find_layers(order: Sequence[int], nets: Sequence[_Net]) -> list[int]:
    """Return the column of each box: right of all boxes that have lines to it."""
    lefts: dict[int, list[int]] = {}
    for net in nets:
        for right, _ in net.rights:
            lefts.setdefault(right, []).append(net.left)
    layers = [0] * len(order)
    for box in order:
        layers[box] = max((layers[left] + 1 for left in lefts.get(box, ())), default=0)
    return layers


Pass = dict[tuple[int, int], int]
"""By the numbers of a net and a column: the number of the row that it passes through, which no box has."""


def _fill_columns(layers: Sequence[int], nets: Sequence[_Net]) -> tuple[list[list[int]], Pass]:
    columns: list[list[int]] = [[] for _ in range(max(layers, default=-1) + 1)]
    for box, layer in enumerate(layers):
        columns[layer].append(box)
    numbers, passes = count(len(layers)), Pass()
    for number, net in enumerate(nets):
        for column in range(layers[net.left] + 1, max(layers[right] for right, _ in net.rights)):
            passes[number, column] = next(numbers)
            columns[column].append(passes[number, column])
    return columns, passes


def _sort_columns(columns: list[list[int]], nets: Sequence[_Net], passes: Pass) -> None:
    """Sort each column so that its boxes and passes are near those that they have lines to."""
    layers = {each: layer for layer, column in enumerate(columns) for each in column}
    near: dict[int, list[int]] = {}
    for number, net in enumerate(nets):
        for right, _ in net.rights:
            path = [passes[number, column] for column in range(layers[net.left] + 1, layers[right])]
            for one, other in pairwise([net.left, *path, right]):
                near.setdefault(one, []).append(other)
                near.setdefault(other, []).append(one)
    for sweep in range(_SWEEPS):
        step = 1 if sweep % 2 == 0 else -1
        for column in columns[::step]:
            places = {each: place / len(some) for some in columns for place, each in enumerate(some)}

            def middle(each: int, places: Mapping[int, float] = places, step: int = step) -> float:
                found = [places[other] for other in near.get(each, ()) if (layers[other] - layers[each]) * step < 0]
                return sum(found) / len(found) if found else places[each]

            column.sort(key=middle)


def _stack(columns: Sequence[Sequence[int]], sizes: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return the first row of each box and pass."""
    rows: dict[int, int] = {}
    for column in columns:
        row = 0
        for each in column:
            rows[each] = row
            row += sizes[each][1] + 1 if each < len(sizes) else 1
    return rows


def _route(
    columns: Sequence[Sequence[int]],
    rows: Mapping[int, int],
    sizes: Sequence[tuple[int, int]],
    nets: Sequence[_Net],
    passes: Pass,
    layers: Sequence[int],
) -> MapLayout:
    """Give each net a vertical track of its own in each gap between two columns that it crosses.

    Within a row, lines leave to the right at a quarter of its height, those backward at three quarters, and arrive from
    the left in its middle: so lines of two nets are never at the same height in one gap.
    """
    crossing: list[list[int]] = [[] for _ in columns]  # the nets in the gap after each column
    for number, net in enumerate(nets):
        for column in range(layers[net.left], max(layers[right] for right, _ in net.rights)):
            crossing[column].append(number)
    widths = [max([sizes[each][0] for each in column if each < len(sizes)] or [ROW]) for column in columns]
    xs = [0]
    for width, some in zip(widths, crossing, strict=True):
        xs.append(xs[-1] + width + 2 * _MARGIN + _TRACK * len(some))

    def out_of(number: int, column: int) -> int:
        net = nets[number]
        if (number, column) in passes:
            return rows[passes[number, column]] * ROW + ROW // 4
        return (rows[net.left] + net.row) * ROW + (3 * ROW // 4 if net.backward else ROW // 4)

    tracks: list[dict[int, int]] = []
    for column, some in enumerate(crossing):
        start = xs[column] + widths[column] + _MARGIN
        ordered = sorted(some, key=lambda number: (out_of(number, column), number))
        tracks.append({number: start + _TRACK * place for place, number in enumerate(ordered)})
    routes = []
    for number, net in enumerate(nets):
        for right, row in net.rights:
            y, column = out_of(number, layers[net.left]), layers[net.left]
            points = [(xs[column] + widths[column], y)]
            for gap in range(column, layers[right]):
                x = tracks[gap][number]
                arrives = rows[right] + row if gap + 1 == layers[right] else rows[passes[number, gap + 1]]
                points += [(x, y), (x, y := arrives * ROW + ROW // 2)]
                if gap + 1 < layers[right]:
                    points += [(xs[gap + 1], y), (xs[gap + 1], y := out_of(number, gap + 1))]
            routes.append(Route([*points, (xs[layers[right]], y)], net.backward))
    places = [Place(xs[layer], rows[box] * ROW, layer) for box, layer in enumerate(layers)]
    width = xs[-1] - 2 * _MARGIN if columns else 0
    height = max((rows[each] + (sizes[each][1] if each < len(sizes) else 1) for each in rows), default=0) * ROW
    return MapLayout(places, routes, widths, width, height)
