"""Tables that existed before the store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.tables import fresh_name, session, store_on

from eventsrc import DynamoDBStore, StoreRejected
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
