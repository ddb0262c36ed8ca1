"""What the campaigns of processes are about: orders with stock and payments, transfers between accounts, and picking.

The aggregates do not notice a command that is applied twice: they count it, and the campaign compares.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import msgspec

from eventsrc import Aggregate, Event, Repository
from eventsrc.processes import (
    Asks,
    Done,
    Input,
    Process,
    Refused,
    after,
    call,
    cancel,
    command,
    create_or_command,
    end,
)
from eventsrc.processing import EffectContext, Effects


class Trouble:
    """Says which faults of a program happen now. A campaign replaces `strikes`."""

    strikes: Callable[[str], bool] = staticmethod(lambda kind: False)

    def fail(self, kind: str) -> None:
        if self.strikes(kind):
            raise ConnectionError(f"made up: {kind}")  # not a refusal


trouble = Trouble()


class Refusal(Exception):
    """A rule of the business refuses a command."""


# Orders: `Order` and `Payment` in one store, `Stock` and the process in another.


class Drafted(Event, tag="order.drafted"):
    pass


class Placed(Event, tag="order.placed"):
    sku: str
    quantity: int
    patience: float  # seconds; 0: for ever


class Shipped(Event, tag="order.shipped"):
    pass


class Cancelled(Event, tag="order.cancelled"):
    pass


class Order(Aggregate, tag="order"):
    shipped: int = 0
    cancelled: int = 0

    def draft(self) -> None:
        self.record(Drafted())

    def place(self, sku: str, quantity: int, patience: float) -> None:
        self.record(Placed(sku=sku, quantity=quantity, patience=patience))

    def ship(self) -> None:
        trouble.fail("command failed")
        self.record(Shipped())

    def cancel(self) -> None:
        trouble.fail("command failed")
        self.record(Cancelled())

    def apply_others(self, event: Drafted | Placed) -> None: ...

    def apply_shipped(self, event: Shipped) -> None:
        self.shipped += 1

    def apply_cancelled(self, event: Cancelled) -> None:
        self.cancelled += 1


class Received(Event, tag="payment.received"):
    order: str


class Payment(Aggregate, tag="payment"):
    def receive(self, order: str) -> None:
        self.record(Received(order=order))

    def apply_received(self, event: Received) -> None: ...


class Stocked(Event, tag="stock.stocked"):
    quantity: int


class Reserved(Event, tag="stock.reserved"):
    order: str
    quantity: int


class Released(Event, tag="stock.released"):
    order: str
    quantity: int


class Stock(Aggregate, tag="stock"):
    left: int = 0
    reserved: dict[str, int] = msgspec.field(default_factory=dict)  # by order; it may be negative
    times: dict[str, int] = msgspec.field(default_factory=dict)  # how often something was reserved, by order

    def stock(self, quantity: int) -> None:
        self.record(Stocked(quantity=quantity))

    def reserve(self, order: str, quantity: int) -> None:
        trouble.fail("command failed")
        if quantity > self.left or trouble.strikes("refused"):
            raise Refusal(f"{self.left} left")
        self.record(Reserved(order=order, quantity=quantity))

    def take(self, order: str) -> None:
        """Reserve one, also if there is none."""
        trouble.fail("command failed")
        self.record(Reserved(order=order, quantity=1))

    def release(self, order: str, quantity: int) -> None:
        trouble.fail("command failed")
        self.record(Released(order=order, quantity=quantity))

    def apply_stocked(self, event: Stocked) -> None:
        self.left += event.quantity

    def apply_reserved(self, event: Reserved) -> None:
        self.left -= event.quantity
        self.reserved[event.order] = self.reserved.get(event.order, 0) + event.quantity
        self.times[event.order] = self.times.get(event.order, 0) + 1

    def apply_released(self, event: Released) -> None:
        self.left += event.quantity
        self.reserved[event.order] = self.reserved.get(event.order, 0) - event.quantity


class Unpaid(Event, tag="sale.unpaid"):
    pass


class Reminder(Event, tag="sale.reminder"):
    pass


class PriceAsked(Event, tag="sale.price-asked"):
    sku: str


class Priced(Event, tag="sale.priced"):
    amount: int


class Noted(Event, tag="sale.noted"):
    what: str
    sku: str = ""
    quantity: int = 0


class Sale(Process, tag="sale"):
    """Reserves the stock of an order, and ships it once it is paid. If it is not paid in time, the order is cancelled,
    and what was reserved is released: now, or once it is reserved.
    """

    starts = (Placed,)
    sku: str = ""
    quantity: int = 0
    noted: dict[str, int] = msgspec.field(default_factory=dict)

    @classmethod
    def key(cls, event: object, context: Input) -> str | None:
        return event.order if isinstance(event, Received) else context.stream.partition("-")[2]

    def on_drafted(self, event: Drafted) -> Asks:
        self.record(Noted(what="drafted"))
        return ()

    def on_placed(self, event: Placed) -> Asks:
        trouble.fail("handler failed")
        self.record(Noted(what="placed", sku=event.sku, quantity=event.quantity))
        yield create_or_command(Stock, event.sku, Stock.reserve, self.id, quantity=event.quantity)
        if event.patience:
            yield after(timedelta(seconds=event.patience), Unpaid())
        yield after(timedelta(seconds=event.patience / 4), Reminder())
        yield call("prices", PriceAsked(sku=event.sku))

    def on_received(self, event: Received) -> Asks:
        trouble.fail("handler failed")
        if self._has("paid"):
            return
        self.record(Noted(what="paid"))
        if not self._has("unpaid"):
            yield cancel(Unpaid)
            yield from self._ship()

    def on_priced(self, event: Priced) -> Asks:
        self.record(Noted(what="priced"))
        yield from self._ship()

    def on_done(self, event: Done) -> Asks:
        trouble.fail("handler failed")
        if event.name == "reserve":
            self.record(Noted(what="reserved"))
            if self._has("unpaid"):
                yield command(Stock, self.sku, Stock.release, self.id, self.quantity)
                yield end()
            else:
                yield after(timedelta(seconds=2), Reminder())  # in place of the one that is pending
                yield from self._ship()

    def on_refused(self, event: Refused) -> Asks:
        if event.name == "reserve":
            if not self._has("unpaid"):
                yield command(Order, self.id, Order.cancel)
            yield end()
        elif event.category == "prices":
            self.record(Noted(what="priced"))  # it costs nothing
            yield from self._ship()
        else:
            raise AssertionError(f"{event.name} was refused")

    def on_reminder(self, event: Reminder) -> Asks:
        self.record(Noted(what="reminded"))
        if self.noted["reminded"] < 3:
            yield after(timedelta(seconds=1), Reminder())

    def on_unpaid(self, event: Unpaid) -> Asks:
        trouble.fail("handler failed")
        self.record(Noted(what="unpaid"))
        yield command(Order, self.id, Order.cancel)
        if self._has("reserved"):
            yield command(Stock, self.sku, Stock.release, self.id, self.quantity)
            yield end()

    def _ship(self) -> Asks:
        if all(map(self._has, ("paid", "reserved", "priced"))):
            yield command(Order, self.id, Order.ship)
            yield end()

    def _has(self, what: str) -> bool:
        return what in self.noted

    def apply_noted(self, event: Noted) -> None:
        self.noted[event.what] = self.noted.get(event.what, 0) + 1
        if event.what == "placed":
            self.sku, self.quantity = event.sku, event.quantity


# A bank: `Checking` accounts in one store, `Saving` accounts and transfers in another. A transfer is a process.


class Opened(Event, tag="account.opened"):
    amount: int


class Withdrawn(Event, tag="account.withdrawn"):
    amount: int


class Deposited(Event, tag="account.deposited"):
    amount: int


class Closed(Event, tag="account.closed"):
    pass


class Blocked(Event, tag="account.blocked"):
    transfer: str


class Checking(Aggregate, tag="checking"):
    balance: int = 0

    def open(self, amount: int) -> None:
        self.record(Opened(amount=amount))

    def withdraw(self, amount: int) -> None:
        trouble.fail("command failed")
        if amount > self.balance or trouble.strikes("refused"):
            raise Refusal(f"there are {self.balance}")
        self.record(Withdrawn(amount=amount))

    def add(self, amount: int) -> None:
        self.record(Deposited(amount=amount))

    def refund(self, amount: int) -> None:
        trouble.fail("command failed")
        self.record(Deposited(amount=amount))

    def apply_opened(self, event: Opened) -> None:
        self.balance = event.amount

    def apply_withdrawn(self, event: Withdrawn) -> None:
        self.balance -= event.amount

    def apply_deposited(self, event: Deposited) -> None:
        self.balance += event.amount


class Saving(Aggregate, tag="saving"):
    balance: int = 0
    closed: bool = False
    blocked: list[str] = msgspec.field(default_factory=list)

    def open(self) -> None:
        self.record(Opened(amount=0))

    def close(self) -> None:
        self.record(Closed())

    def deposit(self, transfer: str, amount: int) -> None:
        trouble.fail("command failed")
        if self.closed or transfer in self.blocked or trouble.strikes("refused"):
            raise Refusal("it takes no money")
        self.record(Deposited(amount=amount))

    def move(self, other: Saving, amount: int) -> None:
        """Give money to another account, in one transaction. At most what there is."""
        moved = min(amount, self.balance)
        self.record(Withdrawn(amount=moved))
        other.record(Deposited(amount=moved))

    def block(self, transfer: str) -> None:
        """Refuse a deposit of this transfer from now on."""
        trouble.fail("command failed")
        self.record(Blocked(transfer=transfer))

    def apply_opened(self, event: Opened) -> None:
        self.balance = event.amount

    def apply_closed(self, event: Closed) -> None:
        self.closed = True

    def apply_withdrawn(self, event: Withdrawn) -> None:
        self.balance -= event.amount

    def apply_deposited(self, event: Deposited) -> None:
        self.balance += event.amount

    def apply_blocked(self, event: Blocked) -> None:
        self.blocked.append(event.transfer)


class Requested(Event, tag="transfer.requested"):
    source: str
    target: str
    amount: int
    patience: float  # seconds


class Transfer(Aggregate, tag="transfer"):
    def request(self, source: str, target: str, amount: int, patience: float) -> None:
        self.record(Requested(source=source, target=target, amount=amount, patience=patience))

    def apply_requested(self, event: Requested) -> None: ...


class Late(Event, tag="moving.late"):
    pass


class Began(Event, tag="moving.began"):
    source: str
    target: str
    amount: int
    patience: float


class Turned(Event, tag="moving.turned"):
    """The money goes back."""


class Moving(Process, tag="moving"):
    """Moves money: withdraws and deposits it. It is refunded if the deposit is refused. If that takes too long, the
    other account is asked to refuse it: commands are issued in order, so the outcome of the deposit is known by then.
    """

    source: str = ""
    target: str = ""
    amount: int = 0
    patience: float = 0.0
    turned: bool = False

    def on_requested(self, event: Requested) -> Asks:
        trouble.fail("handler failed")
        self.record(Began(source=event.source, target=event.target, amount=event.amount, patience=event.patience))
        yield command(Checking, event.source, Checking.withdraw, event.amount)

    def on_done(self, event: Done) -> Asks:
        trouble.fail("handler failed")
        match event.name:
            case "withdraw":
                yield command(Saving, self.target, Saving.deposit, self.id, amount=self.amount)
                yield after(timedelta(seconds=self.patience), Late())
            case "deposit" | "refund":
                yield end()

    def on_refused(self, event: Refused) -> Asks:
        trouble.fail("handler failed")
        if event.name == "withdraw":
            yield end()
        elif event.name == "deposit" and not self.turned:
            self.record(Turned())
            yield command(Checking, self.source, Checking.refund, self.amount)

    def on_late(self, event: Late) -> Asks:
        trouble.fail("handler failed")
        yield command(Saving, self.target, Saving.block, self.id)

    def apply_began(self, event: Began) -> None:
        self.source, self.target, self.amount, self.patience = event.source, event.target, event.amount, event.patience

    def apply_turned(self, event: Turned) -> None:
        self.turned = True


# Picking: commands of plain effects.


class Picked(Event, tag="pick.picked"):
    skus: list[str]


class Pick(Aggregate, tag="pick"):
    def pick(self, skus: list[str]) -> None:
        self.record(Picked(skus=skus))

    def apply_picked(self, event: Picked) -> None: ...


class Picking(Effects, tag="picking"):
    """Reserves one of each item of a list, in which an item may be more than once."""

    def __init__(self, stock: Repository[Stock]) -> None:
        self._stock = stock

    async def handle_picked(self, event: Picked, context: EffectContext) -> None:
        for number, sku in enumerate(event.skus):
            await context.create_or_execute(self._stock, sku, Stock.take, f"{context.id} {number}")
            trouble.fail("handler failed")
