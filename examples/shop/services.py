"""The three services with their stores and processors: `eventsrc --app examples.shop.services:app` shows them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from eventsrc import Repository, SQLiteStore, Store
from eventsrc.inspection import App, UsageError
from eventsrc.processing import Processor, SQLiteCheckpoints

from .handlers import Charge, FollowPayments, FollowWarehouse, Mail, PackGoods, PackPaid, Reserve, Revenue
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


@asynccontextmanager
async def open_services(
    stores: Mapping[str, Store], folder: Path, gateway: Gateway | None = None
) -> AsyncGenerator[App]:
    """Yield the services on these stores, which are open. Their checkpoints are SQLite files in a folder."""
    bank = gateway or Gateway()
    orders, items = Repository(Order, stores["orders"]), Repository(Item, stores["warehouse"])
    parcels, payments = Repository(Parcel, stores["warehouse"]), Repository(Payment, stores["payments"])
    async with AsyncExitStack() as stack:
        checkpoints = {
            name: await stack.enter_async_context(SQLiteCheckpoints(folder / f"{name}-checkpoints.db"))
            for name in SERVICES
        }

        def process(projection: Any, service: str, feed: str) -> Processor[Any]:
            """Return a processor of a service that handles what another one has stored."""
            return Processor(projection, stores[feed], checkpoints[service], attempts=3)

        processors: Sequence[Processor[Any]] = [
            process(Reserve(items, orders), "warehouse", "orders"),
            process(PackGoods(parcels), "warehouse", "warehouse"),
            process(PackPaid(parcels), "warehouse", "payments"),
            process(Charge(payments, bank), "payments", "orders"),
            process(Revenue(), "payments", "payments"),
            process(Mail(orders, send), "orders", "orders"),
            process(FollowWarehouse(orders), "orders", "warehouse"),
            process(FollowPayments(orders), "orders", "payments"),
        ]
        yield App(stores, aggregates=[Order, Item, Parcel, Payment], processors=processors)


@asynccontextmanager
async def app() -> AsyncGenerator[App]:
    """Yield the services of the day that `make shop` has left in the folder."""
    if not (FOLDER / "orders.db").is_file():
        raise UsageError(f"there is no {FOLDER}/orders.db; run `make shop` first")
    async with AsyncExitStack() as stack:
        stores = {name: await stack.enter_async_context(SQLiteStore(FOLDER / f"{name}.db")) for name in SERVICES}
        yield await stack.enter_async_context(open_services(stores, FOLDER))
