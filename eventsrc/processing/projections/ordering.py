"""The order in which the commits of a batch, which come as one slice per stream, are handed to handlers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from ..slice import Slice

Order = Literal["feed", "stream"]


class Stretch(NamedTuple):
    """Consecutive commits of one slice: `slice.commits[start:end]`."""

    run: Slice
    start: int
    end: int

    @property
    def is_single(self) -> bool:
        """Whether it is one commit."""
        return self.end - self.start == 1

    def split(self) -> list[Stretch]:
        """Return a stretch for each commit."""
        return [Stretch(self.run, index, index + 1) for index in range(self.start, self.end)]


def in_order(runs: Sequence[Slice], order: Order) -> list[Stretch]:
    """Return the stretches of these slices in the order of the feed, if all commits have a position in it.

    Otherwise, and with the order `stream`, one slice follows the other.
    """
    if order == "feed" and len(runs) > 1:
        places = [(commit.position, number) for number, run in enumerate(runs) for commit in run.commits]
        if None not in {place for place, _ in places}:
            places.sort()
            return _merge(runs, [number for _, number in places])
    return [Stretch(run, 0, len(run.commits)) for run in runs]


def _merge(runs: Sequence[Slice], numbers: Sequence[int]) -> list[Stretch]:
    """Return the stretches if the next commit of the slice with that number follows each time."""
    merged: list[Stretch] = []
    starts = [0] * len(runs)  # of the next stretch of each slice
    current, size = numbers[0], 0
    for number in numbers:
        if number != current:
            merged.append(Stretch(runs[current], starts[current], starts[current] + size))
            starts[current] += size
            current, size = number, 0
        size += 1
    merged.append(Stretch(runs[current], starts[current], starts[current] + size))
    return merged


def join(stretches: Sequence[Stretch]) -> list[Slice]:
    """Return one slice per stream. Stretches of one stream must be in its order, without gaps."""
    ends: dict[str, Stretch] = {}
    for run, start, end in stretches:
        first = ends.get(run.stream)
        ends[run.stream] = Stretch(run, start if first is None else first.start, end)
    return [run.part(start, end) for run, start, end in ends.values()]
