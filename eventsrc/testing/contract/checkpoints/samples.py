"""Processors, slices and entries for the checks."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from ....processing.checkpoints.checkpoints import Checkpoints, Parked
from ....processing.slice import Fence, Position, Slice
from ..check import expect_equal
from ..samples import make_commit
from .check import MakeCheckpoints

FENCE = Fence(0, 1)
LONG = "account-" + "\u00e4" * 1_000 + "x"  # more bytes than keys of many databases may have
STREAMS = ("account-1", "Account-1", "account-10", "account-\u00e9", "account-e\u0301", "account-\U0001f600", LONG)
"""Stream ids that checkpoints must not confuse, and often do."""


@asynccontextmanager
async def open_both(make_checkpoints: MakeCheckpoints) -> AsyncIterator[tuple[Checkpoints, Checkpoints]]:
    """Open two objects for the same checkpoints, as in two processes."""
    async with make_checkpoints() as one, make_checkpoints() as other:
        yield one, other


def fresh_name() -> str:
    """Return the name of a processor, a tag or a worker that does not exist yet."""
    return f"contract-{os.urandom(8).hex()}"


def make_slice(stream: str, after: int, last: int, fence: Fence = FENCE, *, is_first: bool | None = None) -> Slice:
    """Return a slice; by default it is the first one if it begins at the beginning of the stream."""
    commits = [make_commit(stream, version) for version in range(after + 1, last + 1)]
    return Slice(stream, after, commits, fence, is_first=after == 0 if is_first is None else is_first)


def make_parked(stream: str, version: int = 4, error: str = "ValueError: \u00e4 at line 7") -> Parked:
    return Parked(stream=stream, version=version, error=error, attempts=5, since=1_764_000_000_000_000)


async def read_heads(checkpoints: Checkpoints, processor: str) -> dict[str, int]:
    """Return all positions; each stream must be in one page."""
    async with aclosing(checkpoints.all_positions(processor)) as pages:
        heads = [head async for page in pages for head in page]
    found = {head.stream: head.version for head in heads}
    expect_equal(len(heads), len(found), "the number of positions on all pages, and of their streams")
    return found


async def expect_position(checkpoints: Checkpoints, processor: str, stream: str, expected: Position | None) -> None:
    found = (await checkpoints.positions(processor, [stream])).get(stream)
    expect_equal(found, expected, "the position")
