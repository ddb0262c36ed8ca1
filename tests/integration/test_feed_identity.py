"""A table's identity and clock, items of other programs in a table, and feeds from its end."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from support.tables import fresh_name, records, session, store_on

from eventsrc import Batch, Commit, CorruptPayload, DynamoDBStore, StoreRejected
from eventsrc.stores.dynamodb.feed import table_feed
from eventsrc.stores.dynamodb.layouts import LAYOUTS
from eventsrc.testing.contract.samples import expect_same, fill, fresh_stream, make_snapshot

FOREIGN = {"PK": {"S": "settings"}, "SK": {"N": "7"}, "what": {"S": "an item of another program"}}


async def put(store: DynamoDBStore, item: dict[str, Any]) -> None:
    await store.table.connection.sdk.put_item(TableName=store.table.name, Item=item)


async def damage(store: DynamoDBStore, commit: Commit) -> None:
    await put(store, {**store.items.from_commit(commit), "t": {"S": "yesterday"}})


async def items_of(store: DynamoDBStore) -> list[dict[str, Any]]:
    response = await store.table.connection.sdk.scan(TableName=store.table.name)
    return list(response["Items"])


async def test_all_that_ask_at_once_get_the_same_identity(dynamodb_endpoint: str) -> None:
    table = fresh_name()
    async with AsyncExitStack() as stack:
        stores = [store_on(dynamodb_endpoint, table) for _ in range(8)]
        for store in stores:
            await stack.enter_async_context(store)
        await stores[0].create_table()
        [identity] = {*await asyncio.gather(*(store.identity() for store in stores))}
        acme = await stack.enter_async_context(store_on(dynamodb_endpoint, table, tenant="acme"))
        assert await acme.identity() == f"{identity}|acme"
        other = await stack.enter_async_context(store_on(dynamodb_endpoint, fresh_name()))
        await other.create_table()
        assert await other.identity() != identity
        [item] = await items_of(stores[0])
        assert item == {"PK": {"S": "|eventsrc"}, "SK": {"N": "-1"}, "i": {"S": identity}}
        requests = stores[0].usage.requests
        assert await stores[0].identity() == identity
        assert stores[0].usage.requests == requests
    async with store_on(dynamodb_endpoint, table) as store:
        assert await store.identity() == identity


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_the_identity_is_in_no_feed_scan_record_or_list(dynamodb_endpoint: str, layout: Any) -> None:
    async with store_on(dynamodb_endpoint, fresh_name(), layout=layout) as store:
        await store.create_table(stream=True)
        await store.identity()
        commits = await fill(store, stream := fresh_stream(), 3)
        await store.put_snapshot(make_snapshot(stream, 2))
        feed = [batch async for batch in store.feed(follow=False, report_damaged=True)]
        scan = [batch async for batch in store.scan(report_damaged=True)]
        assert not [each for batch in (*feed, *scan) for each in batch.damaged]
        assert {commit.stream for batch in (*feed, *scan) for commit in batch.commits} == {stream}
        assert [head async for page in store.heads() for head in page] == [(stream, 3)]
        changes = list(store.changes(await records(dynamodb_endpoint, store.table.name)))
        assert len(changes) == 5
        expect_same([each.commit for each in changes if each.commit], commits, "changes")


async def test_the_clock_is_that_of_the_service(dynamodb_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if this machine's clock is an hour ahead, and with a client of the SDK."""
    async with (
        store_on(dynamodb_endpoint, fresh_name()) as store,
        session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client,
        DynamoDBStore(store.table.name, client=client) as by_sdk,
    ):
        await store.create_table()
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 3600)
        monkeypatch.setattr(time, "time_ns", lambda: int((now() + 3600) * 1e9))
        for each in (store, by_sdk):
            clock = await each.clock()
            assert clock % 1_000_000 == 0
            assert now() - 3 < clock / 1e6 <= now()


@pytest.mark.parametrize("date", [format_datetime(datetime(2020, 2, 3, tzinfo=UTC), usegmt=True), ""])
async def test_the_clock_is_read_from_the_date_of_a_response(date: str) -> None:
    async def get_item(**_: Any) -> dict[str, Any]:
        return {"ConsumedCapacity": {"CapacityUnits": 0.5}, "ResponseMetadata": {"HTTPHeaders": {"date": date}}}

    sdk = SimpleNamespace(
        meta=SimpleNamespace(events=SimpleNamespace(register=lambda *_, **__: None)), get_item=get_item
    )
    async with DynamoDBStore("ledger", client=sdk) as store:
        if date:
            assert await store.clock() == int(datetime(2020, 2, 3, tzinfo=UTC).timestamp()) * 1_000_000
        else:
            with pytest.raises(StoreRejected, match="Date header"):
                await store.clock()


async def collect(batches: Any, seen: list[Batch]) -> None:
    async for batch in batches:
        seen.append(batch)  # noqa: PERF401  # what came before an error is kept


def versions(batches: list[Batch]) -> list[int]:
    return [commit.version for batch in batches for commit in batch.commits]


@pytest.mark.parametrize("foreign", [True, False])
@pytest.mark.parametrize("in_scan", [True, False])
async def test_a_feed_that_reports_damaged_items_goes_on(dynamodb_endpoint: str, in_scan: bool, foreign: bool) -> None:
    """In the scan and in the stream: the item is named, and all other commits are delivered."""
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table(stream=True)
        checkpoint = "" if in_scan else await store.end()
        commits = await fill(store, stream := fresh_stream(), 5)
        await (put(store, FOREIGN) if foreign else damage(store, commits[2]))
        later = await fill(store, fresh_stream(), 2)
        batches = [each async for each in store.feed(after=checkpoint, follow=False, report_damaged=True)]
        named = {(each.stream, each.version) for batch in batches for each in batch.damaged}
        assert named == {("settings", 7) if foreign else (stream, 3)}
        seen = {(commit.stream, commit.version) for batch in batches for commit in batch.commits}
        assert seen >= {(each.stream, each.version) for each in (*commits, *later)} - named
        assert batches[-1].caught_up


async def test_the_commits_before_a_damaged_item_are_delivered_before_the_error(dynamodb_endpoint: str) -> None:
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table(stream=True)
        end = await store.end()
        commits = await fill(store, stream := fresh_stream(), 9)
        await damage(store, commits[5])  # its record comes last in the stream
        for batches, expected in (
            (store.scan(segments=1), [1, 2, 3, 4, 5]),
            (store.feed(after=end, follow=False), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ):
            seen: list[Batch] = []
            with pytest.raises(CorruptPayload) as raised:
                await collect(batches, seen)
            assert versions(seen) == expected
            assert (raised.value.stream, raised.value.version) == (stream, 6)
            assert not seen[-1].caught_up
        read: list[Any] = []
        with pytest.raises(CorruptPayload):
            await collect(store.read(stream), read)
        expect_same(read, commits[:5], "read")
        backward: list[Any] = []
        with pytest.raises(CorruptPayload):
            await collect(store.read(stream, backward=True), backward)
        expect_same(backward, commits[:5:-1], "read backward")
        with pytest.raises(CorruptPayload):
            await store.load(stream)


async def test_items_whose_keys_are_not_those_of_commits_are_ignored(dynamodb_endpoint: str) -> None:
    """Neither a feed nor a list of streams shows them, and they end neither."""
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table(stream=True)
        end = await store.end()
        for number in ("0.5", "-7", "9007199254740992"):
            await put(store, {**FOREIGN, "SK": {"N": number}})
        await put(store, {**FOREIGN, "PK": {"S": "some|thing"}})
        commits = await fill(store, stream := fresh_stream(), 2)
        for after in ("", end):
            batches = [each async for each in store.feed(after=after, follow=False)]
            assert {*versions(batches)} == {each.version for each in commits}
        assert [head async for page in store.heads() for head in page] == [(stream, 2)]


async def test_a_feed_from_the_end_leaves_out_what_was_stored_before(
    dynamodb_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits that are older than the margin, by the service's clock, are not delivered again."""
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table(stream=True)
        commits = await fill(store, fresh_stream(), 4)
        end = await store.end()
        assert versions([each async for each in store.feed(after=end, follow=False)]) == [
            1,
            2,
            3,
            4,
        ]  # within the margin
        monkeypatch.setattr(table_feed, "END_MARGIN", -3600)  # as if these commits were old
        later = await store.end()
        batches = [each async for each in store.feed(after=later, follow=False)]
        assert versions(batches) == []
        assert versions([each async for each in store.feed(after=batches[-1].checkpoint, follow=False)]) == []
        earliest = store.earliest([batches[-1].checkpoint, end])
        assert len(versions([each async for each in store.feed(after=earliest, follow=False)])) == len(commits)
