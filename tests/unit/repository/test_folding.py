"""Long streams: how many commits are folded, and released, in one turn of the event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from eventsrc import concurrency
from eventsrc.repository.folding import PART, fold_in_parts


async def test_a_long_stream_is_folded_and_released_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "_TURN", 0.0)
    turn = 0
    folded, released = Counter[int](), Counter[int]()

    class Probe:
        def __del__(self) -> None:
            released[turn] += 1

    def fold(aggregate: Any, commits: Any) -> Any:
        folded[turn] += len(commits)
        return aggregate

    async def count() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    commits: Any = [Probe() for _ in range(50 * PART + 1)]
    total = len(commits)
    folding = asyncio.create_task(fold_in_parts(fold, object(), commits))  # type: ignore[type-var]  # of no class
    del commits
    await folding
    del folding
    while released.total() < total:  # noqa: ASYNC110  # each pass is a turn
        await asyncio.sleep(0)
    counting.cancel()
    assert folded.total() == total
    assert max(folded.values()) == PART
    assert max(released.values()) <= 16 * PART
