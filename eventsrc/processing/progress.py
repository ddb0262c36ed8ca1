"""How far a processor is in this process: counts, times, and whether it has caught up."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from ..stores.feed import Batch
from .checkpoints.checkpoints import now
from .slice import Slice


class Progress:
    """What a pipeline has handled since it was created, and how far it lags."""

    def __init__(self) -> None:
        self.caught_up = asyncio.Event()  # all commits that the feed knows of are handled
        self.at_end = False  # the feed had nothing more
        self.commits = 0  # handled
        self.handled_up_to = 0  # time of the newest of them, in µs since the epoch
        self.in_flight = 0  # commits that handlers are working on
        self._waits: dict[object, tuple[str, int]] = {}  # for a store: by waiter, the name of the error, and since when
        self._oldest = 0  # time of the oldest commit in flight
        self._pending = 0  # time of the oldest commit of the batch that is being handled
        self._complete_up_to = 0  # what was stored before this time has been delivered, and is handled or aside
        self._is_complete = False  # `_complete_up_to` is true of all slots that are held now
        self._is_scanning = False

    def begin(self, runs: Sequence[Slice]) -> None:
        """Note that handlers work on these slices."""
        self.in_flight = sum(len(run.commits) for run in runs)
        self._oldest = min(run.commits[0].time for run in runs)

    def end(self) -> None:
        """Note that they have ended."""
        self.in_flight = self._oldest = 0

    def handled(self, run: Slice) -> None:
        """Note that a slice was handled."""
        self.commits += len(run.commits)
        self.handled_up_to = max(self.handled_up_to, run.commits[-1].time)

    def delivered(self, batch: Batch) -> None:
        """Note that the feed has delivered a batch, which is to be handled."""
        self._is_scanning = batch.is_scan
        if batch.commits or batch.damaged:
            self.at_end = False
            oldest = batch.commits[0].time if batch.commits else now()
            self._pending = max(oldest, self._complete_up_to) if self._is_complete else oldest

    def batch_done(self, batch: Batch) -> None:
        """Note that all commits of a batch were handled or left to tasks of their own."""
        self.at_end, self._pending = batch.caught_up, 0
        newest = batch.newest or (batch.commits[-1].time if batch.commits else 0)
        self._complete_up_to = (
            max(self._complete_up_to, newest) if self._is_complete else newest or self._complete_up_to
        )

    def wait(self, waiter: object, error: str) -> None:
        """Note that somebody waits for a store; with an empty text, that it answers."""
        if error:
            self._waits[waiter] = error, self._waits[waiter][1] if waiter in self._waits else now()
        else:
            self._waits.pop(waiter, None)

    @property
    def waiting(self) -> str:
        """The name of the error, while a store cannot be reached; "" if it can."""
        return next((error for error, _ in self._waits.values()), "")

    def update(self, aside: int) -> None:
        """Find out whether it has caught up, with so many streams that are handled by tasks of their own.

        The reader calls this at least once a second, so that the lag is right when the feed is read again.
        """
        if self.at_end and not self._waits:
            self._complete_up_to, self._is_complete = now(), True
        if self.at_end and not aside and not self._waits:
            self.caught_up.set()
        else:
            self.caught_up.clear()

    def restart(self) -> None:
        """Note that the feed is read again: it may hold more by now."""
        self.at_end, self._pending = False, 0
        self.caught_up.clear()

    def restart_elsewhere(self) -> None:
        """Note that it is read again for other slots, of which older commits may not be handled."""
        self._is_complete = False
        self.restart()

    @property
    def lag(self) -> float:
        """Seconds since the oldest commit that may not be handled was stored; infinite while a store is scanned.

        Streams that are retried or parked do not count.
        """
        if self._waits:
            since = min(since for _, since in self._waits.values())
        elif self.at_end and not self._oldest:
            return 0.0
        elif self._is_scanning or not (since := self._oldest or self._pending or self._complete_up_to):
            return math.inf
        return max(0.0, (now() - since) / 1e6)
