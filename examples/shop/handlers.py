"""What the services do when something has happened in one of them: commands to their own aggregates, and mails.

Each handler may be called again for the same event, after a crash or an error. The commands change nothing then.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from eventsrc import Aggregate, AggregateNotFound, ConflictError, Repository, trace
from eventsrc.processing import Context, Database, Effects, SQLiteContext, SQLiteProjection

from .orders import Cancelled, Order, Placed, Shipped
from .payments import CardDeclined, Declined, Gateway, Payment, Refunded, Taken
from .warehouse import Item, Packed, Parcel, Refused, Reserved

A = TypeVar("A", bound=Aggregate)


class Reserve(Effects, tag="reserve"):
    """The warehouse reserves what is ordered, and releases what is not wanted any more."""

    def __init__(self, items: Repository[Item], orders: Repository[Order]) -> None:
        self._items, self._orders = items, orders

    async def handle_placed(self, event: Placed, context: Context) -> None:
        await self._items.execute(event.sku, Item.reserve, id_of(context), event.count)

    async def handle_cancelled(self, event: Cancelled, context: Context) -> None:
        order = await self._orders.load(id_of(context))
        await self._items.execute(order.sku, Item.release, order.id)


class Charge(Effects, tag="charge"):
    """Payments takes the money for an order, and gives it back if the order is cancelled."""

    def __init__(self, payments: Repository[Payment], gateway: Gateway) -> None:
        self._payments, self._gateway = payments, gateway

    async def handle_placed(self, event: Placed, context: Context) -> None:
        try:
            await self._gateway.charge(id_of(context), event.customer)
        except CardDeclined as error:
            await change(self._payments, id_of(context), Payment.decline, str(error))
        else:
            await change(self._payments, id_of(context), Payment.take, event.cents)

    async def handle_cancelled(self, event: Cancelled, context: Context) -> None:
        await change(self._payments, id_of(context), Payment.refund)


class Mail(Effects, tag="mail"):
    """Orders writes to the customer how it ended."""

    def __init__(self, orders: Repository[Order], send: Callable[[str, str], None]) -> None:
        self._orders, self._send = orders, send

    async def handle_shipped(self, event: Shipped, context: Context) -> None:
        order = await self._orders.load(id_of(context))
        self._send(order.mail, f"Your order {order.id} is on its way.")

    async def handle_cancelled(self, event: Cancelled, context: Context) -> None:
        order = await self._orders.load(id_of(context))
        self._send(order.mail, f"Your order {order.id} is cancelled: {event.reason}.")


class FollowWarehouse(Effects, tag="follow-warehouse"):
    """Orders hears what the warehouse has done."""

    def __init__(self, orders: Repository[Order]) -> None:
        self._orders = orders

    async def handle_reserved(self, event: Reserved, context: Context) -> None:
        await self._orders.execute(event.order, Order.confirm)

    async def handle_refused(self, event: Refused, context: Context) -> None:
        await self._orders.execute(event.order, Order.cancel, f"only {event.left} left")

    async def handle_packed(self, event: Packed, context: Context) -> None:
        await self._orders.execute(event.order, Order.ship, context.stream)


class FollowPayments(Effects, tag="follow-payments"):
    """Orders hears what became of the payment."""

    def __init__(self, orders: Repository[Order]) -> None:
        self._orders = orders

    async def handle_declined(self, event: Declined, context: Context) -> None:
        await self._orders.execute(id_of(context), Order.cancel, event.reason)


class PackGoods(Effects, tag="pack-goods"):
    """The warehouse packs what is reserved, if it is paid."""

    def __init__(self, parcels: Repository[Parcel]) -> None:
        self._parcels = parcels

    async def handle_reserved(self, event: Reserved, context: Context) -> None:
        await change(self._parcels, event.order, Parcel.note_goods, context.id)
        await pack(self._parcels, event.order)


class PackPaid(Effects, tag="pack-paid"):
    """The warehouse packs what is paid, if it is reserved."""

    def __init__(self, parcels: Repository[Parcel]) -> None:
        self._parcels = parcels

    async def handle_taken(self, event: Taken, context: Context) -> None:
        await change(self._parcels, id_of(context), Parcel.note_money, context.id)
        await pack(self._parcels, id_of(context))


class Revenue(SQLiteProjection, tag="revenue"):
    """A read model: the cents taken and given back, by order."""

    def create(self, db: Database) -> None:
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} (payment TEXT PRIMARY KEY, taken INTEGER, given INTEGER)")

    def handle_taken(self, event: Taken, context: SQLiteContext) -> None:
        context.db.execute(f"INSERT INTO {self.table} VALUES (?, ?, 0)", (context.stream, event.cents))

    def handle_refunded(self, event: Refunded, context: SQLiteContext) -> None:
        context.db.execute(f"UPDATE {self.table} SET given = ? WHERE payment = ?", (event.cents, context.stream))


def id_of(context: Context) -> str:
    """Return the id of the aggregate whose event is handled; orders, payments and parcels share it."""
    return context.stream.partition("-")[2]


async def change(repository: Repository[A], id: str, command: Callable[..., None], *args: Any) -> None:
    """Call a command on an aggregate, also if it does not exist yet."""
    with suppress(AggregateNotFound):
        await repository.execute(id, command, *args)
        return
    aggregate = repository.aggregate_class(id=id)
    command(aggregate, *args)
    try:
        await repository.save(aggregate)
    except ConflictError:  # another handler has made it in the meantime
        await repository.execute(id, command, *args)


async def pack(parcels: Repository[Parcel], order: str) -> None:
    """Pack the parcel of an order if all is there. It has two causes then, and both are stored."""
    parcel = await parcels.load(order)
    if parcel.goods and parcel.money:  # or the handler that brings what is missing packs it
        with trace(causation_id=[parcel.goods, parcel.money]):
            await parcels.execute(order, Parcel.pack)
