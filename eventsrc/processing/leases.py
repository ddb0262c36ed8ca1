"""Leases let several workers share a processor: each owns slots, hash shares of the streams, while it is alive."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import NamedTuple
from uuid import uuid4

from ..errors import Fenced, StoreError, SwitchPending
from ..log import log
from .assignment import Assignment
from .checkpoints.checkpoints import Checkpoints, Slot, current_slots
from .membership import Beats, Members, to_key
from .pipeline import Pipeline

_MARGIN = 0.9  # of the ttl: a worker without a heartbeat for this long has stopped


class LeaseExpired(Exception):
    """This worker sent no heartbeat for so long that others may take its slots."""


class _View(NamedTuple):
    """The stored slots of a processor, as one worker sees them."""

    mine: set[int]  # stored as ours, and held
    orphans: list[Slot]  # stored as ours, but not held: a reply was lost, or an earlier worker had this name
    free: list[Slot]  # not owned by a live worker
    quota: int  # how many slots we should hold
    complete: bool  # all slots are stored, and as many as wanted

    def is_settled(self, held: set[int]) -> bool:
        """Whether there is nothing to claim, release or drop."""
        too_few = len(self.mine) < self.quota and bool(self.free)
        return self.complete and held == self.mine and not self.orphans and len(self.mine) <= self.quota and not too_few


class Leases:
    """The leases of one worker, which is one `Runner` in one process. Create one for each worker.

    - A worker sends three heartbeats in `ttl` seconds. A worker that sends none stops before its `ttl` is over.
    - If no heartbeat of a worker is seen for `ttl` seconds, it counts as dead, and the others take over its slots. This
      raises each slot's epoch, so later writes of the dead worker are refused. Clocks are never compared.
    - Slots are spread evenly over the workers that run the processor, whatever other workers of the same checkpoints
      run: a worker that has too many releases some between two batches.
    - `slots` is the number of slots. A changed number takes effect once no other worker is alive.

    Raises:
        ValueError: `slots` or `ttl` is out of range.
    """

    def __init__(self, *, worker: str | None = None, slots: int = 16, ttl: float = 6.0) -> None:
        if slots < 1 or not ttl > 0:
            raise ValueError("slots is at least 1, and ttl more than 0 seconds")
        self.worker = worker or str(uuid4())
        self.beaten = asyncio.Event()  # set at each heartbeat
        self._slot_count, self._ttl = slots, ttl
        self._pipelines: Sequence[Pipeline] = ()
        self._checkpoints: Checkpoints
        self._grace = 0.0
        self._key = self.worker  # under which its heartbeats are stored
        self._members = Members()
        self._last = -math.inf  # when our last heartbeat started
        self._looked = -math.inf  # when we last looked whether we still own our slots
        self._limit: asyncio.Timeout | None = None
        self._failure: Exception | None = None

    @asynccontextmanager
    async def held_for(
        self, pipelines: Sequence[Pipeline], rebalance_due: asyncio.Event, grace: float
    ) -> AsyncGenerator[None]:
        """Send heartbeats inside the block, and sign off at its end.

        Sets `rebalance_due` when slots have to be claimed or given up. Handlers of slots that are given up have `grace`
        seconds to end.
        """
        if len({id(pipeline.assignment.checkpoints) for pipeline in pipelines}) > 1:
            raise ValueError("processors that share leases share their checkpoints; give them the same object")
        self._pipelines, self._grace = pipelines, grace
        self._checkpoints = pipelines[0].assignment.checkpoints
        self._key = to_key(self.worker, (each.assignment.name for each in pipelines))
        beating = asyncio.create_task(self._keep_beating(rebalance_due))
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await self._sign_off()

    @asynccontextmanager
    async def alive(self) -> AsyncGenerator[None]:
        """Run the block while our lease is valid. When it expires, cancel the block and raise LeaseExpired."""
        self._limit = limit = asyncio.timeout_at(self._ends)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise  # a TimeoutError of the block itself
            raise (self._failure or LeaseExpired()) from None
        finally:
            self._limit = None

    @property
    def _ends(self) -> float:
        return self._last + _MARGIN * self._ttl if self._failure is None else -math.inf

    @property
    def looked_before(self) -> float:
        """Seconds since we last looked whether we still own our slots."""
        return asyncio.get_running_loop().time() - self._looked

    async def rebalance(self) -> None:
        """Claim free slots and give up surplus ones. No batch may be in flight.

        Raises:
            Fenced: another worker has taken over a slot.
            StoreError: the checkpoints cannot be read or written.
        """
        await self._refresh_beats()
        for pipeline in self._pipelines:
            await self._create_slots(pipeline)
        for pipeline, view in await self._views():
            await self._rebalance_one(pipeline, view)

    async def _rebalance_one(self, pipeline: Pipeline, view: _View) -> None:
        assignment = pipeline.assignment
        before = set(assignment.held)
        for number in before - view.mine:
            pipeline.checkpointer.dropped(number)
        # If anything fails from here on, this is called again, and the entries have to be read all the same.
        pipeline.checkpointer.is_stale |= bool(view.orphans or view.free) or before != view.mine
        for slot in view.orphans:
            await self._claim(assignment, slot)
        if surplus := sorted(assignment.held)[view.quota :]:
            await pipeline.checkpointer.give_up(surplus, self._grace)
        wanted = max(0, view.quota - len(assignment.held))
        # At random, so that workers do not all try the same slot first.
        for slot in random.sample(view.free, min(len(view.free), wanted)):
            await self._claim(assignment, slot)
        if set(assignment.held) != before or pipeline.checkpointer.is_stale:
            await pipeline.checkpointer.claimed()
            log.info("%s: worker %s has slots %s", assignment.name, self.worker, sorted(assignment.held))

    async def _create_slots(self, pipeline: Pipeline) -> None:
        replace = self._is_alone(pipeline.assignment.name)
        while True:
            try:
                return await pipeline.assignment.create_slots(self._slot_count, replace=replace)
            except Fenced:
                replace = False  # another worker creates slots now; accept its number

    async def _claim(self, assignment: Assignment, slot: Slot) -> None:
        with suppress(Fenced):  # another worker was quicker
            await assignment.claim(slot, self.worker)

    async def _views(self) -> list[tuple[Pipeline, _View]]:
        """Return each pipeline with its slots as we see them."""
        slots = [current_slots(await each.assignment.read_slots()) for each in self._pipelines]
        await self._refresh_beats()  # after the slots: an owner sends a heartbeat before it claims, so it is seen alive
        return [
            (each, self._view(each.assignment, its_slots, sorted({*self._alive(each.assignment.name), self.worker})))
            for each, its_slots in zip(self._pipelines, slots, strict=True)
        ]

    def _view(self, assignment: Assignment, slots: Sequence[Slot], alive: Sequence[str]) -> _View:
        ours = {slot.number: slot for slot in slots if slot.owner == self.worker}
        mine = {
            number
            for number, slot in assignment.held.items()
            if number in ours and (ours[number].epoch, ours[number].laid) == (slot.epoch, slot.laid)
            if number not in assignment.draining  # it may have been given up, as the answer was lost
        }
        orphans = [slot for number, slot in ours.items() if number not in mine]
        free = [slot for slot in slots if slot.owner not in alive]
        each, rest = divmod(len(slots), len(alive))
        quota = each + (alive.index(self.worker) < rest)
        complete = bool(slots) and (len(slots) == self._slot_count or not self._is_alone(assignment.name))
        return _View(mine, orphans, free, quota, complete)

    async def all_owned(self) -> bool:
        """Whether all slots are owned by us or by workers that were seen alive."""
        for pipeline in self._pipelines:
            alive = self._alive(pipeline.assignment.name)
            owners = {self.worker} | {name for name, beats in alive.items() if beats.has_changed}
            slots = current_slots(await pipeline.assignment.read_slots())
            if not slots or any(slot.owner not in owners for slot in slots):
                return False
        return True

    def _is_alone(self, processor: str = "") -> bool:
        return self._alive(processor).keys() <= {self.worker}

    def _alive(self, processor: str = "") -> Mapping[str, Beats]:
        return self._members.alive(asyncio.get_running_loop().time(), self._ttl, processor)

    async def heartbeat(self) -> None:
        """Send a heartbeat.

        Raises:
            StoreError: it could not be stored.
        """
        began = asyncio.get_running_loop().time()
        await self._checkpoints.workers.heartbeat(self._key)
        self._last = began  # other workers see it later, so their wait ends later than ours
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(self._ends)
        self.beaten.set()

    async def _refresh_beats(self) -> None:
        beats = await self._checkpoints.workers.beats()
        self._members.refresh(beats, asyncio.get_running_loop().time())

    async def _keep_beating(self, rebalance_due: asyncio.Event) -> None:
        pause = self._ttl / 3
        for turn in count():
            await asyncio.sleep(pause)
            pause = self._ttl / 3
            try:
                async with asyncio.timeout(self._ttl / 2):  # a call that hangs is tried again
                    await self.heartbeat()
                    if self._is_alone() and turn % 2:
                        continue  # a new worker waits until this one has given up slots
                    began = asyncio.get_running_loop().time()
                    if not all(
                        view.is_settled(set(pipeline.assignment.held)) for pipeline, view in await self._views()
                    ):
                        rebalance_due.set()
                    self._looked = began
                    await self._sign_off_dead_workers()
            except SwitchPending:
                rebalance_due.set()
            except (StoreError, TimeoutError) as error:
                log.warning("worker %s could not send a heartbeat: %s", self.worker, type(error).__name__)
                pause = self._ttl / 10
            except Exception as error:  # noqa: BLE001  # `alive` raises it in the runner
                self._failure = error
                if self._limit is not None:
                    self._limit.reschedule(self._ends)
                return

    async def _sign_off_dead_workers(self) -> None:
        """Remove workers that have been dead for long."""
        now = asyncio.get_running_loop().time()
        for key in self._members.dead(now, 10 * self._ttl):
            await self._checkpoints.workers.sign_off(key)

    async def _sign_off(self) -> None:
        """Let other workers take over at once. If that fails, they do so after the ttl."""
        for pipeline in self._pipelines:
            await pipeline.retries.drop()
        try:
            await self._checkpoints.workers.sign_off(self._key)
        except StoreError as error:
            log.warning("worker %s could not sign off: %s", self.worker, type(error).__name__)
