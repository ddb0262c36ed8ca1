"""The order in which the commits of a batch, which come as one slice per stream, are handed to handlers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from ...store import Commit
from ..slice import Slice

Order = Literal["feed", "stream"]


Stretch = tuple[Slice, int, int]
"""Consecutive commits of one slice: `slice.commits[start:end]`."""


def in_order(runs: Sequence[Slice], order: Order) -> list[Stretch]:
    """Return the stretches of these slices in the order of the feed, if all commits have a position in it.

    Otherwise, and with the order `stream`, one slice follows the other.
    """
    if order == "feed" and len(runs) > 1:
        positions: list[Any] = []  # int, or None
        numbers: list[int] = []  # of the slice of each
        for number, run in enumerate(runs):
            positions += [commit.position for commit in run.commits]
            numbers += [number] * len(run.commits)
        if None not in positions:
            return _merge(runs, [numbers[index] for index in sorted(range(len(positions)), key=positions.__getitem__)])
    return [(run, 0, len(run.commits)) for run in runs]


def _merge(runs: Sequence[Slice], numbers: Sequence[int]) -> list[Stretch]:
    """Return the stretches if the next commit of the slice with that number follows each time."""
    merged: list[Stretch] = []
    done = [0] * len(runs)  # commits of each slice
    current, size = numbers[0], 0
    for number in numbers:
        if number != current:
            start = done[current]
            done[current] = end = start + size
            merged.append((runs[current], start, end))
            current, size = number, 0
        size += 1
    merged.append((runs[current], done[current], done[current] + size))
    return merged


def split(stretch: Stretch) -> list[Stretch]:
    """Return a stretch for each commit."""
    run, start, end = stretch
    return [(run, index, index + 1) for index in range(start, end)]


def without(stream: str, stretches: Sequence[Stretch]) -> list[Stretch]:
    """Return the stretches of other streams."""
    return [each for each in stretches if each[0].stream != stream]


def join(stretches: Sequence[Stretch]) -> list[Slice]:
    """Return one slice per stream. Stretches of one stream must be in its order, without gaps."""
    joined: dict[str, Stretch] = {}
    for run, start, end in stretches:
        first = joined.get(run.stream)
        joined[run.stream] = (run, start if first is None else first[1], end)
    return [run.part(start, end) for run, start, end in joined.values()]


class Walk:
    """Iterates over the commits of stretches, and knows where it is.

    It is made for consumers that finish each commit before they ask for the next one.
    """

    __slots__ = ("done", "index", "run", "stretches")

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self.stretches = stretches
        self.index = 0  # of the stretch
        self.run = stretches[0][0]  # its slice
        self.done: dict[str, Commit] = {}  # the last finished commit of each stream

    def __iter__(self) -> Iterator[Commit]:
        done = self.done
        for index, (run, start, end) in enumerate(self.stretches):
            self.index, self.run, stream = index, run, run.stream
            if end - start == 1:
                yield (commit := run.commits[start])
                done[stream] = commit
                continue
            for commit in run.commits[start:end]:
                yield commit
                done[stream] = commit
