"""The promises of handlers that fail, of events that cannot be read, and of calls that are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ....errors import StoredDataError, StreamsParked
from ....processing.projections.projection import Projection
from ....processing.slice import PositionMoved
from ..check import expect, expect_equal, expect_error
from .check import Capability, make_checks
from .desk import Desk, expect_handler_failed, make_slice
from .events import Trouble, ids_of, make_commits, make_unreadable

CANCELLATIONS = 8
ATTEMPTS = 50


async def a_parked_stream_holds_up_no_other(desk: Desk) -> None:
    """With a processor, a stream whose handler fails is parked at that commit: commits before it and other streams are
    handled. `retry` handles the rest, each event once.
    """
    projection = desk.make()
    processor, streams = desk.make_processor(projection), [desk.stream() for _ in range(3)]
    commits = {stream: make_commits(stream, 4) for stream in streams}
    for version in range(4):
        for stream in streams:
            await desk.store.append(commits[stream][version])
    desk.script.failing |= set(ids_of(commits[streams[1]][2:3]))
    await expect_error(StreamsParked, processor.run(until_caught_up=True), "a run with a handler that fails")
    parked = [(each.stream, each.version) for each in await processor.parked()]
    expect_equal(parked, [(streams[1], 3)], "the parked streams")
    for number, stream in enumerate(streams):
        at = 2 if number == 1 else 4
        await desk.expect_position(projection, stream, commits[stream][:at], "when a stream is parked")
        if number != 1:
            await desk.expect_handled(projection, stream, commits[stream], "of another stream")
    desk.script.failing.clear()
    await processor.retry(streams[1])
    await desk.expect_position(projection, streams[1], commits[streams[1]], "after retry")


async def a_failing_handler_keeps_what_came_before(desk: Desk) -> None:
    """If a handler fails in the middle of a slice, apply returns HandlerFailed with its error. The commits before are
    handled, the position is before the one that failed, and other slices are not affected.
    """
    projection = await desk.prepare()
    for place in range(4):
        stream, other = desk.stream(), desk.stream()
        commits, theirs = make_commits(stream, 4), make_commits(other, 3)
        failing = ids_of(commits[place : place + 1])
        for attempt in range(2):
            desk.script.failing = set(failing)
            start = place if attempt else 0
            runs = [make_slice(commits[start:])] if attempt else [make_slice(commits), make_slice(theirs)]
            what = f"the handler of commit {place + 1} of 4"
            expect_handler_failed(await desk.apply(projection, *runs), stream, Trouble, what)
            await desk.expect_position(projection, stream, commits[:place], f"after {what} failed")
            await desk.expect_handled(projection, other, theirs, f"of another stream, after {what} failed")
        desk.script.failing.clear()
        await desk.handle(projection, make_slice(commits[place:]))
        await desk.expect_position(projection, stream, commits, "after the handler was repaired")
        found = await desk.read(projection, stream)
        expect(set(found) == set(ids_of(commits)), f"the read model has {found}, expected {ids_of(commits)}")


async def a_failing_handler_leaves_nothing_of_its_commit(desk: Desk) -> None:
    """Nothing stays of a commit whose handler fails, neither of the event that fails nor of those before it in the
    commit. When it succeeds, each event has been handled once.
    """
    projection = await desk.prepare()
    for place in range(3):
        stream = desk.stream()
        commits = make_commits(stream, 3, events=3)
        desk.script.failing = {ids_of(commits)[3 + place]}
        what = f"the handler of event {place + 1} of 3 in the second commit"
        for start in (0, 1):
            run = make_slice(commits[start:])
            expect_handler_failed(await desk.apply(projection, run), stream, Trouble, what)
            await desk.expect_handled(projection, stream, commits[:1], f"after {what} failed")
        desk.script.failing.clear()
        await desk.handle(projection, make_slice(commits[1:]))
        await desk.expect_handled(projection, stream, commits, "after the handler was repaired")


async def an_event_that_cannot_be_read_fails(desk: Desk) -> None:
    """An event that cannot be read counts as a failing handler: HandlerFailed, with the position before it."""
    projection, stream = await desk.prepare(), desk.stream()
    commits = [*make_commits(stream, 2), make_unreadable(stream, 3), *make_commits(stream, 1, first=4)]
    errors = await desk.apply(projection, make_slice(commits))
    expect_handler_failed(errors, stream, StoredDataError, "an event that cannot be read")
    await desk.expect_handled(projection, stream, commits[:2], "after an event that cannot be read")


async def a_cancelled_slice_is_handled_or_not(desk: Desk) -> None:
    """If apply is cancelled at any moment, read model and position still agree. The slice can be handled again, and
    then each event has been handled once.
    """
    projection = await desk.prepare()
    for steps in range(CANCELLATIONS):
        for place in (-1, 0, 2):
            await _cancel(desk, projection, steps, place)


async def _cancel(desk: Desk, projection: Projection, steps: int, place: int) -> None:
    """Cancel a call of apply some steps after it began, or after the handler of an event was called."""
    stream = desk.stream()
    commits = make_commits(stream, 3)
    applying = asyncio.create_task(desk.apply(projection, make_slice(commits)))
    called, count = asyncio.Event(), len(desk.script.calls)
    desk.script.act = _notify(desk, called, count + place + 1)
    if place >= 0:
        waiting = asyncio.create_task(called.wait())
        await asyncio.wait({applying, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
    for _ in range(steps):
        await asyncio.sleep(0)
    applying.cancel()
    await asyncio.gather(applying, return_exceptions=True)
    desk.script.act = None
    for _ in range(ATTEMPTS):
        before = await desk.position(projection, stream)
        found = await desk.read(projection, stream)
        if await desk.position(projection, stream) != before:
            continue  # the cancelled call has taken effect in between
        version = before.version if before is not None else 0
        expect_equal(found, ids_of(commits[:version]), f"the read model at position {version}, after a cancelled call")
        if version == len(commits):
            return
        errors = await desk.apply(projection, make_slice(commits[version:]))
        expect(all(isinstance(each, PositionMoved) for each in errors.values()), f"after a cancelled call: {errors}")
    expect(kept=False, otherwise="a slice could not be handled after a cancelled call")


def _notify(desk: Desk, called: asyncio.Event, count: int) -> Callable[[], None]:
    loop = asyncio.get_running_loop()

    def act() -> None:
        if len(desk.script.calls) == count:
            loop.call_soon_threadsafe(called.set)

    return act


CHECKS = (
    *make_checks(
        a_parked_stream_holds_up_no_other,
        a_failing_handler_keeps_what_came_before,
        an_event_that_cannot_be_read_fails,
    ),
    *make_checks(a_failing_handler_leaves_nothing_of_its_commit, needs=[Capability.UNDOES]),
    *make_checks(a_cancelled_slice_is_handled_or_not, needs=[Capability.ATOMIC]),
)
