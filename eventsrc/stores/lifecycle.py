"""The life cycle of a store: opening and closing, calls in flight, and background work."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import Coroutine
from typing import Any

from ..errors import StoreClosed
from ..log import log
from ..store import Store
from ..usage import Usage


def check_process(owner: str, process: int) -> None:
    """Raise StoreClosed unless `owner` was opened in this process, which has the id `process`.

    A fork leaves two processes with the same sockets and files: each would get responses to requests of the other.
    """
    if process != os.getpid():
        raise StoreClosed(f"{owner} was opened before this process was forked; make and open a new one in this process")


class CallsInFlight:
    """The number of calls that have begun and not ended, in the process that made this object."""

    __slots__ = ("count", "idle", "process")

    def __init__(self) -> None:
        self.count = 0
        self.idle = asyncio.Event()  # set when the last one ends
        self.process = os.getpid()


class CallInFlight:
    """A block that counts one call while it runs. At its end it adds `used` to `usage`."""

    __slots__ = ("_calls", "_usage", "_used")

    def __init__(self, calls: CallsInFlight, usage: Usage, used: Usage | None) -> None:
        self._calls, self._usage, self._used = calls, usage, used

    def __enter__(self) -> None:
        self._calls.count += 1

    def __exit__(self, *error: object) -> None:
        calls = self._calls
        calls.count -= 1
        self._usage.add(self._used or Usage(calls=1))
        if not calls.count:
            calls.idle.set()


class ManagedStore(Store):
    """A store with a life cycle. Subclass it to write a store: the four methods of `Store`, and two hooks.

    Each method works inside `with self.in_flight():`, so that a closed store refuses the call and a close waits for it.
    `docs/stores.md` shows a whole store.
    """

    def __init__(self) -> None:
        self.usage = Usage()
        self._calls = CallsInFlight()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open_lock: asyncio.Lock | None = None  # a new one for each open; held by the task that closes the store
        self._closing = False
        self._tasks: set[asyncio.Task[Any]] = set()

    @abstractmethod
    async def on_open(self) -> None:
        """Acquire what the store needs. If it raises, the store stays closed and `on_close` is not called."""

    @abstractmethod
    async def on_close(self) -> None:
        """Release everything, also if cancelled: it is called once. No call is in flight any longer."""

    def in_flight(self, *, closing: bool = False, used: Usage | None = None) -> CallInFlight:
        """Guard one call: the store stays open until the block ends. Then `used` is added to `usage`.

        With `closing=True` the call is allowed while the store closes. Use it for background work, such as a snapshot.

        Raises StoreClosed if the store is not open, or was opened in another event loop or before a fork.
        """
        if self._loop is None or (self._closing and not closing):
            raise StoreClosed(f"{type(self).__name__} is not open; use it inside `async with store:`")
        check_process(type(self).__name__, self._calls.process)
        if self._loop is not asyncio.get_running_loop():
            raise StoreClosed(f"{type(self).__name__} was opened in another event loop; open one store per loop")
        return CallInFlight(self._calls, self.usage, used)

    async def open(self) -> None:
        """Prepare to work in the running event loop. `async with` calls it.

        Raises StoreClosed if the store is already open, and the errors of `on_open`.
        """
        if self._open_lock is not None:
            check_process(type(self).__name__, self._calls.process)
            raise StoreClosed(f"{type(self).__name__} is already open; open it once and share it")
        self._calls, self._open_lock, self._closing = CallsInFlight(), asyncio.Lock(), False
        try:
            async with self._open_lock:
                await self.on_open()
                self._loop = asyncio.get_running_loop()
        except BaseException:
            self._open_lock = None
            raise

    async def aclose(self) -> None:
        if (open_lock := self._open_lock) is None or self._calls.process != os.getpid():
            return  # after a fork, what is open belongs to the parent process
        self._closing = True
        async with open_lock:
            if open_lock is not self._open_lock:
                return  # another task has closed it in the meantime
            while self._tasks or self._calls.count:  # a call may leave background work
                if self._tasks:
                    await asyncio.wait(self._tasks)
                else:
                    self._calls.idle.clear()
                    await self._calls.idle.wait()
            self._loop = None
            try:
                await self.on_close()
            finally:
                self._open_lock = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end_task)

    def _end_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.warning("background work after a save failed: %s", error)
