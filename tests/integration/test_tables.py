"""Tables that existed before the store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from support.proxy import Answer, Proxy, error, proxy_to
from support.tables import fresh_name, session, store_on

from eventsrc import DynamoDBStore, StoreRejected
from eventsrc.stores.dynamodb import creation
from eventsrc.testing.contract.samples import expect_stored, fresh_stream, make_commit

NAMES, TYPES = ("PK", "SK"), ("S", "N")


async def create(client: Any, names: tuple[str, ...], types: tuple[str, ...], **more: Any) -> str:
    table = fresh_name()
    await client.create_table(
        TableName=table,
        KeySchema=[
            {"AttributeName": name, "KeyType": kind} for name, kind in zip(names, ("HASH", "RANGE"), strict=False)
        ],
        AttributeDefinitions=[
            *({"AttributeName": name, "AttributeType": type} for name, type in zip(names, types, strict=True)),
            *more.pop("indexed", ()),
        ],
        BillingMode="PAY_PER_REQUEST",
        **more,
    )
    return table


@pytest.mark.parametrize(
    ("names", "types"),
    [
        (("PK", "version"), TYPES),
        (("stream", "SK"), TYPES),
        (("SK", "PK"), ("N", "S")),
        (NAMES, ("S", "S")),
        (NAMES, ("B", "N")),
        (("PK",), ("S",)),
    ],
    ids=str,
)
async def test_a_table_with_keys_of_another_name_or_type_is_refused(
    dynamodb_endpoint: str, names: tuple[str, ...], types: tuple[str, ...]
) -> None:
    async with session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client:
        table = await create(client, names, types)
        async with DynamoDBStore(table, client=client) as store:
            with pytest.raises(StoreRejected, match=f"{table} exists with other keys"):
                await store.create_table()


async def test_a_table_with_an_index_is_accepted(dynamodb_endpoint: str) -> None:
    async with session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client:
        index = {
            "IndexName": "by-correlation",
            "KeySchema": [{"AttributeName": "c", "KeyType": "HASH"}],
            "Projection": {"ProjectionType": "KEYS_ONLY"},
        }
        correlation = {"AttributeName": "c", "AttributeType": "S"}
        table = await create(client, NAMES, TYPES, indexed=[correlation], GlobalSecondaryIndexes=[index])
        async with DynamoDBStore(table, client=client) as store:
            assert not await store.create_table()
            await store.append(commit := make_commit(fresh_stream(), correlation_id="req-9"))
        found = await client.query(
            TableName=table,
            IndexName="by-correlation",
            KeyConditionExpression="c = :c",
            ExpressionAttributeValues={":c": {"S": "req-9"}},
        )
        assert [item["PK"]["S"] for item in found["Items"]] == [commit.stream]


async def view_of(store: DynamoDBStore) -> str:
    table = (await store.table.connection.sdk.describe_table(TableName=store.table.name))["Table"]
    return str(table.get("StreamSpecification", {}).get("StreamViewType", ""))


async def set_view(store: DynamoDBStore, view: str) -> None:
    specification = {"StreamEnabled": True, "StreamViewType": view}
    await store.table.connection.sdk.update_table(TableName=store.table.name, StreamSpecification=specification)


async def test_the_stream_of_an_existing_table_is_turned_on(dynamodb_endpoint: str) -> None:
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        assert await store.create_table() is True
        assert await view_of(store) == ""
        for _ in range(2):
            assert await store.create_table(stream=True) is False
            assert await view_of(store) == "NEW_IMAGE"
        await store.append(commit := make_commit(fresh_stream()))
        found = {each.id async for batch in store.feed(follow=False) for each in batch.commits}
        assert found == {commit.id}


@pytest.mark.parametrize("exists", [False, True])
async def test_processes_may_create_the_table_and_its_stream_at_the_same_time(
    dynamodb_endpoint: str, exists: bool
) -> None:
    async with AsyncExitStack() as stack:
        table = fresh_name()
        stores = [await stack.enter_async_context(store_on(dynamodb_endpoint, table)) for _ in range(4)]
        if exists:
            await stores[0].create_table()
        created = await asyncio.gather(*(each.create_table(stream=number > 0) for number, each in enumerate(stores)))
        assert sum(created) == (not exists)
        assert await view_of(stores[0]) == "NEW_IMAGE"


@pytest.mark.parametrize("view", ["KEYS_ONLY", "OLD_IMAGE", "NEW_IMAGE", "NEW_AND_OLD_IMAGES"])
async def test_a_stream_that_a_feed_cannot_use_is_refused(dynamodb_endpoint: str, view: str) -> None:
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table()
        await set_view(store, view)
        if view.startswith("NEW"):
            assert await store.create_table(stream=True) is False
        else:
            with pytest.raises(StoreRejected, match="turn it off, and on again with view type NEW_IMAGE"):
                await store.create_table(stream=True)
        assert await view_of(store) == view


def describe(status: str, view: str = "", *, has_arn: bool = True) -> Answer:
    table = {
        "TableStatus": status,
        "KeySchema": [{"AttributeName": "PK", "KeyType": "HASH"}, {"AttributeName": "SK", "KeyType": "RANGE"}],
        "AttributeDefinitions": [
            {"AttributeName": name, "AttributeType": kind} for name, kind in zip(NAMES, ("S", "N"), strict=True)
        ],
        **({"StreamSpecification": {"StreamEnabled": True, "StreamViewType": view}} if view else {}),
        **({"LatestStreamArn": "arn:aws:dynamodb:ddblocal:000000000000:table/t/stream/1"} if has_arn and view else {}),
    }
    return Answer(200, json.dumps({"Table": table}).encode())


@pytest.fixture
async def scripted(
    dynamodb_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[DynamoDBStore, Proxy]]:
    monkeypatch.setattr(creation, "_POLL_INTERVAL", 0.001)
    monkeypatch.setattr(creation, "_TIMEOUT", 5.0)
    async with proxy_to(dynamodb_endpoint) as proxy, store_on(proxy.url, fresh_name()) as store:
        yield store, proxy


IN_USE, REFUSED = error("ResourceInUseException"), error("ValidationException")


async def test_a_table_that_is_being_updated_can_be_used(scripted: tuple[DynamoDBStore, Proxy]) -> None:
    store, proxy = scripted
    proxy.faults = [IN_USE, describe("CREATING"), describe("UPDATING")]
    assert await store.create_table() is False
    assert proxy.counts == {"CreateTable": 1, "DescribeTable": 2}


async def test_a_table_that_no_call_can_use_is_refused_at_once(scripted: tuple[DynamoDBStore, Proxy]) -> None:
    store, proxy = scripted
    proxy.faults = [IN_USE, describe("INACCESSIBLE_ENCRYPTION_CREDENTIALS")]
    with pytest.raises(StoreRejected, match="INACCESSIBLE_ENCRYPTION_CREDENTIALS"):
        await store.create_table()
    assert proxy.counts == {"CreateTable": 1, "DescribeTable": 1}


@pytest.mark.parametrize("refusal", [IN_USE, REFUSED], ids=["being changed", "changed already"])
async def test_a_stream_that_another_process_turns_on_is_waited_for(
    scripted: tuple[DynamoDBStore, Proxy], refusal: Answer
) -> None:
    """Descriptions are eventually consistent: the first ones are old, and then the stream has no ARN yet."""
    store, proxy = scripted
    old, new = describe("ACTIVE"), describe("UPDATING", "NEW_IMAGE")
    proxy.faults = [IN_USE, old, old, refusal, old, refusal, describe("UPDATING", "NEW_IMAGE", has_arn=False), new]
    assert await store.create_table(stream=True) is False
    assert proxy.counts == {"CreateTable": 1, "DescribeTable": 5, "UpdateTable": 2}


@pytest.mark.parametrize("code", ["ValidationException", "AccessDeniedException"])
async def test_a_stream_that_cannot_be_turned_on_is_an_error(scripted: tuple[DynamoDBStore, Proxy], code: str) -> None:
    store, proxy = scripted
    proxy.choose = lambda: {
        "CreateTable": IN_USE, "DescribeTable": describe("ACTIVE"), "UpdateTable": error(code)
    }[proxy.operations[-1]]  # fmt: skip
    with pytest.raises(StoreRejected) as raised:
        await store.create_table(stream=True)
    assert raised.value.code == code


def test_a_closed_store_may_be_opened_in_another_loop(dynamodb_endpoint: str) -> None:
    store = store_on(dynamodb_endpoint, fresh_name())
    commit = make_commit(fresh_stream())

    async def write() -> None:
        async with store:
            await store.create_table()
            await store.append(commit)

    async def read() -> None:
        async with store:
            await expect_stored(store, commit.stream, [commit])

    asyncio.run(write())
    asyncio.run(read())
