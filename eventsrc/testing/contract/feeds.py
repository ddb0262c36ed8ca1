"""The promises of a store that has a feed of all its commits in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from contextlib import aclosing

from ...errors import FeedTrimmed, StoreClosed
from ...store import Commit, Store
from ...stores.feed import Batch, Feed
from ...stores.ordered import PAGE, position_of
from .check import Capability, MakeStore, expect, expect_equal, expect_error, make_checks
from .samples import expect_same, fill, fresh_stream, make_commit

LONGEST_SILENCE = 20.0  # seconds between two batches of a follower, while commits are written


async def a_feed_delivers_all_commits_in_order(make_store: MakeStore) -> None:
    """A feed delivers every commit once, those of each stream in order, over several pages, and ends caught up."""
    async with make_store() as store:
        start = await find_end(store)
        streams = [fresh_stream() for _ in range(8)]
        filled = await asyncio.gather(*(fill(store, stream, PAGE // 4) for stream in streams))
        batches = [batch async for batch in get_feed(store).feed(after=start, follow=False)]
        delivered = [commit for batch in batches for commit in batch.commits]
        for stream, commits in zip(streams, filled, strict=True):
            expect_same([commit for commit in delivered if commit.stream == stream], commits, f"the feed of {stream}")
        expect_equal(len(delivered), sum(map(len, filled)), "commits delivered")
        expect([batch.caught_up for batch in batches] == [False] * (len(batches) - 1) + [True], "caught up at the end")
        expect(len(batches) > 1, f"{len(delivered)} commits were delivered in one batch")


async def a_feed_of_large_commits_is_complete(make_store: MakeStore) -> None:
    """Large commits are all delivered, and only the batch with the last of them is caught up."""
    async with make_store() as store:
        start = await find_end(store)
        filled = await fill(store, fresh_stream(), 40, size=300_000)
        batches = [batch async for batch in get_feed(store).feed(after=start, follow=False)]
        expect_same([commit for batch in batches for commit in batch.commits], filled, "delivered")
        expect([batch.caught_up for batch in batches] == [False] * (len(batches) - 1) + [True], "caught up at the end")


async def a_feed_resumes_after_any_checkpoint(make_store: MakeStore) -> None:
    """From the checkpoint of any batch, a feed delivers exactly the commits that followed it, also after a restart."""
    store = make_store()
    async with store:
        start = await find_end(store)
        await fill(store, fresh_stream(), PAGE + 10)
        batches = [batch async for batch in get_feed(store).feed(after=start, follow=False)]
    async with store:
        for number, batch in enumerate(batches, 1):
            expected = [commit for each in batches[number:] for commit in each.commits]
            expect_equal(await read_feed(store, batch.checkpoint), expected, f"after {batch.checkpoint}")


async def a_feed_of_categories_leaves_out_the_others(make_store: MakeStore) -> None:
    """With categories, exactly their commits are delivered, and checkpoints advance over all others."""
    async with make_store() as store:
        feed, start, name = get_feed(store), await find_end(store), fresh_stream().replace("-", "")
        wanted = [await fill(store, f"{name}-a-1", 3)]
        await fill(store, f"{name}s-1", PAGE + 10)
        for other in (f"{name}.-1", f"x{name}-1", f"{name[:-1]}-1"):
            await fill(store, other, 2)
        wanted += [await fill(store, f"{name}", 1), await fill(store, f"second{name}-b-2", 2)]
        await fill(store, fresh_stream(), 2)
        categories = {name, f"second{name}"}
        batches = [batch async for batch in feed.feed(after=start, follow=False, categories=categories)]
        delivered = [commit for batch in batches for commit in batch.commits]
        expect_same(delivered, [commit for commits in wanted for commit in commits], "the feed of two categories")
        expect([batch.caught_up for batch in batches] == [False] * (len(batches) - 1) + [True], "caught up at the end")
        expect_equal(await feed.remaining(batches[-1].checkpoint), 0, "commits after the last checkpoint")
        for number, batch in enumerate(batches, 1):
            rest = [batch async for batch in feed.feed(after=batch.checkpoint, follow=False, categories=categories)]
            expected = [commit for each in batches[number:] for commit in each.commits]
            expect_equal([commit for each in rest for commit in each.commits], expected, f"after {batch.checkpoint}")


async def a_follower_of_a_category_gets_new_commits(make_store: MakeStore) -> None:
    """A follower of a category gets its new commits, however many others are stored before them."""
    async with make_store() as store:
        name = fresh_stream().replace("-", "")
        start = await find_end(store)
        following = asyncio.create_task(follow(store, start, 3, [name]))
        await fill(store, fresh_stream(), 30)
        before = await fill(store, f"{name}-1", 1)
        await fill(store, fresh_stream(), 30)
        later = await fill(store, f"{name}-2", 2)
        expect_same(await following, [*before, *later], "followed")


async def an_empty_feed_is_caught_up(make_store: MakeStore) -> None:
    """Without further commits, a feed delivers one empty batch that is caught up, with the same checkpoint."""
    async with make_store() as store:
        end = await find_end(store)
        batches = [batch async for batch in get_feed(store).feed(after=end, follow=False)]
        expect_equal(batches, [Batch([], end, True)], "a feed from the end")


async def a_follower_gets_new_commits(make_store: MakeStore) -> None:
    """A follower gets each commit once and in order while others write, whenever it started."""
    async with make_store() as store:
        start, streams = await find_end(store), [fresh_stream() for _ in range(6)]
        total = len(streams) * 40
        followers = [asyncio.create_task(follow(store, start, total))]
        writing = [asyncio.create_task(write(store, stream, 40)) for stream in streams]
        for _ in range(3):
            await asyncio.sleep(0.005)
            followers.append(asyncio.create_task(follow(store, start, total)))
        filled = await asyncio.gather(*writing)
        for seen in await asyncio.gather(*followers):
            for stream, commits in zip(streams, filled, strict=True):
                expect_same([commit for commit in seen if commit.stream == stream], commits, f"followed {stream}")


async def a_feed_that_does_not_follow_ends(make_store: MakeStore) -> None:
    """A feed without `follow` delivers all commits that were there before, and ends, however fast others write."""
    async with make_store() as store:
        start = await find_end(store)
        before = await fill(store, fresh_stream(), 3)
        seen: list[Commit] = []
        async for batch in get_feed(store).feed(after=start, follow=False):
            seen += batch.commits
            await fill(store, fresh_stream(), PAGE // 10)  # there are always more
        expect_same([commit for commit in seen if commit.stream == before[0].stream], before, "delivered")


async def closing_ends_a_follower(make_store: MakeStore) -> None:
    """Closing the store does not wait for followers: they get StoreClosed."""
    store = make_store()
    async with store:
        waiting = asyncio.create_task(follow(store, await find_end(store), 1))
        await asyncio.sleep(0.02)
    await expect_error(StoreClosed, waiting, "a follower of a closed store")


async def a_bad_checkpoint_is_refused(make_store: MakeStore) -> None:
    """A text that is not a checkpoint raises ValueError."""
    async with make_store() as store:
        for text in ("x", "-1", "1.5", "\uff11", " 1", "9" * 30):
            await expect_error(ValueError, read_feed(store, text), f"a feed after {text!r}")


async def a_checkpoint_ahead_of_the_store_is_refused(make_store: MakeStore) -> None:
    """A checkpoint of other data, or from before a restore, raises FeedTrimmed: waiting would miss commits."""
    async with make_store() as store:
        await fill(store, fresh_stream(), 2)
        ahead = str(position_of(await get_feed(store).end()) + 1_000_000)
        await expect_error(FeedTrimmed, read_feed(store, ahead), "a feed after a checkpoint ahead of the end")


async def a_checkpoint_of_another_history_is_refused(make_store: MakeStore) -> None:
    """A checkpoint raises FeedTrimmed if another commit has its position, as after a restore. Nothing is delivered."""
    async with make_store() as store:
        feed = get_feed(store)
        await fill(store, fresh_stream(), 2)
        end = await feed.end()
        position, dot, anchor = end.partition(".")
        expect(bool(dot) and len(anchor) == 16, f"the checkpoint {end!r} does not name a commit")
        other = f"{position}.{int(anchor, 16) ^ 1:016x}"
        await fill(store, fresh_stream(), 2)
        await expect_error(FeedTrimmed, read_feed(store, other), "a feed after a commit that is not in the store")
        for same in (end, position):
            expect_equal(len(await read_feed(store, same)), 2, f"commits after {same}")
            expect_equal(await feed.remaining(same), 2, f"commits that remain after {same}")
        expect_equal(feed.earliest([position, end]), end, "the earliest of two texts for one position")


async def the_identity_is_drawn_once(make_store: MakeStore) -> None:
    """All calls return the same identity, also at once and after the store was closed and opened again."""
    store = make_store()
    async with store:
        first = await asyncio.gather(*(get_feed(store).identity() for _ in range(5)))
    async with store:
        expect_equal({*first, await get_feed(store).identity()}, {first[0]}, "identities")
    expect(len(first[0]) >= 32, f"{first[0]!r} may be drawn twice")


async def the_clock_is_in_microseconds(make_store: MakeStore) -> None:
    """The store's clock is within a day of this machine's, and does not run backward."""
    async with make_store() as store:
        times = [await get_feed(store).clock() for _ in range(3)]
        expect(times == sorted(times), f"the clock went back: {times}")
        expect(abs(times[0] / 1e6 - time.time()) < 86_400, f"the clock is at {times[0]}, not at the time in µs")


async def a_feed_from_the_end_delivers_later_commits(make_store: MakeStore) -> None:
    """A feed from `end()` delivers exactly the commits stored after it, and `remaining` counts them."""
    async with make_store() as store:
        feed, before = get_feed(store), await find_end(store)
        await fill(store, fresh_stream(), 3)
        end = await feed.end()
        expect_equal(await feed.remaining(before), 3, "commits after an earlier end")
        expect_equal(await feed.remaining(end), 0, "commits after the end")
        later = await fill(store, fresh_stream(), 2)
        expect_same(await read_feed(store, end), later, "after the end")


async def the_earliest_checkpoint_misses_nothing(make_store: MakeStore) -> None:
    """The earliest of several checkpoints is the one with the most commits after it; "" is earlier than any other."""
    async with make_store() as store:
        feed, checkpoints = get_feed(store), list[str]()
        for _ in range(12):
            checkpoints.append(await feed.end())
            await fill(store, fresh_stream(), 1)
        last = await feed.end()
        expect_equal(len(await read_feed(store, feed.earliest([last, *checkpoints[2:], last]))), 10, "commits after it")
        expect_equal(feed.earliest([last, ""]), "", "the earliest of the beginning and the end")
        expect_equal(feed.earliest([]), "", "the earliest of none")


async def heads_are_each_streams_last_version(make_store: MakeStore) -> None:
    """Each stream is listed once, with the version of its last commit, over several pages."""
    async with make_store() as store:
        lengths = {fresh_stream(): 1 if number % 20 else 3 for number in range(PAGE + 100)}
        await asyncio.gather(*(fill(store, stream, length) for stream, length in lengths.items()))
        pages = [page async for page in get_feed(store).heads()]
        found = [head for page in pages for head in page if head.stream in lengths]
        expect_equal(len(found), len(lengths), "streams that were listed")
        expect_equal(dict(found), lengths, "their last versions")


async def write(store: Store, stream: str, count: int) -> list[Commit]:
    commits = [make_commit(stream, version) for version in range(1, count + 1)]
    for commit in commits:
        await store.append(commit)
    return commits


async def follow(store: Store, after: str, count: int, categories: Collection[str] = ()) -> list[Commit]:
    """Return the next `count` commits or more."""
    seen: list[Commit] = []
    async with aclosing(get_feed(store).feed(after=after, categories=categories)) as batches:
        while len(seen) < count:
            try:
                async with asyncio.timeout(LONGEST_SILENCE):
                    seen += (await anext(batches)).commits
            except TimeoutError as error:
                raise AssertionError(
                    f"a follower saw only {len(seen)} of {count} commits; "
                    "call notify() after an append, or set poll if other processes write"
                ) from error
    return seen


async def read_feed(store: Store, after: str) -> list[Commit]:
    return [commit async for batch in get_feed(store).feed(after=after, follow=False) for commit in batch.commits]


async def find_end(store: Store) -> str:
    """Return the checkpoint after all commits of the store, which other checks may have stored."""
    checkpoint = ""
    async for batch in get_feed(store).feed(follow=False):
        checkpoint = batch.checkpoint
    return checkpoint


def get_feed(store: Store) -> Feed:
    expect(isinstance(store, Feed) and store.ordered, "the store has no ordered feed")
    assert isinstance(store, Feed)  # for type checkers
    return store


CHECKS = make_checks(
    a_feed_delivers_all_commits_in_order,
    a_feed_of_large_commits_is_complete,
    a_feed_resumes_after_any_checkpoint,
    a_feed_of_categories_leaves_out_the_others,
    a_follower_of_a_category_gets_new_commits,
    an_empty_feed_is_caught_up,
    a_follower_gets_new_commits,
    a_feed_that_does_not_follow_ends,
    closing_ends_a_follower,
    a_bad_checkpoint_is_refused,
    a_checkpoint_ahead_of_the_store_is_refused,
    a_checkpoint_of_another_history_is_refused,
    the_identity_is_drawn_once,
    the_clock_is_in_microseconds,
    a_feed_from_the_end_delivers_later_commits,
    the_earliest_checkpoint_misses_nothing,
    heads_are_each_streams_last_version,
    needs=Capability.FEEDS,
)
