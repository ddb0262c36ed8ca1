"""Processors on DynamoDB: foreign and damaged items, tenants, rebuilds, and what they cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.bank import Account, Deposited, Withdrawn
from support.ledger import Movement, Outside, deposit, fill, running, until
from support.proxy import proxy_to
from support.tables import checkpoints_on, fresh_name, session, store_on

from eventsrc import DynamoDBStore, Repository, StoreChanged, StreamsParked
from eventsrc.processing import (
    Context,
    DynamoDBCheckpoints,
    DynamoDBContext,
    DynamoDBProjection,
    Effects,
    Processor,
    health,
    rebuild,
    status,
    verify,
)


class Counts(DynamoDBProjection, tag="counts"):
    """Counts the deposits of each stream. Version 1 refuses the amount 66; version 2 hangs at it."""

    def __init__(self, table: str) -> None:
        self.table = table

    async def handle_deposited(self, event: Deposited, context: DynamoDBContext) -> None:
        if event.amount == 66:
            raise ValueError("66")
        context.add(self.table, {"PK": self.name, "SK": context.stream}, deposits=1)


class Newer(Counts, tag="counts"):
    version = 2

    async def handle_deposited(self, event: Deposited, context: DynamoDBContext) -> None:
        context.add(self.table, {"PK": self.name, "SK": context.stream}, deposits=1)


class Hanging(Counts, tag="counts"):
    version = 2

    async def handle_deposited(self, event: Deposited, context: DynamoDBContext) -> None:
        if event.amount == 3:
            await asyncio.Event().wait()
        context.add(self.table, {"PK": self.name, "SK": context.stream}, deposits=1)


@pytest.fixture
def table() -> str:
    return fresh_name()


@pytest.fixture
def model() -> str:
    return fresh_name()


@pytest.fixture
async def store(dynamodb_endpoint: str, table: str) -> AsyncIterator[DynamoDBStore]:
    async with store_on(dynamodb_endpoint, table) as store:
        await store.create_table(stream=True)
        yield store


@pytest.fixture
async def checkpoints(dynamodb_endpoint: str, model: str) -> AsyncIterator[DynamoDBCheckpoints]:
    async with checkpoints_on(dynamodb_endpoint, model) as checkpoints:
        await checkpoints.create_table()
        yield checkpoints


async def counted(endpoint: str, model: str, name: str) -> dict[str, int]:
    async with session().client("dynamodb", endpoint_url=endpoint) as client:
        asked = {"KeyConditionExpression": "PK = :pk", "ExpressionAttributeValues": {":pk": {"S": name}}}
        items = (await client.query(TableName=model, **asked))["Items"]
    return {item["SK"]["S"]: int(item["deposits"]["N"]) for item in items if "deposits" in item}


@pytest.mark.parametrize("other", ["tenant", "table"])
async def test_checkpoints_of_another_tenant_or_table_are_refused(
    store: DynamoDBStore, checkpoints: DynamoDBCheckpoints, dynamodb_endpoint: str, table: str, model: str, other: str
) -> None:
    await fill(store, accounts=2)
    await Processor(Counts(model), store, checkpoints).run(until_caught_up=True)
    before = await counted(dynamodb_endpoint, model, "counts@1")
    options: dict[str, Any] = {"tenant": "acme"} if other == "tenant" else {}
    async with store_on(dynamodb_endpoint, table if options else fresh_name(), **options) as second:
        if not options:
            await second.create_table(stream=True)
        await fill(second, accounts=3, deposits=6)
        processor = Processor(Counts(model), second, checkpoints)
        with pytest.raises(StoreChanged, match="another store or tenant"):
            await processor.run(until_caught_up=True)
        with pytest.raises(StoreChanged):
            await verify(processor)
    assert await counted(dynamodb_endpoint, model, "counts@1") == before


async def test_an_item_of_another_program_stops_nobody(
    store: DynamoDBStore, checkpoints: DynamoDBCheckpoints, dynamodb_endpoint: str, table: str, model: str
) -> None:
    """Not while the processor runs, nor at its next start, by when the item may be deleted."""
    await fill(store, accounts=1)
    key = {"PK": {"S": "settings"}, "SK": {"N": "7"}}
    processor = Processor(Counts(model), store, checkpoints, attempts=1)
    async with session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client, running(processor):
        await until(processor.caught_up.is_set)
        await client.put_item(TableName=table, Item={**key, "what": {"S": "another item"}})
        await processor.wait_for(await deposit(store, "a-0", 5))
        await client.delete_item(TableName=table, Key=key)
        await processor.wait_for(await deposit(store, "a-0", 6))
    again = Processor(Counts(model), store, checkpoints, attempts=1)
    async with running(again):
        await again.wait_for(await deposit(store, "a-0", 7))
    assert await counted(dynamodb_endpoint, model, "counts@1") == {"account-a-0": 7}


@pytest.mark.parametrize("when", ["scanned", "streamed"])
async def test_only_the_stream_of_a_damaged_item_is_parked(
    store: DynamoDBStore, checkpoints: DynamoDBCheckpoints, dynamodb_endpoint: str, table: str, model: str, when: str
) -> None:
    processor = Processor(Counts(model), store, checkpoints, attempts=1)
    if when == "streamed":  # the processor has caught up before
        await processor.run(until_caught_up=True)
    await fill(store, accounts=3)
    async with session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client:
        key = {"PK": {"S": "account-a-1"}, "SK": {"N": "3"}}
        await client.update_item(TableName=table, Key=key, UpdateExpression="REMOVE i")
    for _ in range(2):
        with pytest.raises(StreamsParked, match="account-a-1"):
            await processor.run(until_caught_up=True)
    assert [(each.stream, each.version) for each in await processor.parked()] == [("account-a-1", 3)]
    found = await counted(dynamodb_endpoint, model, "counts@1")
    assert found == {"account-a-0": 4, "account-a-1": 2, "account-a-2": 4}


@pytest.mark.parametrize("parked", [False, True])
async def test_a_rebuild_scans_the_table_once(
    store: DynamoDBStore,
    checkpoints: DynamoDBCheckpoints,
    dynamodb_endpoint: str,
    table: str,
    model: str,
    *,
    parked: bool,
) -> None:
    """Also if the old version has parked a stream."""
    await fill(store, accounts=5)
    if parked:
        await deposit(store, "a-1", 66)
    async with proxy_to(dynamodb_endpoint) as proxy, store_on(proxy.url, table) as counting:
        try:
            await Processor(Counts(model), counting, checkpoints, attempts=1).run(until_caught_up=True)
        except StreamsParked:
            assert parked
        one_scan = proxy.counts["Scan"]
        await rebuild(Processor(Newer(model), counting, checkpoints))
        assert proxy.counts["Scan"] == 2 * one_scan
    expected = {f"account-a-{number}": 4 + (parked and number == 1) for number in range(5)}
    assert await counted(dynamodb_endpoint, model, "counts@2") == expected


async def test_a_rebuild_whose_handler_exceeds_its_time_switches_nothing(
    store: DynamoDBStore, checkpoints: DynamoDBCheckpoints, model: str
) -> None:
    await fill(store, accounts=2)
    await Processor(Counts(model), store, checkpoints).run(until_caught_up=True)
    new = Processor(Hanging(model), store, checkpoints, attempts=2, handler_timeout=0.2)
    with pytest.raises(TimeoutError, match="handler_timeout"):
        await rebuild(new)
    assert await checkpoints.active("counts") == 1
    with pytest.raises(StreamsParked, match="account-a-0, account-a-1"):
        await rebuild(new, on_error="park")
    assert [(each.version, each.attempts) for each in await new.parked()] == [(4, 2), (4, 2)]


class Withdrawals(Effects, tag="withdrawals"):
    """Takes one of the events only."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def handle_withdrawn(self, event: Withdrawn, context: Context) -> None:
        self.seen.append(context.id)


async def test_commits_that_no_handler_takes_write_no_position(
    store: DynamoDBStore, dynamodb_endpoint: str, model: str, checkpoints: DynamoDBCheckpoints
) -> None:
    async with proxy_to(dynamodb_endpoint) as proxy, checkpoints_on(proxy.url, model) as counting:
        processor = Processor(Withdrawals(), store, counting)
        async with running(processor):
            await until(processor.caught_up.is_set)
            await fill(store, accounts=8, deposits=5)
            receipt = await deposit(store, "a-0", 7)
            await processor.wait_for(receipt)  # it needs nothing of this stream
            await until(processor.caught_up.is_set)
            streams = [f"account-a-{number}" for number in range(8)]
            assert await checkpoints.positions(processor.name, streams) == {}
            before = len(proxy.operations)
            amounts = [await deposit(store, "a-1", amount) for amount in range(10)]
            await processor.wait_for(amounts[-1])
            assert not [each for each in proxy.operations[before:] if each == "TransactWriteItems"]
            account = await withdraw(store, "a-2")
            await processor.wait_for(account)
        assert processor.projection.seen == ["account-a-2@6.0"]
        found = await checkpoints.positions(processor.name, streams)
        assert {stream: position.version for stream, position in found.items()} == {"account-a-2": 6}
        told = await verify(processor)
        assert (told.missing, told.handled) == (0, 0)


async def withdraw(store: DynamoDBStore, id: str) -> Any:
    accounts = Repository(Account, store)
    account = await accounts.load(id)
    account.withdraw(1)
    return await accounts.save(account)


async def test_a_scan_that_has_begun_is_not_a_small_lag(store: DynamoDBStore, checkpoints: DynamoDBCheckpoints) -> None:
    reached, resume = asyncio.Event(), asyncio.Event()

    class Blocked(Outside, tag="blocked"):
        concurrency = 1

        async def handle_movement(self, event: Movement, context: Context) -> None:
            if len(self.seen) > 2:
                reached.set()
                await resume.wait()
            self.seen[context.stream].append(context.id)

    await fill(store, accounts=8, deposits=1)
    processor = Processor(Blocked(), store, checkpoints)
    async with running(processor):
        await asyncio.wait_for(reached.wait(), 10)
        told = await status(processor)
        assert (told.lag_seconds, told.state) == (None, "catching up")
        assert health(processor) == {"blocked@1": "it scans the store"}
        resume.set()
        await until(processor.caught_up.is_set)
        assert health(processor) == {}
        states = set[str]()
        for amount in range(10):
            await processor.wait_for(await deposit(store, "a-0", amount))
            states.add(processor.state)
        assert states == {"live"}
