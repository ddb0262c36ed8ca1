"""Slices of commits, as processors give them to projections."""

from __future__ import annotations

from collections.abc import Sequence

from eventsrc import Commit
from eventsrc.processing.slice import Fence, Slice

FENCE = Fence(0, 1)


def slices(commits: Sequence[Commit], *, fence: Fence = FENCE) -> list[Slice]:
    """Return a slice per stream; those that begin with version 1 are the first of their stream."""
    by_stream: dict[str, list[Commit]] = {}
    for commit in commits:
        by_stream.setdefault(commit.stream, []).append(commit)
    return [
        Slice(stream, found[0].version - 1, found, fence, is_first=found[0].version == 1)
        for stream, found in by_stream.items()
    ]
