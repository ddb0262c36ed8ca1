"""The promises of workers whose slot was taken over."""

from __future__ import annotations

from ....errors import Fenced
from ....processing.slice import Fence, PositionMoved
from ..check import expect, expect_error
from .check import Capability, make_checks
from .desk import Desk, expect_failure, make_slice
from .dropping import discard, reset
from .events import make_commits

NEW = Fence(0, 2)


async def a_stale_worker_is_fenced(desk: Desk) -> None:
    """A worker whose slot was taken over is refused with Fenced once its successor has handled the stream: its slice
    leaves nothing, and its `advance` moves nothing.
    """
    old, new = await desk.prepare(), await desk.prepare()
    stream = desk.stream()
    commits = make_commits(stream, 5)
    await desk.claim(old, 1)
    await desk.handle(old, make_slice(commits[:2]))
    await desk.claim(new, 2)
    await desk.handle(new, make_slice(commits[2:3], NEW))
    expect_failure(await desk.apply(old, make_slice(commits[3:])), stream, Fenced, "a slice of a stale worker")
    await desk.expect_handled(new, stream, commits[:3], "after a stale worker")
    await expect_error(Fenced, old.advance(make_slice(commits[3:])), "an advance of a stale worker")
    await desk.expect_handled(new, stream, commits[:3], "after an advance of a stale worker")
    await desk.handle(new, make_slice(commits[3:], NEW))
    await desk.expect_handled(new, stream, commits, "after the successor has continued")


async def a_worker_that_lost_its_slot_begins_no_stream(desk: Desk) -> None:
    """A worker whose slot was taken over handles no stream that has no position yet: either its write is refused, or it
    awaits `confirm` of the slice before it writes.
    """
    old, new = await desk.prepare(), await desk.prepare()
    stream = desk.stream()
    commits = make_commits(stream, 2)
    await desk.claim(old, 1)
    await desk.claim(new, 2)
    run = desk.confirming(old, make_slice(commits))
    expect_failure(await desk.apply(old, run), stream, Fenced, "the first slice of a stale worker")
    await desk.expect_handled(new, stream, [], "after a worker that lost its slot")
    await desk.handle(new, make_slice(commits, NEW))
    await desk.expect_handled(new, stream, commits, "after the successor")


async def a_discarded_version_fences_its_workers(desk: Desk) -> None:
    """A worker that still runs when the version is discarded writes nothing afterwards."""
    old, other = await desk.prepare(), await desk.prepare()
    stream, fresh = desk.stream(), desk.stream()
    commits = make_commits(stream, 3)
    await desk.claim(old, 1)
    await desk.handle(old, make_slice(commits[:2]))
    await discard(other)
    await other.prepare()
    for run in (make_slice(commits[2:]), make_slice(commits), make_slice(make_commits(fresh, 1))):
        error = (await desk.apply(old, desk.confirming(old, run))).get(run.stream)
        expect(isinstance(error, (Fenced, PositionMoved)), f"a worker of a discarded version got {error!r}")
        await desk.expect_handled(other, run.stream, [], "after a worker of a discarded version")


async def a_stale_worker_resets_nothing(desk: Desk) -> None:
    """`reset` by a worker whose slot was taken over raises Fenced, and drops nothing."""
    old, new = await desk.prepare(), await desk.prepare()
    stream = desk.stream()
    commits = make_commits(stream, 3)
    await desk.claim(old, 1)
    await desk.handle(old, make_slice(commits[:2]))
    await desk.claim(new, 2)
    await desk.handle(new, make_slice(commits[2:], NEW))
    await expect_error(Fenced, reset(old, stream), "a reset by a stale worker")
    await desk.expect_handled(new, stream, commits, "after a stale worker could not reset")


CHECKS = (
    *make_checks(a_stale_worker_is_fenced, needs=[Capability.FENCES, Capability.ATOMIC]),
    *make_checks(a_worker_that_lost_its_slot_begins_no_stream, needs=[Capability.FENCES]),
    *make_checks(a_discarded_version_fences_its_workers, needs=[Capability.FENCES, Capability.DROPS]),
    *make_checks(a_stale_worker_resets_nothing, needs=[Capability.FENCES, Capability.RESETS]),
)
