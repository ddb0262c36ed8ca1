"""Several workers share a processor: each holds slots, hash shares of the streams, for as long as it lives."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from ..errors import Fenced, StoreError
from ..log import log
from .processor import Processor


class Leases:
    """For one worker, which is one `Runner` in one process. Make it anew for each.

    A worker beats three times in `ttl` seconds; one that has not been seen to beat for `ttl` counts as dead, and the
    others take its slots, each raising the slot's epoch: whatever the dead one still writes is refused. No clocks are
    compared. Slots are spread evenly: who has too many gives some back, between two batches.
    """

    def __init__(self, *, worker: str | None = None, slots: int = 16, ttl: float = 6.0) -> None:
        if slots < 1 or not ttl > 0:
            raise ValueError("slots is a number from 1 on, ttl are seconds above 0")
        self.worker = worker or str(uuid4())
        self._of, self._ttl = slots, ttl
        self._processors: Sequence[Processor[Any]] = ()
        self._seen: dict[str, tuple[int, float]] = {}  # beats of each worker, and when they last changed, by our clock
        self._beaten = -math.inf  # when we last did

    @property
    def is_alive(self) -> bool:
        """Whether the others still count on this worker."""
        return self._now() - self._beaten < self._ttl

    @asynccontextmanager
    async def held_for(self, processors: Sequence[Processor[Any]], again: asyncio.Event) -> AsyncGenerator[None]:
        """Beat while this lasts, and set `again` when slots should be shared out anew; give all back at the end."""
        if len({id(processor.checkpoints) for processor in processors}) > 1:
            raise ValueError("processors that share leases share their checkpoints")
        self._processors = processors
        await self._beat()
        beating = asyncio.create_task(self._go_on_beating(again))
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await self._leave()

    async def share_out(self) -> None:
        """Take what is free, and give back what is too much. Nothing may be in flight."""
        for processor in self._processors:
            await self._share_out(processor)

    async def _share_out(self, processor: Processor[Any]) -> None:
        mine, free, fair = await self._look(processor)
        for number in set(processor.held) - mine:
            processor.lose(number)
        for number in sorted(mine)[fair:]:
            await processor.release(number)
        wanted = random.sample(sorted(free), min(len(free), max(0, fair - len(mine))))  # not all the same one first
        for number in wanted:
            try:
                await processor.take(number, self._of, self.worker)
            except Fenced:
                continue  # another worker was quicker
        if wanted:
            log.info("%s: worker %s has slots %s", processor.name, self.worker, sorted(processor.held))

    async def _look(self, processor: Processor[Any]) -> tuple[set[int], set[int], int]:
        """The slots that are ours, those that are free, and how many are our share."""
        rows = {slot.number: slot for slot in await processor.checkpoints.slots(processor.name) if slot.of == self._of}
        alive = {worker for worker, (_, since) in self._seen.items() if self._now() - since < self._ttl} | {self.worker}
        mine: set[int] = set()
        for number, slot in processor.held.items():
            row = rows.get(number)
            if row is not None and (row.epoch, row.owner) == (slot.epoch, self.worker):
                mine.add(number)
        free = {n for n in range(self._of) if n not in mine and self._is_free(rows.get(n), alive)}
        return mine, free, math.ceil(self._of / len(alive))

    def _is_free(self, row: Any, alive: set[str]) -> bool:
        return row is None or row.owner not in alive or row.owner == self.worker

    async def _beat(self) -> None:
        checkpoints = self._processors[0].checkpoints
        began = self._now()
        await checkpoints.beat(self.worker)
        self._beaten = began
        beats = await checkpoints.beats()
        now = self._now()
        known = self._seen
        self._seen = {
            worker: known[worker] if worker in known and known[worker][0] == count else (count, now)
            for worker, count in beats.items()
        }
        for worker, (_, since) in list(self._seen.items()):
            if now - since > 10 * self._ttl:  # long dead: tidy up behind it
                await checkpoints.leave(worker)

    async def _go_on_beating(self, again: asyncio.Event) -> None:
        while True:
            await asyncio.sleep(self._ttl / 3)
            try:
                await self._beat()
                for processor in self._processors:
                    mine, free, fair = await self._look(processor)
                    if set(processor.held) != mine or len(mine) > fair or (len(mine) < fair and free):
                        again.set()
            except StoreError as error:
                log.warning("worker %s could not beat: %s", self.worker, error)
                if not self.is_alive:
                    again.set()

    async def _leave(self) -> None:
        """Give all back, so that the others need not wait; where that fails they find out by themselves."""
        try:
            for processor in self._processors:
                for number in list(processor.held):
                    await processor.release(number)
            await self._processors[0].checkpoints.leave(self.worker)
        except (Fenced, StoreError) as error:
            log.warning("worker %s could not give back its leases: %s", self.worker, error)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
