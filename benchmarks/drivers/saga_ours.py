"""The saga on eventsrc, as its documentation shows: a process, in another store than the orders."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
from saga_domain import serve

from eventsrc import Aggregate, Event, Repository, SQLiteStore
from eventsrc.processes import Asks, Done, Process, ProcessManager, create_or_command, end
from eventsrc.processing import SQLiteCheckpoints


class Placed(Event, tag="order.placed"):
    sku: str
    quantity: int


class Order(Aggregate, tag="order"):
    def apply_placed(self, event: Placed) -> None: ...


class Reserved(Event, tag="stock.reserved"):
    order: str
    quantity: int


class Stock(Aggregate, tag="stock"):
    reserved: dict[str, int] = msgspec.field(default_factory=dict)

    def reserve(self, order: str, quantity: int) -> None:
        self.record(Reserved(order=order, quantity=quantity))

    def apply_reserved(self, event: Reserved) -> None:
        self.reserved[event.order] = event.quantity


class Saga(Process, tag="saga"):
    def on_placed(self, event: Placed) -> Asks:
        yield create_or_command(Stock, event.sku, Stock.reserve, self.id, event.quantity)

    def on_done(self, event: Done) -> Asks:
        yield end()


async def _saga(folder: Path, count: int) -> dict[str, Any]:
    async with (
        SQLiteStore(folder / "orders.db") as orders,
        SQLiteStore(folder / "sagas.db") as sagas,
        SQLiteCheckpoints(folder / "checkpoints.db") as checkpoints,
    ):
        manager = ProcessManager(
            Saga, sagas, checkpoints, targets=[Repository(Stock, sagas)], sources={"orders": orders}
        )
        running = asyncio.create_task(manager.run())
        repository, ended = Repository(Order, orders), 0
        cpu, wall = time.process_time(), time.perf_counter()
        for number in range(count):
            order = Order(id=f"o-{number}")
            order.record(Placed(sku=f"s-{number}", quantity=3))
            await repository.save(order)
        async for batch in sagas.feed(categories=["saga"]):
            ended += sum("process.ended" in commit.tags for commit in batch.commits)
            if ended == count:
                break
        took = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        manager.stop()
        await running
        return took


def saga(where: str, count: int) -> dict[str, Any]:
    return asyncio.run(_saga(Path(where), count))


serve(saga)
