"""What the services do besides: payments asks the bank, orders writes to customers, and there is a read model."""

from __future__ import annotations

from collections.abc import Callable

from eventsrc import Repository
from eventsrc.processing import Context, Database, EffectContext, Effects, SQLiteContext, SQLiteProjection

from .orders import Cancelled, Order, Shipped
from .payments import Asked, CardDeclined, Gateway, Payment, Refunded, Taken


class Charge(Effects, tag="charge"):
    """Payments takes the money for an order. While the bank does not answer, it is asked again."""

    def __init__(self, payments: Repository[Payment], gateway: Gateway) -> None:
        self._payments, self._gateway = payments, gateway

    async def handle_asked(self, event: Asked, context: EffectContext) -> None:
        order = id_of(context)
        try:
            if await self._gateway.charge(order, event.customer):
                await context.execute(self._payments, order, Payment.take)
        except CardDeclined as error:
            await context.execute(self._payments, order, Payment.decline, str(error))


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


class Revenue(SQLiteProjection, tag="revenue"):
    """A read model: the cents taken and given back, by order."""

    def create(self, db: Database) -> None:
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} (payment TEXT PRIMARY KEY, taken INTEGER, given INTEGER)")

    def handle_taken(self, event: Taken, context: SQLiteContext) -> None:
        context.db.execute(f"INSERT INTO {self.table} VALUES (?, ?, 0)", (context.stream, event.cents))

    def handle_refunded(self, event: Refunded, context: SQLiteContext) -> None:
        context.db.execute(f"UPDATE {self.table} SET given = ? WHERE payment = ?", (event.cents, context.stream))


def id_of(context: Context) -> str:
    """Return the id of the aggregate whose event is handled; orders and payments share it."""
    return context.stream.partition("-")[2]
