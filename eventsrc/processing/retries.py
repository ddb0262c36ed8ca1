"""Retries: streams that failed, or need many commits from the store, are handled by tasks of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from ..concurrency import cancel_all, first_of
from ..log import log
from ..retrying import on_failed_handler, on_outage
from .applying import Applied, Interrupted, for_a_while
from .assignment import Assignment
from .catch_up import CatchUp, Entry
from .following import Following
from .parking import Parking
from .slice import HandlerFailed, Slice

MAX_FAILING = 100  # streams that fail, and no handler succeeds: the processor backs off as a whole
LIVES = 3  # processes that may end while they handle one commit

_MAX_CATCHING_UP = 32  # streams at a time; each has a page in memory


class ProcessEnded(Exception):
    """Processes have ended while they handled this commit: a handler exits, or takes all memory."""

    def __init__(self, lives: int) -> None:
        super().__init__(f"{lives} processes ended while they handled this commit")


class Retries:
    """The tasks of a processor's streams that are not handled from its feed.

    - A failing handler is called `attempts` times; then its stream is parked, or, with `stops`, the processor stops.
    - If MAX_FAILING streams fail and none succeeds, no stream is parked: all of them wait for the first success.
    """

    def __init__(
        self,
        assignment: Assignment,
        following: Following,
        catch_up: CatchUp,
        parking: Parking,
        *,
        attempts: int,
        stops: bool,
        waits: bool,
    ) -> None:
        self._assignment, self._following = assignment, following
        self._catch_up, self._parking = catch_up, parking
        self._attempts, self.stops = attempts, stops
        self._waits = waits  # for what cannot be reached, without parking a stream
        self.ends = False  # the run ends at the end of the feed, so waiting for a success may be for ever
        self._running: dict[asyncio.Task[None], str] = {}  # the stream of each task, also if it has left it
        self._failing: set[str] = set()  # streams that failed since the last success of any handler
        self.reset()

    def reset(self) -> None:
        """Forget the failure of an earlier run."""
        self.failure: Exception | None = None
        self.last_error = ""  # the name of the last error of a handler
        self._places = asyncio.Semaphore(_MAX_CATCHING_UP)
        self._alone = asyncio.Semaphore(1)
        self._left = asyncio.Event()  # set when a stream is left to the feed again, or parked
        self._failing.clear()

    @property
    def is_backing_off(self) -> bool:
        """Whether everything fails, so that nothing is parked."""
        return len(self._failing) >= MAX_FAILING and not self.ends

    def succeeded(self) -> None:
        """Note that a handler succeeded."""
        if self._failing:
            if self.is_backing_off:  # it was not their fault, so each is tried once more before it is parked
                log.warning("%s: a handler has succeeded again", self._assignment.name)
                for entry in self._catch_up.entries.values():
                    entry.failures = min(entry.failures, self._attempts - 1)
            self._failing.clear()
            self._left.set()

    def _note_failing(self, stream: str, failed: HandlerFailed) -> None:
        was_backing_off, self.last_error = self.is_backing_off, type(failed.error).__name__
        self._failing.add(stream)
        if self.is_backing_off and not was_backing_off:
            log.warning(
                "%s: %d streams fail and no handler succeeds, so none of them is parked until one does: %s",
                *(self._assignment.name, len(self._failing), self.last_error),
            )

    def start(
        self,
        stream: str,
        latest: int = 0,
        *,
        failed: HandlerFailed | None = None,
        first: asyncio.Task[None] | None = None,
    ) -> None:
        """Handle a stream in a task of its own, at least up to `latest`; after `first`, if that is still running."""
        if self._catch_up.note_newer(stream, latest):
            return
        entry = self._catch_up.enter(stream, latest)
        entry.stored = self._parking.orphans.pop(stream, None)
        entry.failed, entry.first = failed, first
        entry.failures = 1 if failed is not None else entry.stored.attempts if entry.stored is not None else 0
        if failed is not None and failed.is_outage:
            entry.failures = min(1, self._attempts - 1)
        entry.at_risk = first is None and failed is None and self._has_ended(entry)
        if failed is not None:
            self._note_failing(stream, failed)
        entry.task = asyncio.create_task(self._run(entry))
        self._running[entry.task] = stream
        entry.task.add_done_callback(self._running.pop)

    def take_over(self, applied: Applied, runs: Sequence[Slice]) -> None:
        """Continue with those of these slices that failed, or take long. Raises the error of the others, if any."""
        for run, error in applied.failures:
            if isinstance(error, Interrupted):
                self._catch_up.enter(
                    run.stream, run.last_version
                ).is_suspended = True  # stored when the slot is given up
            else:
                failed = error if isinstance(error, HandlerFailed) else None
                self.start(run.stream, run.last_version, failed=failed)
        for run in runs if applied.slow else ():
            if (task := applied.slow.get(run.stream)) is not None:
                self.start(run.stream, run.last_version, first=task)
        if applied.error is not None:
            raise applied.error

    def start_orphans(self) -> None:
        """Continue with streams that nobody handles: a release was interrupted, or another process asked for it."""
        held_back = self._following.held_back if self._following.is_on else ()
        for stream in [stream for stream in self._parking.orphans if stream not in held_back]:
            if self._assignment.holds(stream) and self._assignment.may_start(stream):
                self.start(stream)

    async def wait_until_idle(self) -> None:
        """Wait until no task is left."""
        while tasks := self._tasks():
            await asyncio.wait(tasks)

    async def finish(self, numbers: Collection[int], grace: float) -> None:
        """End the tasks of these slots: at once between two attempts, else after the call in flight, or after `grace`.

        Their streams stay entered, so that `Parking.store` can keep them.
        """
        for stream, entry in self._catch_up.entries.items():
            if self._assignment.slot_of(stream) in numbers:
                entry.wake.set()
        releases = [
            entry.released
            for stream, entry in self._catch_up.entries.items()
            if entry.released is not None and self._assignment.slot_of(stream) in numbers
        ]
        waiting = [asyncio.ensure_future(released.wait()) for released in releases]
        tasks = self._tasks(numbers)
        if tasks or waiting:
            await asyncio.wait([*tasks, *waiting], timeout=grace)
            await cancel_all([*tasks, *waiting])

    def restart(self) -> None:
        """Start the tasks again that `finish` has ended, where the slots are held all the same."""
        for stream, entry in list(self._catch_up.entries.items()):
            has_ended = entry.task is not None and entry.task.done()
            if (has_ended or entry.is_suspended) and self.failure is None:
                self._catch_up.leave(entry)
                self._parking.orphans[stream] = entry.stored
        self.start_orphans()

    async def end_attempts(self) -> None:
        """Cancel all tasks, as there is no more time, and store their failures; a handler that is cut short has failed.

        After the last attempt the stream is parked. Otherwise the next worker that handles it continues to count. If
        the projection has `outages`, a handler that is cut short has met one, as it waits for something that does not
        answer, so that does not park its stream.

        Raises:
            StoreError: they could not be stored.
        """
        cut = {stream for stream in self._catch_up.entries if self._catch_up.is_calling(stream)}
        entries = [entry for entry in self._catch_up.entries.values() if entry.task is not None]
        await cancel_all(self._tasks())
        try:
            for entry in entries:
                if entry.stream in cut:
                    entry.failed = HandlerFailed(TimeoutError("the handler was cut short, as no time was left"))
                    most = self._attempts - 1 if self._waits else self._attempts
                    entry.failures = min(entry.failures + 1, most)
                if entry.failed is not None and entry.failures >= self._attempts:
                    await self._parking.park(entry, entry.failed, entry.failures)
                elif entry.failed is not None:
                    await self._parking.store(entry)
        finally:
            for entry in entries:
                self._catch_up.leave(entry)

    async def drop(self) -> None:
        """Cancel all tasks. The next run starts them again."""
        try:
            await cancel_all(self._tasks())
        finally:
            for entry in list(self._catch_up.entries.values()):
                if entry.task is not None or entry.is_suspended:
                    self._catch_up.leave(entry)

    def _tasks(self, numbers: Collection[int] | None = None) -> list[asyncio.Task[None]]:
        return [
            task
            for task, stream in self._running.items()
            if not task.done() and (numbers is None or self._assignment.slot_of(stream) in numbers)
        ]

    async def _run(self, entry: Entry) -> None:
        """The task of a stream. An error that stops the processor is kept as `failure`."""
        try:
            lives: int = await on_outage()(self._count_lives, entry)
            if lives >= LIVES - 1:
                await self._give_up(entry, HandlerFailed(ProcessEnded(LIVES)), LIVES)
                is_done = True
            else:
                is_done = await self._catch_up_with_retries(entry)
            self._catch_up.leave(entry)
            if is_done:
                await on_outage()(self._parking.clear, entry)
            elif entry.stored is not None:
                self._parking.orphans[entry.stream] = entry.stored  # held back: it is continued later
        except Interrupted:
            return  # it stays entered, so that it is stored before the slot is given up
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  # the pipeline raises it
            self.failure = self.failure or error  # the stream stays entered, as it is not handled
        except BaseException as error:
            self.failure = self.failure or RuntimeError(f"the task of {entry.stream} ended with {error!r}")
            raise
        finally:
            if entry.first is not None:
                entry.first.cancel()
            self._failing.discard(entry.stream)
            self._left.set()

    def _has_ended(self, entry: Entry) -> bool:
        """Whether the former holder of the stream's slot was killed, maybe by this stream's handler."""
        return self._assignment.slot_of(entry.stream) in self._assignment.unclean

    async def _count_lives(self, entry: Entry) -> int:
        """Return how many processes have ended at the commit that is next."""
        if not entry.at_risk or entry.stored is None or not entry.stored.lives:
            return 0
        return entry.stored.lives if entry.stored.version == await self._catch_up.position(entry.stream) + 1 else 0

    async def _attempt(self, entry: Entry) -> bool:
        if entry.at_risk:
            async with for_a_while(self._alone):  # so that of a process that ends, only one stream is suspected
                await self._assignment.wait_for_former_holder(entry.stream)
                await self._parking.store(entry, lives=await self._count_lives(entry) + 1)
                try:
                    await self._catch_up.run(entry, page=1)
                finally:
                    entry.at_risk = False
        return await self._catch_up.run(entry)

    async def _catch_up_with_retries(self, entry: Entry) -> bool:
        """Catch up, and park the stream after too many failed attempts. Wait while a store cannot be reached.

        Return False if a rebuild holds the stream back.
        """

        async def once() -> bool:
            if entry.failures >= self._attempts and entry.failed is not None and not self.is_backing_off:
                raise entry.failed
            async with for_a_while(self._places):
                began_backing_off = self.is_backing_off
                try:
                    if entry.at is None and entry.first is None:
                        entry.at = await self._catch_up.position(entry.stream)
                    return await self._attempt(entry)
                except HandlerFailed as error:
                    has_ended = began_backing_off and not self.is_backing_off  # so it may have met what has passed
                    self._note_failing(entry.stream, error)
                    before, entry.at = entry.at, await self._catch_up.position(entry.stream)
                    entry.failures = entry.failures + 1 if entry.at == before else 1
                    if has_ended or error.is_outage:
                        entry.failures = min(entry.failures, self._attempts - 1)
                    entry.failed = error
                    raise

        async def pause(seconds: float) -> None:
            await first_of(entry.wake, timeout=seconds)
            if not self._assignment.may_start(entry.stream):
                raise Interrupted(entry.stream)

        retrying = on_failed_handler(
            HandlerFailed,
            lambda: entry.failures,
            gives_up=lambda: entry.failures >= self._attempts and not self.is_backing_off,
            sleep=pause,
        )
        try:
            if entry.failed is not None:
                await pause(0.05)
            is_at_end: bool = await retrying(once)
        except HandlerFailed as error:
            if self.stops:
                raise error.error from None
            await self._give_up(entry, error, entry.failures)
            return True
        return is_at_end

    async def _give_up(self, entry: Entry, failed: HandlerFailed, attempts: int) -> None:
        await on_outage()(self._parking.park, entry, failed, attempts)
        entry.stored = None  # it stays
