"""The contract of checkpoints, the durable state of processors: positions, slots, parked streams."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Collection, Sequence
from datetime import UTC, datetime
from typing import ClassVar, Literal, Self

import msgspec

from ...stores.feed import Head
from ..slice import Fence, Position, Slice
from .registry import Registration, Registry
from .workers import Workers


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A hash share of all streams, with its owner and its feed checkpoint."""

    number: int
    of: int  # the number of slots
    laid: int = 0  # the epoch in which these slots were created
    epoch: int = 0  # raised by each claim
    owner: str = ""  # the worker; "" if there is none
    checkpoint: str = ""  # of the feed: all commits before it are handled, or their streams are stored as parked
    open: bool = False  # claimed by a worker that has not given it up: it is running, or it was killed
    switch: str = ""  # the worker of a rebuild that switches to another version; until it has, nobody handles commits
    retired: bool = False  # another version has replaced this one


def current_slots(slots: Sequence[Slot]) -> Sequence[Slot]:
    """Return the slots in use, by number; none if some of them are not stored yet."""
    if any(slot.laid != slots[0].laid for slot in slots):  # they are being replaced, and some of the old ones are held
        return []
    found = [slot for slot in slots if slot.number < slot.of]
    return found if found and len(found) == found[0].of else []


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that is not handled from the feed, because a handler failed.

    - `parked`: nobody handles it until `retry` or `skip`.
    - `retrying`: the worker that holds its slot handles it from its position to its end, then deletes this entry.
    """

    stream: str
    version: int  # of the commit that could not be handled
    error: str  # of the last attempt: type, text and line of code; it may quote the event
    attempts: int
    since: int  # µs since the epoch
    state: Literal["parked", "retrying"] = "parked"
    lives: int = 0  # processes that ended while they handled this commit
    retry: str = ""  # names the call of `retry` or `skip` that handles the stream

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.since / 1e6, UTC)


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A commit that was skipped by `Processor.skip`."""

    stream: str
    version: int
    reason: str
    time: int  # µs since the epoch


class Checkpoints(ABC):
    """The durable state of processors, by processor name, as `airport-delays@1`. Use it as `async with checkpoints:`.

    Each write is atomic and durable. A call that is cancelled may still take effect later, but never over a later call
    of the same kind.

    Raises:
        Throttled, StoreUnavailable, StoreRejected, StoreClosed: as stores do.
        Fenced: a write with a stale fence. It changes nothing.
    """

    billed: ClassVar[bool] = False
    """Whether each write costs money. If so, commits that no handler takes move no position."""

    registry: Registry
    """The processors, and which version of each readers use."""

    workers: Workers
    """The workers of all processors, and their heartbeats."""

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def aclose(self) -> None: ...

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def processors(self) -> Sequence[str]:
        """Return the names of all registered processors, sorted."""
        return await self.registry.processors()

    async def active(self, tag: str) -> int | None:
        """Return the version that readers use, or None if there is none yet."""
        return await self.registry.active(tag)

    # Positions: for each stream, the commit handled last.

    @abstractmethod
    async def positions(self, processor: str, streams: Collection[str]) -> dict[str, Position]:
        """Return the position of each of these streams that has one."""

    @abstractmethod
    def all_positions(self, processor: str) -> AsyncGenerator[Sequence[Head]]:
        """Yield the positions of all streams in pages, in no order."""

    @abstractmethod
    async def advance(self, processor: str, run: Slice) -> None:
        """Move the stream's position to the end of the slice.

        Raises:
            PositionMoved: the position is not where the slice begins: it is not `run.after`, or, if `run.is_first`,
                there is one already; or else there is none any more, as the processor was forgotten.
            Fenced: another worker has taken over the slot.
        """

    @abstractmethod
    async def delete_position(self, processor: str, stream: str, fence: Fence) -> None:
        """Delete the position of a stream, so that it is handled from its beginning. Raises Fenced."""

    # Slots: which worker handles which streams, and the feed checkpoints.

    @abstractmethod
    async def slots(self, processor: str) -> Sequence[Slot]:
        """Return all stored slots, by number."""

    @abstractmethod
    async def claim(self, processor: str, slot: Slot) -> None:
        """Write a slot whose epoch is above the stored one.

        Raises:
            Fenced: the stored epoch is not lower.
        """

    @abstractmethod
    async def save(self, processor: str, slot: Slot) -> None:
        """Write a slot whose stored epoch is this one: its checkpoint, its owner and whether it is open.

        Raises:
            Fenced: the stored epoch is another one, or the slot is not stored.
        """

    # Parked streams, and those that are retried.

    @abstractmethod
    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        """Store an entry, in place of what was stored for that stream, and return True.

        With `instead_of`, store it only in place of exactly that entry; otherwise return False. If `parked` is stored
        already, return True.

        Raises:
            Fenced: the stored slot has another epoch than the fence.
        """

    @abstractmethod
    async def unpark(self, processor: str, parked: Parked) -> None:
        """Delete exactly this entry; an entry that was stored since stays."""

    @abstractmethod
    async def parked(self, processor: str, streams: Collection[str] | None = None) -> Sequence[Parked]:
        """Return the entries of these streams, or of all streams, in any state."""

    @abstractmethod
    async def note_skipped(self, processor: str, skipped: Skipped) -> None:
        """Store a skipped commit, in place of what was stored for its stream and version."""

    @abstractmethod
    async def skipped(self, processor: str) -> Sequence[Skipped]:
        """Return all skipped commits, in the order of their times."""

    @abstractmethod
    async def forget(self, processor: str) -> None:
        """Drop everything stored for a processor, except its read model and its slots.

        The slots stay as tombstones: each with a raised epoch, no owner and an empty checkpoint, so a worker that still
        runs is fenced. `Processor.forget` drops the read model, too.
        """


def tombstone(slot: Slot) -> Slot:
    """Return what `forget` leaves of a slot."""
    return Slot(number=slot.number, of=slot.of, laid=slot.laid, epoch=slot.epoch + 1)


def to_text(value: Registration | Slot | Parked | Skipped) -> str:
    """Return the JSON of a value, as it is stored. Equal values have equal texts."""
    return msgspec.json.encode(value).decode()


def now() -> int:
    """Return the time in µs since the epoch."""
    return time.time_ns() // 1000
