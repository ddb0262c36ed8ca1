"""The order in which the commits of a batch, which come as one slice per stream, are handed to handlers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Literal

from ...store import Commit
from ..slice import Slice

Order = Literal["feed", "stream"]

Stretch = Sequence[Commit]
"""Consecutive commits of one stream, without gaps."""

_position: Any = attrgetter("position")
_stream: Any = attrgetter("stream")


def in_order(runs: Sequence[Slice], order: Order) -> list[Commit]:
    """Return the commits of these slices in the order of the feed, if all of them have a position in it.

    Otherwise, and with the order `stream`, one slice follows the other.
    """
    commits = [commit for run in runs for commit in run.commits]
    if order == "feed" and len(runs) > 1 and None not in map(_position, commits):
        commits.sort(key=_position)
    return commits


def stretches_of(commits: Iterable[Commit]) -> list[Stretch]:
    """Return the commits in the same order, with those of one stream that follow each other together."""
    return [tuple(each) for _, each in groupby(commits, _stream)]


def split(commits: Iterable[Commit]) -> list[Stretch]:
    """Return a stretch for each commit."""
    return [(commit,) for commit in commits]


def without(stream: str, stretches: Iterable[Stretch]) -> list[Stretch]:
    """Return the stretches of other streams."""
    return [each for each in stretches if each[0].stream != stream]


def parts_of(runs: Iterable[Slice], stretches: Iterable[Stretch]) -> list[Slice]:
    """Return the parts of these slices that the stretches make up. Those of one stream follow each other."""
    ends: dict[str, tuple[int, int]] = {}  # the versions before and at the end of each part
    for each in stretches:
        after, _ = ends.get(each[0].stream) or (each[0].version - 1, 0)
        ends[each[0].stream] = after, each[-1].version
    found = [(run, *ends[run.stream]) for run in runs if run.stream in ends]
    return [run.part(after - run.after, end - run.after) for run, after, end in found]


class Walk:
    """Iterates over commits, and knows how many are done.

    It is made for consumers that finish each commit before they ask for the next one.
    """

    __slots__ = ("commits", "done")

    def __init__(self, commits: Sequence[Commit]) -> None:
        self.commits, self.done = commits, 0

    def __iter__(self) -> Iterator[Commit]:
        for done, commit in enumerate(self.commits):
            self.done = done
            yield commit
        self.done = len(self.commits)
