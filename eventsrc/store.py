"""What a store is: a handful of methods over bytes. Stores know neither aggregates nor the codec."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from uuid import UUID

import msgspec

from .calls import Call
from .errors import ConflictError, StoreClosed
from .log import log
from .usage import Usage

if TYPE_CHECKING:
    import asyncio  # at run time only where it is used: half of what importing this library would cost

MAX_VERSION = 2**53 - 2
"""The last version a stream can have: with one key above it, every JSON reader still keeps the number exact."""

OVERHEAD = 100  # bytes of an item that are neither stream, payload nor text: names, numbers, the id, list headers
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EventId(msgspec.Struct, frozen=True, order=True):
    """Where an event stands; as text `account-a-1@7.0`: stream, version, index in the commit from 0."""

    stream: str
    version: int
    index: int

    def __str__(self) -> str:
        return f"{self.stream}@{self.version}.{self.index}"

    @classmethod
    def parse(cls, text: str) -> EventId:
        """The inverse of `str`. Raises ValueError."""
        stream, at, place = text.rpartition("@")
        version, dot, index = place.partition(".")
        if not (stream and at and dot and version.isdecimal() and index.isdecimal() and place.isascii()):
            raise ValueError(f"{text!r} is no event id; they look like account-a-1@7.0")
        return cls(stream, int(version), int(index))


class Commit(msgspec.Struct, frozen=True, kw_only=True, gc=False):  # refers to nothing that refers to it
    """Events saved together: one item, one atomic unit."""

    stream: str
    version: int
    id: bytes  # 16, a UUIDv7, drawn once: whoever finds it in the stream knows the commit landed
    time: int  # µs since the epoch; within a stream it never goes back
    events: int  # how many the payload holds
    tags: tuple[str, ...]  # distinct, in order of first occurrence
    payload: bytes
    correlation_id: str | None = None
    causation_ids: tuple[str, ...] = ()
    command_id: str | None = None
    command_digest: bytes | None = None  # of what the command was, to tell a redelivery from a reuse
    metadata: Mapping[str, str] = {}
    position: int | None = None  # in the whole store, where it counts one; set by the store

    @property
    def uuid(self) -> UUID:
        """`id` as people read it."""
        return UUID(bytes=self.id)

    @property
    def at(self) -> datetime:
        """`time`, in UTC."""
        return _EPOCH + timedelta(microseconds=self.time)

    @property
    def size(self) -> int:
        """About the bytes it takes in a store; what the snapshot policy weighs."""
        return OVERHEAD + len(self.payload)

    def event_id(self, index: int) -> EventId:
        """Where the event with this index stands."""
        return EventId(self.stream, self.version, index)

    def __repr__(self) -> str:
        return f"<Commit {self.stream}@{self.version} {self.uuid} {self.events} events, {len(self.payload)} bytes>"


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state at a version, cached. It may be missing, old, or unreadable at any time."""

    stream: str
    version: int
    shape: str
    payload: bytes

    @property
    def size(self) -> int:
        """About the bytes it takes in a store."""
        return OVERHEAD + len(self.payload)

    def __repr__(self) -> str:
        return f"<Snapshot {self.stream}@{self.version} shape {self.shape}, {len(self.payload)} bytes>"


class Loaded(NamedTuple):
    """The newest snapshot, and the commits from its version on; without one, all commits. Oldest first.

    The commit that a snapshot stands for is included: that it is there shows the snapshot is not ahead of the log.
    """

    snapshot: Snapshot | None
    commits: Sequence[Commit]


class Receipt(NamedTuple):
    """Where a commit landed."""

    stream: str
    version: int
    commit_id: bytes | None  # None if nothing was recorded, so nothing was written
    events: int = 0
    position: int | None = None  # in the whole store, where it counts one
    duplicate: bool = False  # the command id had been applied before; nothing was written now
    usage: Usage | None = None  # what it took, where the store can tell


class Store(ABC):
    """Keeps streams of commits. Use it as `async with store:`; one event loop at a time.

    An append, a snapshot, and each page of a read end within the store's deadline. Reads are consistent: they see all
    that was acknowledged before they began. Beside the errors named, each call raises StoreClosed, Throttled,
    StoreUnavailable or StoreRejected.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running_loop: Callable[[], asyncio.AbstractEventLoop]
        self.usage = Usage()
        self._life: asyncio.Lock | None = None  # one for each time it is open; held by who closes it
        self._closing = False
        self._calls = 0
        self._idle: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @abstractmethod
    async def append(self, commit: Commit) -> Receipt:
        """Store the commit at its version, if that is the next one, with an exact outcome.

        Success: it is stored once, durably, whether by this call or an earlier one with the same commit id.
        ConflictError: another commit stands there (`winner`), and this one is not stored.
        CommitTooLarge: refused before any I/O. CommitOutcomeUnknown: no definite answer before the deadline.
        When cancelled, the outcome is unknown too; appending the same commit again settles it.
        """

    @abstractmethod
    async def load(self, stream: str) -> Loaded:
        """The newest snapshot with what follows it, in as few requests as the store can."""

    @abstractmethod
    def read(
        self, stream: str, *, after: int = 0, until: int = MAX_VERSION, backward: bool = False
    ) -> AsyncGenerator[Commit]:
        """Commits with `after < version <= until`, a page at a time: memory stays flat however long the stream."""

    @abstractmethod
    async def put_snapshot(self, snapshot: Snapshot) -> bool:
        """Store a snapshot; False if one for this version or a later one is there already."""

    @abstractmethod
    async def on_open(self) -> None: ...

    @abstractmethod
    async def on_close(self) -> None:
        """Release everything, also when cancelled: it is not called again."""

    async def open(self) -> None:
        """Get ready to work in the running event loop. `async with` does it for you."""
        if self._life is not None:
            raise StoreClosed(f"{type(self).__name__} is open already; open it once, and share it")
        import asyncio

        self._running_loop = asyncio.get_running_loop
        self._idle, self._life, self._closing, self._calls = asyncio.Event(), asyncio.Lock(), False, 0
        try:
            async with self._life:
                await self.on_open()
                self._loop = asyncio.get_running_loop()
        except BaseException:
            self._life = None
            raise

    async def aclose(self) -> None:
        """Refuse new calls, let those in flight and the work behind saves end, release everything. Idempotent."""
        import asyncio

        if (life := self._life) is None:
            return
        self._closing = True
        async with life:
            if life is not self._life:
                return  # somebody else has closed it meanwhile
            while self._tasks or self._calls:  # a call may end with work behind it
                if self._tasks:
                    await asyncio.wait(self._tasks)
                elif self._idle is not None:
                    self._idle.clear()
                    await self._idle.wait()
            self._loop = None
            try:
                await self.on_close()
            finally:
                self._life = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` behind the caller. The store owns the task and awaits it on close; errors are logged."""
        task = self._running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.warning("work behind a save failed: %s", error)

    def in_flight(self, *, closing: bool = False, used: Usage | None = None) -> Call:
        """Guards one call: raises StoreClosed, or keeps the store open until it ends, and adds up what it `used`."""
        if self._loop is None or (self._closing and not closing):
            raise StoreClosed(f"{type(self).__name__} is not open; use `async with store:` around all that uses it")
        if self._loop is not self._running_loop():
            raise StoreClosed(f"{type(self).__name__} was opened in another event loop; open one store per loop")
        return Call(self, used)


def settle(commit: Commit, standing: Commit, used: Usage) -> Receipt:
    """The outcome when `standing` was found in the commit's place: success if it is the same, else ConflictError."""
    if standing.id != commit.id:
        used.conflicts = 1
        raise ConflictError(commit.stream, commit.version - 1, standing.version, standing)
    used.bytes_written = commit.size
    return Receipt(commit.stream, commit.version, commit.id, commit.events, standing.position, usage=used)
