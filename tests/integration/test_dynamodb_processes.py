"""Processes on DynamoDB: streams, checkpoints and timers in tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
from support.fulfilment import Fulfilment, Order, Stock
from support.tables import checkpoints_on, fresh_name, store_on

from eventsrc import DynamoDBStore, Repository
from eventsrc.processes import Due, ProcessManager
from eventsrc.processes.timers import timers_in
from eventsrc.processing import DynamoDBCheckpoints


class Tables(NamedTuple):
    store: DynamoDBStore
    checkpoints: DynamoDBCheckpoints


@pytest.fixture
async def tables(dynamodb_endpoint: str) -> AsyncIterator[Tables]:
    async with (
        store_on(dynamodb_endpoint, fresh_name()) as store,
        checkpoints_on(dynamodb_endpoint, fresh_name()) as checkpoints,
    ):
        await store.create_table(stream=True)
        await checkpoints.create_table()
        yield Tables(store, checkpoints)


async def test_timers_are_kept_in_their_order(tables: Tables) -> None:
    timers = timers_in(tables.checkpoints)
    await timers.prepare()
    long = "process-" + "x" * 2_000
    given = [Due(30, "process-1", 1), Due(10, "process-1", 2), Due(9, long, 1, "name", "cause", "trace")]
    for each in [*given, *given]:
        await timers.put("a@1", each)
    await timers.put("b@1", Due(5, "process-1", 1))
    assert await timers.count("a@1") == 3
    part = timers.part_of("process-1")
    found = [each for each in await timers.first("a@1", part, 10) if each.stream == "process-1"]
    assert [each.due for each in found] == [10, 30]
    assert list(await timers.first("a@1", timers.part_of(long), 1)) == [given[2]]
    await timers.remove("a@1", Due(9, long, 1))
    await timers.remove("a@1", Due(9, long, 1))
    assert await timers.count("a@1") == 2


async def test_timers_are_read_in_pages(tables: Tables) -> None:
    """Those of one read may have more than a megabyte, which a page of the table cannot have."""
    timers = timers_in(tables.checkpoints)
    given = [Due(number, "process-1", number, "x" * 20_000) for number in range(70)]
    for each in given:
        await timers.put("a@1", each)
    part = timers.part_of("process-1")
    assert list(await timers.first("a@1", part, 65)) == given[:65]
    await timers.remove("a@1", given[64])
    assert list(await timers.first("a@1", part, 65, given[64])) == given[65:]


async def test_a_fulfilment_with_a_timeout(tables: Tables) -> None:
    store, checkpoints = tables
    orders, stock = Repository(Order, store), Repository(Stock, store)
    now = [0]
    manager = ProcessManager(Fulfilment, store, checkpoints, targets=[orders, stock], clock=lambda: now[0])
    task = asyncio.create_task(manager.run(save_every=0.05))

    async def place(id: str, quantity: int) -> None:
        await orders.executor(create=True).execute(id, Order.place, "pen", quantity)

    async def until_state(id: str, state: str) -> None:
        async with asyncio.timeout(30):
            while (await orders.load(id)).state != state:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    await place("o-3", 30)
    await until_state("o-3", "cancelled: 10 left")
    for id, quantity in (("o-1", 3), ("o-2", 3)):
        await place(id, quantity)
    await orders.execute("o-1", Order.pay)
    await until_state("o-1", "shipped")
    assert (await orders.load("o-2")).state == "placed"
    now[0] = 4_000_000_000_000_000
    await until_state("o-2", "cancelled: not paid")
    async with asyncio.timeout(30):
        while (await stock.load("pen")).left != 7:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        for id in ("o-1", "o-2", "o-3"):
            while not (await manager.repository.load(id)).instance.ended:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        while await manager.timers.count("fulfilment-timers@1"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    manager.stop()
    await task
