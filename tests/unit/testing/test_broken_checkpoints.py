"""The contract of checkpoints detects implementations that break a promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from pathlib import Path

import pytest
from msgspec import structs

from eventsrc.processing import (
    Fence,
    MemoryCheckpoints,
    Parked,
    Position,
    PositionMoved,
    Registration,
    Skipped,
    Slice,
    Slot,
    SQLiteCheckpoints,
)
from eventsrc.processing.checkpoints.memory import MemoryRegistry, MemoryWorkers
from eventsrc.processing.checkpoints.sqlite import checkpoints, positions
from eventsrc.stores.feed import Head
from eventsrc.testing.contract import check as checks
from eventsrc.testing.contract.checkpoints import CONTRACT, Capability, Check, check_checkpoints


class WithoutIds(MemoryCheckpoints):
    """Stores only the version of a position."""

    async def positions(self, processor: str, streams: Collection[str]) -> dict[str, Position]:
        found = await super().positions(processor, streams)
        return {stream: Position(position.version) for stream, position in found.items()}


class ShortKeys(MemoryCheckpoints):
    """Uses the first 900 characters of a stream id as its key."""

    async def advance(self, processor: str, run: Slice) -> None:
        await super().advance(processor, run._replace(stream=run.stream[:900]))


class AnyCase(MemoryCheckpoints):
    """Takes `Account-1` and `account-1` for the same stream."""

    async def positions(self, processor: str, streams: Collection[str]) -> dict[str, Position]:
        found = await super().positions(processor, [stream.lower() for stream in streams])
        return {stream: found[stream.lower()] for stream in streams if stream.lower() in found}

    async def advance(self, processor: str, run: Slice) -> None:
        await super().advance(processor, run._replace(stream=run.stream.lower()))


class LastOneWins(MemoryCheckpoints):
    """Does not compare the position."""

    async def advance(self, processor: str, run: Slice) -> None:
        try:
            await super().advance(processor, run)
        except PositionMoved:
            self._positions.setdefault(processor, {})[run.stream] = run.position


class AtLeast(MemoryCheckpoints):
    """Takes a slice that begins before the position."""

    async def advance(self, processor: str, run: Slice) -> None:
        stored = (await self.positions(processor, [run.stream])).get(run.stream)
        is_later = stored is not None and not run.is_first and run.after < stored.version < run.last_version
        await super().advance(processor, run._replace(after=stored.version) if stored and is_later else run)


class FirstSlicesReplace(MemoryCheckpoints):
    """Takes a first slice although there is a position."""

    async def advance(self, processor: str, run: Slice) -> None:
        if run.is_first:
            self._positions.get(processor, {}).pop(run.stream, None)
        await super().advance(processor, run)


class CreatesPositions(MemoryCheckpoints):
    """Takes a slice that is not the first one although there is no position: a late write after `forget`."""

    async def advance(self, processor: str, run: Slice) -> None:
        is_new = run.stream not in await self.positions(processor, [run.stream])
        await super().advance(processor, run._replace(is_first=run.is_first or is_new))


class ReadsThenWrites(MemoryCheckpoints):
    """Compares the position, and writes it later."""

    async def advance(self, processor: str, run: Slice) -> None:
        found = await self.positions(processor, [run.stream])
        await asyncio.sleep(0)
        known = self._positions.setdefault(processor, {})
        before = known.pop(run.stream, None)
        if run.stream in found and before is not None:
            known[run.stream] = found[run.stream]
        await super().advance(processor, run)


class OnePage(MemoryCheckpoints):
    """Returns the first thousand positions."""

    async def all_positions(self, processor: str) -> AsyncGenerator[Sequence[Head]]:
        async for page in super().all_positions(processor):
            yield page[:1_000]


class OverlappingPages(MemoryCheckpoints):
    """Returns the last position of a page again."""

    async def all_positions(self, processor: str) -> AsyncGenerator[Sequence[Head]]:
        async for page in super().all_positions(processor):
            yield page
            yield page[-1:]


class KeepsDeleted(MemoryCheckpoints):
    """Sets a deleted position to zero."""

    async def delete_position(self, processor: str, stream: str, fence: Fence) -> None:
        if stream in self._positions.get(processor, {}):
            self._positions[processor][stream] = Position(0)


class NoFence(MemoryCheckpoints):
    """Does not check the fence."""

    def _check_fence(self, processor: str, fence: Fence) -> None: ...


class ParksUnfenced(MemoryCheckpoints):
    """Does not check the fence of a parked stream."""

    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        slots = self._slots.get(processor, {})
        current = slots[fence.slot].epoch if fence.slot in slots else fence.epoch
        return await super().park(processor, parked, Fence(fence.slot, current), instead_of=instead_of)


class NeedsSlots(MemoryCheckpoints):
    """Refuses writes whose slot is not stored."""

    def _check_fence(self, processor: str, fence: Fence) -> None:
        if fence.slot not in self._slots.get(processor, {}):
            raise PositionMoved("?")
        super()._check_fence(processor, fence)


class ClaimsTwice(MemoryCheckpoints):
    """Accepts a claim with the stored epoch."""

    async def claim(self, processor: str, slot: Slot) -> None:
        stored = self._slots.get(processor, {}).get(slot.number)
        if stored is not None and stored.epoch == slot.epoch:
            self._slots[processor][slot.number] = slot
        else:
            await super().claim(processor, slot)


class SavesAnything(MemoryCheckpoints):
    """Saves a slot under any epoch."""

    async def save(self, processor: str, slot: Slot) -> None:
        self._slots.setdefault(processor, {})[slot.number] = slot


class SavesLate(MemoryCheckpoints):
    """Saves a slot a little later, also if the call is cancelled."""

    async def save(self, processor: str, slot: Slot) -> None:
        await asyncio.shield(asyncio.create_task(self._save(processor, slot)))

    async def _save(self, processor: str, slot: Slot) -> None:
        for _ in range(20 if slot.checkpoint == "early" else 0):
            await asyncio.sleep(0)
        await MemoryCheckpoints.save(self, processor, slot)


class UnsortedSlots(MemoryCheckpoints):
    """Returns slots in the order in which they were claimed."""

    async def slots(self, processor: str) -> Sequence[Slot]:
        return list(self._slots.get(processor, {}).values())


class ForgetsSwitches(MemoryCheckpoints):
    """Does not store a field of slots."""

    async def claim(self, processor: str, slot: Slot) -> None:
        await super().claim(processor, structs.replace(slot, switch=""))


class UnparksByStream(MemoryCheckpoints):
    """Deletes whatever is parked for the stream."""

    async def unpark(self, processor: str, parked: Parked) -> None:
        self._parked.get(processor, {}).pop(parked.stream, None)


class UnparksByVersion(MemoryCheckpoints):
    """Compares only the version of a parked stream."""

    async def unpark(self, processor: str, parked: Parked) -> None:
        for each in await self.parked(processor, [parked.stream]):
            if each.version == parked.version:
                await super().unpark(processor, each)


class ParksOnce(MemoryCheckpoints):
    """Keeps the first entry of a stream."""

    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        if await self.parked(processor, [parked.stream]):
            return True
        return await super().park(processor, parked, fence, instead_of=instead_of)


class LimitsErrors(MemoryCheckpoints):
    """Refuses long errors."""

    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        if len(parked.error) > 400_000:
            raise ValueError("the item is too large")
        return await super().park(processor, parked, fence, instead_of=instead_of)


class ShortensOnlyStored(MemoryCheckpoints):
    """Shortens the error that it stores, and compares it with the whole one."""

    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        shorter = structs.replace(parked, error=parked.error[:10_000])
        return await super().park(processor, shorter, fence, instead_of=instead_of)


class SkipsTwice(MemoryCheckpoints):
    """Returns skipped commits in the order in which they were noted."""

    async def skipped(self, processor: str) -> Sequence[Skipped]:
        return list(self._skipped.get(processor, {}).values())


class RegistersAlways(MemoryRegistry):
    """Does not compare the registration."""

    async def register(self, processor: str, new: Registration, *, instead_of: Registration | None) -> bool:
        self._registrations[processor] = new
        return True


class ComparesStores(MemoryRegistry):
    """Compares only the store of a registration."""

    async def register(self, processor: str, new: Registration, *, instead_of: Registration | None) -> bool:
        stored = await self.registration(processor)
        if stored is not None and instead_of is not None and stored.store == instead_of.store:
            instead_of = stored
        return await super().register(processor, new, instead_of=instead_of)


class RegistersOnce(MemoryRegistry):
    """Says False if the registration is stored already."""

    async def register(self, processor: str, new: Registration, *, instead_of: Registration | None) -> bool:
        if await self.registration(processor) != instead_of:
            return False
        return await super().register(processor, new, instead_of=instead_of)


class ListsSlots(MemoryRegistry):
    """Lists processors in the order of their registration."""

    async def processors(self) -> Sequence[str]:
        return list(self._registrations)


class ActivatesAlways(MemoryRegistry):
    """Does not compare the active version."""

    async def activate(self, tag: str, version: int, *, instead_of: int | None) -> bool:
        self._active[tag] = version
        return True


class ActivatesFromNothing(MemoryRegistry):
    """Activates in place of a version although none is active."""

    async def activate(self, tag: str, version: int, *, instead_of: int | None) -> bool:
        before = instead_of if tag in self._active else None
        return await super().activate(tag, version, instead_of=before)


class BeatsOnce(MemoryWorkers):
    """Does not count heartbeats."""

    async def heartbeat(self, worker: str) -> None:
        self._beats[worker] = 1


class NoSignOff(MemoryWorkers):
    """Keeps workers for ever."""

    async def sign_off(self, worker: str) -> None: ...


class ForgetsSlots(MemoryCheckpoints):
    """Deletes the slots of a forgotten processor."""

    async def forget(self, processor: str) -> None:
        await super().forget(processor)
        self._slots.pop(processor, None)


class KeepsEpochs(MemoryCheckpoints):
    """Does not raise the epochs of a forgotten processor."""

    async def forget(self, processor: str) -> None:
        slots = dict(self._slots.get(processor, {}))
        await super().forget(processor)
        self._slots[processor] = slots


class KeepsParked(MemoryCheckpoints):
    """Keeps the parked streams of a forgotten processor."""

    async def forget(self, processor: str) -> None:
        parked = self._parked.get(processor, {})
        await super().forget(processor)
        self._parked[processor] = parked


class KeepsRegistration(MemoryCheckpoints):
    """Keeps the registration of a forgotten processor."""

    async def forget(self, processor: str) -> None:
        stored = self._registrations.get(processor)
        await super().forget(processor)
        if stored is not None:
            self._registrations[processor] = stored


class ForgetsByPrefix(MemoryCheckpoints):
    """Forgets `balances@10` with `balances@1`."""

    async def forget(self, processor: str) -> None:
        for each in [each for each in self._registrations if each.startswith(processor)]:
            await super().forget(each)
        await super().forget(processor)


class BeginsAtTheBeginning(MemoryCheckpoints):
    """Refuses a first slice that does not begin at the beginning of the stream."""

    async def advance(self, processor: str, run: Slice) -> None:
        if run.is_first and run.after:
            raise PositionMoved(run.stream)
        await super().advance(processor, run)


class AdvancesInSteps(MemoryCheckpoints):
    """Moves the position one commit at a time."""

    async def advance(self, processor: str, run: Slice) -> None:
        for number in range(len(run.commits)):
            await super().advance(processor, run.part(number, number + 1))
            await asyncio.sleep(0)


class FencesByPosition(MemoryCheckpoints):
    """Notices a stale worker only where its successor has written."""

    async def advance(self, processor: str, run: Slice) -> None:
        if not await self.positions(processor, [run.stream]) and (slots := self._slots.get(processor)):
            run = run._replace(fence=Fence(run.fence.slot, slots[run.fence.slot].epoch))
        await super().advance(processor, run)


class ClaimsLater(MemoryCheckpoints):
    """Compares the epoch, and writes the slot later."""

    async def claim(self, processor: str, slot: Slot) -> None:
        known = self._slots.setdefault(processor, {})
        before = known.get(slot.number)
        await asyncio.sleep(0)
        if before is not None:
            known[slot.number] = before
        else:
            known.pop(slot.number, None)
        await super().claim(processor, slot)


class RegistersLater(MemoryRegistry):
    """Compares the registration, and writes it later."""

    async def register(self, processor: str, new: Registration, *, instead_of: Registration | None) -> bool:
        is_free = await self.registration(processor) in (instead_of, new)
        await asyncio.sleep(0)
        if is_free:
            self._registrations[processor] = new
        return is_free


class ParksLate(MemoryCheckpoints):
    """Parks a stream a little later, also if the call is cancelled."""

    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        return await asyncio.shield(asyncio.create_task(self._park(processor, parked, fence)))

    async def _park(self, processor: str, parked: Parked, fence: Fence) -> bool:
        for _ in range(20 if parked.version == 1 else 0):
            await asyncio.sleep(0)
        return await MemoryCheckpoints.park(self, processor, parked, fence)


class ParksAlways(MemoryCheckpoints):
    """Does not compare the entry that is replaced."""

    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        return await super().park(processor, parked, fence)


class ParksByVersion(MemoryCheckpoints):
    """Compares only the version of the entry that is replaced."""

    async def park(self, processor: str, parked: Parked, fence: Fence, *, instead_of: Parked | None = None) -> bool:
        found = await self.parked(processor, [parked.stream])
        if instead_of is not None and found and found[0].version == instead_of.version:
            instead_of = found[0]
        return await super().park(processor, parked, fence, instead_of=instead_of)


BROKEN: dict[type[MemoryCheckpoints | MemoryRegistry | MemoryWorkers], str] = {
    WithoutIds: "a_position_is_that_of_the_last_commit",
    ShortKeys: "a_position_is_that_of_the_last_commit",
    AnyCase: "a_position_is_that_of_the_last_commit",
    LastOneWins: "a_slice_that_does_not_follow_is_refused",
    AtLeast: "a_slice_that_does_not_follow_is_refused",
    FirstSlicesReplace: "a_slice_that_does_not_follow_is_refused",
    CreatesPositions: "a_slice_that_does_not_follow_is_refused",
    ReadsThenWrites: "a_slice_advances_once",
    OnePage: "all_positions_are_read_in_pages",
    OverlappingPages: "all_positions_are_read_in_pages",
    KeepsDeleted: "a_deleted_position_is_gone",
    NoFence: "a_stale_worker_is_fenced",
    ParksUnfenced: "a_stale_worker_is_fenced",
    NeedsSlots: "without_a_slot_nobody_is_fenced",
    ClaimsTwice: "a_claim_raises_the_epoch",
    SavesAnything: "only_the_owner_saves_a_slot",
    SavesLate: "a_cancelled_save_is_never_over_a_later_one",
    UnsortedSlots: "a_slot_is_kept",
    ForgetsSwitches: "a_slot_is_kept",
    UnparksByStream: "only_the_given_entry_is_deleted",
    UnparksByVersion: "only_the_given_entry_is_deleted",
    ParksOnce: "a_parked_stream_is_kept",
    LimitsErrors: "many_long_errors_are_kept",
    ShortensOnlyStored: "many_long_errors_are_kept",
    SkipsTwice: "skipped_commits_are_kept",
    RegistersAlways: "a_registration_replaces_the_one_it_names",
    ComparesStores: "a_registration_replaces_the_one_it_names",
    RegistersOnce: "a_registration_replaces_the_one_it_names",
    ListsSlots: "registered_processors_are_listed",
    ActivatesAlways: "one_version_is_active",
    ActivatesFromNothing: "one_version_is_active",
    BeatsOnce: "heartbeats_are_counted",
    NoSignOff: "heartbeats_are_counted",
    ForgetsSlots: "a_forgotten_processor_fences_its_worker",
    KeepsEpochs: "a_forgotten_processor_fences_its_worker",
    KeepsParked: "a_forgotten_processor_leaves_nothing",
    KeepsRegistration: "registered_processors_are_listed",
    BeginsAtTheBeginning: "a_first_slice_may_begin_anywhere",
    AdvancesInSteps: "a_cancelled_advance_has_happened_or_not",
    FencesByPosition: "a_stale_worker_is_fenced_for_all_streams",
    ClaimsLater: "one_claim_succeeds",
    RegistersLater: "one_registration_succeeds",
    ParksAlways: "a_parked_entry_replaces_the_one_it_names",
    ParksByVersion: "a_parked_entry_replaces_the_one_it_names",
    ParksLate: "a_cancelled_park_is_never_over_a_later_one",
    ForgetsByPrefix: "a_forgotten_processor_leaves_nothing",
}


def make_broken(broken: type[MemoryCheckpoints | MemoryRegistry | MemoryWorkers]) -> MemoryCheckpoints:
    if issubclass(broken, MemoryCheckpoints):
        return broken()
    checkpoints = MemoryCheckpoints()
    if issubclass(broken, MemoryRegistry):
        checkpoints.registry = broken(checkpoints._registrations)
    else:
        checkpoints.workers = broken()
    return checkpoints


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
async def test_a_broken_promise_is_detected(broken: type[MemoryCheckpoints | MemoryRegistry | MemoryWorkers]) -> None:
    only, check = make_broken(broken), find_check(BROKEN[broken])
    with pytest.raises(AssertionError) as raised:
        await check(lambda: only)
    assert str(raised.value).startswith(f"{check.promise}\nbut ")


def test_every_check_detects_something() -> None:
    """A check that nothing breaks checks nothing."""
    assert {check.name for check in CONTRACT} == {*BROKEN.values()}


def find_check(name: str) -> Check:
    return next(check for check in CONTRACT if check.name == name)


async def test_sqlite_without_a_fence_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (checkpoints, positions):
        monkeypatch.setattr(module, "check_fence", lambda db, processor, fence: None)
    for name in ("a_stale_worker_is_fenced", "a_stale_worker_is_fenced_for_all_streams"):
        with pytest.raises(AssertionError):
            await find_check(name)(lambda: SQLiteCheckpoints(tmp_path / "model.db"))


async def test_a_declaration_that_is_not_true_is_reported() -> None:
    only = MemoryCheckpoints()
    with pytest.raises(AssertionError, match=r"without: refuses a stale worker also .*; remove the declaration"):
        await check_checkpoints(lambda: only, without={Capability.FENCES_ALL_STREAMS})


async def test_checkpoints_that_hang_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(MemoryCheckpoints):
        async def open(self) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(checks, "PATIENCE", 0.2)
    with pytest.raises(AssertionError, match=r"but it did not end within 0.2 seconds$"):
        await check_checkpoints(Stuck)
