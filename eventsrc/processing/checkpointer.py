"""Writing checkpoints, and giving up slots: what is not handled by then is stored first."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from .assignment import Assignment
from .catch_up import CatchUp
from .following import Following
from .parking import Parking
from .positions import Positions
from .progress import Progress
from .retries import Retries

STORE_AFTER = 2.0  # seconds; streams that are aside for less are not stored, as most of them soon are not any more
WRITE_AT_LEAST = 10.0  # seconds after which they are, so that the checkpoint advances


class Checkpointer:
    """Writes the checkpoint of the feed. It always advances: what it passes is handled, or stored as not handled."""

    def __init__(
        self,
        assignment: Assignment,
        positions: Positions,
        following: Following,
        catch_up: CatchUp,
        parking: Parking,
        retries: Retries,
        progress: Progress,
    ) -> None:
        self._assignment, self._positions, self._following = assignment, positions, following
        self._catch_up, self._parking, self._retries, self._progress = catch_up, parking, retries, progress
        self.is_stale = False  # slots were claimed, and the entries of their streams were not read yet
        self._written = 0.0  # when a checkpoint was last written, by the loop's clock

    async def save(self) -> None:
        """Write the feed checkpoint, if it has changed. Streams that are aside are stored first.

        Raises:
            Fenced: another worker has taken over a slot.
            StoreError: the checkpoints cannot be written.
        """
        clock = asyncio.get_running_loop().time()
        aside = [entry for entry in self._catch_up.entries.values() if entry.stored is None]
        if any(clock - entry.since < STORE_AFTER for entry in aside) and clock - self._written < WRITE_AT_LEAST:
            return
        await self._store_aside(self._assignment.held)
        if self._retries.failure is None:  # else the stream that failed is not handled, and may not be stored
            await self._assignment.write()
            self._written = clock

    async def _store_aside(self, numbers: Collection[int]) -> None:
        """Store the streams of these slots that are aside, and those that a rebuild holds back."""
        unstored = [stream for stream, stored in self._parking.orphans.items() if stored is None]
        for stream in {*self._following.held_back, *unstored}:
            is_stored = self._parking.orphans.get(stream) is not None
            if self._assignment.slot_of(stream) not in numbers or stream in self._catch_up.entries or is_stored:
                continue
            entry = self._catch_up.enter(stream)
            try:
                await self._parking.store(entry)
            finally:
                self._catch_up.leave(entry)
                if entry.stored is not None:
                    self._parking.orphans[stream] = entry.stored
        for entry in list(self._catch_up.entries.values()):
            is_wanted = entry.stored is None and self._assignment.slot_of(entry.stream) in numbers
            if is_wanted and entry.stream in self._catch_up.entries:
                await self._parking.store(entry)

    async def claimed(self) -> None:
        """Continue with the streams of slots that were claimed: other workers may have parked or left some."""
        self.is_stale = True
        self.clear()
        await self._parking.refresh()
        self.is_stale = False
        self._retries.start_orphans()

    async def give_up(self, numbers: Collection[int], grace: float) -> None:
        """Give up slots: end what runs, within `grace` seconds, store what is left, write the checkpoint.

        Raises:
            Fenced: another worker has claimed one already.
            StoreError: it could not be stored; the next run handles what is left. Of a slot that may have been given up
                no commits are started until it is claimed again.
        """
        self._assignment.draining.update(numbers)
        kept = set(numbers)
        try:
            await self._retries.finish(numbers, grace)
            await self._store_aside(numbers)
            checkpoint = self._assignment.checkpoint if self._retries.failure is None else ""
            for number in numbers:
                kept.discard(number)  # if the answer is lost, another worker may have claimed it
                await self._assignment.give_up(number, checkpoint or None)
                self._forget(number)
        except BaseException:
            self._assignment.draining -= kept
            self._retries.restart()  # of slots that are still held
            raise
        self.clear()

    def pause(self) -> None:
        """Start no new commits, also of streams that are handled by tasks of their own."""
        self._assignment.paused = True
        self._progress.restart()  # from now on it lags
        for entry in self._catch_up.entries.values():
            entry.wake.set()

    def resume(self) -> None:
        """Continue after `pause`."""
        self._assignment.paused = False
        self._retries.restart()

    def dropped(self, number: int) -> None:
        """Note that another worker has taken over a slot, or may do so."""
        self._forget(number)
        self._assignment.drop(number)
        self.clear()

    def _forget(self, number: int) -> None:
        for stream, entry in list(self._catch_up.entries.items()):
            if self._assignment.slot_of(stream) == number:
                if entry.task is not None:
                    entry.task.cancel()
                self._catch_up.leave(entry)
        self._parking.drop_slot(number)

    async def drop(self) -> None:
        """Release everything held in memory. The next run delivers unfinished commits again."""
        await self._retries.drop()
        self._assignment.clear()
        self.clear()

    def clear(self) -> None:
        """Forget everything that other workers may have changed."""
        self._positions.clear()
        self._following.held_back.clear()
        self._progress.restart_elsewhere()
