"""The service of payments: what was taken from customers, and given back."""

from __future__ import annotations

from collections.abc import Collection

from eventsrc import Aggregate, Event


class Asked(Event, tag="payment.asked"):
    customer: str
    cents: int


class Taken(Event, tag="payment.taken"):
    cents: int


class Declined(Event, tag="payment.declined"):
    reason: str


class Withdrawn(Event, tag="payment.withdrawn"):
    pass


class Refunded(Event, tag="payment.refunded"):
    cents: int


class Payment(Aggregate, tag="payment"):
    """The payment of the order with the same id."""

    asked: int = 0  # cents
    cents: int = 0  # that are taken
    state: str = "new"

    def ask(self, customer: str, cents: int) -> None:
        self.record(Asked(customer=customer, cents=cents))

    def take(self) -> None:
        """Take the money. If it is not wanted any more, give it back at once."""
        if self.state in ("asked", "withdrawn"):
            was_withdrawn = self.state == "withdrawn"
            self.record(Taken(cents=self.asked))
            if was_withdrawn:
                self.record(Refunded(cents=self.cents))

    def decline(self, reason: str) -> None:
        if self.state == "asked":
            self.record(Declined(reason=reason))

    def undo(self) -> None:
        """Give the money back, or want it no more."""
        if self.state == "taken":
            self.record(Refunded(cents=self.cents))
        elif self.state == "asked":
            self.record(Withdrawn())

    def apply_asked(self, event: Asked) -> None:
        self.asked, self.state = event.cents, "asked"

    def apply_taken(self, event: Taken) -> None:
        self.cents, self.state = event.cents, "taken"

    def apply_declined(self, event: Declined) -> None:
        self.state = "declined"

    def apply_withdrawn(self, event: Withdrawn) -> None:
        self.state = "withdrawn"

    def apply_refunded(self, event: Refunded) -> None:
        self.cents, self.state = 0, "refunded"


class GatewayTimeout(Exception):
    """The bank has not answered."""


class CardDeclined(Exception):
    """The bank does not pay for this customer."""


class Gateway:
    """The bank. It does not answer the first request for some orders, pays nothing for some customers, and waits for
    others to confirm a payment.
    """

    def __init__(
        self, *, slow: Collection[str] = (), poor: Collection[str] = (), forgetful: Collection[str] = ()
    ) -> None:
        self._slow, self._poor, self._forgetful = set(slow), frozenset(poor), frozenset(forgetful)

    async def charge(self, order: str, customer: str) -> bool:
        """Return whether the money is taken; if not, the customer has not confirmed.

        A request for an order that is paid takes nothing more. Raises GatewayTimeout, CardDeclined.
        """
        if order in self._slow:
            self._slow.discard(order)
            raise GatewayTimeout(f"the bank has not answered for {order}")
        if customer in self._poor:
            raise CardDeclined(f"the bank pays nothing for {customer}")
        return customer not in self._forgetful
