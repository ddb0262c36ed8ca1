"""A scan returns every commit once, each stream in order, and can be resumed from each checkpoint."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from support.proxy import PASS, Proxy, error, proxy_to
from support.tables import fresh_name, store_on

from eventsrc import Batch, Commit, DynamoDBStore, StoreClosed, StoreRejected
from eventsrc.testing.contract.samples import expect_same, fill, fresh_stream, make_commit, make_snapshot

Streams = dict[str, list[Commit]]


@pytest.fixture
async def proxy(dynamodb_endpoint: str) -> AsyncIterator[Proxy]:
    async with proxy_to(dynamodb_endpoint) as proxy:
        yield proxy


@pytest.fixture
async def store(proxy: Proxy) -> AsyncIterator[DynamoDBStore]:
    async with store_on(proxy.url, fresh_name(), tenant="acme", layout="interleaved") as store:
        await store.create_table()
        yield store


async def filled(store: DynamoDBStore) -> Streams:
    """Store streams of several megabytes, with snapshots between the commits, and streams of another tenant."""
    streams: Streams = {}
    for length in (1, 3, 12, 40):
        stream = fresh_stream()
        streams[stream] = await fill(store, stream, length, size=60_000)
        await store.put_snapshot(make_snapshot(stream, 1))
    async with store_on(store.table.connection.endpoint_url or "", store.table.name, tenant="other") as other:
        await fill(other, fresh_stream(), 5)
    return streams


def expect_all(batches: list[Batch], streams: Streams) -> None:
    told = [commit for batch in batches for commit in batch.commits]
    for stream, commits in streams.items():
        expect_same([commit for commit in told if commit.stream == stream], commits, stream)
    assert len(told) == sum(map(len, streams.values()))


def readers() -> list[asyncio.Task[Any]]:
    """Return the tasks of running scans."""
    return [task for task in asyncio.all_tasks() if "scanned" in repr(task.get_coro())]


@pytest.mark.parametrize("segments", [1, 4, 50])
async def test_every_commit_is_returned_once_and_each_stream_in_order(store: DynamoDBStore, segments: int) -> None:
    streams = await filled(store)
    batches = [batch async for batch in store.scan(segments=segments)]
    expect_all(batches, streams)
    assert [batch.caught_up for batch in batches] == [False] * (len(batches) - 1) + [True]
    assert [batch async for batch in store.scan(after=batches[-1].checkpoint)] == [
        Batch((), batches[-1].checkpoint, True)
    ]


async def test_a_scan_resumes_from_each_checkpoint(store: DynamoDBStore) -> None:
    streams = await filled(store)
    first = [batch async for batch in store.scan(segments=3)]
    assert len(first) > 3
    for number, batch in enumerate(first, 1):
        rest = [each async for each in store.scan(after=batch.checkpoint, segments=7)]
        expect_all([*first[:number], *rest], streams)


async def test_an_empty_table_is_caught_up(store: DynamoDBStore) -> None:
    [batch] = [batch async for batch in store.scan()]
    assert (list(batch.commits), batch.caught_up) == ([], True)


async def test_closing_a_scan_early_leaves_no_tasks(store: DynamoDBStore) -> None:
    await filled(store)
    async with aclosing(store.scan()) as batches:
        async for _ in batches:
            break
    assert not readers()
    assert store._calls.count == 0


async def test_an_error_is_raised_where_batches_are_awaited(proxy: Proxy, store: DynamoDBStore) -> None:
    await filled(store)
    proxy.faults, seen = [PASS, error("AccessDeniedException")], list[Batch]()

    async def scan() -> None:
        async for batch in store.scan(segments=1):
            seen.append(batch)
            while readers():  # noqa: ASYNC110  # then the error has occurred, and must not be raised here
                await asyncio.sleep(0.001)

    with pytest.raises(StoreRejected):
        await scan()
    assert len(seen) == 1
    assert not readers()


async def test_throttled_requests_are_sent_again(proxy: Proxy, store: DynamoDBStore) -> None:
    streams = await filled(store)
    proxy.faults = [error("ProvisionedThroughputExceededException") for _ in range(3)]
    expect_all([batch async for batch in store.scan(segments=2)], streams)


async def test_a_scan_keeps_to_its_units_per_second(store: DynamoDBStore) -> None:
    await filled(store)
    begun, before = asyncio.get_running_loop().time(), store.usage.read_units
    async for _ in store.scan(segments=4, units_per_second=1_000):
        pass
    seconds, used = asyncio.get_running_loop().time() - begun, store.usage.read_units - before
    largest = 128.0 * 4  # what was asked for at the same time
    assert used > largest / 2
    assert used <= 1_000 * seconds + largest


@pytest.mark.parametrize("options", [{"segments": 0}, {"units_per_second": 0}, {"after": "7"}, {"after": "[]"}])
async def test_bad_options_raise_value_error(store: DynamoDBStore, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"above 0|checkpoint"):
        [batch async for batch in store.scan(**options)]


async def test_a_closed_store_raises(store: DynamoDBStore) -> None:
    await store.append(make_commit(fresh_stream(), payload=os.urandom(9)))
    await store.aclose()
    with pytest.raises(StoreClosed):
        [batch async for batch in store.scan()]
