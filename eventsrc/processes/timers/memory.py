"""Timers in memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from ...processing.checkpoints.memory import MemoryCheckpoints
from .timers import Due, Timers


class MemoryTimers(Timers):
    """Timers in memory, for tests: one sorted list for each processor."""

    parts = 1

    def __init__(self) -> None:
        self._due: dict[str, list[Due]] = defaultdict(list)

    @classmethod
    def of(cls, checkpoints: MemoryCheckpoints) -> MemoryTimers:
        """Return the timers that go with these checkpoints, the same each time."""
        return _known.setdefault(checkpoints, cls())

    async def put(self, processor: str, timer: Due) -> None:
        await self.remove(processor, timer)
        insort(self._due[processor], timer)

    async def remove(self, processor: str, timer: Due) -> None:
        stored, key = self._due[processor], (timer.due, timer.stream, timer.number)
        index = bisect_left(stored, Due(*key))
        if index < len(stored) and (stored[index].due, stored[index].stream, stored[index].number) == key:
            del stored[index]

    async def first(self, processor: str, part: int, limit: int, after: Due | None = None) -> Sequence[Due]:
        stored = self._due[processor]
        start = bisect_right(stored, after) if after is not None else 0
        return stored[start : start + limit]

    async def count(self, processor: str) -> int:
        return len(self._due[processor])


_known: WeakKeyDictionary[MemoryCheckpoints, MemoryTimers] = WeakKeyDictionary()
