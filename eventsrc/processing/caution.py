"""Caution after a process has ended: commits are handled one at a time, to find out which one ended it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from .applying import Applier
from .assignment import Assignment
from .catch_up import CatchUp
from .parking import Parking
from .positions import Positions
from .retries import Retries
from .slice import Slice

CAREFUL_SECONDS = 10.0
"""For this long after the first commit that follows the end of a process."""

SURVIVAL_SECONDS = 3.0  # a handler that ends the process does so soon


class Caution:
    """Handles commits one at a time, each stored before and deleted afterwards, while a slot is unclean.

    So if the process ends, its successor finds the stream with the number of processes that ended at it.
    """

    def __init__(
        self,
        assignment: Assignment,
        positions: Positions,
        applier: Applier,
        catch_up: CatchUp,
        parking: Parking,
        retries: Retries,
    ) -> None:
        self._assignment, self._positions, self._applier = assignment, positions, applier
        self._catch_up, self._parking, self._retries = catch_up, parking, retries
        self._until: float | None = None

    def reset(self) -> None:
        """Begin again with the next commit."""
        self._until = None

    @property
    def is_on(self) -> bool:
        """Whether the former holder of a slot was killed, or still runs, and not long ago."""
        if not self._assignment.unclean:
            return False
        clock = asyncio.get_running_loop().time()
        if self._until is None:
            self._until = clock + CAREFUL_SECONDS
        if clock < self._until:
            return True
        self._assignment.unclean.clear()
        self._until = None
        return False

    def split(self, runs: Sequence[Slice]) -> Sequence[Slice]:
        """Return slices of one commit each, in the order of the feed if that is known."""
        parts = [run.part(each, each + 1) for run in runs for each in range(len(run.commits))]
        if all(part.commits[0].position is not None for part in parts):
            parts.sort(key=lambda part: part.commits[0].position or 0)
        return parts

    async def apply(self, part: Slice) -> None:
        """Handle one commit, unless its stream is handled by a task of its own."""
        await self._wait_until_survived()
        stream = part.stream
        if self._catch_up.note_newer(stream, part.last_version):
            return
        known = (await self._positions.load([stream]))[stream]
        if (
            known.version != part.after
        ):  # an earlier commit of the stream failed, or was handled by a task with later ones
            if known.version < part.after:
                self._retries.start(stream, part.last_version)
            return
        await self._assignment.wait_for_former_holder(stream)  # a kill until then is not this commit's doing
        entry = self._catch_up.enter(stream, part.last_version)
        try:
            await self._parking.store(entry, lives=1)
            known = (await self._positions.load([stream]))[stream]
            applied = await self._applier.apply([part._replace(is_first=known.is_first)])
        finally:
            self._catch_up.leave(entry)
        if applied.is_all:
            await self._parking.clear(entry)
            return
        assert entry.stored is not None
        self._parking.orphans[stream] = entry.stored
        self._retries.take_over(applied, [part])

    async def _wait_until_survived(self) -> None:
        """Wait until streams that are at risk were tried again, for SURVIVAL_SECONDS at most."""
        clock = asyncio.get_running_loop().time
        end = clock() + SURVIVAL_SECONDS
        while clock() < end and any(  # noqa: ASYNC110  # any of many tasks
            entry.at_risk and entry.task is not None and not entry.task.done()
            for entry in self._catch_up.entries.values()
        ):
            await asyncio.sleep(0.02)
