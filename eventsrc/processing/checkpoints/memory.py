"""The state of processors in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence

from ...errors import Fenced
from ...stores.feed import Head
from ..slice import Fence, Position, PositionMoved, Slice
from .checkpoints import Checkpoints, Parked, Skipped, Slot, tombstone
from .registry import Registration, Registry
from .workers import Workers


class MemoryRegistry(Registry):
    """The registry in memory."""

    def __init__(self, registrations: dict[str, Registration]) -> None:
        self._registrations = registrations
        self._active: dict[str, int] = {}

    async def registration(self, processor: str) -> Registration | None:
        return self._registrations.get(processor)

    async def register(self, processor: str, new: Registration, *, instead_of: Registration | None) -> bool:
        if self._registrations.get(processor) not in (instead_of, new):
            return False
        self._registrations[processor] = new
        return True

    async def processors(self) -> Sequence[str]:
        return sorted(self._registrations)

    async def active(self, tag: str) -> int | None:
        return self._active.get(tag)

    async def activate(self, tag: str, version: int, *, instead_of: int | None) -> bool:
        if self._active.get(tag) not in (instead_of, version):
            return False
        self._active[tag] = version
        return True


class MemoryWorkers(Workers):
    """Workers in memory."""

    def __init__(self) -> None:
        self._beats: dict[str, int] = {}

    async def heartbeat(self, worker: str) -> None:
        self._beats[worker] = self._beats.get(worker, 0) + 1

    async def beats(self) -> Mapping[str, int]:
        return dict(self._beats)

    async def sign_off(self, worker: str) -> None:
        self._beats.pop(worker, None)


class MemoryCheckpoints(Checkpoints):
    """Checkpoints in memory, lost with the process: for read models in memory, and for tests."""

    def __init__(self) -> None:
        self._registrations: dict[str, Registration] = {}
        self.registry = MemoryRegistry(self._registrations)
        self.workers = MemoryWorkers()
        self._positions: dict[str, dict[str, Position]] = {}
        self._slots: dict[str, dict[int, Slot]] = {}
        self._parked: dict[str, dict[str, Parked]] = {}
        self._skipped: dict[str, dict[tuple[str, int], Skipped]] = {}

    async def open(self) -> None: ...
    async def aclose(self) -> None: ...

    async def positions(self, processor: str, streams: Collection[str]) -> dict[str, Position]:
        known = self._positions.get(processor, {})
        return {stream: known[stream] for stream in streams if stream in known}

    async def all_positions(self, processor: str) -> AsyncGenerator[Sequence[Head]]:
        known = self._positions.get(processor, {})
        yield [Head(stream, position.version) for stream, position in known.items()]

    async def advance(self, processor: str, run: Slice) -> None:
        self._check_fence(processor, run.fence)
        known = self._positions.setdefault(processor, {})
        found = known.get(run.stream)
        if (found is None) != run.is_first or (found is not None and found.version != run.after):
            raise PositionMoved(run.stream)
        known[run.stream] = run.position

    async def delete_position(self, processor: str, stream: str, fence: Fence) -> None:
        self._check_fence(processor, fence)
        self._positions.get(processor, {}).pop(stream, None)

    def _check_fence(self, processor: str, fence: Fence) -> None:
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
        slots = self._slots.get(processor, {})
        if slot.number not in slots or slots[slot.number].epoch != slot.epoch:
            raise Fenced(processor, slot.number)
        slots[slot.number] = slot

    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        self._check_fence(processor, fence)
        known = self._parked.setdefault(processor, {})
        if instead_of is not None and known.get(parked.stream) not in (instead_of, parked):
            return False
        known[parked.stream] = parked
        return True

    async def unpark(self, processor: str, parked: Parked) -> None:
        if (known := self._parked.get(processor, {})).get(parked.stream) == parked:
            del known[parked.stream]

    async def parked(self, processor: str, streams: Collection[str] | None = None) -> Sequence[Parked]:
        known = self._parked.get(processor, {})
        return [known[stream] for stream in (known if streams is None else dict.fromkeys(streams)) if stream in known]

    async def note_skipped(self, processor: str, skipped: Skipped) -> None:
        self._skipped.setdefault(processor, {})[skipped.stream, skipped.version] = skipped

    async def skipped(self, processor: str) -> Sequence[Skipped]:
        return sorted(self._skipped.get(processor, {}).values(), key=lambda skipped: skipped.time)

    async def forget(self, processor: str) -> None:
        slots = self._slots.get(processor, {})
        self._slots[processor] = {number: tombstone(slot) for number, slot in slots.items()}
        for kept in (self._registrations, self._positions, self._parked, self._skipped):
            kept.pop(processor, None)
