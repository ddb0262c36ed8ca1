"""Fold long streams in parts, between which the event loop runs other tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..aggregates.aggregate import Aggregate
from ..concurrency import Turn
from ..store import Commit

A = TypeVar("A", bound=Aggregate)

PART = 256
"""Commits that are folded at once: some tenths of a millisecond."""

_RELEASED = 16  # parts at once


async def fold_in_parts(fold: Callable[[A, Sequence[Commit]], A], aggregate: A, commits: Sequence[Commit]) -> A:
    """Do as `fold`, of which each part takes about a millisecond. Nothing else may use the aggregate until then."""
    if len(commits) <= PART:
        return fold(aggregate, commits)
    turn = Turn()
    parts = [commits[start : start + PART] for start in range(0, len(commits), PART)]
    for part in parts:
        fold(aggregate, part)
        await turn.end_if_long()
    asyncio.get_running_loop().call_soon(_release, parts)
    return aggregate


def _release(parts: list[Sequence[Commit]]) -> None:
    """Release these commits in several turns of the loop: to free 50,000 of them at once takes some milliseconds."""
    del parts[-_RELEASED:]
    if parts:
        asyncio.get_running_loop().call_soon(_release, parts)
