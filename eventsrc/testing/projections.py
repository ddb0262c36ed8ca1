"""Test a projection: given these events, then the read model has these rows, wherever a process is killed.

```python
async with ProjectionKit(Openings) as kit:
    await kit.given(Door, Opened(by="ann"), id="front")
    await kit.drain()
    assert await kit.rows("SELECT door, by FROM openings_1") == [("door-front", "ann")]
```

No test framework is needed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from inspect import isawaitable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, Self, TypeVar

from ..aggregates.aggregate import Aggregate
from ..aggregates.codec import join, pack
from ..aggregates.declaration import declaration_of, explain_unhandled
from ..aggregates.event import Event
from ..aggregates.event_values import read_tags
from ..concurrency import cancel_all
from ..processing import (
    Checkpoints,
    Guarantee,
    MemoryCheckpoints,
    Processor,
    Projection,
    SQLiteCheckpoints,
    SQLiteProjection,
)
from ..store import Commit, Receipt, Store
from ..stores.memory import MemoryStore
from ..stream_id import stream_id
from ..uuid7 import uuid7

P = TypeVar("P", bound=Projection)

_IN_PROJECTION = ("apply", "advance")
_IN_CHECKPOINTS = ("claim", "advance", "save", "park", "unpark", "delete_position", "write")
_IN_REGISTRY = ("register", "activate")
"""Methods that store something: a process is killed before the call, inside its transaction, or after it."""


class Killed(BaseException):
    """The process is killed here. Nothing catches it, and nothing is stored after it."""


class Crash:
    """Kills the process at one step, once: `ProjectionKit(Openings, crash=Crash(3))`. `every_crash` makes them all.

    A step is a point before a call that stores something, after it, or inside its transaction, after the handlers.
    Handlers that act outside have then acted, and the position is not stored.
    """

    def __init__(self, at: int) -> None:
        self.at, self.steps = at, 0
        self.armed = False  # while `drain` runs
        self.noticed = asyncio.Event()

    @property
    def happened(self) -> bool:
        return 0 < self.at <= self.steps

    def step(self) -> None:
        """Count a step. Raises Killed if it is the one, and at each later step of that process."""
        if self.armed:
            self.steps += 1
        if self.happened:
            raise Killed

    def __repr__(self) -> str:
        return f"Crash({self.at})"


def every_crash() -> Iterator[Crash]:
    """Yield a crash that never happens, and then one for each step, for as long as the last one happened.

    ```python
    for crash in every_crash():
        async with ProjectionKit(Openings, crash=crash) as kit:
            ...
    ```
    """
    yield Crash(0)
    at = 1
    while True:
        crash = Crash(at)
        yield crash
        if not crash.happened:
            return
        at += 1


class ProjectionKit(Generic[P]):
    """A store with events, and a processor that handles them with one projection. Use it as `async with`.

    - `make` returns a new projection: the class, or a function without arguments. It is called for each process.
    - `store` and `checkpoints` are open already, and stay open. By default they are a new MemoryStore and, in a
      temporary folder, SQLiteCheckpoints for an SQLiteProjection, or MemoryCheckpoints.
    - `crash` kills the process at one step; `drain` then continues in a new one.

    Raises:
        TypeError: `make` is a projection, which only one process could use.
    """

    projection: P
    store: Store

    def __init__(
        self,
        make: Callable[[], P],
        *,
        store: Store | None = None,
        checkpoints: Checkpoints | None = None,
        crash: Crash | None = None,
    ) -> None:
        given: object = make
        if isinstance(given, Projection):
            raise TypeError("a kit makes a new projection for each process; give it the class, or a function")
        self._make, self._given_store, self._given_checkpoints = make, store, checkpoints
        self._crash = crash if crash is not None else Crash(0)
        self._stack = AsyncExitStack()  # of the kit
        self._process = AsyncExitStack()  # of the process

    async def __aenter__(self) -> Self:
        self._folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="eventsrc-")))
        self._memory = MemoryCheckpoints()
        try:
            store = self._given_store
            self.store = store if store is not None else await self._stack.enter_async_context(MemoryStore())
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._process.aclose()
        await self._stack.aclose()

    async def given(self, aggregate: type[Aggregate], *events: Event, id: str = "1") -> Receipt:
        """Store these events as the next commit of an aggregate. Old event classes that have an upcaster are allowed.

        Raises:
            UnhandledEvent: the aggregate has neither a handler nor an upcaster for an event.
        """
        declaration = declaration_of(aggregate)
        for event in events:
            if type(event) not in declaration.handlers and type(event) not in declaration.upcasters:
                raise explain_unhandled(aggregate, event)
        stream = stream_id(declaration.category, id)
        commits = (await self.store.load(stream)).commits
        version = commits[-1].version + 1 if commits else 1
        body = join([declaration.codec.encode(event)[0] for event in events])
        tags = read_tags(body)
        return await self.store.append(
            Commit(
                stream=stream,
                version=version,
                id=uuid7(),
                time=max(time.time_ns() // 1000, commits[-1].time if commits else 0),
                events=len(tags),
                tags=tuple(dict.fromkeys(tags)),
                payload=pack(body, stream, version),
            )
        )

    async def drain(self) -> None:
        """Handle everything that is stored, and deliver it all a second time.

        If the process is killed, continue in a new one.

        Raises:
            Exception: what a handler raised. It is called once.
        """
        self._crash.armed = True
        try:
            await self._run()
        except Killed:
            self._crash = Crash(0)
            await self.restart()
            await self._run()
        finally:
            self._crash.armed = False

    async def restart(self) -> None:
        """End the process and start another one: with a new projection, and with what was stored."""
        await self._process.aclose()
        await self._start()

    async def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query on the tables of an SQLiteProjection.

        Raises:
            TypeError: the read model is not in SQLite.
        """
        if not isinstance(self._checkpoints, SQLiteCheckpoints):
            raise TypeError(f"{type(self.projection).__qualname__} has no tables in SQLite; look at its read model")
        found: list[tuple[Any, ...]] = await self._checkpoints.read(lambda db: db.execute(query, values).fetchall())
        return found

    async def _start(self) -> None:
        self.projection = self._make()
        self._checkpoints = await self._open_checkpoints()
        self._cut(self.projection, _IN_PROJECTION)
        if self._checkpoints is not None:
            self._cut(self._checkpoints, _IN_CHECKPOINTS)
            self._cut(self._checkpoints.registry, _IN_REGISTRY)
        self._processor = Processor(self.projection, self.store, self._checkpoints, attempts=1, on_error="stop")
        self._processor.pipeline.assignment.former_acts = 0.0  # the process before this one has ended

    async def _open_checkpoints(self) -> Checkpoints | None:
        if self._given_checkpoints is not None or self.projection.guarantee is Guarantee.MEMORY:
            return self._given_checkpoints
        if isinstance(self.projection, SQLiteProjection):
            return await self._process.enter_async_context(SQLiteCheckpoints(self._folder / "read.db"))
        return self._memory

    async def _run(self) -> None:
        await self._until_killed(self._processor.run(until_caught_up=True))
        await self._until_killed(self._processor.resume_from(""))
        await self._until_killed(self._processor.run(until_caught_up=True))

    async def _until_killed(self, work: Coroutine[Any, Any, None]) -> None:
        """Await `work`. When the process is killed, end it at once, whatever it waits for, and raise Killed."""
        tasks = asyncio.ensure_future(work), asyncio.ensure_future(self._crash.noticed.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._crash.happened:
                raise Killed
            await tasks[0]
        finally:
            await cancel_all(tasks)

    def _cut(self, target: object, methods: tuple[str, ...]) -> None:
        """Count steps around these methods of an object, until the process ends."""
        for name in methods:
            if (method := getattr(target, name, None)) is not None:
                setattr(target, name, _count(method, self._crash, in_transaction=name == "write"))
                self._process.callback(delattr, target, name)


def _count(
    method: Callable[..., Awaitable[Any]], crash: Crash, *, in_transaction: bool
) -> Callable[..., Awaitable[Any]]:
    """Return the method with a step before it and after it; if it calls a function in a transaction, inside as well."""

    def inside(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result = work(*arguments)
            if isawaitable(result):
                return wait(result)
            crash.step()
            return result

        async def wait(coming: Awaitable[Any]) -> Any:
            result = await coming
            crash.step()
            return result

        return call

    async def counted(*arguments: Any, **named: Any) -> Any:
        try:
            crash.step()
            if in_transaction:
                arguments = inside(arguments[0]), *arguments[1:]
            result = await method(*arguments, **named)
            crash.step()
        finally:
            if crash.happened:
                crash.noticed.set()
        return result

    return counted
