"""The promises of slices that are handled: each event once, in order, and together with the position."""

from __future__ import annotations

import asyncio

from msgspec import structs

from ....concurrency import load_all
from ....processing.checkpoints.memory import MemoryCheckpoints
from ....processing.projections.projection import Guarantee, Projection
from ....processing.slice import PositionMoved, Slice
from ..check import expect, expect_equal, expect_error
from ..checkpoints.samples import STREAMS
from .check import Capability, make_checks
from .desk import Desk, expect_failure, make_slice
from .events import ids_of, make_commits

CUTS = ((5,), (1, 1, 1, 1, 1), (2, 3), (1, 4), (3, 1, 1))  # sizes of slices
ROUNDS = 3
MANY = 230  # streams: several pages
OBJECTS = 4


async def each_event_is_handled_once_and_in_order(desk: Desk) -> None:
    """With a processor, each event is handled once and in the order of its stream: also if the feed delivers it again,
    if it is stored while nothing runs, and if another process continues.
    """
    projection = desk.make()
    processor, streams = desk.make_processor(projection), [desk.stream() for _ in range(3)]
    for first in (1, 3):
        for version in (first, first + 1):
            for stream in streams:
                [commit] = make_commits(stream, 1, first=version, events=version)
                await desk.store.append(commit)
        await processor.run(until_caught_up=True)
        await processor.resume_from("")
        await processor.run(until_caught_up=True)
        for stream in streams:
            await _expect_all(desk, projection, stream, "after the processor has caught up twice")
    other = desk.make()
    successor = desk.make_processor(other)
    await successor.resume_from("")
    await successor.run(until_caught_up=True)
    for stream in streams:
        await _expect_all(desk, other, stream, "after another process has continued")


async def _expect_all(desk: Desk, projection: Projection, stream: str, when: str) -> None:
    await desk.expect_handled(projection, stream, (await desk.store.load(stream)).commits, when)


async def slices_may_be_cut_anywhere(desk: Desk) -> None:
    """However the commits of a stream are cut into slices, each event is handled once and in order, and after each
    slice the position has version, id and time of its last commit.
    """
    projection = await desk.prepare()
    for cut in CUTS:
        stream, end = desk.stream(), 0
        commits = make_commits(stream, 5, events=2)
        for size in cut:
            start, end = end, end + size
            await desk.handle(projection, make_slice(commits[start:end]))
            await desk.expect_handled(projection, stream, commits[:end], f"after {end} commits, cut as {cut},")


async def a_first_slice_may_begin_anywhere(desk: Desk) -> None:
    """The first slice of a stream may begin after any version, because a processor may start in the middle."""
    projection, stream = await desk.prepare(), desk.stream()
    commits = make_commits(stream, 4, first=7)
    await desk.handle(projection, make_slice(commits[:2], is_first=True))
    await desk.handle(projection, make_slice(commits[2:]))
    await desk.expect_handled(projection, stream, commits, "after slices from version 7 on")


async def streams_are_kept_apart(desk: Desk) -> None:
    """Streams whose ids are long or differ little have read models and positions of their own, also if they are handled
    together. `positions` returns those of the streams that have one, and nothing for others.
    """
    projection = await desk.prepare()
    streams = [desk.stream(each) for each in STREAMS]
    expect_equal(await projection.positions([]), {}, "the positions of no streams")
    expect_equal(await projection.positions(streams), {}, "the positions before the first slice")
    commits = {stream: make_commits(stream, count) for count, stream in enumerate(streams[1:], 2)}
    await desk.handle(projection, *(make_slice(each[:1]) for each in commits.values()))
    await desk.handle(projection, *(make_slice(each[1:]) for each in commits.values()))
    for stream in streams:
        await desk.expect_handled(projection, stream, commits.get(stream, []), "after slices of many streams")
    found = await projection.positions([*streams, "account-2", *streams])
    expect_equal(found, {each: make_slice(commits[each]).position for each in streams[1:]}, "the positions")


async def many_streams_are_handled(desk: Desk) -> None:
    """Many streams may be handled in one batch, or at the same time, up to the `concurrency` of the kind. `positions`
    finds all of them.
    """
    projection = await desk.prepare()
    commits = {stream: make_commits(stream, 2) for stream in (desk.stream() for _ in range(MANY))}
    runs = {stream: make_slice(each) for stream, each in commits.items()}
    if projection.in_batches:
        await desk.handle(projection, *runs.values())
    else:
        await load_all(lambda stream: desk.handle(projection, runs[stream]), runs, projection.concurrency)
    found = await projection.positions(list(runs))
    expect_equal(len(found), MANY, "the number of positions")
    expect(found == {stream: run.position for stream, run in runs.items()}, "the positions are those of other commits")
    for stream in list(runs)[:: MANY // 10]:
        await desk.expect_handled(projection, stream, commits[stream], "after slices of many streams")


async def a_batch_is_handled_in_the_order_of_the_feed(desk: Desk) -> None:
    """A kind that takes batches calls the handlers in the order of the feed, across streams, unless its `order` is
    "stream". Other kinds need not.
    """
    projection, streams = await desk.prepare(), [desk.stream() for _ in range(3)]
    positions = range(1, ROUNDS * len(streams) + 1)
    runs: list[Slice] = []
    for number, stream in enumerate(streams):  # they took turns
        taken = zip(make_commits(stream, ROUNDS), positions[number :: len(streams)], strict=True)
        runs.append(make_slice([structs.replace(commit, position=position) for commit, position in taken]))
    await desk.handle(projection, *runs[::-1])
    called = [context.commit.position or 0 for context in desk.script.calls]
    if not projection.in_batches or projection.order == "stream":
        called.sort()
    expect_equal(called, list(positions), "the positions in the feed of the commits whose handlers were called")


async def a_slice_that_does_not_follow_leaves_nothing(desk: Desk) -> None:
    """A slice that does not begin at the position fails with PositionMoved, and leaves nothing: it begins before or
    after it, it is a first slice and there is a position, or it is not the first one and there is no position.
    """
    projection, stream, other = await desk.prepare(), desk.stream(), desk.stream()
    commits, theirs = make_commits(stream, 6), make_commits(other, 3)
    for start in (0, 2):
        late = make_slice(commits[start:4], is_first=False)
        expect_failure(await desk.apply(projection, late), stream, PositionMoved, "a slice without a position")
        await desk.expect_handled(projection, stream, [], "after a slice that does not follow")
    await desk.handle(projection, make_slice(commits[:3]))
    wrong = [make_slice(commits[start:], is_first=False) for start in (0, 1, 2, 4, 5)]
    wrong += [make_slice(commits[start:], is_first=True) for start in (0, 3)]
    for number, each in enumerate(wrong):
        what = f"a slice after {each.after}, first: {each.is_first}, where the position is 3,"
        neighbour = make_slice(theirs[:1] if number == 0 else theirs[1:2]) if number < 2 else None
        runs = (each,) if neighbour is None else (neighbour, each)
        expect_failure(await desk.apply(projection, *runs), stream, PositionMoved, what)
        await desk.expect_handled(projection, stream, commits[:3], f"after {what}")
        await desk.expect_handled(projection, other, theirs[: min(number + 1, 2)], f"of a stream alongside {what}")
    await desk.handle(projection, make_slice(commits[3:]))
    await desk.expect_handled(projection, stream, commits, "after the slice that follows")


async def of_racing_objects_one_handles_a_slice(desk: Desk) -> None:
    """If several objects handle slices from one position at once, one succeeds, the others fail with PositionMoved, and
    the read model has the effect of one.
    """
    objects = [await desk.prepare() for _ in range(OBJECTS)]
    stream, done = desk.stream(), 0
    commits = make_commits(stream, ROUNDS)
    for done in range(ROUNDS):
        run = make_slice(commits[done : done + 1])
        outcomes = await asyncio.gather(*(desk.apply(each, run) for each in objects))
        names = sorted(type(outcome.get(stream)).__name__ for outcome in outcomes)
        expect_equal(names, ["NoneType", *["PositionMoved"] * (OBJECTS - 1)], "the outcomes of racing objects")
        await desk.expect_handled(objects[done], stream, commits[: done + 1], "after a race")


async def an_object_that_was_overtaken_leaves_nothing(desk: Desk) -> None:
    """A slice fails with PositionMoved, and leaves nothing, if another object has handled its commits since then."""
    one, other = await desk.prepare(), await desk.prepare()
    stream = desk.stream()
    commits = make_commits(stream, 4)
    await desk.handle(one, make_slice(commits[:1]))
    await desk.handle(other, make_slice(commits[1:3]))
    for end in (2, 3, 4):
        late = make_slice(commits[1:end])
        expect_failure(await desk.apply(one, late), stream, PositionMoved, "a slice that another object has handled")
        await desk.expect_handled(one, stream, commits[:3], "after an object was overtaken")
    await desk.handle(one, make_slice(commits[3:]))
    await desk.expect_handled(other, stream, commits, "after it has continued")


async def another_object_continues(desk: Desk) -> None:
    """Every object of one version has the same read model and positions: each continues where another one ended."""
    one, other = await desk.prepare(), await desk.prepare()
    stream = desk.stream()
    commits = make_commits(stream, 4)
    await desk.handle(one, make_slice(commits[:2]))
    await desk.expect_handled(other, stream, commits[:2], "of another object")
    await desk.handle(other, make_slice(commits[2:3]))
    await desk.handle(one, make_slice(commits[3:]))
    for each in (one, other, await desk.prepare()):
        await desk.expect_handled(each, stream, commits, "after two objects took turns")


async def advance_calls_no_handler(desk: Desk) -> None:
    """`advance` moves the position to the end of the slice without calling handlers. It raises PositionMoved, and moves
    nothing, if the slice does not begin at the position.
    """
    projection, stream = await desk.prepare(), desk.stream()
    commits = make_commits(stream, 6)
    await projection.advance(make_slice(commits[:2]))
    await desk.expect_position(projection, stream, commits[:2], "after advance")
    for wrong in (make_slice(commits[1:]), make_slice(commits[:3]), make_slice(commits[3:])):
        error = await expect_error(PositionMoved, projection.advance(wrong), f"advance after {wrong.after}")
        expect_equal(error.stream, stream, "the stream of PositionMoved")
        await desk.expect_position(projection, stream, commits[:2], "after advance was refused")
    await desk.handle(projection, make_slice(commits[2:3]))
    await projection.advance(make_slice(commits[3:5]))
    await desk.handle(projection, make_slice(commits[5:]))
    await desk.expect_position(projection, stream, commits, "after the last slice")
    handled = ids_of([commits[2], commits[5]])
    expect_equal(await desk.read(projection, stream), handled, "the events, of which some were passed by advance,")
    expect_equal([context.id for context in desk.script.calls], handled, "the handler calls")


async def events_without_a_handler_are_passed(desk: Desk) -> None:
    """Events that no handler takes move the position, and leave nothing in the read model."""
    projection, stream = await desk.prepare(), desk.stream()
    ignored, taken = make_commits(stream, 2, ignored=True), make_commits(stream, 1, first=3)
    more = make_commits(stream, 1, first=4, ignored=True)
    await desk.handle(projection, make_slice(ignored))
    await desk.expect_position(projection, stream, ignored, "after events without a handler")
    await desk.handle(projection, make_slice([*taken, *more]))
    await desk.expect_position(projection, stream, more, "after events with and without a handler")
    expect_equal(await desk.read(projection, stream), ids_of(taken), "the events in the read model")


async def handlers_know_that_a_slice_is_muted(desk: Desk) -> None:
    """In a muted slice, `context.muted` is true. A kind whose effects are outside calls no handler. The position moves
    in any case.
    """
    projection, stream = await desk.prepare(), desk.stream()
    commits = make_commits(stream, 4)
    await desk.handle(projection, make_slice(commits[:2], muted=True))
    await desk.expect_position(projection, stream, commits[:2], "after a muted slice")
    outside = projection.guarantee is Guarantee.KEY
    expect_equal(
        [context.muted for context in desk.script.calls], [] if outside else [True, True], "`muted` of the calls"
    )
    await desk.handle(projection, make_slice(commits[2:]))
    expect_equal([context.muted for context in desk.script.calls[-2:]], [False, False], "`muted` of later calls")
    handled = ids_of(commits[2:] if outside else commits)
    expect_equal(await desk.read(projection, stream), handled, "the events in the read model")


async def prepare_may_be_called_again(desk: Desk) -> None:
    """`prepare` may be called at any time, by several objects at once, as processes may start together: also by the
    first ones. What is stored stays.
    """
    for version in range(2, 2 + ROUNDS):
        await asyncio.gather(*(desk.prepare(version) for _ in range(OBJECTS)))
    projection, stream = await desk.prepare(), desk.stream()
    commits = make_commits(stream, 2)
    await desk.handle(projection, make_slice(commits[:1]))
    await asyncio.gather(*(desk.prepare() for _ in range(OBJECTS)))
    await projection.prepare()
    await desk.expect_handled(projection, stream, commits[:1], "after prepare was called again")
    await desk.handle(projection, make_slice(commits[1:]))
    await desk.expect_handled(projection, stream, commits, "after the next slice")


async def other_checkpoints_are_refused(desk: Desk) -> None:
    """A kind with a transaction refuses, with TypeError, checkpoints that cannot be in it."""
    projection = desk.make()
    if projection.guarantee is not Guarantee.TRANSACTION or type(desk.checkpoints) is MemoryCheckpoints:
        return
    try:
        projection.bind(MemoryCheckpoints(), desk.store)
    except TypeError:
        return
    expect(kept=False, otherwise="bind took MemoryCheckpoints; expected TypeError")


CHECKS = (
    *make_checks(
        each_event_is_handled_once_and_in_order,
        slices_may_be_cut_anywhere,
        a_first_slice_may_begin_anywhere,
        streams_are_kept_apart,
        many_streams_are_handled,
        a_batch_is_handled_in_the_order_of_the_feed,
        advance_calls_no_handler,
        events_without_a_handler_are_passed,
        handlers_know_that_a_slice_is_muted,
        prepare_may_be_called_again,
        other_checkpoints_are_refused,
    ),
    *make_checks(a_slice_that_does_not_follow_leaves_nothing, needs=[Capability.ATOMIC]),
    *make_checks(
        of_racing_objects_one_handles_a_slice,
        an_object_that_was_overtaken_leaves_nothing,
        needs=[Capability.ATOMIC, Capability.SHARES],
    ),
    *make_checks(another_object_continues, needs=[Capability.SHARES]),
)
