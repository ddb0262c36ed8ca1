"""How an order is fulfilled, across the three services: a process of the service of orders."""

from __future__ import annotations

from datetime import timedelta

from eventsrc import Event
from eventsrc.processes import Asks, Done, Process, Refused, after, cancel, command, create_or_command, end

from .orders import Order, Placed
from .payments import Declined, Payment, Taken
from .warehouse import Item, Parcel

TIME_TO_PAY = timedelta(minutes=15)


class PaymentMissing(Event, tag="fulfilment.payment-missing"):
    pass


class Wanted(Event, tag="fulfilment.wanted"):
    sku: str
    count: int


class GoodsReady(Event, tag="fulfilment.goods-ready"):
    pass


class MoneyReady(Event, tag="fulfilment.money-ready"):
    pass


class Fulfilment(Process, tag="fulfilment"):
    """Of the order with the same id. Once its goods are reserved and it is paid, it is packed and shipped.

    If that fails anywhere, or it is not paid in time, all is undone: the goods, the payment, and the order.
    """

    starts = (Placed,)
    sku: str = ""
    count: int = 0
    goods: bool = False
    money: bool = False

    def on_placed(self, event: Placed) -> Asks:
        self.record(Wanted(sku=event.sku, count=event.count))
        yield command(Item, event.sku, Item.reserve, self.id, event.count)
        yield create_or_command(Payment, self.id, Payment.ask, event.customer, event.cents)
        yield after(TIME_TO_PAY, PaymentMissing())

    def on_taken(self, event: Taken) -> Asks:
        self.record(MoneyReady())
        yield cancel(PaymentMissing)
        yield from self._pack()

    def on_done(self, event: Done) -> Asks:
        if event.name == "reserve":
            self.record(GoodsReady())
            yield from self._pack()
        elif event.name == "pack":
            yield command(Order, self.id, Order.ship)
            yield end()

    def on_declined(self, event: Declined) -> Asks:
        yield from self._undo(event.reason)

    def on_payment_missing(self, event: PaymentMissing) -> Asks:
        yield from self._undo("not paid in time")

    def on_refused(self, event: Refused) -> Asks:
        yield from self._undo(event.reason)

    def _pack(self) -> Asks:
        if self.goods and self.money:
            yield create_or_command(Parcel, self.id, Parcel.pack, self.sku, self.count)

    def _undo(self, reason: str) -> Asks:
        yield command(Item, self.sku, Item.release, self.id)
        yield command(Payment, self.id, Payment.undo)
        yield command(Order, self.id, Order.cancel, reason)
        yield end()

    def apply_wanted(self, event: Wanted) -> None:
        self.sku, self.count = event.sku, event.count

    def apply_goods_ready(self, event: GoodsReady) -> None:
        self.goods = True

    def apply_money_ready(self, event: MoneyReady) -> None:
        self.money = True
