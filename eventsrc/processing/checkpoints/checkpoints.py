"""The durable state of processors: positions, feed checkpoints, parked streams, leases."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Self

import msgspec

from ...errors import Fenced
from ...stores.feed import Head
from ..slice import Fence, PositionMoved, Slice


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A hash share of all streams, with its owner and its feed checkpoint."""

    number: int
    of: int  # the number of slots
    laid: int = 0  # the epoch in which these slots were created
    epoch: int = 0  # raised by each claim
    owner: str = ""  # the worker; "" if there is none
    checkpoint: str = ""  # of the feed: all commits before it are handled or parked
    began: int = 0  # µs since the epoch: older commits are not handled; 0 if all are
    retired: bool = False  # another version has replaced this one


def current_slots(slots: Sequence[Slot]) -> Sequence[Slot]:
    """Return the slots in use, by number; none if some of them are not stored yet."""
    found = [slot for slot in slots if slot.laid == slots[0].laid and slot.number < slot.of]
    return found if found and len(found) == found[0].of else []


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that is no longer handled, because a handler failed."""

    stream: str
    version: int  # of the commit that could not be handled
    error: str  # of the last attempt: type, text and line of code; it may quote the event
    attempts: int
    since: int  # µs since the epoch
    released: bool = False  # handled again; the retry still checks for commits that the feed delivered before that

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

    Each write is atomic and durable.

    Raises:
        Throttled, StoreUnavailable, StoreRejected, StoreClosed: as stores do.
        Fenced: a write with a stale fence. It changes nothing.
    """

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def aclose(self) -> None: ...

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    # Positions: for each stream, the version handled last.

    @abstractmethod
    async def positions(self, processor: str, streams: Collection[str]) -> dict[str, int]:
        """Return the position of each of these streams that has one."""

    @abstractmethod
    def all_positions(self, processor: str) -> AsyncGenerator[Sequence[Head]]:
        """Yield the positions of all streams in pages, in no order."""

    @abstractmethod
    async def advance(self, processor: str, run: Slice) -> None:
        """Move the stream's position to the end of the slice.

        Raises:
            PositionMoved: the position is not where the slice begins.
            Fenced: another worker has taken over the slot.
        """

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
        """Write the checkpoint and the owner of a slot whose stored epoch is this one.

        Raises:
            Fenced: the stored epoch is another one.
        """

    # Workers: each counts its heartbeats, so that other workers see that it is alive.

    @abstractmethod
    async def heartbeat(self, worker: str) -> None:
        """Count a heartbeat of this worker."""

    @abstractmethod
    async def beats(self) -> Mapping[str, int]:
        """Return the number of heartbeats of each worker."""

    @abstractmethod
    async def sign_off(self, worker: str) -> None:
        """Remove a worker."""

    # Parked streams.

    @abstractmethod
    async def park(self, processor: str, parked: Parked) -> None:
        """Store a parked stream, in place of what was stored for that stream."""

    @abstractmethod
    async def unpark(self, processor: str, parked: Parked) -> None:
        """Delete exactly this entry; an entry that was stored since stays."""

    @abstractmethod
    async def parked(self, processor: str, streams: Collection[str] | None = None) -> Sequence[Parked]:
        """Return the entries of these streams, or of all streams."""

    @abstractmethod
    async def note_skipped(self, processor: str, skipped: Skipped) -> None:
        """Store a skipped commit."""

    @abstractmethod
    async def skipped(self, processor: str) -> Sequence[Skipped]:
        """Return all skipped commits."""

    # Versions: which version of a processor readers use.

    @abstractmethod
    async def active(self, tag: str) -> int | None:
        """Return the version that readers use, or None if there is none yet."""

    @abstractmethod
    async def activate(self, tag: str, version: int, *, instead_of: int | None) -> bool:
        """Activate a version in place of `instead_of`. Return False if the active version is neither of the two."""

    @abstractmethod
    async def forget(self, processor: str) -> None:
        """Drop everything stored for a processor, except its read model.

        Do not run the processor on that read model again. `Processor.forget` drops both.
        """


def now() -> int:
    """Return the time in µs since the epoch."""
    return time.time_ns() // 1000


class MemoryCheckpoints(Checkpoints):
    """Checkpoints in memory, lost with the process: for read models in memory, and for tests."""

    def __init__(self) -> None:
        self._positions: dict[str, dict[str, tuple[int, int]]] = {}
        self._slots: dict[str, dict[int, Slot]] = {}
        self._beats: dict[str, int] = {}
        self._parked: dict[str, dict[str, Parked]] = {}
        self._skipped: dict[str, list[Skipped]] = {}
        self._active: dict[str, int] = {}

    async def open(self) -> None: ...
    async def aclose(self) -> None: ...

    async def positions(self, processor: str, streams: Collection[str]) -> dict[str, int]:
        known = self._positions.get(processor, {})
        return {stream: known[stream][0] for stream in streams if stream in known}

    async def all_positions(self, processor: str) -> AsyncGenerator[Sequence[Head]]:
        known = self._positions.get(processor, {})
        yield [Head(stream, version) for stream, (version, _) in known.items()]

    async def advance(self, processor: str, run: Slice) -> None:
        self.check_fence(processor, run.fence)
        known = self._positions.setdefault(processor, {})
        version, epoch = known.get(run.stream, (run.after, 0))
        if epoch > run.fence.epoch:
            raise Fenced(processor, run.fence.slot)
        if version != run.after:
            raise PositionMoved(run.stream)
        known[run.stream] = run.last_version, run.fence.epoch

    def check_fence(self, processor: str, fence: Fence) -> None:
        """Raise Fenced if somebody else has the slot now."""
        slot = self._slots.get(processor, {}).get(fence.slot)
        if slot is not None and slot.epoch != fence.epoch:
            raise Fenced(processor, fence.slot)

    async def slots(self, processor: str) -> Sequence[Slot]:
        return [slot for _, slot in sorted(self._slots.get(processor, {}).items())]

    async def claim(self, processor: str, slot: Slot) -> None:
        slots = self._slots.setdefault(processor, {})
        if (stored := slots.get(slot.number)) is not None and stored.epoch >= slot.epoch:
            raise Fenced(processor, slot.number)
        slots[slot.number] = slot

    async def save(self, processor: str, slot: Slot) -> None:
        self.check_fence(processor, Fence(slot.number, slot.epoch))
        self._slots[processor][slot.number] = slot

    async def heartbeat(self, worker: str) -> None:
        self._beats[worker] = self._beats.get(worker, 0) + 1

    async def beats(self) -> Mapping[str, int]:
        return dict(self._beats)

    async def sign_off(self, worker: str) -> None:
        self._beats.pop(worker, None)

    async def park(self, processor: str, parked: Parked) -> None:
        self._parked.setdefault(processor, {})[parked.stream] = parked

    async def unpark(self, processor: str, parked: Parked) -> None:
        if (known := self._parked.get(processor, {})).get(parked.stream) == parked:
            del known[parked.stream]

    async def parked(self, processor: str, streams: Collection[str] | None = None) -> Sequence[Parked]:
        known = self._parked.get(processor, {})
        return [known[stream] for stream in (known if streams is None else streams) if stream in known]

    async def note_skipped(self, processor: str, skipped: Skipped) -> None:
        self._skipped.setdefault(processor, []).append(skipped)

    async def skipped(self, processor: str) -> Sequence[Skipped]:
        return list(self._skipped.get(processor, []))

    async def active(self, tag: str) -> int | None:
        return self._active.get(tag)

    async def activate(self, tag: str, version: int, *, instead_of: int | None) -> bool:
        if self._active.get(tag) not in (instead_of, version):
            return False
        self._active[tag] = version
        return True

    async def forget(self, processor: str) -> None:
        for kept in (self._positions, self._slots, self._parked, self._skipped):
            kept.pop(processor, None)
