"""The slots that a processor holds here: which streams it handles, and from which checkpoint it reads the feed."""

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
    """The hash slots that a processor holds in this process: all of them, unless several workers share it."""

    def __init__(self, projection: Projection, checkpoints: Checkpoints, feed: Feed, *, from_now: bool) -> None:
        self._projection, self.checkpoints, self.feed, self.from_now = projection, checkpoints, feed, from_now
        self.held: dict[int, Slot] = {}  # by number
        self._slot_count = 1
        self._joined = False  # other processes hold the same slots
        self.running = False  # in a runner
        self.checkpoint = (
            ""  # after the last batch read here; streams that are catching up may still need older commits
        )
        self._unsaved = False

    @property
    def name(self) -> str:
        """Tag and version, as `balances@2`: the key of everything in the checkpoints."""
        return self._projection.name

    def holds(self, stream: str) -> bool:
        """Whether this object holds the slot of the stream."""
        return self.slot_of(stream) in self.held

    def slot_of(self, stream: str) -> int:
        return _hash(stream) % self._slot_count

    async def _active(self) -> int | None:
        return await self.checkpoints.active(self._projection.tag)

    async def check_active(self) -> None:
        """Check that readers use this version. If no version is active yet, activate this one.

        Raises:
            NotActive: readers use another version.
        """
        tag, version = self._projection.tag, self._projection.version
        active = await self._active()
        if active is None and not await self.checkpoints.activate(tag, version, instead_of=None):
            active = await self._active()
        if active not in (None, version):
            raise NotActive(tag, version, active)

    async def create_slots(self, of: int = 1, *, replace: bool = False) -> None:
        """Create `of` slots, if there are none yet, or if `replace` is true and there is another number of them.

        All slots must be stored before any of them is handled: until then, a stream may still belong to an old slot.

        Raises:
            Fenced: another process is creating slots.
            NotActive: another version has replaced this one.
        """
        known = await self._slots()
        used = current_slots(known)
        if used and (not replace or len(used) == of):
            return
        epoch = max((slot.epoch for slot in known), default=0) + 1
        laid = epoch
        if known and not used and not replace:  # the process that started to create these was killed
            of, laid = known[0].of, known[0].laid
        if known:
            began = min(slot.began for slot in used or known)
            checkpoint = self.feed.earliest(slot.checkpoint for slot in used or known)
        else:
            began, checkpoint = (now(), await self.feed.end()) if self.from_now else (0, "")
        numbers = {*range(of), *(slot.number for slot in known)} - {slot.number for slot in known if slot.laid == laid}
        # Slot 0 first: of two processes that do this, one is fenced. Then fence unused slots, then create the rest.
        for number in sorted(numbers, key=lambda number: (number > 0, number < of)):
            slot = Slot(number=number, of=of, laid=laid, epoch=epoch, checkpoint=checkpoint, began=began)
            await self.checkpoints.claim(self.name, slot)

    async def take_all(self) -> None:
        """Claim all slots, so that every other holder is fenced. Create them if there are none.

        Raises:
            Fenced: another process claimed one at the same time.
            NotActive: another version has replaced this one.
        """
        await self.create_slots()
        for slot in current_slots(await self._slots()):
            await self.claim(slot)

    async def claim(self, seen: Slot, owner: str = "") -> None:
        """Claim a slot that was read as `seen`. Its previous holder is fenced.

        Raises:
            Fenced: another process has claimed the slot since it was read.
        """
        slot = structs.replace(seen, epoch=seen.epoch + 1, owner=owner)
        await self.checkpoints.claim(self.name, slot)
        self.held[slot.number], self._slot_count, self._joined = slot, slot.of, False
        self.changed()

    async def _slots(self) -> Sequence[Slot]:
        """Return all stored slots. Raises NotActive if another version has replaced this one."""
        known = await self.checkpoints.slots(self.name)
        if any(slot.retired for slot in known):
            raise NotActive(self._projection.tag, self._projection.version, await self._active() or 0)
        return known

    def dropped(self, number: int) -> None:
        """Note that another worker has taken over this slot, or may do so."""
        del self.held[number]
        self.changed()

    async def release(self, number: int) -> None:
        """Give up a slot, so that another worker can claim it.

        Raises:
            Fenced: another worker has claimed it already.
        """
        await self.checkpoints.save(self.name, structs.replace(self.held[number], owner=""))
        self.dropped(number)

    async def join(self) -> None:
        """Hold all slots without fencing other holders. The positions alone keep handling exact."""
        slots = await self._ensure_slots()
        self.held, self._slot_count, self._joined = {slot.number: slot for slot in slots}, len(slots), True
        self.changed()

    async def _ensure_slots(self) -> Sequence[Slot]:
        """Return the current slots; create them if there are none."""
        while not (slots := current_slots(await self._slots())):
            with suppress(Fenced):  # another process is creating them
                await self.create_slots()
        return slots

    async def fence_of(self, stream: str) -> Fence:
        """Return the fence for a write of this stream's position: of the slot held here, else of the slot as stored."""
        slot = self.held.get(self.slot_of(stream))
        if slot is None or self._joined:
            slots = await self._ensure_slots()
            slot = slots[_hash(stream) % len(slots)]
        return Fence(slot.number, slot.epoch)

    async def resume_from(self, checkpoint: str = "") -> None:
        """Let the next run read the feed from `checkpoint`.

        - Use "", the beginning, if the old checkpoint has expired, or use the checkpoint of an export.
        - Positions are kept: commits that were handled before are not handled again.
        - If the store was restored from a backup, call `forget` instead: here, new commits that have the versions of
          lost ones would count as handled.
        - A process that runs the processor now is fenced.

        Raises:
            ValueError: `checkpoint` is not a checkpoint of the feed.
            RuntimeError: this object is running.
            Fenced: another process claimed a slot at the same time.
        """
        if self.running:
            raise RuntimeError(f"{self.name} is running; stop it first, or call this on another object for it")
        self.feed.earliest([checkpoint])
        await self.take_all()
        self.note_checkpoint(checkpoint)
        await self.write()
        self.held.clear()
        self.changed()

    def note_checkpoint(self, checkpoint: str) -> None:
        """Note that the feed was read up to here, with or without commits: old checkpoints expire on some feeds."""
        self.checkpoint, self._unsaved = checkpoint, True

    async def write(self) -> None:
        """Write the noted checkpoint to all held slots, if it is new. Raises Fenced, StoreError."""
        if not self._unsaved:
            return
        for number, slot in self.held.items():
            saved = structs.replace(slot, checkpoint=self.checkpoint)
            await self.checkpoints.save(self.name, saved)
            self.held[number] = saved
        self._unsaved = False

    def changed(self) -> None:
        """Note that other slots are held: forget the checkpoint, as the feed is read again."""
        self.checkpoint, self._unsaved = "", False


def _hash(stream: str) -> int:
    return crc32(stream.encode())
