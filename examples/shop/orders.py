"""The service of orders: what customers ask for, and what became of it."""

from __future__ import annotations

from typing import Self

from eventsrc import Aggregate, Event


class Placed(Event, tag="order.placed"):
    customer: str
    mail: str
    sku: str
    count: int
    cents: int


class Cancelled(Event, tag="order.cancelled"):
    reason: str


class Shipped(Event, tag="order.shipped"):
    pass


class Order(Aggregate, tag="order"):
    """An order is placed, and then shipped or cancelled: its process decides that, once."""

    customer: str = ""
    mail: str = ""
    sku: str = ""
    count: int = 0
    cents: int = 0
    state: str = "new"
    reason: str = ""

    @classmethod
    def place(cls, id: str, *, customer: str, mail: str, sku: str, count: int, cents: int) -> Self:
        order = cls(id=id)
        order.record(Placed(customer=customer, mail=mail, sku=sku, count=count, cents=cents))
        return order

    def cancel(self, reason: str) -> None:
        self.record(Cancelled(reason=reason))

    def ship(self) -> None:
        self.record(Shipped())

    def apply_placed(self, event: Placed) -> None:
        self.customer, self.mail, self.sku = event.customer, event.mail, event.sku
        self.count, self.cents, self.state = event.count, event.cents, "placed"

    def apply_cancelled(self, event: Cancelled) -> None:
        self.state, self.reason = "cancelled", event.reason

    def apply_shipped(self, event: Shipped) -> None:
        self.state = "shipped"
