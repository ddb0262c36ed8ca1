"""The promises of slots, and of the fence that they are."""

from __future__ import annotations

import asyncio
from functools import partial

from ....errors import Fenced
from ....processing.checkpoints.checkpoints import Checkpoints, Slot
from ....processing.slice import Fence, Position
from ..check import expect_equal, expect_error
from .check import Capability, MakeCheckpoints, make_checks
from .samples import expect_position, fresh_name, make_parked, make_slice, open_both


async def a_slot_is_kept(make_checkpoints: MakeCheckpoints) -> None:
    """A slot is read back as it was written, in every field; slots are sorted by number, and processors are apart."""
    async with open_both(make_checkpoints) as (one, other):
        processor = fresh_name()
        full = Slot(
            number=10,
            of=16,
            laid=3,
            epoch=3,
            owner="w-\u00e9",
            checkpoint="c" * 5_000,
            open=True,
            switch="w-2",
            retired=True,
        )
        slots = [
            full,
            Slot(number=9, of=16, epoch=2**53),
            Slot(number=2, of=16, epoch=1),
            Slot(number=16, of=17, epoch=1),
        ]
        for slot in slots:
            await one.claim(processor, slot)
        expected = sorted(slots, key=lambda slot: slot.number)
        for each in (one, other):
            expect_equal(await each.slots(processor), expected, "the slots")
            expect_equal(await each.slots(fresh_name()), [], "the slots of another processor")


async def a_claim_raises_the_epoch(make_checkpoints: MakeCheckpoints) -> None:
    """A slot is claimed only with a higher epoch. Any other claim raises Fenced and changes nothing."""
    async with open_both(make_checkpoints) as (one, other):
        processor = fresh_name()
        await one.claim(processor, held := Slot(number=3, of=16, epoch=2, owner="w-1", checkpoint="c"))
        for epoch in (1, 2):
            late = Slot(number=3, of=16, epoch=epoch, owner="w-2")
            error = await expect_error(Fenced, other.claim(processor, late), f"a claim of {epoch} where 2 is stored")
            expect_equal((error.processor, error.slot), (processor, 3), "processor and slot of the error")
        expect_equal(await other.slots(processor), [held], "the slots")
        await other.claim(processor, taken := Slot(number=3, of=16, epoch=3, owner="w-2", checkpoint="c"))
        expect_equal(await one.slots(processor), [taken], "the slots")


async def one_claim_succeeds(make_checkpoints: MakeCheckpoints) -> None:
    """Of several claims with the same epoch at once, exactly one succeeds; the others get Fenced."""
    async with open_both(make_checkpoints) as both:
        processor = fresh_name()
        for epoch in range(1, 6):
            slots = [Slot(number=0, of=1, epoch=epoch, owner=f"w-{number}") for number in range(4)]
            outcomes = await asyncio.gather(
                *(both[number % 2].claim(processor, slot) for number, slot in enumerate(slots)), return_exceptions=True
            )
            names = sorted(type(outcome).__name__ for outcome in outcomes)
            expect_equal(names, ["Fenced", "Fenced", "Fenced", "NoneType"], "the outcomes of racing claims")
            expect_equal(await both[0].slots(processor), [slots[outcomes.index(None)]], "the slots after a race")


async def only_the_owner_saves_a_slot(make_checkpoints: MakeCheckpoints) -> None:
    """A slot is saved under its stored epoch. Under any other epoch, and if the slot is not stored, a save raises
    Fenced and changes nothing.
    """
    async with open_both(make_checkpoints) as (one, other):
        processor = fresh_name()
        held = Slot(number=0, of=1, epoch=4, owner="w-1")
        await expect_error(Fenced, one.save(processor, held), "a save of a slot that is not stored")
        expect_equal(await one.slots(processor), [], "the slots")
        await one.claim(processor, held)
        for checkpoint in ("a", "b"):
            saved = Slot(number=0, of=1, epoch=4, owner="w-1", checkpoint=checkpoint, open=True)
            await one.save(processor, saved)
            expect_equal(await other.slots(processor), [saved], "the slots")
        for epoch in (3, 5):
            wrong = Slot(number=0, of=1, epoch=epoch, owner="w-1", checkpoint="z")
            error = await expect_error(Fenced, one.save(processor, wrong), f"a save under {epoch} where 4 is stored")
            expect_equal((error.processor, error.slot), (processor, 0), "processor and slot of the error")
        expect_equal(await one.slots(processor), [saved], "the slots")


async def a_cancelled_save_is_never_over_a_later_one(make_checkpoints: MakeCheckpoints) -> None:
    """A save that is cancelled at any moment does not undo a later one."""
    async with open_both(make_checkpoints) as (one, other):
        processor = fresh_name()
        await one.claim(processor, Slot(number=0, of=1, epoch=1, owner="w-1"))
        for steps in range(12):
            saving = asyncio.create_task(one.save(processor, Slot(number=0, of=1, epoch=1, checkpoint="early")))
            for _ in range(steps):
                await asyncio.sleep(0)
            saving.cancel()
            await one.save(processor, later := Slot(number=0, of=1, epoch=1, checkpoint=f"later-{steps}"))
            await asyncio.gather(saving, return_exceptions=True)
            for each in (one, other):
                expect_equal(
                    await each.slots(processor), [later], "the slots after a save that followed a cancelled one"
                )


async def a_stale_worker_is_fenced(make_checkpoints: MakeCheckpoints) -> None:
    """Once another worker has taken over the slot, and has handled a stream, a write of the old worker for that stream
    raises Fenced and changes nothing: an advance, the deletion of a position, a parked stream.
    """
    async with open_both(make_checkpoints) as (one, other):
        processor = fresh_name()
        run = await take_over(one, other, processor, "s-1")
        stale = Fence(0, 1)
        for call, what in (
            (partial(one.advance, processor, make_slice("s-1", 2, 3, stale)), "an advance"),
            (partial(one.delete_position, processor, "s-1", stale), "the deletion of a position"),
            (partial(one.park, processor, make_parked("s-1"), stale), "parking"),
        ):
            error = await expect_error(Fenced, call(), f"{what} by a stale worker")
            expect_equal((error.processor, error.slot), (processor, 0), "processor and slot of the error")
        await expect_position(one, processor, "s-1", run)
        expect_equal(await one.parked(processor), [], "the parked streams")
        await other.advance(processor, make_slice("s-1", 2, 3, Fence(0, 2)))
        await other.park(processor, make_parked("s-1"), Fence(0, 2))
        await other.delete_position(processor, "s-1", Fence(0, 2))


async def take_over(one: Checkpoints, other: Checkpoints, processor: str, stream: str) -> Position:
    """Let `one` handle a stream under epoch 1, and then `other` under epoch 2. Return the position."""
    await one.claim(processor, Slot(number=0, of=1, epoch=1, owner="w-1"))
    await one.advance(processor, make_slice(stream, 0, 1, Fence(0, 1)))
    await other.claim(processor, Slot(number=0, of=1, epoch=2, owner="w-2"))
    await other.advance(processor, run := make_slice(stream, 1, 2, Fence(0, 2)))
    return run.position


async def a_stale_worker_is_fenced_for_all_streams(make_checkpoints: MakeCheckpoints) -> None:
    """As soon as another worker has taken over the slot, each advance of the old worker raises Fenced and changes
    nothing, also for streams that the new worker has not handled yet.
    """
    async with open_both(make_checkpoints) as (one, other):
        processor = fresh_name()
        await one.claim(processor, Slot(number=0, of=1, epoch=1, owner="w-1"))
        await one.advance(processor, old := make_slice("s-1", 0, 1, Fence(0, 1)))
        await other.claim(processor, Slot(number=0, of=1, epoch=2, owner="w-2"))
        for run in (make_slice("s-1", 1, 2, Fence(0, 1)), make_slice("s-2", 0, 1, Fence(0, 1))):
            await expect_error(Fenced, one.advance(processor, run), "an advance by a stale worker")
        await expect_position(one, processor, "s-1", old.position)
        await expect_position(one, processor, "s-2", None)


async def without_a_slot_nobody_is_fenced(make_checkpoints: MakeCheckpoints) -> None:
    """While a slot is not stored, writes with its fence are accepted, under any epoch."""
    async with make_checkpoints() as checkpoints:
        processor = fresh_name()
        await checkpoints.claim(processor, Slot(number=0, of=2, epoch=9))
        await checkpoints.advance(processor, make_slice("s-1", 0, 1, Fence(1, 3)))
        await checkpoints.park(processor, parked := make_parked("s-1"), Fence(1, 4))
        expect_equal(await checkpoints.parked(processor), [parked], "the parked streams")
        await checkpoints.delete_position(processor, "s-1", Fence(1, 5))
        await expect_position(checkpoints, processor, "s-1", None)


CHECKS = (
    *make_checks(
        a_slot_is_kept,
        a_claim_raises_the_epoch,
        one_claim_succeeds,
        only_the_owner_saves_a_slot,
        a_cancelled_save_is_never_over_a_later_one,
        a_stale_worker_is_fenced,
        without_a_slot_nobody_is_fenced,
    ),
    *make_checks(a_stale_worker_is_fenced_for_all_streams, needs=Capability.FENCES_ALL_STREAMS),
)
