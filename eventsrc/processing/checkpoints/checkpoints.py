"""Where processors keep what they must not forget: feed checkpoints, positions, parked streams, leases."""

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
    """A share of all streams, by their hash, and how far it has been handled."""

    number: int
    of: int  # how many slots there are
    laid: int = 0  # the epoch in which all of them were laid out
    epoch: int = 0  # one more with each worker that takes it
    owner: str = ""  # the worker that has it; "" if nobody
    checkpoint: str = ""  # of the feed: all before it is handled, or parked
    began: int = 0  # µs since the epoch: what is older was never to be handled; 0 for all
    retired: bool = False  # another version has taken the place of this one


def current_slots(slots: Sequence[Slot]) -> Sequence[Slot]:
    """Those that divide all streams, by number; none where some of them are yet to be written."""
    found = [slot for slot in slots if slot.laid == slots[0].laid and slot.number < slot.of]
    return found if found and len(found) == found[0].of else []


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that is not handled any further, because a handler failed."""

    stream: str
    version: int  # of the commit that could not be handled
    error: str  # the last one's type, text and place; it may quote the event
    attempts: int
    since: int  # µs since the epoch
    released: bool = False  # it is handled again, and who retried it makes sure that nothing came too early for that

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.since / 1e6, UTC)


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A commit that somebody decided not to have handled."""

    stream: str
    version: int
    reason: str
    time: int  # µs since the epoch


class Checkpoints(ABC):
    """All of it by processor, named as `airport-delays@1`. Use it as `async with checkpoints:`.

    Each write is one atomic, durable act. Errors are those of stores: Throttled, StoreUnavailable, StoreRejected,
    StoreClosed. What is written with a stale fence raises Fenced, and changes nothing.
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

    # Positions: the version of each stream that was handled last.

    @abstractmethod
    async def positions(self, processor: str, streams: Collection[str]) -> dict[str, int]:
        """Those of these streams that have one."""

    @abstractmethod
    def all_positions(self, processor: str) -> AsyncGenerator[Sequence[Head]]:
        """Of each stream, a page at a time, in no order."""

    @abstractmethod
    async def advance(self, processor: str, run: Slice) -> None:
        """Set the stream's position behind the run. Raises PositionMoved if it is not where the run begins, Fenced."""

    # Slots: who handles which streams, and from where on.

    @abstractmethod
    async def slots(self, processor: str) -> Sequence[Slot]:
        """All that there are, by number."""

    @abstractmethod
    async def claim(self, processor: str, slot: Slot) -> None:
        """Write a slot whose epoch is above the one that is there. Raises Fenced if somebody was quicker."""

    @abstractmethod
    async def save(self, processor: str, slot: Slot) -> None:
        """Write the checkpoint and the owner of a slot that has this epoch. Raises Fenced if it has another."""

    # Workers: each counts as long as it lives, so that the others see it.

    @abstractmethod
    async def heartbeat(self, worker: str) -> None: ...

    @abstractmethod
    async def beats(self) -> Mapping[str, int]:
        """How often each worker has beaten."""

    @abstractmethod
    async def sign_off(self, worker: str) -> None: ...

    # Parked streams.

    @abstractmethod
    async def park(self, processor: str, parked: Parked) -> None: ...

    @abstractmethod
    async def unpark(self, processor: str, parked: Parked) -> None:
        """Forget this, unless something else is noted of the stream meanwhile."""

    @abstractmethod
    async def parked(self, processor: str, streams: Collection[str] | None = None) -> Sequence[Parked]:
        """All, or what is noted of these streams."""

    @abstractmethod
    async def note_skipped(self, processor: str, skipped: Skipped) -> None: ...

    @abstractmethod
    async def skipped(self, processor: str) -> Sequence[Skipped]: ...

    # Versions: which one of a processor is the one that readers use.

    @abstractmethod
    async def active(self, tag: str) -> int | None: ...

    @abstractmethod
    async def activate(self, tag: str, version: int, *, instead_of: int | None) -> bool:
        """Make a version the active one; False if another than `instead_of` is."""

    @abstractmethod
    async def forget(self, processor: str) -> None:
        """Drop all that is kept for a processor, but not its read model, into which it must not be built again then:
        `Processor.forget` drops both.
        """


def now() -> int:
    """µs since the epoch."""
    return time.time_ns() // 1000


class MemoryCheckpoints(Checkpoints):
    """For read models in memory, which are gone as soon as this is, and for tests."""

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
