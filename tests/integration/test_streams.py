"""A real DynamoDB Stream: its records, and the feed of a table, of which the gate passes each commit once, in order."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from random import Random

import pytest
from support.proxy import FLIP, HALF_ANSWER, LOST, error, proxy_to
from support.tables import fresh_name, records, session, store_on

from campaigns.crashes import _server
from eventsrc import Batch, Commit, DynamoDBStore, Feed, FeedTrimmed, Head, StoreClosed, StoreRejected
from eventsrc.stores.gate import Gate
from eventsrc.testing.contract.samples import expect_same, fill, fresh_stream, make_commit, make_snapshot

Streams = dict[str, list[Commit]]


async def test_the_gate_passes_each_commit_once_and_in_order(dynamodb_endpoint: str) -> None:
    dice = Random(1)
    async with store_on(dynamodb_endpoint, table := fresh_name(), tenant="acme") as store:
        await store.create_table(stream=True)
        streams: dict[str, list[Commit]] = {}
        for _ in range(4):
            stream = fresh_stream()
            streams[stream] = await fill(store, stream, 25)
            await store.put_snapshot(make_snapshot(stream, 20))
        read_batches = await records(dynamodb_endpoint, table)
        assert len(read_batches) == 104
        read_batches += dice.sample(read_batches, 20)
        dice.shuffle(read_batches)
        lost = set(dice.sample(range(len(read_batches)), 30))
        read_batches = [record for number, record in enumerate(read_batches) if number not in lost]
        gate, handled = Gate(store, {}), list[Commit]()
        last = [commits[-1] for commits in streams.values()]  # what comes later brings what was lost
        for hint in (*(change.commit for change in store.changes(read_batches)), *last):
            for commit in await gate.due(hint) if hint else ():
                handled.append(commit)
                gate.handled(commit)
    for stream, commits in streams.items():
        expect_same([commit for commit in handled if commit.stream == stream], commits, stream)


class Handler:
    """Handles batches as a processor does."""

    def __init__(self, store: DynamoDBStore, seen: dict[str, int] | None = None) -> None:
        self.seen = seen if seen is not None else {}
        self._gate = Gate(store, self.seen)
        self.handled: list[Commit] = []

    async def take(self, commits: Iterable[Commit]) -> None:
        for commit in commits:
            for due in await self._gate.due(commit):
                self.handled.append(due)
                self._gate.handled(due)

    async def take_all(self, store: DynamoDBStore, after: str = "") -> str:
        """Handle all batches, and return the checkpoint of the end."""
        batches = await read_batches(store, after)
        for batch in batches:
            await self.take(batch.commits)
        return batches[-1].checkpoint

    def expect(self, streams: dict[str, list[Commit]]) -> None:
        for stream, commits in streams.items():
            expect_same([commit for commit in self.handled if commit.stream == stream], commits, stream)
        assert len(self.handled) == sum(map(len, streams.values()))


async def read_batches(store: DynamoDBStore, after: str = "") -> list[Batch]:
    return [batch async for batch in store.feed(after=after, follow=False)]


def commits_of(batches: Iterable[Batch]) -> set[tuple[str, int]]:
    return {(commit.stream, commit.version) for batch in batches for commit in batch.commits}


def keys(commits: Iterable[Commit]) -> set[tuple[str, int]]:
    return {(commit.stream, commit.version) for commit in commits}


async def add(store: DynamoDBStore, streams: Streams, length: int) -> None:
    """Add a stream."""
    stream = fresh_stream()
    streams[stream] = await fill(store, stream, length)


async def write(store: DynamoDBStore, commits: Sequence[Commit]) -> None:
    for commit in commits:
        await store.append(commit)
        if commit.version % 5 == 0:
            await store.put_snapshot(make_snapshot(commit.stream, commit.version))


async def test_the_feed_misses_nothing_while_writers_continue(dynamodb_endpoint: str) -> None:
    table = fresh_name()
    async with (
        store_on(dynamodb_endpoint, table, tenant="acme", layout="interleaved") as store,
        store_on(dynamodb_endpoint, table, tenant="other") as other,
    ):
        assert isinstance(store, Feed)
        await store.create_table(stream=True)
        streams = {(name := fresh_stream()): [make_commit(name, 1 + each) for each in range(30)] for _ in range(5)}
        for commits in streams.values():
            await write(store, commits[:10])
        await fill(other, fresh_stream(), 10)
        writers = [asyncio.create_task(write(store, commits[10:])) for commits in streams.values()]
        writers.append(asyncio.create_task(write(other, [make_commit(fresh_stream()) for _ in range(30)])))
        handler = Handler(store)
        async with aclosing(store.feed()) as feed:
            async for batch in feed:
                await handler.take(batch.commits)
                if all(writer.done() for writer in writers) and len(handler.handled) >= 150:
                    break
        await asyncio.gather(*writers)
        handler.expect(streams)
        assert len(asyncio.all_tasks()) == 1


async def test_the_feed_resumes_from_each_checkpoint_also_within_the_scan(dynamodb_endpoint: str) -> None:
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table(stream=True)
        streams = [await fill(store, fresh_stream(), 12, size=60_000) for _ in range(4)]
        written = keys(commit for commits in streams for commit in commits)
        first = [Batch([], "", False)]
        async for batch in store.feed(follow=False):
            first.append(batch)
            later = await fill(store, fresh_stream(), 1)
            written |= keys(later)
            if len(first) > 20:
                break
        scans = ['"scan"' in batch.checkpoint for batch in first]
        assert True in scans[2:]
        assert scans[-1] is False
    async with store_on(dynamodb_endpoint, store.table.name) as store:
        for number, batch in enumerate(first, 1):
            rest = await read_batches(store, batch.checkpoint)
            assert commits_of(first[:number]) | commits_of(rest) == written
            assert [each.caught_up for each in rest] == [False] * (len(rest) - 1) + [True]
        early, late = first[3].checkpoint, await Handler(store).take_all(store, first[-1].checkpoint)
        assert commits_of(await read_batches(store, store.earliest([late, early]))) >= written - commits_of(first[:4])
        assert store.earliest([late, ""]) == ""
        assert await store.remaining(late) is None


async def test_the_feed_of_a_category_leaves_out_the_others(dynamodb_endpoint: str) -> None:
    """In the scan and in the stream, with checkpoints that advance over them."""
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table(stream=True)
        scanned = await fill(store, "a-1", 3)
        await fill(store, "ab-1", 3)
        batches = [batch async for batch in store.feed(follow=False, categories=("a",))]
        assert {commit.id for batch in batches for commit in batch.commits} == {commit.id for commit in scanned}
        checkpoint = batches[-1].checkpoint
        await fill(store, "b-1", 3)
        [later] = await fill(store, "a-2", 1)
        batches = [batch async for batch in store.feed(after=checkpoint, follow=False, categories=("a",))]
        assert later.id in {commit.id for batch in batches for commit in batch.commits}
        assert {commit.stream for batch in batches for commit in batch.commits} <= {"a-1", "a-2"}
        rest = [batch async for batch in store.feed(after=batches[-1].checkpoint, follow=False)]
        assert not [commit for batch in rest for commit in batch.commits]


async def test_the_feed_from_now_on(dynamodb_endpoint: str) -> None:
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table(stream=True)
        await fill(store, fresh_stream(), 3)
        end = await store.end()
        later = await fill(store, fresh_stream(), 3)
        assert commits_of(await read_batches(store, end)) >= keys(later)


async def test_heads(dynamodb_endpoint: str) -> None:
    table = fresh_name()
    async with store_on(dynamodb_endpoint, table, tenant="acme", layout="interleaved") as store:
        await store.create_table()
        assert [page async for page in store.heads()] == []
        lengths = {fresh_stream(): length for length in (1, 2, 3, 50)}  # the last one is longer than a page
        for stream, length in lengths.items():
            await fill(store, stream, length, size=60_000)
            await store.put_snapshot(make_snapshot(stream, length))
        async with store_on(dynamodb_endpoint, table, tenant="other") as other:
            await fill(other, fresh_stream(), 2)
        heads = [head for page in [page async for page in store.heads()] for head in page]
        assert sorted(heads) == sorted(Head(*each) for each in lengths.items())
        assert len(asyncio.all_tasks()) == 1


async def set_stream(store: DynamoDBStore, view: str | None) -> None:
    on = {"StreamEnabled": True, "StreamViewType": view} if view else {"StreamEnabled": False}
    await store.table.connection.sdk.update_table(TableName=store.table.name, StreamSpecification=on)


async def test_a_stream_that_was_turned_off_and_on_has_a_gap_which_is_an_error(dynamodb_endpoint: str) -> None:
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table(stream=True)
        handler, streams = Handler(store), Streams()
        await add(store, streams, 3)
        checkpoint = await handler.take_all(store)
        async with aclosing(store.feed(after=checkpoint)) as feed:
            assert (await anext(feed)).caught_up
            following = asyncio.ensure_future(anext(feed))
            await set_stream(store, None)
            with pytest.raises(FeedTrimmed, match="turned off"):
                await following
        await add(store, streams, 1)  # no stream records it
        with pytest.raises(StoreRejected, match="NEW_IMAGE"):
            await read_batches(store, checkpoint)
        await set_stream(store, "NEW_AND_OLD_IMAGES")
        with pytest.raises(FeedTrimmed, match="start again"):
            await read_batches(store, checkpoint)
        await add(store, streams, 2)
        await handler.take_all(store)
        handler.expect(streams)


@pytest.mark.parametrize("view", [None, "KEYS_ONLY", "OLD_IMAGE"])
async def test_a_table_without_a_stream_of_new_images_is_rejected(dynamodb_endpoint: str, view: str | None) -> None:
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table()
        if view:
            await set_stream(store, view)
        for call in (read_batches(store), store.end()):
            with pytest.raises(StoreRejected, match="NEW_IMAGE"):
                await call


async def test_a_checkpoint_that_is_a_day_old_is_refused(dynamodb_endpoint: str) -> None:
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table(stream=True)
        await fill(store, fresh_stream(), 3)
        for batch in await read_batches(store):  # in the scan, and after it
            before, _, rest = batch.checkpoint.partition('"since":')
            old = f'{before}"since":{int(rest[:10]) - 86_400}{rest[10:]}'
            with pytest.raises(FeedTrimmed):
                await read_batches(store, old)
            with pytest.raises(ValueError, match="not a checkpoint"):
                await read_batches(store, batch.checkpoint[:-1])


async def test_closing_the_store_ends_followers_at_once(dynamodb_endpoint: str) -> None:
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table(stream=True)
        feeds = [store.feed() for _ in range(3)]
        for feed in feeds:
            while not (await anext(feed)).caught_up:
                pass
        waiting = [asyncio.ensure_future(anext(feed)) for feed in feeds[:2]]
        await asyncio.sleep(0)
    for end in (*waiting, anext(feeds[2])):
        with pytest.raises(StoreClosed):
            await end
    assert len(asyncio.all_tasks()) == 1


async def test_clients_of_the_caller(dynamodb_endpoint: str) -> None:
    table = fresh_name()
    async with (
        session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client,
        session().client("dynamodbstreams", endpoint_url=dynamodb_endpoint) as streams_client,
    ):
        async with DynamoDBStore(table, client=client) as store:
            await store.create_table(stream=True)
            with pytest.raises(StoreRejected, match="streams_client"):
                await read_batches(store)
        async with DynamoDBStore(table, client=client, streams_client=streams_client) as store:
            written = await fill(store, fresh_stream(), 2)
            assert commits_of(await read_batches(store)) == keys(written)


async def test_missing_rights_are_raised_and_damaged_responses_are_repeated(dynamodb_endpoint: str) -> None:
    async with proxy_to(dynamodb_endpoint) as proxy, store_on(proxy.url, fresh_name()) as store:
        await store.create_table(stream=True)
        written = await fill(store, fresh_stream(), 2)
        end = (await read_batches(store))[-1].checkpoint
        written += await fill(store, fresh_stream(), 2)
        proxy.faults = [FLIP, LOST, FLIP, HALF_ANSWER]
        assert commits_of(await read_batches(store, end)) == keys(written[2:])
        proxy.faults = [error("AccessDeniedException")]
        with pytest.raises(StoreRejected, match="right"):
            await read_batches(store)


async def test_shards_that_are_closed_and_trimmed(tmp_path: Path) -> None:
    """DynamoDB Local closes a shard after some hours and trims it after a day, by the times in its file."""
    streams = Streams()
    async with _server(tmp_path) as server:

        async def age(hours: int) -> None:
            server.kill()
            await asyncio.to_thread(make_older, tmp_path, hours)
            await server.start()

        async with store_on(server.url, fresh_name()) as store:
            await store.create_table(stream=True)
            handler = Handler(store)
            await add(store, streams, 3)
            first = await handler.take_all(store)
            for _ in range(2):
                await age(7)
                await add(store, streams, 3)
            last = await handler.take_all(store, first)
            handler.expect(streams)
            assert shards_of(last).isdisjoint(shards_of(first))
            assert len(shards_of(last)) == 1

            await age(12)  # the first shard is more than a day old
            with pytest.raises(FeedTrimmed):
                await read_batches(store, first)
            assert not commits_of(await read_batches(store, last))
            assert commits_of(await read_batches(store)) == keys(handler.handled)


def make_older(folder: Path, hours: int) -> None:
    [file] = folder.glob("*.db")
    with closing(sqlite3.connect(file)) as connection, connection:
        for table in ("ss", "us"):
            connection.execute(f"UPDATE {table} SET CreationDateTime = CreationDateTime - ?", (hours * 3_600_000,))


def shards_of(checkpoint: str) -> set[str]:
    return set(re.findall(r"shardId-[^\"]+", checkpoint))
