"""Orders, their stock, and the process that fulfils an order: the domain of the tests of processes."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from eventsrc import Aggregate, Event
from eventsrc.processes import (
    Asks,
    Done,
    Input,
    Process,
    Refused,
    after,
    cancel,
    command,
    create_or_command,
    end,
)


class Placed(Event, tag="order.placed"):
    sku: str
    quantity: int


class Paid(Event, tag="order.paid"):
    pass


class Shipped(Event, tag="order.shipped"):
    pass


class Cancelled(Event, tag="order.cancelled"):
    reason: str


class AlreadyDecided(Exception):
    pass


class Order(Aggregate, tag="order"):
    state: str = ""

    def place(self, sku: str, quantity: int) -> None:
        self.record(Placed(sku=sku, quantity=quantity))

    def pay(self) -> None:
        if self.state != "placed":
            raise AlreadyDecided(self.state)
        self.record(Paid())

    def ship(self) -> None:
        self.record(Shipped())

    def cancel(self, reason: str) -> None:
        if self.state != "placed":
            raise AlreadyDecided(self.state)
        self.record(Cancelled(reason=reason))

    def apply_placed(self, event: Placed) -> None:
        self.state = "placed"

    def apply_paid(self, event: Paid) -> None:
        self.state = "paid"

    def apply_shipped(self, event: Shipped) -> None:
        self.state = "shipped"

    def apply_cancelled(self, event: Cancelled) -> None:
        self.state = f"cancelled: {event.reason}"


class Reserved(Event, tag="stock.reserved"):
    order: str
    quantity: int


class Released(Event, tag="stock.released"):
    order: str


class OutOfStock(Exception):
    pass


class Stock(Aggregate, tag="stock"):
    left: int = 10
    reserved: dict[str, int] = msgspec.field(default_factory=dict)
    commands: int = 0  # that were applied

    def reserve(self, order: str, quantity: int) -> None:
        if quantity > self.left:
            raise OutOfStock(f"{self.left} left")
        self.record(Reserved(order=order, quantity=quantity))

    def release(self, order: str) -> None:
        self.record(Released(order=order))

    def apply_reserved(self, event: Reserved) -> None:
        assert event.order not in self.reserved, "it is reserved twice"
        self.left, self.commands = self.left - event.quantity, self.commands + 1
        self.reserved[event.order] = event.quantity

    def apply_released(self, event: Released) -> None:
        self.left, self.commands = self.left + self.reserved.pop(event.order), self.commands + 1


class PaymentMissing(Event, tag="fulfilment.payment-missing"):
    pass


class Noted(Event, tag="fulfilment.noted"):
    sku: str


class StockReserved(Event, tag="fulfilment.reserved"):
    pass


class PaymentSeen(Event, tag="fulfilment.paid"):
    pass


class Fulfilment(Process, tag="fulfilment"):
    """Reserves the stock of an order, and ships it once that is done and the order is paid: two causes. An order that
    is not paid in 15 minutes, or whose stock is not there, is cancelled.
    """

    starts = (Placed,)
    sku: str = ""
    is_reserved: bool = False
    is_paid: bool = False

    def on_placed(self, event: Placed) -> Asks:
        self.record(Noted(sku=event.sku))
        yield create_or_command(Stock, event.sku, Stock.reserve, self.id, quantity=event.quantity)
        yield after(timedelta(minutes=15), PaymentMissing())

    def on_paid(self, event: Paid) -> Asks:
        self.record(PaymentSeen())
        yield cancel(PaymentMissing)
        yield from self._ship()

    def on_done(self, event: Done) -> Asks:
        if event.name == "reserve":
            self.record(StockReserved())
            yield from self._ship()
        if event.name == "cancel":  # now the payment cannot come any more
            if self.is_reserved:
                yield command(Stock, self.sku, Stock.release, self.id)
            yield end()

    def on_refused(self, event: Refused) -> Asks:
        if event.name == "reserve":
            yield command(Order, self.id, Order.cancel, event.reason)

    def on_payment_missing(self, event: PaymentMissing, given: Input) -> Asks:
        yield command(Order, self.id, Order.cancel, "not paid")

    def _ship(self) -> Asks:
        if self.is_paid and self.is_reserved:
            yield command(Order, self.id, Order.ship)
            yield end()

    def apply_noted(self, event: Noted) -> None:
        self.sku = event.sku

    def apply_stock_reserved(self, event: StockReserved) -> None:
        self.is_reserved = True

    def apply_payment_seen(self, event: PaymentSeen) -> None:
        self.is_paid = True
