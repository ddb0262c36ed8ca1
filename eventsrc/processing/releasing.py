"""Releasing a parked stream, so that nobody else calls its handlers meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

from ..errors import Fenced
from .assignment import slot_number
from .checkpoints.checkpoints import Skipped, current_slots, now
from .pipeline import Pipeline

ANSWER_SECONDS = 60.0
"""How long a process waits for a worker to continue with a released stream."""

_POLL = 0.2  # seconds


class Releasing:
    """Releases the parked streams of a processor."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._claimed = Counter[int]()  # how many releases use a slot that this object has claimed for them
        self._claiming = asyncio.Lock()

    async def release(self, stream: str, skip: str = "") -> None:
        """Handle a parked stream to its end, and release it. With a reason to `skip`, skip its first commit.

        - While a stream is parked, the worker that holds its slot leaves it alone, so any process may handle it.
        - If nobody holds the slot, this process claims it, and gives it up afterwards.
        - If another worker holds it, that one continues with what was stored meanwhile, and this waits for it.

        Raises: as `Processor.retry`.
        """
        parking, assignment = self._pipeline.parking, self._pipeline.assignment
        parked = await parking.find(stream)
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
        number = slot_number(stream, len(await assignment.ensure_slots()))
        if await self._claim(number):
            try:
                await parking.release(parked, skipped, is_holder=True)
            finally:
                await self._give_up(number)
        elif not await parking.release(parked, skipped, is_holder=False):
            await self._wait(stream)

    async def _is_free(self, stream: str) -> bool:
        """Whether no worker holds the slot of a stream."""
        slots = await self._pipeline.assignment.ensure_slots()
        return not slots[slot_number(stream, len(slots))].open

    async def _wait(self, stream: str) -> None:
        """Wait until the worker that holds the slot has handled what was stored meanwhile."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while not await self._pipeline.parking.has_answered(stream):  # noqa: ASYNC110  # in another process
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise TimeoutError(
                f"the worker that holds the slot of {stream} has not continued with it in {ANSWER_SECONDS:.0f} s; it, "
                "or the next one, will do so; check that one runs"
            ) from None

    async def _claim(self, number: int) -> bool:
        """Claim a slot, unless a worker holds it. Return whether it is held here."""
        assignment = self._pipeline.assignment
        async with self._claiming:
            if not self._claimed[number] or number not in assignment.held:
                self._claimed[number] = 0
                slot = current_slots(await assignment.read_slots())[number]
                if slot.open:
                    return False
                try:
                    await assignment.claim(slot)
                except Fenced:  # a worker has started just now
                    return False
            self._claimed[number] += 1
            return True

    async def _give_up(self, number: int) -> None:
        async with self._claiming:
            self._claimed[number] = max(0, self._claimed[number] - 1)
            if not self._claimed[number]:
                with suppress(Fenced):
                    await self._pipeline.assignment.give_up(number)
