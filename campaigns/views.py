"""What one worker sees of stores and checkpoints that workers share: calls fail, hang, and take effect late."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from eventsrc import Commit, CommitOutcomeUnknown, MemoryStore, SQLiteStore, StoreUnavailable, Throttled
from eventsrc.processes.timers.memory import MemoryTimers
from eventsrc.processing import MemoryCheckpoints
from eventsrc.store import MAX_VERSION, Loaded, Receipt, Snapshot
from eventsrc.stores import OrderedStore
from eventsrc.stores.feed import Batch, Head
from eventsrc.stores.sqlite.connection import connect

from .hostile import LATE, PAUSES, Chaos, HostileFeed, _Ordered

T = TypeVar("T")


class Sight:
    """What a worker's calls have in common: whether it is dead or frozen, and the faults that they meet."""

    def __init__(self, chaos: Chaos) -> None:
        self.chaos = chaos
        self.is_dead = False
        self.back = asyncio.Event()  # cleared while the worker is frozen
        self.back.set()
        self.crash: Callable[[], None] | None = None  # kills the worker

    async def call(
        self,
        work: Callable[[], Awaitable[T]],
        *,
        late: Callable[[], Coroutine[Any, Any, object]] | None = None,
        unknown: Callable[[], Exception] | None = None,
        is_out: Callable[[], bool] = lambda: False,
    ) -> T:
        """Make a call. `late` carries a write out after its caller has gone.

        With `unknown`, the error of a call without an answer, a write may also take effect while its caller continues.
        """
        chaos, dice = self.chaos, self.chaos.random
        try:
            await self._pause()
        except asyncio.CancelledError:
            if late is not None and dice.random() < 0.5:
                chaos.counts["write nobody waits for"] += 1
                self._later(late)
            raise
        if self.is_dead or is_out() or chaos.strikes("write refused" if late is not None else "read failed"):
            raise dice.choice((Throttled, StoreUnavailable))("made up")
        if late is not None and unknown is not None and chaos.strikes("write late"):
            self._later(late)
            raise unknown()
        result = await work()
        if late is not None and self.crash is not None and chaos.strikes("crashed after a write"):
            self.crash()
            await asyncio.sleep(5)  # work in the background is not cancelled
            raise StoreUnavailable("made up: the worker is dead")
        await self._pause()
        if late is not None and chaos.strikes("answer lost"):
            raise unknown() if unknown is not None else StoreUnavailable("made up: the answer is lost")
        return result

    async def _pause(self) -> None:
        await asyncio.sleep(self.chaos.random.choice(PAUSES))
        await self.back.wait()

    def _later(self, late: Callable[[], Coroutine[Any, Any, object]]) -> None:
        async def carry_out() -> None:
            with suppress(Exception):  # its caller is gone
                await late()

        loop = asyncio.get_running_loop()
        loop.call_later(self.chaos.random.uniform(0, LATE), lambda: loop.create_task(carry_out()))


class View(OrderedStore):
    """A store as one worker sees it. `shared` is the store itself, without faults."""

    def __init__(self, shared: OrderedStore, sight: Sight, is_out: Callable[[], bool]) -> None:
        super().__init__()
        self.shared, self._sight, self._is_out = shared, sight, is_out
        self._followers = shared._followers
        chaos = sight.chaos
        disorder = chaos.rates["shuffled"] or chaos.rates["delayed"]
        self.ordered = not disorder and chaos.random.random() < 0.8
        own: Any = SimpleNamespace(feed=super().feed)
        self._feed = HostileFeed(own, chaos, (0.0, 0.01, 0.2), ordered=self.ordered)

    async def append(self, commit: Commit) -> Receipt:
        return await self._sight.call(
            lambda: self.shared.append(commit),
            late=lambda: self.shared.append(commit),
            unknown=lambda: CommitOutcomeUnknown(commit, "made up"),
            is_out=self._is_out,
        )

    async def load(self, stream: str) -> Loaded:
        return await self._sight.call(lambda: self.shared.load(stream), is_out=self._is_out)

    async def read(
        self, stream: str, *, after: int = 0, until: int = MAX_VERSION, backward: bool = False
    ) -> AsyncGenerator[Commit]:
        async def read() -> list[Commit]:
            return [each async for each in self.shared.read(stream, after=after, until=until, backward=backward)]

        for commit in await self._sight.call(read, is_out=self._is_out):
            yield commit

    async def put_snapshot(self, snapshot: Snapshot) -> bool:
        return await self._sight.call(
            lambda: self.shared.put_snapshot(snapshot), late=lambda: self.shared.put_snapshot(snapshot)
        )

    async def identity(self) -> str:
        return await self.shared.identity()

    async def commits_after(self, position: int) -> Any:
        return await self._sight.call(lambda: self.shared.commits_after(position), is_out=self._is_out)

    async def commits_of(self, position: int, categories: Collection[str]) -> Any:
        return await self._sight.call(lambda: self.shared.commits_of(position, categories), is_out=self._is_out)

    async def commit_id_at(self, position: int) -> bytes | None:
        return await self.shared.commit_id_at(position)

    async def last_position(self) -> int:
        return await self._sight.call(self.shared.last_position, is_out=self._is_out)

    async def heads_after(self, after: str) -> Sequence[Head]:
        return await self._sight.call(lambda: self.shared.heads_after(after))

    def feed(
        self, *, after: str = "", follow: bool = True, report_damaged: bool = False, categories: Collection[str] = ()
    ) -> AsyncGenerator[Batch]:
        return self._feed.feed(after=after, follow=follow, report_damaged=report_damaged, categories=categories)

    async def on_open(self) -> None: ...
    async def on_close(self) -> None: ...


class SharedMemoryStore(MemoryStore):
    """A shared store in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._followers = _Ordered()


class _Inline:
    """A thread of an SQLite store that is none: it works in the event loop, so that time can be virtual."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def submit(self, work: Callable[[sqlite3.Connection], T]) -> T:
        await asyncio.sleep(0)
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
        except BaseException:
            connection.rollback()
            raise
        connection.commit()
        return result

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        await asyncio.sleep(0)
        return work(self._connection)


class InlineSQLiteStore(SQLiteStore):
    """A shared store in an SQLite file, without threads."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.poll: float | None = None  # type: ignore[assignment]
        self._followers = _Ordered()

    async def on_open(self) -> None:
        self._identity = None
        self._file.prepare()
        self._connection = connect(self._file, 10.0)
        self._connection.execute("PRAGMA synchronous = OFF")
        self._reading = connect(self._file, 10.0)
        self._reading.text_factory = bytes
        self._writer, self._readers = _Inline(self._connection), _Inline(self._reading)  # type: ignore[assignment]

    async def on_close(self) -> None:
        self._writer = self._readers = None
        self._connection.close()
        self._reading.close()


class SharedMemory:
    """Checkpoints and timers in memory that workers share, and copies of them."""

    def __init__(self) -> None:
        self.checkpoints, self.timers = MemoryCheckpoints(), MemoryTimers()
        self.life = 0  # raised when they are restored: older writes are lost

    def copy(self) -> Any:
        checkpoints = self.checkpoints
        return deepcopy(
            (
                checkpoints._registrations,
                checkpoints.registry._active,  # type: ignore[attr-defined]
                checkpoints.workers._beats,  # type: ignore[attr-defined]
                checkpoints._positions,
                checkpoints._slots,
                checkpoints._parked,
                checkpoints._skipped,
                dict(self.timers._due),
            )
        )

    def restore(self, copy: Any) -> None:
        self.life += 1
        checkpoints: Any = self.checkpoints
        kept = (
            checkpoints._registrations,
            checkpoints.registry._active,
            checkpoints.workers._beats,
            checkpoints._positions,
            checkpoints._slots,
            checkpoints._parked,
            checkpoints._skipped,
            self.timers._due,
        )
        for each, old in zip(kept, deepcopy(copy), strict=True):
            each.clear()
            each.update(old)


_WRITES = {
    *("advance", "delete_position", "claim", "save", "park", "unpark", "note_skipped", "forget"),
    *("register", "activate", "heartbeat", "sign_off", "put", "remove"),
}
_READS = {
    *("positions", "slots", "parked", "skipped", "registration", "processors", "active", "beats", "first", "count"),
}


def _failing(target: Any, source: Any, shared: SharedMemory, sight: Sight) -> None:
    """Let the calls of `target` be those of `source`, with faults."""

    def call(name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(source, name)

        async def made(*args: Any, **kwargs: Any) -> Any:
            life = shared.life

            async def work() -> Any:
                if shared.life != life:
                    raise StoreUnavailable("restored")
                return await method(*args, **kwargs)

            return await sight.call(work, late=work if name in _WRITES else None)

        return made

    for name in _WRITES | _READS:
        if hasattr(source, name):
            setattr(target, name, call(name))


class FailingMemoryCheckpoints(MemoryCheckpoints):
    """The checkpoints of one worker, in memory that all workers share."""

    def __init__(self, shared: SharedMemory, sight: Sight) -> None:
        super().__init__()
        _failing(self, shared.checkpoints, shared, sight)
        _failing(self.registry, shared.checkpoints.registry, shared, sight)
        _failing(self.workers, shared.checkpoints.workers, shared, sight)
        self.all_positions = shared.checkpoints.all_positions  # type: ignore[method-assign]


class FailingMemoryTimers(MemoryTimers):
    """The timers of one worker, in memory that all workers share."""

    def __init__(self, shared: SharedMemory, sight: Sight) -> None:
        super().__init__()
        _failing(self, shared.timers, shared, sight)
