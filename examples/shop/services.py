"""The three services with their stores and processors: `eventsrc --app examples.shop.services:app` shows them."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from eventsrc import Repository, SQLiteStore, Store
from eventsrc.inspection import App, UsageError
from eventsrc.processes import ProcessManager
from eventsrc.processing import Processor, SQLiteCheckpoints

from .fulfilment import Fulfilment
from .handlers import Charge, Mail, Revenue
from .orders import Order
from .payments import Gateway, Payment
from .warehouse import Item, Parcel

FOLDER = Path(".shop")
SERVICES = ("orders", "warehouse", "payments")


def send(address: str, text: str) -> None:
    """Send a mail, here to the log. Raises ValueError."""
    if "@" not in address:
        raise ValueError(f"{address!r} is not an address")
    logging.getLogger("shop").info("%s: %s", address, text)


class Clock:
    """A clock that can be set ahead, so that nobody has to wait for the timers of a day."""

    ahead = 0  # µs

    def __call__(self) -> int:
        return time.time_ns() // 1000 + self.ahead


class Shop(NamedTuple):
    """The services, and what moves their orders."""

    app: App
    fulfilment: ProcessManager[Fulfilment]
    clock: Clock


@asynccontextmanager
async def open_services(
    stores: Mapping[str, Store], folder: Path, gateway: Gateway | None = None
) -> AsyncGenerator[Shop]:
    """Yield the services on these stores, which are open. Their checkpoints are SQLite files in a folder."""
    orders, payments = Repository(Order, stores["orders"]), Repository(Payment, stores["payments"])
    items, parcels = Repository(Item, stores["warehouse"]), Repository(Parcel, stores["warehouse"])
    clock = Clock()
    async with AsyncExitStack() as stack:
        checkpoints = {
            name: await stack.enter_async_context(SQLiteCheckpoints(folder / f"{name}-checkpoints.db"))
            for name in SERVICES
        }
        fulfilment = ProcessManager(
            Fulfilment,
            stores["orders"],
            checkpoints["orders"],
            sources={name: stores[name] for name in ("orders", "payments")},
            targets=[orders, items, parcels, payments],
            attempts=3,
            clock=clock,
        )
        processors = [
            *fulfilment.processors,
            Processor(Charge(payments, gateway or Gateway()), stores["payments"], checkpoints["payments"], attempts=3),
            Processor(Revenue(), stores["payments"], checkpoints["payments"], attempts=3),
            Processor(Mail(orders, send), stores["orders"], checkpoints["orders"], attempts=3),
        ]
        yield Shop(App(stores, [Order, Item, Parcel, Payment, Fulfilment], processors), fulfilment, clock)


@asynccontextmanager
async def app() -> AsyncGenerator[App]:
    """Yield the services of the day that `make shop` has left in the folder."""
    if not (FOLDER / "orders.db").is_file():
        raise UsageError(f"there is no {FOLDER}/orders.db; run `make shop` first")
    async with AsyncExitStack() as stack:
        stores = {name: await stack.enter_async_context(SQLiteStore(FOLDER / f"{name}.db")) for name in SERVICES}
        yield (await stack.enter_async_context(open_services(stores, FOLDER))).app
