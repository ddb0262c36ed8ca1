"""The promises of positions."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ....concurrency import load_all
from ....processing.slice import Fence, Position, PositionMoved
from ..check import expect, expect_equal, expect_error
from .check import MakeCheckpoints, make_checks
from .samples import LONG, STREAMS, expect_position, fresh_name, make_slice, open_both, read_heads

MANY = 1_100  # streams: several pages
CANCELLATIONS, ATTEMPTS = 12, 10
_AT_ONCE = 32  # writes; more of them would wait for one another until their deadlines


async def a_position_is_that_of_the_last_commit(make_checkpoints: MakeCheckpoints) -> None:
    """A position has version, id and time of the slice's last commit, byte for byte, for every process; also for stream
    ids that are long or differ little. Positions of other processors are apart.
    """
    async with open_both(make_checkpoints) as (one, other):
        processor, another = fresh_name(), fresh_name()
        expect_equal(await one.positions(processor, []), {}, "the positions of no streams")
        expect_equal(await one.positions(processor, STREAMS), {}, "the positions before the first slice")
        expected: dict[str, Position] = {}
        for count, stream in enumerate(STREAMS, 1):
            run = make_slice(stream, 0, count)
            await one.advance(processor, run)
            later = make_slice(stream, count, count + 2)
            await other.advance(processor, later)
            expected[stream] = later.position
        await one.advance(another, run := make_slice(LONG, 0, 9))
        for each in (one, other):
            found = await each.positions(processor, [*STREAMS, "account-2", *STREAMS])
            expect_equal(found, expected, "the positions")
        expect_equal(await one.positions(another, STREAMS), {LONG: run.position}, "another processor's positions")


async def a_first_slice_may_begin_anywhere(make_checkpoints: MakeCheckpoints) -> None:
    """The first slice of a stream may begin after any version, because a processor may start in the middle."""
    async with make_checkpoints() as checkpoints:
        processor = fresh_name()
        await checkpoints.advance(processor, run := make_slice("s-1", 7, 9, is_first=True))
        await expect_position(checkpoints, processor, "s-1", run.position)


async def a_slice_that_does_not_follow_is_refused(make_checkpoints: MakeCheckpoints) -> None:
    """A slice that does not begin at the position raises PositionMoved and changes nothing: it begins before or after
    it, it is a first slice and there is a position, or it is not the first one and there is no position.
    """
    async with make_checkpoints() as checkpoints:
        processor = fresh_name()
        for after in (0, 3):
            late = make_slice("s-1", after, 5, is_first=False)
            error = await expect_error(PositionMoved, checkpoints.advance(processor, late), "a late slice")
            expect_equal(error.stream, "s-1", "the stream of the error")
        await expect_position(checkpoints, processor, "s-1", None)
        await checkpoints.advance(processor, run := make_slice("s-1", 0, 3))
        wrong = [make_slice("s-1", after, 6, is_first=False) for after in (0, 1, 2, 4, 5)]
        wrong += [make_slice("s-1", after, 6, is_first=True) for after in (0, 3)]
        for each in wrong:
            what = f"a slice after {each.after}, first: {each.is_first}, where the position is 3,"
            await expect_error(PositionMoved, checkpoints.advance(processor, each), what)
        await expect_position(checkpoints, processor, "s-1", run.position)


async def a_slice_advances_once(make_checkpoints: MakeCheckpoints) -> None:
    """Of several slices from one position that advance at once, exactly one succeeds; the others get PositionMoved."""
    async with open_both(make_checkpoints) as both:
        processor, position = fresh_name(), 0
        for _ in range(4):
            racing = [(each, make_slice("s-1", position, position + last)) for last in (1, 2, 3) for each in both]
            outcomes = await asyncio.gather(
                *(each.advance(processor, run) for each, run in racing), return_exceptions=True
            )
            expect_equal(
                sorted(type(outcome).__name__ for outcome in outcomes),
                ["NoneType", *["PositionMoved"] * (len(racing) - 1)],
                "the outcomes of racing slices",
            )
            won = racing[outcomes.index(None)][1]
            await expect_position(both[0], processor, "s-1", won.position)
            position = won.last_version


async def all_positions_are_read_in_pages(make_checkpoints: MakeCheckpoints) -> None:
    """All positions are found, each once, also if there are many: by their streams, and as a whole."""
    async with open_both(make_checkpoints) as (one, other):
        processor = fresh_name()
        wanted = {f"many-{number}": number % 7 + 1 for number in range(MANY)} | {LONG: 3}
        await load_all(lambda each: one.advance(processor, make_slice(each, 0, wanted[each])), wanted, _AT_ONCE)
        expect(await read_heads(other, processor) == wanted, "the pages have other positions")
        found = await other.positions(processor, [*wanted, "no-1"])
        expect(
            {stream: position.version for stream, position in found.items()} == wanted,
            f"of {len(wanted)} streams, {len(found)} positions were found, or others",
        )
        expect_equal(await read_heads(one, fresh_name()), {}, "the positions of a processor that has none")


async def a_deleted_position_is_gone(make_checkpoints: MakeCheckpoints) -> None:
    """After its position is deleted, a stream is handled from its beginning: its next slice is a first one. Positions
    of other streams stay.
    """
    async with open_both(make_checkpoints) as (one, other):
        processor = fresh_name()
        kept = make_slice("s-2", 0, 2)
        await one.advance(processor, kept)
        for stream in ("s-1", LONG):
            await one.delete_position(processor, stream, Fence(0, 1))
            await one.advance(processor, make_slice(stream, 0, 3))
            for _ in range(2):
                await other.delete_position(processor, stream, Fence(0, 1))
            await expect_position(one, processor, stream, None)
            expect_equal(await read_heads(one, processor), {"s-2": 2}, "all positions after one was deleted")
            late = make_slice(stream, 3, 4)
            await expect_error(PositionMoved, one.advance(processor, late), "a slice after a deleted position")
            for each, run in ((one, make_slice(stream, 0, 2)), (other, make_slice(stream, 2, 3))):
                await each.advance(processor, run)
                await expect_position(other, processor, stream, run.position)
            await one.delete_position(processor, stream, Fence(0, 1))
        await expect_position(one, processor, "s-2", kept.position)


async def a_cancelled_advance_has_happened_or_not(make_checkpoints: MakeCheckpoints) -> None:
    """An advance that is cancelled at any moment has moved the position as a whole, or not at all."""
    async with open_both(make_checkpoints) as (one, other):
        processor, position = fresh_name(), 0
        for steps in range(CANCELLATIONS):
            end, found = position + 3, position
            advancing = asyncio.create_task(one.advance(processor, make_slice("s-1", position, end)))
            for _ in range(steps):
                await asyncio.sleep(0)
            advancing.cancel()
            await asyncio.gather(advancing, return_exceptions=True)
            for _ in range(ATTEMPTS):
                found = (await other.positions(processor, ["s-1"])).get("s-1", Position(0)).version
                if found == end:
                    break
                expect_equal(found, position, "the position after a cancelled advance")
                with suppress(PositionMoved):  # if the cancelled call has taken effect
                    await other.advance(processor, make_slice("s-1", position, end))
            expect_equal(found, end, "the position after another advance")
            position = end


CHECKS = make_checks(
    a_position_is_that_of_the_last_commit,
    a_first_slice_may_begin_anywhere,
    a_slice_that_does_not_follow_is_refused,
    a_slice_advances_once,
    all_positions_are_read_in_pages,
    a_deleted_position_is_gone,
    a_cancelled_advance_has_happened_or_not,
)
