"""A day of the shop: what is delivered in the morning, and the orders that customers place."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple

from eventsrc import ConflictError, Repository, StreamsParked, trace
from eventsrc.inspection import App
from eventsrc.processing import Runner
from eventsrc.stores import Feed

from .fulfilment import TIME_TO_PAY
from .orders import Order
from .payments import Gateway
from .services import Shop
from .warehouse import Item

ARTICLES = {"lamp": 4_900, "chair": 8_900, "desk": 24_900, "shelf": 12_500, "rug": 7_400}  # and their prices in cents
CUSTOMERS = ("ann", "bob", "cem", "dora", "eve", "finn", "gita", "hugo")
POOR = "eve"  # her bank never pays
FORGETFUL = "dora"  # she never confirms a payment
NO_MAIL = "hugo"  # his address cannot be written to


class Wish(NamedTuple):
    """An order that somebody will place."""

    order: str
    customer: str
    sku: str
    pieces: int


def plan_day(seed: int, orders: int) -> Sequence[Wish]:
    """Return the orders of a day. The same seed gives the same ones."""
    dice = random.Random(seed)  # not for secrets
    return [
        Wish(f"{number:03}", dice.choice(CUSTOMERS), dice.choice(list(ARTICLES)), dice.randint(1, 3))
        for number in range(1, orders + 1)
    ]


def open_bank(wishes: Sequence[Wish]) -> Gateway:
    """Return a bank that does not answer at once for each seventh order."""
    return Gateway(slow=[wish.order for wish in wishes[::7]], poor=[POOR], forgetful=[FORGETFUL])


async def run_day(shop: Shop, wishes: Sequence[Wish]) -> None:
    """Deliver the articles, place the orders, and let all services run until nothing is left to do.

    Then the clock is set ahead, for the orders that are not paid in time. After a crash it continues where it was.
    """
    app = shop.app
    items, orders = Repository(Item, app.stores["warehouse"]), Repository(Order, app.stores["orders"])
    for sku in ARTICLES:
        item = Item(id=sku)
        item.deliver(max(1, len(wishes) // 4))
        with trace(correlation_id=f"delivery-{sku}", metadata={"actor": "the morning shift"}), suppress(ConflictError):
            await items.save(item)  # a conflict: it was there before a crash
    runners = _make_runners(app)
    running = [asyncio.create_task(runner.run()) for runner in runners]
    try:
        for wish in wishes:
            order = Order.place(
                wish.order,
                customer=wish.customer,
                mail=wish.customer if wish.customer == NO_MAIL else f"{wish.customer}@example.com",
                sku=wish.sku,
                count=wish.pieces,
                cents=wish.pieces * ARTICLES[wish.sku],
            )
            with (
                trace(correlation_id=f"request-{wish.order}", metadata={"actor": wish.customer}),
                suppress(ConflictError),
            ):
                await orders.save(order)
    finally:
        for runner in runners:
            runner.stop()
        await asyncio.gather(*running)
    await _finish(app)
    shop.clock.ahead += TIME_TO_PAY // timedelta(microseconds=1)
    await shop.fulfilment.fire_due()
    await _finish(app)


async def _finish(app: App) -> None:
    """Run all services until a round has nothing to do."""
    before, now = -1, await _count_commits(app)
    while before != now:
        for runner in _make_runners(app):
            with suppress(StreamsParked):  # mails that cannot be sent
                await runner.run(until_caught_up=True)
        before, now = now, await _count_commits(app)


def _make_runners(app: App) -> Sequence[Runner]:
    """Return a runner for each store, with the processors that read it. None reads the warehouse."""
    found = [[each for each in app.processors if each.store is store] for store in app.stores.values()]
    return [Runner(*processors) for processors in found if processors]


async def _count_commits(app: App) -> int:
    count = 0
    for store in app.stores.values():
        assert isinstance(store, Feed)
        async for heads in store.heads():
            count += sum(head.version for head in heads)
    return count
