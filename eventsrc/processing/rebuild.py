"""Rebuild a read model while the old one stays in use, then switch to the new one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from msgspec import structs

from ..concurrency import cancel_all
from ..errors import Fenced, NotActive, StoreChanged, StreamsParked
from ..log import log
from ..retrying import on_outage, on_takeover
from ..stores.feed import Head
from ..stream_id import category_of
from .assignment import CONFIRM_SECONDS, REBUILD
from .checkpoints.checkpoints import Checkpoints, Slot
from .checkpoints.registry import Registration
from .processor import Processor
from .projections.projection import Guarantee
from .worker import Worker

Progress = Callable[[int, int], object]
"""Called with the number of handled commits, and the number of all."""

_PROGRESS_INTERVAL = 0.2  # seconds
_BEAT_INTERVAL = 2.0  # seconds
_UNDO_SECONDS = 10.0  # for giving the old version its slots back


class CannotRebuild(ValueError):
    """A version has `start="now"`: commits before its start were never to be handled."""

    def __init__(self, name: str) -> None:
        super().__init__(f'{name} has start="now", and cannot be rebuilt; give the new version a tag of its own')


class Plan(NamedTuple):
    """What a rebuild would do."""

    active: int | None  # the version that readers use
    handled: int  # commits that the new version has handled already
    total: int  # commits that it will have handled: those of the active version, or all


async def plan_rebuild(processor: Processor[Any]) -> Plan:
    """Return what `rebuild` would do at this moment, without changing anything.

    Raises:
        CannotRebuild, StoreChanged: as `rebuild`.
    """
    active = await processor.checkpoints.active(processor.projection.tag)
    old, _ = await _find_old(processor, active)
    return Plan(active, await _count(processor, processor.name), await _total(processor, old))


async def rebuild(
    processor: Processor[Any],
    *,
    progress: Progress | None = None,
    on_error: Literal["stop", "park"] = "stop",
    rate: float | None = None,
    until: asyncio.Event | None = None,
) -> None:
    """Build the read model of a new version while the active version continues to run, then make the new one active.

    1. The new version handles each stream up to the position of the active one. `context.muted` is true, so that
       handlers do not act outside again. The active version continues.
    2. The active version waits while the new one handles, still muted, what it has handled in the meantime.
    3. Readers switch to the new version (`Checkpoints.active`), and the old one ends with NotActive. If anything fails
       before that, the old one continues.
    4. Commits that no version has handled are handled now, not muted. So each outside effect belongs to one of the two
       versions, except one that the old version had begun: see CONFIRM_SECONDS and `handler_timeout`.

    If no version is active, this one becomes active and runs to the end of the feed. Afterwards `run` it, and drop the
    old one with `Processor.forget`.

    - `progress` is called with the handled commits and all that the active version has handled. If positions are in the
      rows of the read model, counting them scans the store.
    - `on_error="stop"` stops the rebuild when a handler fails; `"park"` parks the stream, and switches all the same.
    - `rate` limits how many commits are read in a second, for stores that also serve others.
    - With `until`, it continues as the worker of the new version until that event is set, for example when the release
      with the new version has started, so that commits are handled all the time.
    - It may be cancelled or killed at any time; call it again to continue.

    Raises:
        ValueError: one of the two versions has `start="now"`. Commits before its start were never to be handled, so the
            read model cannot be rebuilt from all commits.
        StreamsParked: with `on_error="park"`: the new version is active, and has handled everything except these.
        NotActive: another version became active in the meantime.
        RuntimeError: this object runs.
        Exception: what a handler raised, with `on_error="stop"`, or what `progress` raised.
    """
    if processor.pipeline.running:  # its settings are not changed
        raise RuntimeError(f"{processor.name} runs already; rebuild another object of it, in another process")
    retries = processor.pipeline.retries
    stops, retries.stops = retries.stops, on_error == "stop"
    try:
        await _Rebuild(processor, progress, rate).run()
        if until is not None:
            await _run_until(processor, until)
    finally:
        retries.stops = stops
        processor.pipeline.following.stop()
    if parked := await processor.parked():
        raise StreamsParked(processor.name, sorted(each.stream for each in parked))


async def _run_until(processor: Processor[Any], until: asyncio.Event) -> None:
    processor.pipeline.retries.stops = False  # from here on it is a worker like any other
    worker = Worker([processor.pipeline])
    running = asyncio.create_task(worker.run())
    stopping = asyncio.create_task(until.wait())
    try:
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        worker.stop()
        await running
    finally:
        await cancel_all([running, stopping])


class _Rebuild:
    def __init__(self, processor: Processor[Any], progress: Progress | None, rate: float | None) -> None:
        self._processor, self._progress, self._rate = processor, progress, rate
        self._checkpoints, self._projection = processor.checkpoints, processor.projection

    async def run(self) -> None:
        checkpoints, tag, version = self._checkpoints, self._projection.tag, self._projection.version
        active = await checkpoints.active(tag)
        old, registration = await _find_old(self._processor, active)
        if old is None:
            await self._pass(None)
            return
        following = self._processor.pipeline.following
        following.start(old, registration)
        await self._pass(old)
        async with _switching(checkpoints, old) as slots:
            await self._pass(old)  # what the old version has handled since; now it handles no more
            for slot in slots:  # if this process was stopped for long, the old version has taken them back
                await checkpoints.save(old, slot)
            activate = checkpoints.registry.activate
            if not await on_outage()(activate, tag, version, instead_of=active):
                raise NotActive(tag, version, await checkpoints.active(tag) or 0)
        following.stop()
        await self._pass(None)

    async def _pass(self, old: str | None) -> None:
        """Run the processor to the end of the feed, and report progress."""
        processor, progress = self._processor, self._progress
        if progress is None:
            await on_takeover()(self._run)
            return
        before = await _count(processor, processor.name) - processor.pipeline.progress.commits
        total = await _total(processor, old)

        def report() -> None:
            done = before + processor.pipeline.progress.commits
            progress(done, max(done, total))  # `total` is too low if the active version or writers have continued

        async def keep_reporting() -> None:
            while True:
                report()
                await asyncio.sleep(_PROGRESS_INTERVAL)

        reporting = asyncio.create_task(keep_reporting())
        try:
            await on_takeover()(self._run)
        finally:
            reporting.cancel()
            await asyncio.wait([reporting])
            failure = None if reporting.cancelled() else reporting.exception()
        if failure is not None:
            raise failure
        before = await _count(processor, processor.name) - processor.pipeline.progress.commits  # with parts of slices
        report()

    async def _run(self) -> None:
        await Worker([self._processor.pipeline], rate=self._rate).run(until_caught_up=True, accept_parked=True)


async def _find_old(processor: Processor[Any], active: int | None) -> tuple[str | None, Registration | None]:
    """Return the version to replace, if another one is active, and its registration.

    Raises:
        CannotRebuild: one of the two versions has `start="now"`.
        StoreChanged: the active version belongs to another store.
    """
    assignment = processor.pipeline.assignment
    if assignment.registrar.from_now:
        raise CannotRebuild(processor.name)
    if active in (None, processor.projection.version):
        return None, None
    old = f"{processor.projection.tag}@{active}"
    registration = await processor.checkpoints.registry.registration(old)
    if registration is not None and registration.store != await assignment.feed.identity():
        raise StoreChanged(old, "it belongs to another store or tenant than the version that is to replace it")
    if registration is not None and registration.started > 0:
        raise CannotRebuild(old)
    return old, registration


@asynccontextmanager
async def _switching(checkpoints: Checkpoints, old: str) -> AsyncGenerator[Sequence[Slot]]:
    """Keep the old version from handling commits inside the block; at its end retire it. Yields its slots.

    If the block fails, the old version continues. If this process is killed, the workers of the old version notice that
    its heartbeats stop, and continue, too.
    """
    worker = f"{REBUILD}{uuid4()}"
    await checkpoints.workers.heartbeat(worker)
    beating = asyncio.create_task(_beat(checkpoints, worker))
    try:
        try:
            was_open = any(slot.open for slot in await checkpoints.slots(old))
            slots = await _claim(checkpoints, old, lambda slot: structs.replace(slot, switch=worker, owner=""))
            if was_open:
                await asyncio.sleep(CONFIRM_SECONDS)  # acts outside that were begun before it was fenced
            yield slots
        except BaseException:
            undoing: asyncio.Task[None] = asyncio.create_task(on_outage()(_undo, checkpoints, old))
            done, _ = await asyncio.wait([undoing], timeout=_UNDO_SECONDS)
            if not done:  # the workers of the old version notice that the heartbeats stop
                undoing.cancel()
            elif (error := undoing.exception()) is not None:
                log.error("%s was not given its slots back: %r; its workers take them back", old, error)
            raise
        await on_outage()(_claim, checkpoints, old, _retired)
    finally:
        await cancel_all([beating])
        await checkpoints.workers.sign_off(worker)


async def _undo(checkpoints: Checkpoints, old: str) -> None:
    """Give the slots back, or retire the version if another one was activated by a call whose answer was lost."""
    tag, _, version = old.rpartition("@")
    was_kept = await checkpoints.active(tag) == int(version)
    await _claim(checkpoints, old, _resumed if was_kept else _retired)


def _resumed(slot: Slot) -> Slot:
    return structs.replace(slot, switch="", owner=slot.switch or slot.owner)


def _retired(slot: Slot) -> Slot:
    return structs.replace(slot, switch="", owner="", retired=True)


async def _claim(checkpoints: Checkpoints, processor: str, change: Callable[[Slot], Slot]) -> Sequence[Slot]:
    """Change all slots that are not as wanted, and raise their epochs. Return what was stored."""
    claimed: dict[int, Slot] = {}
    while True:
        try:
            for slot in await checkpoints.slots(processor):
                if (new := change(slot)) != slot:
                    claimed[slot.number] = structs.replace(new, epoch=slot.epoch + 1, open=False)
                    await checkpoints.claim(processor, claimed[slot.number])
        except Fenced:  # a worker has claimed it just now
            continue
        return list(claimed.values())


async def _beat(checkpoints: Checkpoints, worker: str) -> None:
    while True:
        await asyncio.sleep(_BEAT_INTERVAL)
        try:
            await checkpoints.workers.heartbeat(worker)
        except Exception as error:  # noqa: BLE001  # the next one may arrive
            log.warning("a rebuild could not send a heartbeat: %r", error)


async def _total(processor: Processor[Any], old: str | None) -> int:
    """Return the number of commits to handle: those that the active version has handled, or all."""
    if old is not None:
        return await _count(processor, old)
    feed = processor.pipeline.assignment.feed
    if not processor.projection.categories and (remaining := await feed.remaining("")) is not None:
        return remaining
    return sum([head.version async for page in feed.heads() for head in page if _takes(processor, head)])


def _takes(processor: Processor[Any], head: Head) -> bool:
    categories = processor.projection.categories
    return not categories or category_of(head.stream) in categories


async def _count(processor: Processor[Any], name: str) -> int:
    """Return the number of commits that a version has handled: the sum of its positions, as streams have no gaps.

    Streams of categories that the processor does not take are left out, also if the version is an older one.

    If positions are in the rows of the read model, the names of the streams are read from the store.
    """
    if processor.projection.guarantee is not Guarantee.ROW:
        pages = processor.checkpoints.all_positions(name)
        return sum([position.version async for page in pages for position in page if _takes(processor, position)])
    count = 0
    async with aclosing(processor.pipeline.assignment.feed.heads()) as heads:
        async for page in heads:
            streams = [head.stream for head in page if _takes(processor, head)]
            found = await processor.projection.positions_of(name, streams)
            count += sum(position.version for position in found.values())
    return count
