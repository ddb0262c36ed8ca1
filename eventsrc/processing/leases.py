"""Several workers share a processor: each holds slots, hash shares of the streams, for as long as it lives."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple
from uuid import uuid4

from ..errors import Fenced, StoreError
from ..log import log
from .checkpoints.checkpoints import Slot, current_slots
from .processor import Processor

_MARGIN = 0.9  # of the ttl: by then who could not beat has stopped


class LeaseExpired(Exception):
    """This worker could not beat for so long that others take its slots."""


class _Beats(NamedTuple):
    """Of one worker, as seen from here."""

    number: int
    since: float  # when we first saw this number, by our clock
    has_changed: bool  # we have seen another one before


class _View(NamedTuple):
    """The slots of a processor, as they are stored, from where one worker stands."""

    mine: set[int]  # held, and ours
    orphans: list[Slot]  # ours, but not held: an answer was lost, or they are of an earlier worker of that name
    free: list[Slot]
    quota: int  # how many are to be ours
    complete: bool  # none is missing, and they are as many as is wanted

    def is_settled(self, held: set[int]) -> bool:
        """Whether nothing is to be taken, given back or dropped."""
        too_few = len(self.mine) < self.quota and bool(self.free)
        return self.complete and held == self.mine and not self.orphans and len(self.mine) <= self.quota and not too_few


class Leases:
    """For one worker, which is one `Runner` in one process. Make one for each.

    A worker beats three times in `ttl` seconds; one that has not been seen to beat for `ttl` counts as dead, and the
    others take its slots, each raising the slot's epoch: whatever the dead one still writes is refused. No clocks are
    compared. A worker that cannot beat stops before that. Slots are spread evenly: who has too many gives some back,
    between two batches. Another number of `slots` than there are is had as soon as no other worker lives.
    """

    def __init__(self, *, worker: str | None = None, slots: int = 16, ttl: float = 6.0) -> None:
        if slots < 1 or not ttl > 0:
            raise ValueError("slots is a number from 1 on, ttl are seconds above 0")
        self.worker = worker or str(uuid4())
        self.beaten = asyncio.Event()  # set at each beat
        self._slot_count, self._ttl = slots, ttl
        self._processors: Sequence[Processor[Any]] = ()
        self._seen: dict[str, _Beats] = {}
        self._last = -math.inf  # when we last did
        self._limit: asyncio.Timeout | None = None
        self._failure: Exception | None = None

    @asynccontextmanager
    async def held_for(
        self, processors: Sequence[Processor[Any]], rebalance_due: asyncio.Event
    ) -> AsyncGenerator[None]:
        """Send heartbeats inside the block, and sign off at its end.

        Sets `rebalance_due` when slots have to be claimed or released.
        """
        if len({id(processor.checkpoints) for processor in processors}) > 1:
            raise ValueError("processors that share leases share their checkpoints")
        self._processors = processors
        beating = asyncio.create_task(self._keep_beating(rebalance_due))
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await self._sign_off()

    @asynccontextmanager
    async def alive(self) -> AsyncGenerator[None]:
        """What is done while the others count on this worker. Cancels it and raises LeaseExpired once they may not."""
        self._limit = limit = asyncio.timeout_at(self._ends)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise  # another one's
            raise (self._failure or LeaseExpired()) from None
        finally:
            self._limit = None

    @property
    def _ends(self) -> float:
        return self._last + _MARGIN * self._ttl if self._failure is None else -math.inf

    async def rebalance(self) -> None:
        """Take what is free, and give back what is too much. Nothing may be in flight. Raises Fenced, StoreError."""
        await self._refresh_beats()
        for processor in self._processors:
            await self._create_slots(processor)
        for processor, view in await self._views():
            await self._rebalance_one(processor, view)

    async def _rebalance_one(self, processor: Processor[Any], view: _View) -> None:
        before = set(processor.held)
        for number in before - view.mine:
            processor.dropped(number)
        for slot in view.orphans:
            await self._claim(processor, slot)
        for number in sorted(processor.held)[view.quota :]:
            await processor.release(number)
        wanted = max(0, view.quota - len(processor.held))
        for slot in random.sample(view.free, min(len(view.free), wanted)):  # not all the same one first
            await self._claim(processor, slot)
        if set(processor.held) != before:
            await processor.parking.refresh()  # others may have parked streams of these slots
            log.info("%s: worker %s has slots %s", processor.name, self.worker, sorted(processor.held))

    async def _create_slots(self, processor: Processor[Any]) -> None:
        replace = self._is_alone
        while True:
            try:
                return await processor.create_slots(self._slot_count, replace=replace)
            except Fenced:
                replace = False  # another worker does the same: as many as that one wants

    async def _claim(self, processor: Processor[Any], slot: Slot) -> None:
        with suppress(Fenced):  # another worker was quicker
            await processor.claim(slot, self.worker)

    async def _views(self) -> list[tuple[Processor[Any], _View]]:
        """How things stand with each processor."""
        slots = [current_slots(await each.checkpoints.slots(each.name)) for each in self._processors]
        await self._refresh_beats()  # later: who holds a slot has beaten before it took it, so it is seen to live
        alive = sorted(self._alive() | {self.worker})
        return [
            (each, self._view(each, its_slots, alive)) for each, its_slots in zip(self._processors, slots, strict=True)
        ]

    def _view(self, processor: Processor[Any], slots: Sequence[Slot], alive: Sequence[str]) -> _View:
        ours = {slot.number: slot for slot in slots if slot.owner == self.worker}
        mine = {
            number
            for number, slot in processor.held.items()
            if number in ours and (ours[number].epoch, ours[number].laid) == (slot.epoch, slot.laid)
        }
        orphans = [slot for number, slot in ours.items() if number not in mine]
        free = [slot for slot in slots if slot.owner not in alive]
        each, rest = divmod(len(slots), len(alive))
        quota = each + (alive.index(self.worker) < rest)
        return _View(mine, orphans, free, quota, bool(slots) and (len(slots) == self._slot_count or not self._is_alone))

    async def all_owned(self) -> bool:
        """Whether all slots are ours or of workers that were seen to live."""
        owners = {self.worker} | {name for name in self._alive() if self._seen[name].has_changed}
        for processor in self._processors:
            slots = current_slots(await processor.checkpoints.slots(processor.name))
            if not slots or any(slot.owner not in owners for slot in slots):
                return False
        return True

    @property
    def _is_alone(self) -> bool:
        return self._alive() <= {self.worker}

    def _alive(self) -> set[str]:
        now = asyncio.get_running_loop().time()
        return {worker for worker, beats in self._seen.items() if now - beats.since < self._ttl}

    async def heartbeat(self) -> None:
        """Show that this worker lives. Raises StoreError."""
        began = asyncio.get_running_loop().time()
        await self._processors[0].checkpoints.heartbeat(self.worker)
        self._last = began  # the others see it later, and wait from then on
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(self._ends)
        self.beaten.set()

    async def _refresh_beats(self) -> None:
        beats = await self._processors[0].checkpoints.beats()
        now, seen = asyncio.get_running_loop().time(), self._seen
        self._seen = {
            worker: seen[worker]
            if worker in seen and seen[worker].number == number
            else _Beats(number, now, has_changed=worker in seen)
            for worker, number in beats.items()
        }

    async def _keep_beating(self, rebalance_due: asyncio.Event) -> None:
        pause = self._ttl / 3
        while True:
            await asyncio.sleep(pause)
            pause = self._ttl / 3
            try:
                async with asyncio.timeout(self._ttl / 2):  # a call that hangs is tried again
                    await self.heartbeat()
                    if not all(view.is_settled(set(processor.held)) for processor, view in await self._views()):
                        rebalance_due.set()
                    await self._sign_off_dead_workers()
            except (StoreError, TimeoutError) as error:
                log.warning("worker %s could not beat: %s", self.worker, type(error).__name__)
                pause = self._ttl / 10
            except Exception as error:  # noqa: BLE001  # whoever runs the processors gets it
                self._failure = error
                if self._limit is not None:
                    self._limit.reschedule(self._ends)
                return

    async def _sign_off_dead_workers(self) -> None:
        """Behind workers that are long dead."""
        now = asyncio.get_running_loop().time()
        for worker, beats in list(self._seen.items()):
            if now - beats.since > 10 * self._ttl:
                await self._processors[0].checkpoints.sign_off(worker)

    async def _sign_off(self) -> None:
        """Let the others have all at once; where that fails they find out by themselves."""
        for processor in self._processors:
            await processor.parking.drop()
        try:
            await self._processors[0].checkpoints.sign_off(self.worker)
        except StoreError as error:
            log.warning("worker %s could not take its leave: %s", self.worker, type(error).__name__)
