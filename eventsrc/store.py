"""What a store is: four methods over bytes, and the records they take and return.

Stores know neither aggregates nor the codec.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self
from uuid import UUID

import msgspec

from .usage import Usage

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
    """Streams of commits, as four methods over bytes. Use it as `async with store:`, in one event loop at a time.

    - An append, a snapshot, and each page of a read end within the store's deadline.
    - Reads are consistent: they see all that was acknowledged before they began.
    - `usage` adds up what the store has consumed since it was made.

    - Each call raises StoreClosed, Throttled, StoreUnavailable or StoreRejected, in addition to the errors it names.

    A store of your own subclasses `eventsrc.stores.ManagedStore`, which has the life cycle.
    """

    usage: Usage

    @abstractmethod
    async def append(self, commit: Commit) -> Receipt:
        """Store the commit at its version, if that is the next one, with an exact outcome.

        On return the commit is stored once and durably, by this call or by an earlier one with the same commit id.
        After a cancellation the outcome is unknown; appending the same commit again settles it.

        Raises:
            ConflictError: another commit stands there (`winner`), and this one is not stored.
            CommitTooLarge: refused before any I/O.
            CommitOutcomeUnknown: no definite answer before the deadline.
        """

    @abstractmethod
    async def load(self, stream: str) -> Loaded:
        """Return the newest snapshot with the commits that follow it, in as few requests as the store can."""

    @abstractmethod
    def read(
        self, stream: str, *, after: int = 0, until: int = MAX_VERSION, backward: bool = False
    ) -> AsyncGenerator[Commit]:
        """Yield commits with `after < version <= until`, read a page at a time: memory stays flat for any length."""

    @abstractmethod
    async def put_snapshot(self, snapshot: Snapshot) -> bool:
        """Store a snapshot. Return False if one for this version or a later one is stored already."""

    @abstractmethod
    async def open(self) -> None:
        """Prepare to work in the running event loop. `async with` calls it."""

    @abstractmethod
    async def aclose(self) -> None:
        """Refuse new calls, wait for those in flight and for background work, then release everything. Idempotent."""

    @abstractmethod
    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in the background. The store owns the task and awaits it on close; errors are logged."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()
