"""What a store promises that tells all its commits in order."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from ..errors import StoreClosed
from ..feed import PAGE, Batch, Feed
from ..store import Commit, Store
from .check import Ability, MakeStore, checks, expect, expect_equal, refused
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
        for text in ("x", "-1", "1.5", "\uff11", " 1"):
            await refused(ValueError, told(store, text), f"a feed behind {text!r}")


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
    expect(isinstance(store, Feed), "the store has no feed")
    assert isinstance(store, Feed)  # for type checkers
    return store


CHECKS = checks(
    a_feed_tells_all_commits_in_order,
    a_feed_goes_on_behind_a_checkpoint,
    an_empty_feed_is_caught_up,
    a_follower_sees_what_comes,
    closing_ends_a_follower,
    what_is_no_checkpoint_is_refused,
    needs=Ability.FEEDS,
)
