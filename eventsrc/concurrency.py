"""Helpers for concurrent tasks: load many, run all, wait for events or for a thread, cancel all, take turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from contextlib import suppress
from time import perf_counter, sleep
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from .errors import AggregateNotFound

K = TypeVar("K")
T = TypeVar("T")

_PATIENCE = 0.005  # seconds that a call waits for a thread before its event loop gives way, and between two pauses
_SHARE, _LONGEST_PAUSE = 0.05, 0.005  # of the time since the last pause, and seconds
_TURN = 0.001  # seconds


async def load_all(load: Callable[[K], Awaitable[T]], ids: Iterable[K], concurrency: int) -> dict[K, T]:
    """Load these ids, up to `concurrency` at once. Return the results by id, in the order of `ids`.

    Ids that raise AggregateNotFound are left out. If a load raises another error, the other loads are cancelled and
    that error is raised.
    """
    if isinstance(ids, str):
        raise TypeError(f"ids is the string {ids!r}; pass a list of ids: [{ids!r}]")
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; it must be at least 1")
    wanted, found = list(dict.fromkeys(ids)), dict[K, T]()
    rest = iter(wanted)

    async def load_some() -> None:
        for id in rest:
            with suppress(AggregateNotFound):
                found[id] = await load(id)

    loading = [asyncio.ensure_future(load_some()) for _ in range(min(concurrency, len(wanted)))]
    try:
        await asyncio.gather(*loading)
    finally:
        await cancel_all(loading)
    return {id: found[id] for id in wanted if id in found}


async def run_all(work: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Run these coroutines concurrently, each to its end. Then raise the first error, if there is one."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
    finally:
        await cancel_all(tasks)


async def run_together(work: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Run these coroutines concurrently. If one raises an error, cancel the others, and raise it."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        await cancel_all(tasks)


async def first_of(*events: asyncio.Event, timeout: float | None = None) -> None:
    """Wait until one of these events is set, or for `timeout` seconds. Without events, wait for `timeout` seconds."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        if waiting:
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        elif timeout is not None:
            await asyncio.sleep(timeout)
    finally:
        await cancel_all(waiting)


async def cancel_all(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel these tasks and wait until all have ended. Their errors are dropped."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Turn:
    """The time since this task began to run, or last let other tasks run."""

    def __init__(self) -> None:
        self._began = perf_counter()

    async def end_if_long(self) -> None:
        """Let other tasks run if this one has run for a millisecond. A task that waits for a timer sees two turns."""
        if perf_counter() - self._began >= _TURN:
            await asyncio.sleep(0)
            self._began = perf_counter()


async def wait_for_thread(work: Awaitable[T]) -> T:
    """Return the result of `work`, which a thread does. The thread gets to run also if this event loop never sleeps.

    A thread needs the interpreter lock. A loop that always has a task to run releases it only for the moment in which
    it polls, too short for the thread to take it. If these moments are less than 5 ms apart, the interpreter never
    forces the loop to release it either. So after 5 ms without a result the loop sleeps for a twentieth of that time.
    """
    loop = asyncio.get_running_loop()
    if (waiting := _waiting.get(loop)) is None:
        waiting = _waiting[loop] = Waiting()
    call = object()
    waiting.since[call] = loop.time()
    if not waiting.is_watched:
        waiting.watch(loop)
    try:
        return await work
    finally:
        del waiting.since[call]


class Waiting:
    """The calls of one event loop that wait for threads."""

    def __init__(self) -> None:
        self.since: dict[object, float] = {}  # the oldest first
        self.is_watched = False

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_watched = True
        loop.call_later(_PATIENCE, self._give_way, loop, loop.time())

    def _give_way(self, loop: asyncio.AbstractEventLoop, last: float) -> None:
        self.is_watched = False
        if (oldest := next(iter(self.since.values()), None)) is not None:
            if (now := loop.time()) - oldest >= _PATIENCE:
                sleep(min((now - last) * _SHARE, _LONGEST_PAUSE))
            self.watch(loop)


_waiting: WeakKeyDictionary[asyncio.AbstractEventLoop, Waiting] = WeakKeyDictionary()
