"""A proxy or a cache that returns the response to another request: no state of another stream is ever returned."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from support.proxy import Answer, Proxy, proxy_to
from support.tables import checkpoints_on, fresh_name, session, store_on

from eventsrc import CommitOutcomeUnknown, ConflictError, DynamoDBStore, StoreUnavailable
from eventsrc.stores.dynamodb.layouts import LAYOUTS
from eventsrc.testing.contract.samples import fill, make_commit, make_snapshot, read_all

MIXED_UP = "items of other keys"


class Bench(NamedTuple):
    proxy: Proxy
    table: str
    other: dict[str, Any]  # the item of version 1 of another stream


@pytest.fixture
async def bench(dynamodb_endpoint: str) -> AsyncIterator[Bench]:
    async with proxy_to(dynamodb_endpoint) as proxy:
        async with store_on(dynamodb_endpoint, table := fresh_name()) as store:
            await store.create_table()
            await fill(store, "account-1", 3)
            await fill(store, "account-2", 1)
        async with session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client:
            key = {"PK": {"S": "account-2"}, "SK": {"N": "1"}}
            yield Bench(proxy, table, (await client.get_item(TableName=table, Key=key))["Item"])


def reply(status: int = 200, **body: Any) -> Answer:
    body["ConsumedCapacity"] = {"CapacityUnits": 1.0}
    return Answer(status, json.dumps(body, default=lambda value: b64encode(value).decode()).encode())


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_items_of_another_stream_are_never_returned(bench: Bench, layout: Any) -> None:
    async with store_on(bench.proxy.url, bench.table, layout=layout) as store:
        bench.proxy.then = reply(Items=[bench.other], Item=bench.other)
        with pytest.raises(StoreUnavailable, match=MIXED_UP):
            await store.load("account-1")
        with pytest.raises(StoreUnavailable, match=MIXED_UP):
            await read_all(store, "account-1")
        bench.proxy.then = "pass"
        assert len((await store.load("account-1")).commits) == 3


async def test_a_snapshot_of_another_stream_is_never_returned(bench: Bench) -> None:
    async with store_on(bench.proxy.url, bench.table, layout="snapshot-first") as store:
        item = store.items.from_snapshot(make_snapshot("account-2", 1), 0)
        bench.proxy.faults = [reply(Item=item)]
        with pytest.raises(StoreUnavailable, match=MIXED_UP):
            await store.load("account-1")
        item = store.items.from_snapshot(make_snapshot("account-1", 1), 1)
        bench.proxy.faults = [reply(Item=item)]
        with pytest.raises(StoreUnavailable, match=MIXED_UP):
            await store.load("account-1")


async def test_a_put_that_met_an_item_of_another_stream_reads_its_own(bench: Bench) -> None:
    failed = {"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException", "Item": bench.other}

    async def append(store: DynamoDBStore, version: int, *more: Answer) -> None:
        bench.proxy.faults = [reply(400, **failed), *more]
        await store.append(make_commit("account-1", version))

    async with store_on(bench.proxy.url, bench.table) as store:
        with pytest.raises(ConflictError) as conflict:
            await append(store, 2)
        assert conflict.value.winner is not None
        assert conflict.value.winner == (await read_all(store, "account-1"))[1]
        for more in ([], [reply(Item=bench.other)], [reply(Item=bench.other | {"PK": {"S": "account-1"}})]):
            with pytest.raises(CommitOutcomeUnknown):
                await append(store, 4, *more)
        assert len(await read_all(store, "account-1")) == 3


async def test_items_of_another_key_are_not_taken_for_checkpoints(bench: Bench, dynamodb_endpoint: str) -> None:
    async with checkpoints_on(bench.proxy.url, fresh_name()) as checkpoints:
        await checkpoints.create_table()
        bench.proxy.then = reply(Items=[bench.other], Item=bench.other)
        with pytest.raises(StoreUnavailable, match=MIXED_UP):
            await checkpoints.table.get(checkpoints.table.key("@active", "balances"))
        with pytest.raises(StoreUnavailable, match=MIXED_UP):
            await checkpoints.parked("balances@1")
