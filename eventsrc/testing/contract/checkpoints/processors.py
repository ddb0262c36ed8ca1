"""The promises of what is stored once: registrations, active versions and workers; and of forgetting a processor."""

from __future__ import annotations

import asyncio
from functools import partial

from msgspec import structs

from ....errors import Fenced
from ....processing.checkpoints.checkpoints import Skipped, Slot, tombstone
from ....processing.checkpoints.registry import Registration
from ....processing.slice import Fence, PositionMoved
from ..check import expect, expect_equal, expect_error
from .check import MakeCheckpoints, make_checks
from .samples import FENCE, expect_position, fresh_name, make_parked, make_slice, open_both, read_heads

FULL = Registration(
    store="s/\u00e4cme", started=10**15, start="c" * 5_000, handles=("a.b", "c.d"), categories=("e",), paused=True
)


async def a_registration_replaces_the_one_it_names(make_checkpoints: MakeCheckpoints) -> None:
    """A registration is stored only in place of exactly the one that the caller has seen, or of none (True). If another
    one is stored, nothing changes (False). Storing what is stored already returns True.
    """
    async with open_both(make_checkpoints) as (one, other):
        processor = fresh_name()
        first = structs.replace(FULL, paused=False)
        expect_equal(await one.registry.registration(processor), None, "the registration before the first")
        kept = await one.registry.register(processor, first, instead_of=FULL)
        expect_equal(
            (kept, await other.registry.registration(processor)), (False, None), "in place of one that is not stored"
        )
        kept = await one.registry.register(processor, first, instead_of=None)
        expect_equal((kept, await other.registry.registration(processor)), (True, first), "the first registration")
        for seen in (None, FULL, structs.replace(first, handles=("a.b",)), structs.replace(first, started=1)):
            kept = await other.registry.register(processor, structs.replace(FULL, start=""), instead_of=seen)
            expect_equal((kept, await one.registry.registration(processor)), (False, first), "in place of another one")
        for seen in (None, FULL, first):
            expect(
                await other.registry.register(processor, first, instead_of=seen),
                "what is stored could not be stored again",
            )
        kept = await other.registry.register(processor, FULL, instead_of=first)
        expect_equal((kept, await one.registry.registration(processor)), (True, FULL), "in place of the stored one")
        expect_equal(await one.registry.registration(fresh_name()), None, "the registration of another processor")


async def one_registration_succeeds(make_checkpoints: MakeCheckpoints) -> None:
    """Of several registrations in place of the same one at once, exactly one is stored."""
    async with open_both(make_checkpoints) as both:
        processor = fresh_name()
        seen: Registration | None = None
        for attempt in range(4):
            rivals = [Registration(store=f"s-{attempt}", started=number + 1) for number in range(6)]
            registering = [
                both[n % 2].registry.register(processor, each, instead_of=seen) for n, each in enumerate(rivals)
            ]
            stored = await asyncio.gather(*registering)
            expect_equal(sorted(stored), [False] * 5 + [True], "the results of racing registrations")
            seen = rivals[stored.index(True)]
            expect_equal(await both[0].registry.registration(processor), seen, "the registration after a race")


async def registered_processors_are_listed(make_checkpoints: MakeCheckpoints) -> None:
    """The names of registered processors are listed, sorted, each once; a forgotten one is not."""
    async with open_both(make_checkpoints) as (one, other):
        tag = fresh_name()
        names = [f"{tag}@{version}" for version in (2, 10, 1)]  # not in their order
        for name in names:
            await one.registry.register(name, FULL, instead_of=None)
        await one.claim(fresh_name(), Slot(number=0, of=1, epoch=1))  # stored, but not registered
        listed = await other.processors()
        expect_equal(list(listed), sorted(set(listed)), "the names")
        expect_equal(sorted({*listed} & {*names}), sorted(names), "the names of those that were registered")
        await other.forget(names[0])
        expect_equal({*await one.processors()} & {*names}, {*names[1:]}, "the names after one was forgotten")


async def one_version_is_active(make_checkpoints: MakeCheckpoints) -> None:
    """A version is activated only in place of the one that the caller has seen, or of none (True); activating the
    active version returns True, and anything else changes nothing (False).
    """
    async with open_both(make_checkpoints) as (one, other):
        tag = fresh_name()
        steps = (
            (2, 1, False, None),
            (1, None, True, 1),
            (1, None, True, 1),
            (2, None, False, 1),
            (3, 2, False, 1),
            (2, 1, True, 2),
            (2, 7, True, 2),
            (1, 2, True, 1),
        )
        expect_equal(await one.active(tag), None, "the active version before the first")
        for version, seen, activated, active in steps:
            what = f"activating {version} in place of {seen}, and the active version after that"
            found = (await one.registry.activate(tag, version, instead_of=seen), await other.active(tag))
            expect_equal(found, (activated, active), what)
        expect_equal(await one.active(fresh_name()), None, "the active version of another tag")
        racing = [
            (one if version % 2 else other).registry.activate(tag, version, instead_of=1) for version in range(2, 8)
        ]
        expect_equal(sorted(await asyncio.gather(*racing)), [False] * 5 + [True], "the results of a race")


async def heartbeats_are_counted(make_checkpoints: MakeCheckpoints) -> None:
    """Heartbeats are counted for each worker, in whatever process, until the worker is removed."""
    async with open_both(make_checkpoints) as (one, other):
        worker, another, never = fresh_name(), fresh_name(), fresh_name()
        for each in (one, other, one):
            await each.workers.heartbeat(worker)
        await asyncio.gather(*(each.workers.heartbeat(another) for each in (one, other) for _ in range(4)))
        for each in (one, other):
            beats = await each.workers.beats()
            expect_equal((beats.get(worker), beats.get(another)), (3, 8), "the counts")
        await one.workers.sign_off(worker)
        await one.workers.sign_off(never)
        beats = await other.workers.beats()
        found = (beats.get(worker), beats.get(another), beats.get(never))
        expect_equal(found, (None, 8, None), "the counts after two workers were removed")
        await other.workers.sign_off(another)


async def a_forgotten_processor_leaves_nothing(make_checkpoints: MakeCheckpoints) -> None:
    """Forget drops positions, parked and skipped entries and the registration of one processor, however many, and no
    others; again and again. The active version and the workers stay.
    """
    async with open_both(make_checkpoints) as (one, other):
        tag, worker = fresh_name(), fresh_name()
        processors = [f"{tag}@{version}" for version in (1, 10, 2)]
        for processor in processors:
            await one.registry.register(processor, FULL, instead_of=None)
            await one.claim(processor, Slot(number=0, of=1, epoch=1))
            await one.advance(processor, make_slice("s-1", 0, 1))
            await one.park(processor, make_parked("s-1"), FENCE)
            await one.note_skipped(processor, Skipped(stream="s-1", version=2, reason="test", time=1))
        many = [make_slice(f"many-{number}", 0, 1) for number in range(150)]
        await asyncio.gather(*(one.advance(processors[0], run) for run in many))
        await one.registry.activate(tag, 1, instead_of=None)
        await one.workers.heartbeat(worker)
        await one.forget(processors[0])
        await other.forget(processors[0])
        await other.forget(fresh_name())
        for number, processor in enumerate(processors):
            found = (
                await other.registry.registration(processor) is not None,
                len(await read_heads(other, processor)),
                len(await other.parked(processor)),
                len(await other.skipped(processor)),
            )
            expect_equal(found, (True, 1, 1, 1) if number else (False, 0, 0, 0), f"what is left of {processor}")
        expect_equal(
            (await other.active(tag), (await other.workers.beats()).get(worker)), (1, 1), "active version, heartbeats"
        )
        await one.workers.sign_off(worker)


async def a_forgotten_processor_fences_its_worker(make_checkpoints: MakeCheckpoints) -> None:
    """Forget leaves each slot with a raised epoch, no owner and an empty checkpoint. A worker that still runs is
    fenced: it stores no position, no parked stream and no checkpoint again. A new worker starts from the beginning.
    """
    async with open_both(make_checkpoints) as (one, other):
        processor = fresh_name()
        slots = [
            Slot(number=number, of=2, laid=3, epoch=number + 4, owner="w-1", checkpoint="c", open=True, switch="w-1")
            for number in range(2)
        ]
        for slot in slots:
            await one.claim(processor, slot)
            await one.save(processor, slot)
        stale = Fence(0, 4)
        await one.advance(processor, make_slice("s-1", 0, 2, stale))
        await one.park(processor, parked := make_parked("s-1", 3), stale)
        await other.forget(processor)
        expect_equal(await other.slots(processor), [tombstone(slot) for slot in slots], "the slots")
        calls = (
            (partial(one.advance, processor, make_slice("s-1", 2, 3, stale)), "an advance"),
            (partial(one.delete_position, processor, "s-1", stale), "the deletion of a position"),
            (partial(one.park, processor, parked, stale), "parking"),
            (partial(one.save, processor, slots[0]), "a save"),
            (partial(one.claim, processor, structs.replace(slots[0], epoch=5)), "a claim"),
        )
        for call, what in calls:
            await expect_error(Fenced, call(), f"{what} by a worker of a forgotten processor")
        expect_equal(await other.slots(processor), [tombstone(slot) for slot in slots], "the slots")
        expect_equal((await read_heads(one, processor), await one.parked(processor)), ({}, []), "what came back")
        await other.claim(processor, structs.replace(slots[0], epoch=6, owner="w-2", checkpoint=""))
        late = make_slice("s-1", 2, 3, Fence(0, 6))
        await expect_error(PositionMoved, other.advance(processor, late), "an advance from a forgotten position")
        await other.advance(processor, run := make_slice("s-1", 0, 1, Fence(0, 6)))
        await expect_position(one, processor, "s-1", run.position)
        expect(
            await other.registry.register(processor, FULL, instead_of=None),
            "a forgotten processor could not be registered",
        )


CHECKS = make_checks(
    a_registration_replaces_the_one_it_names,
    one_registration_succeeds,
    registered_processors_are_listed,
    one_version_is_active,
    heartbeats_are_counted,
    a_forgotten_processor_leaves_nothing,
    a_forgotten_processor_fences_its_worker,
)
