"""The service of payments: what was taken from customers, and given back."""

from __future__ import annotations

from collections.abc import Collection

from eventsrc import Aggregate, Event


class Taken(Event, tag="payment.taken"):
    cents: int


class Declined(Event, tag="payment.declined"):
    reason: str


class Refunded(Event, tag="payment.refunded"):
    cents: int


class Payment(Aggregate, tag="payment"):
    """The payment of the order with the same id."""

    cents: int = 0
    state: str = "new"

    def take(self, cents: int) -> None:
        if self.state == "new":
            self.record(Taken(cents=cents))

    def decline(self, reason: str) -> None:
        if self.state == "new":
            self.record(Declined(reason=reason))

    def refund(self) -> None:
        if self.state == "taken":
            self.record(Refunded(cents=self.cents))

    def apply_taken(self, event: Taken) -> None:
        self.cents, self.state = event.cents, "taken"

    def apply_declined(self, event: Declined) -> None:
        self.state = "declined"

    def apply_refunded(self, event: Refunded) -> None:
        self.cents, self.state = 0, "refunded"


class GatewayTimeout(Exception):
    """The bank has not answered."""


class CardDeclined(Exception):
    """The bank does not pay for this customer."""


class Gateway:
    """The bank: it does not answer the first request for some orders, and pays nothing for some customers."""

    def __init__(self, *, slow: Collection[str] = (), poor: Collection[str] = ()) -> None:
        self._slow, self._poor = set(slow), frozenset(poor)

    async def charge(self, order: str, customer: str) -> None:
        """Raises GatewayTimeout, CardDeclined."""
        if order in self._slow:
            self._slow.discard(order)
            raise GatewayTimeout(f"the bank has not answered for {order}")
        if customer in self._poor:
            raise CardDeclined(f"the bank pays nothing for {customer}")
