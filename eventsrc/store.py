"""The interface of a store: four methods over bytes, and their records. Stores know no aggregates and no codec."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self
from uuid import UUID

import msgspec

from .usage import Usage

MAX_VERSION = 2**53 - 2
"""The last version a stream can have. One more is still an exact number in every JSON reader."""

OVERHEAD = 100  # bytes of an item except its stream, payload and texts: names, numbers, the id, list headers
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


EventIndex = int | tuple[int, int]
"""The place of an event in its commit: its index, from 0, or its index and part. See EventId."""


class EventId(msgspec.Struct, frozen=True, order=True):
    """The position of an event: stream, version, and index in the commit from 0. As text: `account-a-1@7.0`.

    Upcasters may turn one stored event into several. The first keeps the id; the others are its parts 1, 2 and so on:
    `account-a-1@7.0.1`.
    """

    stream: str
    version: int
    index: int
    part: int = 0

    def __str__(self) -> str:
        return f"{self.stream}@{self.version}.{self.index}" + (f".{self.part}" if self.part else "")

    @classmethod
    def parse(cls, text: str) -> EventId:
        """Return the id with this text, the inverse of `str`. Raises ValueError."""
        stream, at, numbers = text.rpartition("@")
        each = numbers.split(".")
        if stream and at and len(each) in (2, 3) and all(map(str.isdecimal, each)) and numbers.isascii():
            id = cls(stream, *map(int, each))
            if id.part or len(each) == 2:
                return id
        raise ValueError(f"{text!r} is not an event id; write stream@version.index, as in account-a-1@7.0")


class Commit(msgspec.Struct, frozen=True, kw_only=True, gc=False):  # holds no reference cycles
    """Events that were saved together, atomically, as one item."""

    stream: str
    version: int
    id: bytes  # 16 bytes, a UUIDv7, the same in each try: if it is in the stream, this commit is stored
    time: int  # µs since the epoch; never decreases within a stream
    events: int  # number of events in the payload
    tags: tuple[str, ...]  # distinct, in order of first occurrence
    payload: bytes
    correlation_id: str | None = None
    causation_ids: tuple[str, ...] = ()
    command_id: str | None = None
    command_digest: bytes | None = None  # of the command, to distinguish a redelivery from a reuse of its id
    metadata: Mapping[str, str] = {}
    position: int | None = None  # among all commits, set by stores that count them

    @property
    def uuid(self) -> UUID:
        """`id` as a UUID."""
        return UUID(bytes=self.id)

    @property
    def trace_id(self) -> str:
        """The correlation id. A commit without one starts a trace, whose id is its own identity: `account-a-1@7`."""
        return self.correlation_id or f"{self.stream}@{self.version}"

    @property
    def at(self) -> datetime:
        """`time` in UTC."""
        return _EPOCH + timedelta(microseconds=self.time)

    @property
    def size(self) -> int:
        """Approximate bytes in a store, used by the snapshot policy."""
        return OVERHEAD + len(self.payload)

    def event_id(self, index: EventIndex) -> EventId:
        """Return the id of the event with this index, or index and part."""
        return EventId(self.stream, self.version, *(index if isinstance(index, tuple) else (index,)))

    def __repr__(self) -> str:
        return f"<Commit {self.stream}@{self.version} {self.uuid} {self.events} events, {len(self.payload)} bytes>"


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The cached state at a version. It may be missing, old or unreadable at any time."""

    stream: str
    version: int
    shape: str
    payload: bytes

    @property
    def size(self) -> int:
        """Approximate bytes in a store."""
        return OVERHEAD + len(self.payload)

    def __repr__(self) -> str:
        return f"<Snapshot {self.stream}@{self.version} shape {self.shape}, {len(self.payload)} bytes>"


class Loaded(NamedTuple):
    """The newest snapshot and the commits from its version on, or all commits if there is no snapshot. Oldest first.

    The commit at the snapshot's version is included: it shows that the snapshot is not ahead of the log.
    """

    snapshot: Snapshot | None
    commits: Sequence[Commit]


class Receipt(NamedTuple):
    """The result of an append."""

    stream: str
    version: int
    commit_id: bytes | None  # None if nothing was recorded, so nothing was written
    events: int = 0
    position: int | None = None  # among all commits, from stores that count them
    duplicate: bool = False  # the command id was applied before; nothing was written now
    usage: Usage | None = None  # consumed by the append, if the store knows


class Store(ABC):
    """Streams of commits, as four methods over bytes. Use it as `async with store:`, in one event loop at a time.

    - An append, a snapshot, and each page of a read end within the store's deadline.
    - Reads are consistent: they see every commit that was acknowledged before they began.
    - `usage` is the sum of what the store has consumed since it was created. `deadline` is in seconds, or None.
    - Each call may raise StoreClosed, Throttled, StoreUnavailable or StoreRejected, in addition to the errors it names.

    To write a store, subclass `eventsrc.stores.ManagedStore`, which has the life cycle.
    """

    usage: Usage
    deadline: float | None = None

    @abstractmethod
    async def append(self, commit: Commit) -> Receipt:
        """Store the commit if its version is the next one of the stream. The outcome is exact.

        - On return the commit is stored once and durably, by this call or by an earlier one with the same commit id.
        - After a cancellation the outcome is unknown. Append the same commit again to learn it.

        Raises:
            ConflictError: the version is taken (by `winner`) or is not the next one; this commit is not stored.
            CommitTooLarge: the commit is beyond the limit; nothing was sent.
            CommitOutcomeUnknown: there was no definite answer before the deadline.
        """

    @abstractmethod
    async def load(self, stream: str) -> Loaded:
        """Return the newest snapshot and the commits from its version on, in as few requests as possible."""

    @abstractmethod
    def read(
        self, stream: str, *, after: int = 0, until: int = MAX_VERSION, backward: bool = False
    ) -> AsyncGenerator[Commit]:
        """Yield commits with `after < version <= until`. One page is held at a time, so memory use is constant."""

    @abstractmethod
    async def put_snapshot(self, snapshot: Snapshot) -> bool:
        """Store a snapshot. Return False if there is already one for this version or a later one."""

    @abstractmethod
    async def open(self) -> None:
        """Prepare to work in the running event loop. `async with` calls it."""

    @abstractmethod
    async def aclose(self) -> None:
        """Refuse new calls, wait for those in flight and for background work, then release everything. Idempotent."""

    @abstractmethod
    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in the background. Closing the store waits for it. Its errors are logged."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()
