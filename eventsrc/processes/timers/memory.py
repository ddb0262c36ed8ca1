"""Timers in memory."""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
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
        key = (timer.due, timer.stream, timer.number)
        with suppress(StopIteration):
            stored = next(each for each in self._due[processor] if (each.due, each.stream, each.number) == key)
            self._due[processor].remove(stored)

    async def first(self, processor: str, part: int, limit: int) -> Sequence[Due]:
        return self._due[processor][:limit]

    async def count(self, processor: str) -> int:
        return len(self._due[processor])


_known: WeakKeyDictionary[MemoryCheckpoints, MemoryTimers] = WeakKeyDictionary()
