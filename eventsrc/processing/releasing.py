"""Releasing a parked stream: one call at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

from ..errors import Fenced, SwitchPending
from .applying import Interrupted
from .assignment import slot_number
from .checkpoints.checkpoints import Skipped, Slot, now
from .pipeline import Pipeline

ANSWER_SECONDS = 60.0
"""How long a process waits for a worker to continue with a released stream."""

_TRIES = 5  # to release a stream, whose slot a worker claims at the same time

_POLL = 0.2  # seconds


class Releasing:
    """Releases the parked streams of a processor."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._epochs: dict[int, int] = {}  # of the slots that this object has claimed for them
        self._claimed = Counter[int]()  # how many releases use a slot that this object has claimed for them
        self._claiming = asyncio.Lock()

    async def release(self, stream: str, skip: str = "") -> None:
        """Handle a parked stream to its end, and release it. With a reason to `skip`, skip its first commit.

        - While a stream is parked, the worker that holds its slot leaves it alone, so any process may handle it.
        - If nobody holds the slot, this process claims it, and gives it up afterwards.
        - If another worker holds it, that one continues with what was stored since, and this waits for it.

        Raises: as `Processor.retry`.
        """
        for _ in range(_TRIES):
            try:
                await self._release(stream, skip)
            except Interrupted:
                break
            except Fenced:  # a worker has started, or stopped, in the meantime
                if await self._pipeline.parking.refresh([stream]):
                    continue
            return
        raise RuntimeError(
            f"the worker that holds the slot of {stream} is being stopped, paused or replaced; call it again"
        )

    async def _release(self, stream: str, skip: str) -> None:
        parking, assignment = self._pipeline.parking, self._pipeline.assignment
        parked = await parking.find(stream)
        if skip and parked.state != "parked":
            raise ValueError(f"{assignment.name} is retrying {stream}; it can be skipped once it is parked again")
        skipped = Skipped(stream=stream, version=parked.version, reason=skip, time=now()) if skip else None
        if self._pipeline.running and assignment.holds(stream):
            await parking.release(parked, skipped, is_holder=True)
            return
        if parked.state == "retrying" and not await self._is_free(stream):
            await self._wait(stream)  # the worker that holds the slot handles it already
            return
        if self._pipeline.running:  # another worker has the slot, or this one will have it: it is not claimed here
            if not await parking.release(parked, skipped, is_holder=False):
                await self._wait(stream)
            return
        await assignment.registrar.register()
        if (number := await self._claim(stream)) is not None:
            try:
                await parking.release(parked, skipped, is_holder=True)
            finally:
                await self._give_up(number)
        elif not await parking.release(parked, skipped, is_holder=False):
            await self._wait(stream)

    async def _is_free(self, stream: str) -> bool:
        """Whether no worker holds the slot of a stream."""
        return not (await self._slot_of(stream)).open

    async def _slot_of(self, stream: str) -> Slot:
        """Return the stored slot of a stream. Wait while a rebuild switches to another version."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while True:
                    with suppress(SwitchPending):
                        slots = await self._pipeline.assignment.ensure_slots()
                        return slots[slot_number(stream, len(slots))]
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise TimeoutError(f"a rebuild has not ended its switch in {ANSWER_SECONDS:.0f} s; try again") from None

    async def _wait(self, stream: str) -> None:
        """Wait until the worker that holds the slot has handled what was stored since."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while not await self._pipeline.parking.has_answered(stream):  # noqa: ASYNC110  # in another process
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise TimeoutError(
                f"the worker that holds the slot of {stream} has not continued with it in {ANSWER_SECONDS:.0f} s; it, "
                "or the next one, will do so; check that one runs"
            ) from None

    async def _claim(self, stream: str) -> int | None:
        """Claim the slot of a stream, unless a worker holds it. Return its number if it is held here."""
        assignment = self._pipeline.assignment
        async with self._claiming:
            slot = await self._slot_of(stream)
            number = slot.number
            if not self._claimed[number] or number not in assignment.held:
                self._claimed[number] = 0
                if slot.open and assignment.claimed.get(number) != slot.epoch:  # else we failed to give it up
                    return None
                try:
                    await assignment.claim(slot)
                except Fenced:  # a worker has started just now
                    return None
                self._epochs[number] = slot.epoch + 1
            self._claimed[number] += 1
            return number

    async def _give_up(self, number: int) -> None:
        """Give up a slot, unless another release uses it. If that fails or is cancelled, it is not used any more."""
        self._claimed[number] = max(0, self._claimed[number] - 1)
        try:
            async with self._claiming:
                if self._is_left(number):
                    with suppress(Fenced):
                        await self._pipeline.assignment.give_up(number)
        finally:
            if self._is_left(number):
                self._pipeline.assignment.drop(number)  # if the answer was lost, a worker may have claimed it

    def _is_left(self, number: int) -> bool:
        """Whether a slot that this object has claimed is held, and no release uses it any more."""
        held = self._pipeline.assignment.held.get(number)
        is_ours = held is not None and held.epoch == self._epochs.get(number) and not self._pipeline.running
        return is_ours and not self._claimed[number]
