"""A program with a process, for the command line and the studio."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from eventsrc import Repository, SQLiteStore, trace
from eventsrc.inspection import App
from eventsrc.processes import ProcessManager
from eventsrc.processing import SQLiteCheckpoints

from .fulfilment import Fulfilment, Order, Stock


@asynccontextmanager
async def open_manager(folder: Path, clock: int = 0) -> AsyncGenerator[ProcessManager[Fulfilment]]:
    async with SQLiteStore(folder / "shop.db") as store, SQLiteCheckpoints(folder / "model.db") as checkpoints:
        targets: list[Repository[Any]] = [Repository(Order, store), Repository(Stock, store)]
        yield ProcessManager(Fulfilment, store, checkpoints, targets=targets, clock=lambda: clock)


async def fill(folder: Path, *, clock: int = 0) -> None:
    """Place an order of 3 pieces, o-1, and one of 30, o-2, each in a request of its own, one after the other."""
    async with open_manager(folder, clock) as manager:
        orders = Repository(Order, manager.repository.store)
        for id, quantity in (("o-1", 3), ("o-2", 30)):
            with trace(correlation_id=f"request-{id}"):
                await orders.executor(create=True).execute(id, Order.place, "pen", quantity)
            await manager.run(until_caught_up=True)


async def pay(folder: Path) -> None:
    async with open_manager(folder) as manager:
        with trace(correlation_id="payment"):
            await Repository(Order, manager.repository.store).execute("o-1", Order.pay)
        await manager.run(until_caught_up=True)


@asynccontextmanager
async def app() -> AsyncGenerator[App]:
    async with open_manager(Path()) as manager:
        yield App({"shop": manager.repository.store}, [Order, Stock, Fulfilment], manager.processors)
