"""Applying slices to a projection: in batches, or many streams at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from .assignment import Assignment
from .positions import Positions
from .projections.projection import Failure, Projection
from .slice import HandlerFailed, PositionMoved, Slice

PATIENCE = 1.0
"""Seconds after which other streams no longer wait for a handler."""


class Interrupted(Exception):
    """The slot is being given up, so the rest of a slice was not started."""


class Applied(NamedTuple):
    """The result for a number of slices. Those that are not named were handled."""

    failures: Sequence[Failure]  # HandlerFailed, PositionMoved or Interrupted
    slow: dict[str, asyncio.Task[None]]  # by stream: still running after PATIENCE; each raises what `apply_one` does
    error: Exception | None = None  # of the checkpoints, after which the positions of other slices are unknown

    @property
    def is_all(self) -> bool:
        """Whether all slices were handled, and their positions stored."""
        return not (self.failures or self.slow or self.error)


class Applier:
    """Applies slices to a projection and keeps the positions up to date.

    A stream whose handler takes longer than PATIENCE gives its place to others, so hanging handlers hold up nobody.
    """

    def __init__(
        self, projection: Projection, assignment: Assignment, positions: Positions, note: Callable[[Slice], None]
    ) -> None:
        self._projection, self._assignment, self._positions = projection, assignment, positions
        self._note = note  # called with each slice that was handled
        self._places = asyncio.Semaphore(projection.concurrency)
        self.calling: set[str] = set()  # streams that handlers are working on

    async def apply(self, slices: Sequence[Slice]) -> Applied:
        """Apply slices, at most one for each stream. Batches raise Fenced and StoreError."""
        if self._projection.in_batches:
            return Applied(await self._apply_batch(slices), {})
        tasks = {run.stream: asyncio.create_task(self.apply_one(run)) for run in slices}
        try:
            await asyncio.wait(tasks.values(), timeout=PATIENCE)
        except asyncio.CancelledError:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            raise
        failures: list[Failure] = []
        others: list[Exception] = []
        for run in slices:
            if not (task := tasks[run.stream]).done():
                continue
            del tasks[run.stream]
            try:
                task.result()
            except (HandlerFailed, PositionMoved, Interrupted) as error:
                failures.append(Failure(run, error))
            except Exception as error:  # noqa: BLE001  # raised below, when no task is left alone
                others.append(error)
        return Applied(failures, tasks, others[0] if others else None)

    async def apply_one(self, run: Slice) -> None:
        """Apply a slice; of projections that handle one commit at a time, one after the other.

        Raises:
            HandlerFailed: a handler failed; the position says how far the slice was handled.
            PositionMoved: another process has handled the stream.
            Interrupted: the slot is being given up.
            Fenced, StoreError: the position is unknown.
        """
        if self._projection.in_batches:
            await self._apply_parts(run, [run])
            return
        count = len(run.commits)
        parts = [run.part(each, each + 1) for each in range(count)] if self._projection.one_by_one else [run]
        async with for_a_while(self._places):
            await self._apply_parts(run, parts)

    async def _apply_parts(self, run: Slice, parts: Sequence[Slice]) -> None:
        for part in parts:
            if not self._assignment.may_start(run.stream):
                self._positions.forget(run.stream)
                raise Interrupted(run.stream)
            failures = await self._apply_batch([part])
            if failures:
                raise failures[0].error

    async def _apply_batch(self, slices: Sequence[Slice]) -> Sequence[Failure]:
        streams = {run.stream for run in slices}
        self.calling |= streams
        try:
            failures = await self._projection.apply(slices)
        except BaseException:
            for run in slices:
                self._positions.forget(run.stream)
            raise
        finally:
            self.calling -= streams
        failed = {failure.run.stream for failure in failures}
        for run in slices:
            if run.stream in failed:
                self._positions.handled_in_part(run)
            else:
                self._positions.moved(run)
                self._note(run)
        for failure in failures:
            if not isinstance(failure.error, (HandlerFailed, PositionMoved)):
                raise failure.error
        return failures


@asynccontextmanager
async def for_a_while(places: asyncio.Semaphore) -> AsyncGenerator[None]:
    """Take a place for the block, and give it back at its end, or after PATIENCE if that is sooner."""
    await places.acquire()
    given_back = False

    def give_back() -> None:
        nonlocal given_back
        if not given_back:
            given_back = True
            places.release()

    timer = asyncio.get_running_loop().call_later(PATIENCE, give_back)
    try:
        yield
    finally:
        timer.cancel()
        give_back()
