"""Processes in AWS Lambda: the changes of a table go in, commands come out, and a schedule fires the timers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support.fulfilment import Fulfilment, Order, Stock
from support.tables import as_lambda, checkpoints_on, fresh_name, records, store_on

from eventsrc import DynamoDBStore, Repository, SQLiteStore
from eventsrc.processes import ProcessManager
from eventsrc.processing import Processor, lambda_handler
from eventsrc.store import Loaded

LATE = 4_000_000_000_000_000  # µs: 2096, when all timers are due


class Depot(SQLiteStore):
    """A store that gives no answer as long as `is_silent`."""

    is_silent = False

    async def load(self, stream: str) -> Loaded:
        if self.is_silent:
            await asyncio.Event().wait()
        return await super().load(stream)


class Time:
    """The context of Lambda, with little time left."""

    def get_remaining_time_in_millis(self) -> int:
        return 2_500


class Service:
    """The two functions of a service, which share their tables, and what Lambda delivers to the first."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint, self.table, self.checkpoints = endpoint, fresh_name(), fresh_name()
        self.clock = 0
        self.depot: Path | None = None  # the file of the stock, if it is not in the table
        self.is_silent = False
        self.handler = lambda_handler(self.app)
        self._delivered = 0

    @asynccontextmanager
    async def open_manager(self) -> AsyncIterator[ProcessManager[Fulfilment]]:
        async with (
            AsyncExitStack() as stack,
            store_on(self.endpoint, self.table) as store,
            checkpoints_on(self.endpoint, self.checkpoints) as checkpoints,
        ):
            orders, stock = Repository(Order, store), Repository(Stock, store)
            if self.depot is not None:
                depot = await stack.enter_async_context(Depot(self.depot))
                depot.is_silent, stock = self.is_silent, Repository(Stock, depot)
            yield ProcessManager(
                Fulfilment, store, checkpoints, targets=[orders, stock], clock=lambda: self.clock, attempts=3
            )

    @asynccontextmanager
    async def app(self) -> AsyncIterator[Sequence[Processor[Any]]]:
        async with self.open_manager() as manager:
            yield manager.processors

    async def fire(self) -> int:
        """Do what the scheduled function does, in an environment of its own."""
        async with self.open_manager() as manager:
            return await manager.fire_due()

    async def deliver(self, dice: Random) -> None:
        """Deliver the changes of the table until there are no more: each twice, in a later invocation, too."""
        while len(found := await records(self.endpoint, self.table)) > self._delivered:
            again = dice.sample(found[: self._delivered], min(self._delivered, 10))
            new, self._delivered = found[self._delivered :], len(found)
            for batch in (new, [*again, *new]):
                event = {"Records": as_lambda(batch)}
                answer = await asyncio.to_thread(self.handler, event, None)
                assert answer == {"batchItemFailures": []}


@pytest.fixture
async def service(dynamodb_endpoint: str) -> AsyncIterator[Service]:
    service = Service(dynamodb_endpoint)
    async with store_on(dynamodb_endpoint, service.table) as store:
        await store.create_table(stream=True)
    async with checkpoints_on(dynamodb_endpoint, service.checkpoints) as checkpoints:
        await checkpoints.create_table()
    yield service
    await asyncio.to_thread(service.handler.close)


async def test_commands_are_applied_once_and_timers_fire(service: Service) -> None:
    dice = Random(5)
    async with store_on(service.endpoint, service.table) as store:
        orders, stock = Repository(Order, store), Repository(Stock, store)
        for number in range(4):
            await orders.executor(create=True).execute(f"o-{number}", Order.place, "pen", 2)
        await service.deliver(dice)
        await orders.executor(create=True).execute("o-4", Order.place, "pen", 5)
        await orders.execute("o-0", Order.pay)
        await service.deliver(dice)
        assert await service.fire() == 0
        assert await states(orders) == ["shipped", "placed", "placed", "placed", "cancelled: 2 left"]
        service.clock = LATE
        assert await service.fire() == 3
        assert await service.fire() == 0
        await service.deliver(dice)
        assert await states(orders) == ["shipped", *["cancelled: not paid"] * 3, "cancelled: 2 left"]
        pen = await stock.load("pen")
        assert (pen.left, pen.reserved, pen.commands) == (8, {"o-0": 2}, 7)  # 4 reserved, 3 of them released
        assert await count_commits(store, "order-o-1") == 2
        async with service.open_manager() as manager:
            assert all([(await manager.repository.load(f"o-{number}")).instance.ended for number in range(5)])
            assert not [stream for each in manager.processors for stream in await each.parked()]
            assert await manager.timers.count("fulfilment-timers@1") == 0


async def test_a_target_that_gives_no_answer_parks_no_process(service: Service, tmp_path: Path) -> None:
    """Each invocation is cut short while it waits, more often than there are attempts."""
    service.depot, service.is_silent = tmp_path / "depot.db", True
    async with store_on(service.endpoint, service.table) as store:
        await Repository(Order, store).executor(create=True).execute("o-1", Order.place, "pen", 2)
    event = {"Records": as_lambda(await records(service.endpoint, service.table))}
    for _ in range(4):
        assert (await asyncio.to_thread(service.handler, event, Time()))["batchItemFailures"]
    await asyncio.to_thread(service.handler.close)
    service.is_silent = False
    async with service.open_manager() as manager:
        assert not [stream for each in manager.processors for stream in await each.parked()]
    service.handler = lambda_handler(service.app)
    await service.deliver(Random(5))
    async with Depot(service.depot) as depot:
        assert (await Repository(Stock, depot).load("pen")).reserved == {"o-1": 2}


async def states(orders: Repository[Order]) -> list[str]:
    return [(await orders.load(f"o-{number}")).state for number in range(5)]


async def count_commits(store: DynamoDBStore, stream: str) -> int:
    return len([commit async for commit in store.read(stream)])
