"""The slots of a processor: which streams it handles here, and from where on the feed is read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from zlib import crc32

from msgspec import structs

from ..errors import Fenced, NotActive
from ..stores.feed import Feed
from .checkpoints.checkpoints import Checkpoints, Slot, current_slots, now
from .projections.projection import Projection
from .slice import Fence


class Assignment:
    """What a processor holds of its streams, as hash slots; all of it unless there are several workers."""

    def __init__(self, projection: Projection, checkpoints: Checkpoints, feed: Feed, *, from_now: bool) -> None:
        self._projection, self.checkpoints, self.feed, self.from_now = projection, checkpoints, feed, from_now
        self.held: dict[int, Slot] = {}  # by number
        self._slot_count = 1
        self._joined = False  # others hold the same
        self.running = False  # a runner has it
        self.checkpoint = ""  # where the feed was when it was last read here; what is aside may be behind that
        self._unsaved = False

    @property
    def name(self) -> str:
        """What all of it is kept under: tag and version."""
        return self._projection.name

    def holds(self, stream: str) -> bool:
        """Whether this one handles the stream, and no other worker."""
        return self.slot_of(stream) in self.held

    def slot_of(self, stream: str) -> int:
        return _hash(stream) % self._slot_count

    async def _active(self) -> int | None:
        return await self.checkpoints.active(self._projection.tag)

    async def check_active(self) -> None:
        """Raise NotActive if readers use another version; become the one they use if there is none."""
        tag, version = self._projection.tag, self._projection.version
        active = await self._active()
        if active is None and not await self.checkpoints.activate(tag, version, instead_of=None):
            active = await self._active()
        if active not in (None, version):
            raise NotActive(tag, version, active)

    async def create_slots(self, of: int = 1, *, replace: bool = False) -> None:
        """Have slots: as many as there are already, or `of` if there are none or if `replace` asks for another number.

        No slot may be handled before all are there: until then, how far a stream is may be kept with another one.
        Raises Fenced if somebody else does the same just now, and NotActive.
        """
        known = await self._slots()
        used = current_slots(known)
        if used and (not replace or len(used) == of):
            return
        epoch = max((slot.epoch for slot in known), default=0) + 1
        laid = epoch
        if known and not used and not replace:  # who began with it was killed
            of, laid = known[0].of, known[0].laid
        if known:
            began = min(slot.began for slot in used or known)
            checkpoint = self.feed.earliest(slot.checkpoint for slot in used or known)
        else:
            began, checkpoint = (now(), await self.feed.end()) if self.from_now else (0, "")
        numbers = {*range(of), *(slot.number for slot in known)} - {slot.number for slot in known if slot.laid == laid}
        for number in sorted(numbers, key=lambda number: (number > 0, number < of)):  # fence what goes, then the rest
            slot = Slot(number=number, of=of, laid=laid, epoch=epoch, checkpoint=checkpoint, began=began)
            await self.checkpoints.claim(self.name, slot)

    async def take_all(self) -> None:
        """Hold all slots from now on, as many as there are. Raises Fenced if somebody else was quicker."""
        await self.create_slots()
        for slot in current_slots(await self._slots()):
            await self.claim(slot)

    async def claim(self, seen: Slot, owner: str = "") -> None:
        """Hold a slot from now on: whoever held it, as we have seen it, is fenced. Raises Fenced if somebody else was
        quicker.
        """
        slot = structs.replace(seen, epoch=seen.epoch + 1, owner=owner)
        await self.checkpoints.claim(self.name, slot)
        self.held[slot.number], self._slot_count, self._joined = slot, slot.of, False
        self.changed()

    async def _slots(self) -> Sequence[Slot]:
        """Those that are stored. Raises NotActive."""
        known = await self.checkpoints.slots(self.name)
        if any(slot.retired for slot in known):
            raise NotActive(self._projection.tag, self._projection.version, await self._active() or 0)
        return known

    def dropped(self, number: int) -> None:
        """Somebody else holds that slot now."""
        del self.held[number]
        self.changed()

    async def release(self, number: int) -> None:
        """Let somebody else have a slot. Raises Fenced if that is so already."""
        await self.checkpoints.save(self.name, structs.replace(self.held[number], owner=""))
        self.dropped(number)

    async def join(self) -> None:
        """Hold all slots beside others who do so, without fencing them: positions alone keep it exact."""
        slots = await self._ensure_slots()
        self.held, self._slot_count, self._joined = {slot.number: slot for slot in slots}, len(slots), True
        self.changed()

    async def _ensure_slots(self) -> Sequence[Slot]:
        while not (slots := current_slots(await self._slots())):
            with suppress(Fenced):  # somebody else does it
                await self.create_slots()
        return slots

    async def fence_of(self, stream: str) -> Fence:
        """What to show with this stream's position. In a process that does not handle it alone: what is valid now."""
        slot = self.held.get(self.slot_of(stream))
        if slot is None or self._joined:
            slots = await self._ensure_slots()
            slot = slots[_hash(stream) % len(slots)]
        return Fence(slot.number, slot.epoch)

    async def resume_from(self, checkpoint: str = "") -> None:
        """Have the next run read the feed from there: from the beginning, as after FeedTrimmed, or behind an export.
        Positions stay, so what has been handled is dropped. Who runs it now is fenced. Raises ValueError for what is no
        checkpoint of the feed, and RuntimeError if this very object runs.
        """
        if self.running:
            raise RuntimeError(f"{self.name} is running; stop it first, or ask another object of it")
        self.feed.earliest([checkpoint])
        await self.take_all()
        self.note_checkpoint(checkpoint)
        await self.write()
        self.held.clear()
        self.changed()

    def note_checkpoint(self, checkpoint: str) -> None:
        """The feed was read up to there, with commits or without: a checkpoint wears out."""
        self.checkpoint, self._unsaved = checkpoint, True

    async def write(self) -> None:
        """Write how far the feed was read, if that was not written yet. Raises Fenced, StoreError."""
        if not self._unsaved:
            return
        for number, slot in self.held.items():
            saved = structs.replace(slot, checkpoint=self.checkpoint)
            await self.checkpoints.save(self.name, saved)
            self.held[number] = saved
        self._unsaved = False

    def changed(self) -> None:
        """Other slots are held: forget how far the feed was, as it is read again."""
        self.checkpoint, self._unsaved = "", False


def _hash(stream: str) -> int:
    return crc32(stream.encode())
