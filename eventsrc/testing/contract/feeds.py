"""What a store promises that tells all its commits in order."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from ...errors import FeedTrimmed, StoreClosed
from ...store import Commit, Store
from ...stores.feed import Batch, Feed
from ...stores.ordered import PAGE
from .check import Capability, MakeStore, checks, expect, expect_equal, refused
from .samples import expect_same, fill, fresh_stream, make_commit


async def a_feed_tells_all_commits_in_order(make_store: MakeStore) -> None:
    """A feed tells every commit once, each stream's in order, more than a page of them, and ends caught up."""
    async with make_store() as store:
        start = await end_of(store)
        streams = [fresh_stream() for _ in range(8)]
        filled = await asyncio.gather(*(fill(store, stream, PAGE // 4) for stream in streams))
        batches = [batch async for batch in feed_of(store).feed(after=start, follow=False)]
        told = [commit for batch in batches for commit in batch.commits]
        for stream, commits in zip(streams, filled, strict=True):
            expect_same([commit for commit in told if commit.stream == stream], commits, f"the feed of {stream}")
        expect_equal(len(told), sum(map(len, filled)), "commits told")
        expect([batch.caught_up for batch in batches] == [False] * (len(batches) - 1) + [True], "caught up at the end")
        expect(len(batches) > 1, f"{len(told)} commits came in one batch")


async def a_feed_of_large_commits_is_complete(make_store: MakeStore) -> None:
    """However large commits are, each is told, and the end only behind the last of them."""
    async with make_store() as store:
        start = await end_of(store)
        filled = await fill(store, fresh_stream(), 40, size=300_000)
        batches = [batch async for batch in feed_of(store).feed(after=start, follow=False)]
        expect_same([commit for batch in batches for commit in batch.commits], filled, "told")
        expect([batch.caught_up for batch in batches] == [False] * (len(batches) - 1) + [True], "caught up at the end")


async def a_feed_goes_on_behind_a_checkpoint(make_store: MakeStore) -> None:
    """Behind the checkpoint of any batch a feed tells just what the same feed told after it, also after a restart."""
    store = make_store()
    async with store:
        start = await end_of(store)
        await fill(store, fresh_stream(), PAGE + 10)
        batches = [batch async for batch in feed_of(store).feed(after=start, follow=False)]
    async with store:
        for number, batch in enumerate(batches, 1):
            expected = [commit for each in batches[number:] for commit in each.commits]
            expect_equal(await told(store, batch.checkpoint), expected, f"behind {batch.checkpoint}")


async def an_empty_feed_is_caught_up(make_store: MakeStore) -> None:
    """Where there is nothing more a feed says once that it is caught up, and its checkpoint stays."""
    async with make_store() as store:
        end = await end_of(store)
        batches = [batch async for batch in feed_of(store).feed(after=end, follow=False)]
        expect_equal(batches, [Batch([], end, True)], "a feed from the end")


async def a_follower_sees_what_comes(make_store: MakeStore) -> None:
    """Who follows gets each commit once and in order while many write, whenever it began."""
    async with make_store() as store:
        start, streams = await end_of(store), [fresh_stream() for _ in range(6)]
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


async def who_does_not_follow_comes_to_an_end(make_store: MakeStore) -> None:
    """A feed that is not followed ends, however fast others write meanwhile, behind all that was there before."""
    async with make_store() as store:
        start = await end_of(store)
        before = await fill(store, fresh_stream(), 3)
        seen: list[Commit] = []
        async for batch in feed_of(store).feed(after=start, follow=False):
            seen += batch.commits
            await fill(store, fresh_stream(), PAGE // 10)  # there is always more
        expect_same([commit for commit in seen if commit.stream == before[0].stream], before, "told")


async def closing_ends_a_follower(make_store: MakeStore) -> None:
    """Closing the store does not wait for those who follow: they are told that it is closed."""
    store = make_store()
    async with store:
        waiting = asyncio.create_task(follow(store, await end_of(store), 1))
        await asyncio.sleep(0.02)
    await refused(StoreClosed, waiting, "a follower of a closed store")


async def what_is_no_checkpoint_is_refused(make_store: MakeStore) -> None:
    """A text that no batch has given is a ValueError."""
    async with make_store() as store:
        for text in ("x", "-1", "1.5", "\uff11", " 1", "9" * 30):
            await refused(ValueError, told(store, text), f"a feed behind {text!r}")


async def a_checkpoint_ahead_of_the_store_is_refused(make_store: MakeStore) -> None:
    """A checkpoint of other data, or of those before a restore, is FeedTrimmed: to wait would be to miss commits."""
    async with make_store() as store:
        await fill(store, fresh_stream(), 2)
        ahead = str(int(await feed_of(store).end()) + 1_000_000)
        await refused(FeedTrimmed, told(store, ahead), "a feed from ahead of the end")


async def the_end_of_a_feed(make_store: MakeStore) -> None:
    """Behind the end there is just what is stored after it, and its length is known."""
    async with make_store() as store:
        feed, before = feed_of(store), await end_of(store)
        await fill(store, fresh_stream(), 3)
        end = await feed.end()
        expect_equal(await feed.remaining(before), 3, "commits behind an earlier end")
        expect_equal(await feed.remaining(end), 0, "commits behind the end")
        later = await fill(store, fresh_stream(), 2)
        expect_same(await told(store, end), later, "behind the end")


async def the_earliest_of_checkpoints_misses_nothing(make_store: MakeStore) -> None:
    """Of several checkpoints the earliest is the one with the most behind it; the beginning is earlier than all."""
    async with make_store() as store:
        feed, checkpoints = feed_of(store), list[str]()
        for _ in range(12):
            checkpoints.append(await feed.end())
            await fill(store, fresh_stream(), 1)
        last = await feed.end()
        expect_equal(len(await told(store, feed.earliest([last, *checkpoints[2:], last]))), 10, "commits behind it")
        expect_equal(feed.earliest([last, ""]), "", "the earliest of the beginning and the end")
        expect_equal(feed.earliest([]), "", "the earliest of none")


async def heads_are_each_streams_last_version(make_store: MakeStore) -> None:
    """Each stream comes once, with the version of its last commit, more than a page of them."""
    async with make_store() as store:
        lengths = {fresh_stream(): number % 3 + 1 for number in range(PAGE + 100)}
        await asyncio.gather(*(fill(store, stream, length) for stream, length in lengths.items()))
        pages = [page async for page in feed_of(store).heads()]
        found = [head for page in pages for head in page if head.stream in lengths]
        expect_equal(len(found), len(lengths), "streams that were told")
        expect_equal(dict(found), lengths, "their last versions")


async def write(store: Store, stream: str, count: int) -> list[Commit]:
    commits = [make_commit(stream, version) for version in range(1, count + 1)]
    for commit in commits:
        await store.append(commit)
    return commits


async def follow(store: Store, after: str, count: int) -> list[Commit]:
    """The next so many commits."""
    seen: list[Commit] = []
    async with aclosing(feed_of(store).feed(after=after)) as batches:
        async for batch in batches:
            seen += batch.commits
            if len(seen) >= count:
                break
    return seen


async def told(store: Store, after: str) -> list[Commit]:
    return [commit async for batch in feed_of(store).feed(after=after, follow=False) for commit in batch.commits]


async def end_of(store: Store) -> str:
    """The checkpoint behind all there is: other checks may have filled the store."""
    checkpoint = ""
    async for batch in feed_of(store).feed(follow=False):
        checkpoint = batch.checkpoint
    return checkpoint


def feed_of(store: Store) -> Feed:
    expect(isinstance(store, Feed) and store.ordered, "the store has no ordered feed")
    assert isinstance(store, Feed)  # for type checkers
    return store


CHECKS = checks(
    a_feed_tells_all_commits_in_order,
    a_feed_of_large_commits_is_complete,
    a_feed_goes_on_behind_a_checkpoint,
    an_empty_feed_is_caught_up,
    a_follower_sees_what_comes,
    who_does_not_follow_comes_to_an_end,
    closing_ends_a_follower,
    what_is_no_checkpoint_is_refused,
    a_checkpoint_ahead_of_the_store_is_refused,
    the_end_of_a_feed,
    the_earliest_of_checkpoints_misses_nothing,
    heads_are_each_streams_last_version,
    needs=Capability.FEEDS,
)
