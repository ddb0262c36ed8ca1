"""The promises of what is stored for single streams besides their positions: parked streams and skipped commits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import structs

from ....processing.checkpoints.checkpoints import Parked, Skipped
from ..check import expect, expect_equal
from .check import MakeCheckpoints, make_checks
from .samples import FENCE, LONG, STREAMS, fresh_name, make_parked, open_both


async def a_parked_stream_is_kept(make_checkpoints: MakeCheckpoints) -> None:
    """An entry is read back as it was written, for these streams or for all, in place of an older one for the same
    stream. Entries of other processors are apart.
    """
    async with open_both(make_checkpoints) as (one, other):
        processor, another = fresh_name(), fresh_name()
        entries = {stream: make_parked(stream, number) for number, stream in enumerate(STREAMS, 1)}
        for entry in entries.values():
            await one.park(processor, make_parked(entry.stream, 99), FENCE)
            await other.park(processor, entry, FENCE)
        await one.park(another, make_parked("s-1"), FENCE)
        for each in (one, other):
            expect_equal(by_stream(await each.parked(processor)), entries, "all entries")
            asked = [LONG, STREAMS[0], "no-1", LONG]
            found = await each.parked(processor, asked)
            expect_equal(by_stream(found), {stream: entries[stream] for stream in asked[:2]}, "the entries")
            expect_equal(await each.parked(processor, []), [], "the entries of no streams")
            expect_equal(await each.parked(fresh_name()), [], "the entries of a processor that has none")


async def only_the_given_entry_is_deleted(make_checkpoints: MakeCheckpoints) -> None:
    """Unpark deletes exactly the given entry: one that was stored since stays, and so do those of other streams."""
    async with open_both(make_checkpoints) as (one, other):
        processor = fresh_name()
        parked = make_parked("s-1")
        changed = (
            structs.replace(parked, version=5),
            structs.replace(parked, attempts=6),
            structs.replace(parked, state="retrying"),
            structs.replace(parked, lives=1),
            structs.replace(parked, retry="r-1"),
            structs.replace(parked, since=parked.since + 1),
            structs.replace(parked, error=""),
        )
        await one.park(processor, neighbour := make_parked(LONG), FENCE)
        for newer in changed:
            await one.park(processor, parked, FENCE)
            await other.park(processor, newer, FENCE)
            await one.unpark(processor, parked)
            found = by_stream(await other.parked(processor))
            expect_equal(found, {"s-1": newer, LONG: neighbour}, "the entries after an older one was deleted")
            await other.unpark(processor, newer)
            await other.unpark(processor, newer)
            expect_equal(await one.parked(processor), [neighbour], "the entries after one was deleted")


async def a_parked_entry_replaces_the_one_it_names(make_checkpoints: MakeCheckpoints) -> None:
    """With `instead_of`, an entry is stored only in place of exactly that one (True); if another one is stored, or
    none, nothing changes (False). Storing what is stored already returns True. Of several at once, one is stored.
    """
    async with open_both(make_checkpoints) as (one, other):
        processor = fresh_name()
        for stream in ("s-1", LONG):
            seen = make_parked(stream, error="x" * 20_000)
            new = structs.replace(seen, state="retrying", retry="r-1")
            kept = await one.park(processor, new, FENCE, instead_of=seen)
            expect_equal((kept, await other.parked(processor, [stream])), (False, []), "in place of none")
            expect(await one.park(processor, seen, FENCE), "park without `instead_of` did not return True")
            stored = await other.parked(processor, [stream])
            for wrong in (structs.replace(seen, attempts=6), structs.replace(seen, retry="r-0"), new):
                kept = await other.park(processor, new, FENCE, instead_of=wrong)
                expect_equal((kept, await one.parked(processor, [stream])), (False, stored), "in place of another one")
            for expected in (seen, stored[0]):
                expect(await other.park(processor, new, FENCE, instead_of=expected), "an entry was not stored")
                [found] = await one.parked(processor, [stream])
                expect_equal((found.state, found.retry), ("retrying", "r-1"), "the entry")
            rivals = [structs.replace(new, retry=f"rival-{number}") for number in range(6)]
            parking = [
                (one, other)[n % 2].park(processor, each, FENCE, instead_of=new) for n, each in enumerate(rivals)
            ]
            results = await asyncio.gather(*parking)
            expect_equal(sorted(results), [False] * 5 + [True], "the results of a race")
            [found] = await one.parked(processor, [stream])
            expect_equal(found.retry, f"rival-{results.index(True)}", "the entry after a race")


async def many_long_errors_are_kept(make_checkpoints: MakeCheckpoints) -> None:
    """Streams can be parked with errors of any length, which may be shortened to their first 1,000 characters or more,
    and all of them are returned; unpark takes the entry with the whole error, and the one that was read.
    """
    async with make_checkpoints() as checkpoints:
        processor = fresh_name()
        entries = [make_parked(f"s-{number}", error="x" * 9_000) for number in range(130)]
        entries.append(make_parked("long-1", error="\u00e4" * 500_000))
        await asyncio.gather(*(checkpoints.park(processor, entry, FENCE) for entry in entries))
        found = by_stream(await checkpoints.parked(processor))
        expect_equal(sorted(found), sorted(entry.stream for entry in entries), "the parked streams")
        for entry in entries:
            stored = found[entry.stream].error
            expect(len(stored) >= 1_000 and entry.error.startswith(stored), f"an error became {stored[:50]!a}...")
        await checkpoints.unpark(processor, entries[-1])
        await checkpoints.unpark(processor, found["s-7"])
        left = by_stream(await checkpoints.parked(processor))
        expect_equal(len(left), 129, "the number of entries after two were deleted")


async def a_cancelled_park_is_never_over_a_later_one(make_checkpoints: MakeCheckpoints) -> None:
    """A stream that is parked again, after a call that was cancelled at any moment, has the later entry."""
    async with open_both(make_checkpoints) as (one, other):
        processor = fresh_name()
        for steps in range(12):
            parking = asyncio.create_task(one.park(processor, make_parked("s-1", 1), FENCE))
            for _ in range(steps):
                await asyncio.sleep(0)
            parking.cancel()
            await one.park(processor, later := make_parked("s-1", steps + 2), FENCE)
            await asyncio.gather(parking, return_exceptions=True)
            for each in (one, other):
                expect_equal(await each.parked(processor), [later], "the entries")


async def skipped_commits_are_kept(make_checkpoints: MakeCheckpoints) -> None:
    """Skipped commits are returned in the order of their times, one for each stream and version: the one noted last."""
    async with open_both(make_checkpoints) as both:
        processor = fresh_name()
        expect_equal(await both[0].skipped(processor), [], "the skipped commits")
        skipped = [
            Skipped(stream=stream, version=version, reason=f"test \u00e4 {version}", time=10**15 - version)
            for version, stream in enumerate((*STREAMS, "s-1", "s-1", "s-1"), 1)
        ]
        for number, each in enumerate(skipped):
            await both[number % 2].note_skipped(processor, structs.replace(each, reason="first", time=number))
            await both[number % 2 - 1].note_skipped(processor, each)
        for one in both:
            expect_equal(await one.skipped(processor), skipped[::-1], "the skipped commits")
            expect_equal(await one.skipped(fresh_name()), [], "the skipped commits of another processor")


def by_stream(entries: Sequence[Parked]) -> dict[str, Parked]:
    found = {entry.stream: entry for entry in entries}
    expect_equal(len(entries), len(found), "the number of entries, and of their streams")
    return found


CHECKS = make_checks(
    a_parked_stream_is_kept,
    only_the_given_entry_is_deleted,
    a_parked_entry_replaces_the_one_it_names,
    many_long_errors_are_kept,
    a_cancelled_park_is_never_over_a_later_one,
    skipped_commits_are_kept,
)
