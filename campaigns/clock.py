"""An event loop with virtual time: time passes only when no callback is ready, and without waiting."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import patch

T = TypeVar("T")

EPOCH_NS = 1_767_225_600 * 10**9  # start of each simulation

_CLOCKS = ("eventsrc.stores.ordered.time", "eventsrc.processing.checkpoints.checkpoints.time", "tenacity.time")
_CLOCK_OF_WRITERS = "eventsrc.repository.drafting.time"


class Deadlock(Exception):
    """No callback is ready or scheduled, so no task can continue."""


class _Selector(selectors.SelectSelector):
    """Advance the virtual time instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Deadlock
        self.now += max(timeout, 0.0)
        return []


class _Task(asyncio.Task[Any]):
    """A task whose hash, and so its place in a set, is the same in each run."""

    _numbers = count()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._number = next(_Task._numbers)
        super().__init__(*arguments, **options)

    def __hash__(self) -> int:
        return self._number


def _numbered(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    return _Task(work, loop=loop, **options)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Run one history. The same program with the same random numbers takes the same steps."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self.set_task_factory(_numbered)

    def time(self) -> float:
        return self._virtual.now

    def block(self, seconds: float) -> None:
        """Advance the time as if a callback had blocked the loop."""
        self._virtual.now += seconds


class WallClock:
    """The time of day that the library reads. `jump` moves it forward or back. The clock of writers may be slow."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._ahead_ns = 0
        self.writers_behind = 0.0  # seconds

    def time_ns(self) -> int:
        return EPOCH_NS + int(self._loop.time() * 1e9) + self._ahead_ns

    def time(self) -> float:
        return self.time_ns() / 1e9

    def writers_time_ns(self) -> int:
        return self.time_ns() - int(self.writers_behind * 1e9)

    def jump(self, seconds: float) -> None:
        self._ahead_ns += int(seconds * 1e9)


@contextmanager
def virtual_time(loop: VirtualLoop) -> Iterator[WallClock]:
    """Patch the clocks of the library and of tenacity to read the loop's time."""
    wall = WallClock(loop)
    clock = SimpleNamespace(time_ns=wall.time_ns, time=wall.time, monotonic=loop.time)
    with ExitStack() as stack:
        stack.enter_context(patch(_CLOCK_OF_WRITERS, SimpleNamespace(time_ns=wall.writers_time_ns)))
        for module in _CLOCKS:
            stack.enter_context(patch(module, clock))
        yield wall


def run(work: Coroutine[Any, Any, T], loop: VirtualLoop) -> T:
    """Run to the end and return the result.

    Raises:
        Deadlock: the work waits for something that cannot happen.
    """
    try:
        return loop.run_until_complete(work)
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
