"""The promises of versions, which share nothing, and of read models that are dropped."""

from __future__ import annotations

from ....processing.projections.projection import Projection
from ....processing.slice import Fence, PositionMoved
from ..check import expect, expect_equal
from .check import Capability, make_checks
from .desk import FENCE, Desk, expect_failure, make_slice
from .events import make_commits

VERSIONS = (1, 2, 12)  # names of which one begins with another


async def versions_share_nothing(desk: Desk) -> None:
    """Each version has a read model and positions of its own."""
    objects = {version: await desk.prepare(version) for version in VERSIONS}
    stream = desk.stream()
    commits = make_commits(stream, 3)
    for count, projection in enumerate(objects.values(), 1):
        await desk.expect_handled(projection, stream, [], "of a new version")
        await desk.handle(projection, make_slice(commits[:count]))
    for count, (version, projection) in enumerate(objects.items(), 1):
        await desk.expect_handled(projection, stream, commits[:count], f"of version {version}")


async def positions_of_another_version_are_found(desk: Desk) -> None:
    """`positions_of` returns the positions of another version by its name, also if that was never prepared here."""
    one, stream, other = await desk.prepare(1), desk.stream(), desk.stream()
    commits = make_commits(stream, 2)
    await desk.handle(one, make_slice(commits))
    two = await desk.prepare(2)
    found = await two.positions_of(one.name, [stream, other])
    expect_equal(found, {stream: make_slice(commits).position}, "the positions of version 1")
    expect_equal(await one.positions_of(two.name, [stream]), {}, "the positions of a version without any")
    never = desk.make(12).name
    expect_equal(await one.positions_of(never, [stream]), {}, "the positions of a version that was never prepared")


async def discard(projection: Projection) -> None:
    """Discard a version. Raises AssertionError if it refuses."""
    try:
        await projection.discard()
    except TypeError as error:
        raise AssertionError(f"discard raised TypeError: {error}") from error


async def a_discarded_version_begins_with_nothing(desk: Desk) -> None:
    """`discard` drops the read model and the positions of its version and of no other; it may be called again. Then
    each stream begins with a first slice, and a slice that is not the first one is refused.
    """
    objects = {version: await desk.prepare(version) for version in VERSIONS}
    stream = desk.stream()
    commits = make_commits(stream, 3)
    await desk.claim(objects[1], 1)
    for projection in objects.values():
        await desk.handle(projection, make_slice(commits[:2]))
    for _ in range(2):
        await discard(objects[1])
    for version, projection in objects.items():
        await projection.prepare()
        await desk.expect_handled(projection, stream, commits[:2] if version > 1 else [], f"of version {version}")
    again = objects[1]
    later = Fence(0, max((slot.epoch for slot in await desk.checkpoints.slots(again.name)), default=0) + 1)
    await desk.claim(again, later.epoch)
    late = make_slice(commits[2:], later)
    expect_failure(await desk.apply(again, late), stream, PositionMoved, "a slice that is not the first one")
    await desk.handle(again, make_slice(commits, later))
    await desk.expect_handled(again, stream, commits, "of the version that was built again")


async def a_refused_discard_changes_nothing(desk: Desk) -> None:
    """A kind that cannot drop its read model raises TypeError from `discard`, and changes nothing."""
    projection, stream = await desk.prepare(), desk.stream()
    commits = make_commits(stream, 3)
    await desk.handle(projection, make_slice(commits[:2]))
    try:
        await projection.discard()
    except TypeError as error:
        expect(bool(str(error)), "the TypeError does not say what to do")
        await desk.expect_handled(projection, stream, commits[:2], "after discard was refused")
        await desk.handle(projection, make_slice(commits[2:]))
        await desk.expect_handled(projection, stream, commits, "after the next slice")


async def reset(projection: Projection, stream: str) -> None:
    """Reset a stream. Raises AssertionError if the kind refuses."""
    try:
        await projection.reset(stream, FENCE)
    except TypeError as error:
        raise AssertionError(f"reset raised TypeError: {error}") from error


async def a_stream_that_is_reset_begins_with_nothing(desk: Desk) -> None:
    """`reset` drops what one stream has written, with its position, and nothing of other streams or versions. Then all
    its events are handled again.
    """
    projection, other = await desk.prepare(1), await desk.prepare(2)
    stream, neighbour = desk.stream(), desk.stream()
    commits, theirs = make_commits(stream, 3), make_commits(neighbour, 2)
    for each in (projection, other):
        await desk.handle(each, make_slice(commits[:2]), make_slice(theirs))
    for _ in range(2):
        await reset(projection, stream)
    await desk.expect_handled(projection, stream, [], "after reset")
    await desk.expect_handled(projection, neighbour, theirs, "of another stream, after reset")
    await desk.expect_handled(other, stream, commits[:2], "of another version, after reset")
    late = make_slice(commits[2:])
    expect_failure(await desk.apply(projection, late), stream, PositionMoved, "a slice that is not the first one")
    await desk.handle(projection, make_slice(commits))
    await desk.expect_handled(projection, stream, commits, "after its events were handled again")


async def a_refused_reset_changes_nothing(desk: Desk) -> None:
    """A kind that cannot drop what one stream has written raises TypeError from `reset`, and changes nothing."""
    projection, stream = await desk.prepare(), desk.stream()
    commits = make_commits(stream, 3)
    await desk.handle(projection, make_slice(commits[:2]))
    try:
        await projection.reset(stream, FENCE)
    except TypeError as error:
        expect(bool(str(error)), "the TypeError does not say what to do")
        await desk.expect_handled(projection, stream, commits[:2], "after reset was refused")
        await desk.handle(projection, make_slice(commits[2:]))
        await desk.expect_handled(projection, stream, commits, "after the next slice")


CHECKS = (
    *make_checks(versions_share_nothing, a_refused_discard_changes_nothing, a_refused_reset_changes_nothing),
    *make_checks(positions_of_another_version_are_found, needs=[Capability.SHARES]),
    *make_checks(a_discarded_version_begins_with_nothing, needs=[Capability.DROPS]),
    *make_checks(a_stream_that_is_reset_begins_with_nothing, needs=[Capability.RESETS]),
)
