"""A worker runs pipelines: it reads feeds, watches what other processes do, and ends in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, TypeVar

from ..concurrency import cancel_all, first_of, run_together
from ..errors import Fenced, NotActive, StoreError, StoreUnavailable, StreamsParked, SwitchPending
from ..log import log
from ..retrying import on_takeover
from ..stores.feed import Feed
from .assignment import Assignment, is_switched, take_back, was_given_back
from .leases import LeaseExpired, Leases
from .pipeline import Pipeline
from .reader import Patience, Reader

T = TypeVar("T")

WATCH_SECONDS = 2.0
"""How often a worker looks whether others have taken over; half as often, whether they have paused the processor or
released streams."""

GRACE = 10.0
"""Seconds after which a stopped worker ends: handlers in flight are cancelled, a store is waited for no longer."""

CANCEL_SECONDS = 6.0  # for handlers to end when they are cancelled

GIVE_UP_SECONDS = 1.0  # for giving up slots after an error or a cancellation

FAR_BEHIND = 10_000  # commits, on feeds that can count them; a processor that lags so far reads by itself

_REBUILD_DEAD = 10.0  # seconds without a heartbeat of a rebuild that switches


class Worker:
    """Runs pipelines of one feed until it is stopped or one of them fails.

    Pipelines that are equally far share one reader of the feed. One that lags far, or backs off, has its own.
    """

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        *,
        leases: Leases | None = None,
        save_every: float = 1.0,
        grace: float = GRACE,
        rate: float | None = None,
    ) -> None:
        self._pipelines, self._leases = pipelines, leases
        self._save_every, self._grace, self._rate = save_every, grace, rate
        self._feed: Feed = pipelines[0].assignment.feed
        self._stopping, self._rebalance_due, self._regroup = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._stop_deadline = 0.0  # when a stopped worker gives up
        self._patience = Patience(pipelines, self._stopping, self._rebalance_due, gives_up=self._gives_up)

    def stop(self) -> None:
        """Let `run` end within the grace: handlers in flight end, what is left is stored, slots are given up."""
        self._stopping.set()

    async def run(self, *, until_caught_up: bool = False, accept_parked: bool = False) -> None:
        """Handle all commits, then new ones as they are stored, until `stop` is called.

        Raises:
            StreamsParked: with `until_caught_up`, all is handled except these, unless `accept_parked`.
            Fenced, NotActive, StoreChanged, StoreError, Exception: as `Runner.run`.
        """
        if running := [pipeline.assignment.name for pipeline in self._pipelines if pipeline.running]:
            raise RuntimeError(f"{running[0]} is running already in this process; use another object for a second run")
        ended: Sequence[Pipeline] = ()
        for pipeline in self._pipelines:
            pipeline.running, pipeline.retries.ends = True, until_caught_up
        try:
            await self._patience(self._prepare)
            if self._leases is None:
                await self._work(follow=not until_caught_up)
            else:
                await self._work_with_leases(self._leases, follow=not until_caught_up)
            parked = self._find_parked()
            ended = [pipeline for pipeline in self._pipelines if pipeline.progress.caught_up.is_set()]
            await self._end_in_time()
            if parked is not None and until_caught_up and not accept_parked and not self._stopping.is_set():
                raise parked
        except Fenced:
            raise
        except (Exception, asyncio.CancelledError) as error:
            await self._give_up()
            if isinstance(error, Exception) and not isinstance(error, NotActive | StreamsParked):
                for pipeline in self._pipelines:
                    pipeline.retries.failure = pipeline.retries.failure or error
            raise
        finally:
            for pipeline in self._pipelines:
                pipeline.running = False
                await pipeline.checkpointer.drop()
            for pipeline in ended:
                pipeline.progress.at_end = True  # stays so until the next run
                pipeline.progress.caught_up.set()

    async def _prepare(self) -> None:
        for pipeline in self._pipelines:
            await pipeline.prepare()

    def _find_parked(self) -> StreamsParked | None:
        for pipeline in self._pipelines:
            if pipeline.parking.parked:
                return StreamsParked(pipeline.assignment.name, sorted(pipeline.parking.parked))
        return None

    async def _end_in_time(self) -> None:
        """End; if the worker was stopped, within the grace for handlers, and as long again for the store.

        A handler that does not end when it is cancelled adds a few seconds.
        """
        limit = asyncio.timeout(2 * self._grace + CANCEL_SECONDS if self._stopping.is_set() else None)
        try:
            async with limit:
                await self._patience(self._end)
        except TimeoutError:
            if not limit.expired():
                raise
            raise StoreUnavailable("the checkpoints did not answer before the grace of the stop was over") from None

    async def _end(self) -> None:
        """Store what is left, write the checkpoints and give up the slots."""
        for pipeline in self._pipelines:
            pipeline.check()
            if not pipeline.assignment.joined:
                await pipeline.checkpointer.give_up(list(pipeline.assignment.held), self._grace)

    async def _give_up(self) -> None:
        """Give up the slots after an error or a cancellation, if that takes no more than GIVE_UP_SECONDS.

        The stored checkpoints stay. Slots that are not given up count as those of a process that was killed.
        """
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                for pipeline in self._pipelines:
                    await pipeline.retries.drop()
                    for number in list(pipeline.assignment.held):
                        await pipeline.assignment.give_up(number)
        except Fenced:
            pass  # they are another worker's
        except (StoreError, TimeoutError) as error:
            log.warning("slots were not given up: %s; the next worker begins carefully", type(error).__name__)

    # Without leases: this worker has all slots.

    async def _work(self, *, follow: bool) -> None:
        while True:
            try:
                await self._patience(self._take_all)
                await self._read(follow=follow)
                return
            except (Fenced, SwitchPending) as error:
                await self._wait_for_switch(error)
                await self._reset()

    async def _take_all(self) -> None:
        for pipeline in self._pipelines:
            await on_takeover()(pipeline.assignment.take_all)  # a call of `retry` may claim one at the same time
            await pipeline.checkpointer.claimed()

    async def _wait_for_switch(self, error: Exception) -> None:
        """Wait until a rebuild that switches to another version has ended. Raise the error if there is none.

        If the rebuild is killed, the slots are taken back.

        Raises:
            NotActive: the other version has replaced this one.
        """
        pending = False
        for pipeline in self._pipelines:
            assignment, beats = pipeline.assignment, _Beats()
            while not await self._patience(partial(is_switched, assignment)):
                pending = True
                pipeline.progress.wait(self, "SwitchPending")
                slots = await self._patience(partial(assignment.checkpoints.slots, assignment.name))
                alive = await self._patience(assignment.checkpoints.workers.beats)
                if beats.is_dead([alive.get(slot.switch, 0) for slot in slots if slot.switch]):
                    log.warning(
                        "%s: a rebuild ended in the middle of its switch; this version continues", assignment.name
                    )
                    await self._patience(partial(take_back, assignment))
                await first_of(self._stopping, timeout=0.5)
                if self._stopping.is_set():
                    break
            pipeline.progress.wait(self, "")
            if self._stopping.is_set():
                return
        if not pending and isinstance(error, Fenced):
            for pipeline in self._pipelines:
                with suppress(SwitchPending):
                    slots = await self._patience(pipeline.assignment.read_slots)
                    if not all(
                        pipeline.assignment.claimed.get(slot.number) == slot.epoch or was_given_back(slot)
                        for slot in slots
                    ):
                        raise error

    # With leases: several workers share the slots.

    async def _work_with_leases(self, leases: Leases, *, follow: bool) -> None:
        """Read the feed for the slots held here; claim and give up slots in between when the leases ask for it."""
        async with leases.held_for(self._pipelines, self._rebalance_due, self._grace):
            await self._patience(leases.heartbeat)
            while not self._stopping.is_set():
                self._rebalance_due.clear()
                leases.beaten.clear()
                try:
                    async with leases.alive():
                        await self._patience(leases.rebalance)
                        await self._read(follow=follow)
                        if self._stopping.is_set():
                            await self._end_in_time()
                except Fenced as error:
                    # Others took this worker for dead. It restarts with the slots that are left.
                    log.warning("%s", error)
                    await self._reset()
                except SwitchPending as error:
                    await self._reset()
                    await self._wait_for_switch(error)
                except LeaseExpired:
                    log.warning("worker %s sent no heartbeat in time: it pauses until it can", leases.worker)
                    await self._reset()
                    await first_of(leases.beaten, self._stopping)
                else:
                    if not self._rebalance_due.is_set() and not self._stopping.is_set():  # the feed has ended
                        if await self._patience(leases.all_owned):
                            return
                        await first_of(leases.beaten, self._rebalance_due, self._stopping)

    async def _reset(self) -> None:
        """Forget everything that other workers may have handled in the meantime."""
        for pipeline in self._pipelines:
            await pipeline.checkpointer.drop()
            pipeline.retries.reset()  # a stream that was catching up may have failed with Fenced

    # Reading.

    async def _read(self, *, follow: bool) -> None:
        """Read the feed until it ends and nothing is aside, or this worker is stopped, or slots change."""
        watching = asyncio.create_task(_attend(self._watch, self._pipelines))
        try:
            while not (self._stopping.is_set() or self._rebalance_due.is_set()):
                self._regroup.clear()
                reading = [
                    asyncio.create_task(self._reader(group).run(follow=follow)) for group in await self._groups()
                ]
                try:
                    await self._wait([*reading, watching], until_all=reading)
                finally:
                    await cancel_all(reading)
                if not self._regroup.is_set() and (follow or await self._drain(watching)):  # the feed has ended
                    return
        finally:
            await cancel_all([watching])

    def _reader(self, pipelines: Sequence[Pipeline]) -> Reader:
        ends = (self._stopping, self._rebalance_due, self._regroup)
        patience = Patience(pipelines, *ends, gives_up=self._gives_up)
        return Reader(self._feed, pipelines, patience, ends, save_every=self._save_every, rate=self._rate)

    async def _groups(self) -> list[list[Pipeline]]:
        """Return the pipelines that share a reader: those that are equally far. Paused ones are left out."""
        self._alone = frozenset[Pipeline]()
        active = [each for each in self._pipelines if not each.paused]
        if len(active) < 2:
            return [active] if active else []
        behind = {each: await self._patience(partial(_behind, each)) for each in active}
        least = min(behind.values())
        alone = {each for each in active if behind[each] > least + FAR_BEHIND or each.catch_up.is_full}
        self._alone = frozenset(alone)
        together = [each for each in active if each not in alone]
        return [*([each] for each in alone), *([together] if together else [])]

    async def _watch(self) -> None:
        """Look at what other processes have changed, and whether readers have to be grouped otherwise.

        Each look may be billed: parked streams and pauses take turns, and leases look at the slots themselves.
        """
        for turn in count():
            await asyncio.sleep(WATCH_SECONDS)
            slots = self._leases is None or self._leases.looked_before > 1.5 * WATCH_SECONDS
            for pipeline in self._pipelines:
                was_paused = pipeline.paused
                pipeline.check()
                await self._patience(partial(pipeline.watch, slots=slots, entries=turn % 2 == 0))
                is_alone = pipeline in self._alone
                if pipeline.paused != was_paused:
                    log.info("%s is %s", pipeline.assignment.name, "paused" if pipeline.paused else "resumed")
                    self._regroup.set()
                    continue
                belongs_together = pipeline.progress.caught_up.is_set() if is_alone else not pipeline.catch_up.is_full
                if len(self._pipelines) > 1 and not pipeline.paused and belongs_together == is_alone:
                    self._regroup.set()

    async def _wait(self, tasks: Sequence[asyncio.Task[None]], until_all: Sequence[asyncio.Task[None]]) -> None:
        """Wait until these tasks have ended, or one of `tasks` fails; if there are none, until something changes."""
        if not until_all:
            changes = [
                asyncio.create_task(each.wait()) for each in (self._stopping, self._rebalance_due, self._regroup)
            ]
            try:
                await asyncio.wait([*tasks, *changes], return_when=asyncio.FIRST_COMPLETED)
            finally:
                await cancel_all(changes)
            for task in tasks:
                if task.done():
                    task.result()
        while not all(task.done() for task in until_all):
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            tasks = [task for task in tasks if not task.done()]
        for task in until_all:
            task.result()

    async def _drain(self, watching: asyncio.Task[None]) -> bool:
        """Wait until nothing is aside. Return False to read on first: after a pause, or for other slots."""
        for pipeline in self._pipelines:
            while not pipeline.paused:
                idle = asyncio.create_task(pipeline.wait_until_idle())
                try:
                    await asyncio.wait([idle, watching], timeout=WATCH_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                    if watching.done():
                        watching.result()
                    if idle.done():
                        idle.result()
                        pipeline.update_caught_up()
                        break
                    pipeline.check()
                finally:
                    await cancel_all([idle])
                if self._stopping.is_set() or self._rebalance_due.is_set() or self._regroup.is_set():
                    return self._stopping.is_set() or self._rebalance_due.is_set()
        return not any(pipeline.paused for pipeline in self._pipelines)

    def _gives_up(self) -> bool:
        if not self._stopping.is_set():
            return False
        now = asyncio.get_running_loop().time()
        self._stop_deadline = self._stop_deadline or now + self._grace
        return now >= self._stop_deadline


class _Beats:
    """The heartbeats of a rebuild, as seen from here."""

    def __init__(self) -> None:
        self._seen: list[int] = []
        self._since = asyncio.get_running_loop().time()

    def is_dead(self, beats: list[int]) -> bool:
        now = asyncio.get_running_loop().time()
        if beats != self._seen:
            self._seen, self._since = beats, now
        return bool(beats) and now - self._since > _REBUILD_DEAD


async def _attend(watch: Callable[[], Coroutine[Any, Any, None]], pipelines: Sequence[Pipeline]) -> None:
    """Watch, and let each projection do what it does next to its handlers, until one of them fails."""
    attending = (
        each.projection.attend(partial(_may_act, each.assignment), partial(_held, each.assignment))
        for each in pipelines
    )
    await run_together([watch(), *attending])


def _may_act(assignment: Assignment, stream: str) -> bool:
    """Whether a stream is handled here, and commits of it may be started."""
    return assignment.holds(stream) and assignment.may_start(stream)


def _held(assignment: Assignment) -> object:
    """Return the slots of which commits may be started here, with their epochs."""
    slots = assignment.held.values() if not assignment.paused else ()
    return {(slot.number, slot.epoch) for slot in slots if slot.number not in assignment.draining}


async def _behind(pipeline: Pipeline) -> float:
    """Return about how many commits a pipeline lags. Where a feed cannot count, only a first build does."""
    if (checkpoint := pipeline.assignment.read_from()) is None:
        return 0.0
    remaining = await pipeline.assignment.feed.remaining(checkpoint)
    if remaining is not None:
        return remaining
    return 0.0 if checkpoint else float("inf")
