"""The slots that a processor holds in this process: which streams it handles, and where it reads the feed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from zlib import crc32

from msgspec import structs

from ..errors import Fenced, NotActive, SwitchPending
from ..stores.feed import Feed
from .checkpoints.checkpoints import Checkpoints, Slot, current_slots
from .registrar import Registrar
from .slice import Fence

CONFIRM_SECONDS = 1.0
"""The bound on acts outside: each one starts within this time after a check that the slot is still held."""


WRITE_SECONDS = 1.0
"""A worker writes on average one slot in this time, if its checkpoint has changed."""

REBUILD = "rebuild-"
"""The names of rebuilds as workers begin with this."""


class Assignment:
    """The hash slots that a processor holds here: all of them, unless several workers share it.

    - Each claim raises the slot's epoch, so the writes of its former holder are refused.
    - A slot that its holder did not give up may still be used for CONFIRM_SECONDS: `confirm` waits that long first. A
      caller that knows that this holder has ended sets `former_acts` to 0.
    """

    def __init__(self, registrar: Registrar, checkpoints: Checkpoints, feed: Feed) -> None:
        self.registrar, self.checkpoints, self.feed, self.name = registrar, checkpoints, feed, registrar.name
        self.held: dict[int, Slot] = {}  # by number
        self.draining: set[int] = set()  # held slots that are being given up: no new commits are started
        self.unclean: set[int] = set()  # held slots whose former holder was killed, or still runs
        self.of = 1  # the number of slots
        self.joined = False  # other processes hold the same slots
        self.checkpoint = ""  # after the last batch read here
        self._confirmed = -1.0  # when the last check of the slots began, by the loop's clock
        self._not_before: dict[int, float] = {}  # acts outside of this slot wait until then
        self.former_acts = CONFIRM_SECONDS  # for so long a holder that did not give up a slot may act after it is lost
        self.claimed: dict[int, int] = {}  # the epochs of the last claims by this object
        self.paused = False  # no new commits are started
        self._checking = asyncio.Lock()
        self._next_write = 0.0  # when checkpoints may be written again, by the loop's clock

    # Slots.

    def slot_of(self, stream: str) -> int:
        return slot_number(stream, self.of)

    def holds(self, stream: str) -> bool:
        """Whether this object holds the slot of the stream."""
        return self.slot_of(stream) in self.held

    async def read_slots(self) -> Sequence[Slot]:
        """Return all stored slots.

        Raises:
            NotActive: another version has replaced this one.
            SwitchPending: a rebuild is replacing this version.
        """
        known = await self.checkpoints.slots(self.name)
        if any(slot.retired for slot in known):
            raise NotActive(self.registrar.tag, self.registrar.version, await self.registrar.active() or 0)
        if any(slot.switch for slot in known):
            raise SwitchPending(self.registrar.tag, self.registrar.version)
        return known

    async def create_slots(self, of: int = 1, *, replace: bool = False) -> None:
        """Create `of` slots, if there are none yet, or if `replace` is true and there is another number of them.

        All slots must be stored before any of them is handled: until then, a stream may still belong to an old slot.

        Raises:
            Fenced: another process is creating slots.
            NotActive: another version has replaced this one.
        """
        start = (await self.registrar.current()).start
        known = await self.read_slots()
        used = current_slots(known)
        if used and (not replace or len(used) == of):
            return
        epoch = max((slot.epoch for slot in known), default=0) + 1
        laid = epoch
        if known and not used and not replace:  # the process that started to create these was killed
            of, laid = known[0].of, known[0].laid
        is_open = any(slot.open for slot in known)
        checkpoint = self.feed.earliest(slot.checkpoint or start for slot in used or known) if known else start
        numbers = {*range(of), *(slot.number for slot in known)} - {slot.number for slot in known if slot.laid == laid}
        # Slot 0 first: of two processes that do this, one is fenced. Then fence unused slots, then create the rest.
        for number in sorted(numbers, key=lambda number: (number > 0, number < of)):
            slot = Slot(number=number, of=of, laid=laid, epoch=epoch, checkpoint=checkpoint, open=is_open)
            await self.checkpoints.claim(self.name, slot)

    async def take_all(self) -> None:
        """Claim all slots, so that every other holder is fenced. Create them if there are none.

        Raises:
            Fenced: another process claimed one at the same time.
            NotActive, SwitchPending: as `read_slots`.
        """
        await self.create_slots()
        for slot in current_slots(await self.read_slots()):
            await self.claim(slot)

    async def claim(self, seen: Slot, owner: str = "") -> None:
        """Claim a slot that was read as `seen`. Its previous holder is fenced.

        Raises:
            Fenced: another process has claimed the slot since it was read.
        """
        checkpoint = seen.checkpoint or self.registrar.new_start
        slot = structs.replace(seen, epoch=seen.epoch + 1, owner=owner, open=True, switch="", checkpoint=checkpoint)
        await self.checkpoints.claim(self.name, slot)
        now = asyncio.get_running_loop().time()
        number = slot.number
        if seen.open and self.claimed.get(number) != seen.epoch:
            self.unclean.add(number)
            self._not_before[number] = now + self.former_acts
        else:
            self._not_before.pop(number, None)
        self._next_write = 0.0
        self.held[number], self.of, self.joined, self.claimed[number] = slot, slot.of, False, slot.epoch
        self.draining.discard(number)
        self.checkpoint = ""

    async def join(self) -> None:
        """Hold all slots without fencing other holders. The positions alone keep handling exact."""
        slots = await self.ensure_slots()
        self.held, self.of, self.joined = {slot.number: slot for slot in slots}, len(slots), True
        self._confirmed, self.checkpoint = asyncio.get_running_loop().time(), ""

    async def ensure_slots(self) -> Sequence[Slot]:
        """Return the slots in use. Create them, if there are none."""
        while not (slots := current_slots(await self.read_slots())):
            with suppress(Fenced):  # another process is creating them
                await self.create_slots()
        return slots

    def drop(self, number: int) -> None:
        """Note that another worker has taken over this slot, or may do so."""
        self.held.pop(number, None)
        self.draining.discard(number)
        self.unclean.discard(number)
        self.checkpoint = ""

    async def give_up(self, number: int, checkpoint: str | None = None) -> None:
        """Write the checkpoint of a slot, unless it is None, and give it up, so that another worker can claim it.

        Raises:
            Fenced: another worker has claimed it already.
        """
        if (held := self.held.get(number)) is None:
            return  # it was dropped
        slot = structs.replace(
            held, owner="", open=False, checkpoint=held.checkpoint if checkpoint is None else checkpoint
        )
        try:
            await self.checkpoints.save(self.name, slot)
        except Fenced:
            self.drop(number)
            raise
        self.claimed.pop(number, None)
        self.held.pop(number, None)
        self.draining.discard(number)
        self.unclean.discard(number)

    def may_start(self, stream: str) -> bool:
        """Whether commits of this stream may be started: the slot is not being given up, and nothing is paused."""
        return not self.paused and self.slot_of(stream) not in self.draining

    def fence(self, number: int) -> Fence | None:
        """Return the fence of a slot that is held here; None if it is not."""
        slot = self.held.get(number)
        return Fence(number, slot.epoch) if slot is not None else None

    async def fence_of(self, stream: str) -> Fence:
        """Return the fence for a write of this stream's position: of the slot held here, else of the slot as stored."""
        slot = self.held.get(self.slot_of(stream))
        if slot is None or self.joined:
            slots = await self.ensure_slots()
            slot = slots[slot_number(stream, len(slots))]
        return Fence(slot.number, slot.epoch)

    # Checks that the slots are still held.

    async def wait_for_former_holder(self, stream: str) -> None:
        """Return when the last act outside of the former holder of a slot, which did not give it up, has started."""
        wait = self._not_before.get(self.slot_of(stream), 0.0) - asyncio.get_running_loop().time()
        if wait > 0:
            await asyncio.sleep(wait)

    async def confirm(self, number: int) -> None:
        """Return when an act outside may start for a slot that is held here.

        The check that it is still held began less than CONFIRM_SECONDS ago. If the former holder of the slot did not
        give it up, its last act started before this returns.

        Raises:
            Fenced: the slot is lost.
            NotActive, SwitchPending, StoreError: as `refresh`.
        """
        clock = asyncio.get_running_loop().time
        while True:
            if number not in self.held:
                raise Fenced(self.name, number)
            if (wait := self._not_before.get(number, 0.0) - clock()) > 0:
                await asyncio.sleep(wait)
            elif clock() - self._confirmed < CONFIRM_SECONDS:
                return
            else:
                async with self._checking:
                    if clock() - self._confirmed >= CONFIRM_SECONDS / 2:
                        await self.refresh()

    async def refresh(self) -> None:
        """Read the slots, and check that those held here still are.

        Raises:
            Fenced: another worker has claimed one.
            NotActive: another version has replaced this one.
            SwitchPending: a rebuild is replacing this version.
            StoreError: they cannot be read.
        """
        began = asyncio.get_running_loop().time()
        held = dict(self.held)
        stored = {slot.number: slot for slot in await self.read_slots()}
        if self.joined:
            slots = current_slots(list(stored.values()))
            self.held, self.of = {slot.number: slot for slot in slots}, max(1, len(slots))
        else:
            for number, slot in held.items():
                if number in self.held and (number not in stored or stored[number].epoch != slot.epoch):
                    raise Fenced(self.name, number)
        self._confirmed = began

    # The checkpoint of the feed.

    def read_from(self) -> str | None:
        """Return the checkpoint from which to read the feed; None if no slot is held."""
        if not self.held:
            return None
        return self.feed.earliest(slot.checkpoint for slot in self.held.values())

    async def write(self) -> None:
        """Write the checkpoint to all held slots, on average one slot in WRITE_SECONDS.

        So many slots cost no more writes than one, and all have the same checkpoint, also within a scan.

        Raises:
            Fenced: another worker has taken one over.
            StoreError: it cannot be written.
        """
        clock = asyncio.get_running_loop().time
        if not self.checkpoint or self.joined or clock() < self._next_write:
            return
        checkpoint = self.checkpoint
        for number, slot in list(self.held.items()):
            if slot.checkpoint != checkpoint:
                saved = structs.replace(slot, checkpoint=checkpoint)
                await self.checkpoints.save(self.name, saved)
                if number in self.held:
                    self.held[number] = saved
                    self._next_write = clock() + WRITE_SECONDS * (len(self.held) - 1)

    def clear(self) -> None:
        """Hold nothing. What was held stays stored as open."""
        self.held.clear()
        self.draining.clear()
        self.unclean.clear()
        self.checkpoint = ""


def slot_number(stream: str, of: int) -> int:
    """Return the slot of a stream, among so many."""
    return crc32(stream.encode()) % of


async def is_switched(assignment: Assignment) -> bool:
    """Whether a pending switch has ended: True if this version was kept. Raises NotActive if it was replaced."""
    registrar = assignment.registrar
    if (active := await registrar.active()) not in (None, registrar.version):
        raise NotActive(registrar.tag, registrar.version, active)
    with suppress(SwitchPending):
        await assignment.read_slots()
        return True
    return False


def was_given_back(slot: Slot) -> bool:
    """Whether a rebuild that failed within its switch has given up a slot, and nobody has claimed it since."""
    return not slot.open and slot.owner.startswith(REBUILD)


async def take_back(assignment: Assignment) -> None:
    """Take the slots back from a rebuild that was killed while it switched to another version."""
    for slot in await assignment.checkpoints.slots(assignment.name):
        if slot.switch:
            with suppress(Fenced):  # another worker of this version was quicker
                taken = structs.replace(slot, epoch=slot.epoch + 1, switch="")
                await assignment.checkpoints.claim(assignment.name, taken)
