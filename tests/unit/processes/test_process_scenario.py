"""`given_process`: processes are tested without a store, with a virtual clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.fulfilment import (
    Cancelled,
    Fulfilment,
    Noted,
    Order,
    OutOfStock,
    Paid,
    PaymentMissing,
    PaymentSeen,
    Placed,
    Stock,
    StockReserved,
)

from eventsrc import Event
from eventsrc.processes import (
    Asks,
    Input,
    Process,
    after,
    at,
    call,
    cancel,
    command,
    create_or_command,
    end,
)
from eventsrc.testing import answered, done, given_process, refused

START = datetime(2026, 3, 1, tzinfo=UTC)
PLACED = Placed(sku="pen", quantity=3)
RESERVE = create_or_command(Stock, "pen", Stock.reserve, "1", 3)


def test_an_event_leads_to_commands_and_timers() -> None:
    given_process(Fulfilment).when(PLACED).then(RESERVE, after(timedelta(minutes=15), PaymentMissing())).then_recorded(
        Noted(sku="pen")
    ).then_state(sku="pen", is_reserved=False).then_waits()


def test_two_causes_come_in_any_order() -> None:
    ship = (command(Order, "1", Order.ship), end())
    given_process(Fulfilment, PLACED, done(RESERVE)).when(Paid()).then(cancel(PaymentMissing), *ship).then_ended()
    given_process(Fulfilment, PLACED, Paid()).when(done(RESERVE)).then(*ship).then_ended()
    given_process(Fulfilment, PLACED).when(Paid()).then(cancel(PaymentMissing)).then_recorded(PaymentSeen())
    given_process(Fulfilment, PLACED).when(done(RESERVE)).then().then_recorded(StockReserved()).then_waits()


def test_a_timer_fires_when_its_time_has_passed() -> None:
    almost = timedelta(minutes=15) - timedelta(microseconds=1)
    unpaid = command(Order, "1", Order.cancel, reason="not paid")
    given_process(Fulfilment, PLACED).when(almost).then().then_waits()
    given_process(Fulfilment, PLACED, almost).when(timedelta(microseconds=1)).then(unpaid).then_waits()
    given_process(Fulfilment, PLACED, timedelta(hours=1)).when(done(unpaid)).then(end()).then_ended()
    given_process(Fulfilment, PLACED, done(RESERVE), timedelta(hours=1)).when(done(unpaid)).then(
        command(Stock, "pen", Stock.release, "1"), end()
    )


def test_a_cancelled_timer_does_not_fire() -> None:
    given_process(Fulfilment, PLACED, Paid()).when(timedelta(days=1)).then()


def test_a_refused_command_is_an_input() -> None:
    given_process(Fulfilment, PLACED).when(refused(RESERVE, OutOfStock("2 left"))).then(
        command(Order, "1", Order.cancel, "2 left")
    ).then_waits()


def test_events_from_before_the_start_are_held_until_then() -> None:
    given_process(Fulfilment).when(Paid()).then().then_recorded()
    given_process(Fulfilment, Paid()).when(PLACED).then(
        RESERVE, after(timedelta(minutes=15), PaymentMissing()), cancel(PaymentMissing)
    ).then_state(is_paid=True)


def test_after_its_end_a_process_takes_nothing_in() -> None:
    ended = given_process(Fulfilment, PLACED, done(RESERVE), Paid()).then_ended()
    ended.when(Paid()).then().then_recorded().when(timedelta(hours=1)).then()


def test_wrong_expectations_fail() -> None:
    given = given_process(Fulfilment, PLACED)
    with pytest.raises(AssertionError, match="asked for"):
        given.when(Paid()).then()
    with pytest.raises(AssertionError, match="asked for"):
        given_process(Fulfilment).when(PLACED).then(RESERVE, after(timedelta(minutes=14), PaymentMissing()))
    with pytest.raises(AssertionError, match="recorded"):
        given_process(Fulfilment).when(PLACED).then_recorded(Noted(sku="cup"))
    with pytest.raises(AssertionError, match=r"not ended; it waits for stock.reserve pen, fulfilment"):
        given_process(Fulfilment, PLACED).then_ended()
    with pytest.raises(AssertionError, match="nothing is pending"):
        given_process(Fulfilment, Paid()).then_waits()
    with pytest.raises(AssertionError, match=r"no on_. handler for Cancelled"):
        given_process(Fulfilment).when(Cancelled(reason=""))
    with pytest.raises(AssertionError, match=r"stock.release pen is not pending"):
        given_process(Fulfilment, PLACED).when(done(command(Stock, "pen", Stock.release, "1")))


class Charge(Event, tag="charge"):
    amount: int


class Charged(Event, tag="charged"):
    receipt: str


class Declined(Exception):
    pass


class Started(Event, tag="started"):
    amount: int


class Remind(Event, tag="remind"):
    number: int


class Payment(Process, tag="payment"):
    reminders: int = 0

    def on_started(self, event: Started) -> Asks:
        return [call("provider", Charge(amount=event.amount)), at(START + timedelta(hours=1), Remind(number=1))]

    def on_charged(self, event: Charged) -> Asks:
        yield end()

    def on_remind(self, event: Remind, given: Input) -> Asks:
        if event.number < 3:
            name = f"reminder {event.number}"
            yield after(timedelta(hours=event.number), Remind(number=event.number + 1), name=name)
        else:
            yield end()


def test_services_and_repeated_timers() -> None:
    past = given_process(Payment, id="7", start=START)
    past.when(Started(amount=5)).then(
        call("provider", Charge(amount=5)), at(START + timedelta(hours=1), Remind(number=1))
    )
    past.when(answered("provider", Charged(receipt="r-1"))).then(end()).then_ended()
    given_process(Payment, Started(amount=5), start=START).when(timedelta(hours=1)).then(
        after(timedelta(hours=1), Remind(number=2), name="reminder 1")
    )
    given_process(Payment, Started(amount=5), start=START).when(timedelta(hours=4)).then(
        after(timedelta(hours=1), Remind(number=2), name="reminder 1"),
        after(timedelta(hours=2), Remind(number=3), name="reminder 2"),
        end(),
    )
    with pytest.raises(RuntimeError, match="does not handle that; write on_refused"):
        given_process(Payment, Started(amount=5), start=START).when(answered("provider", error=Declined("no money")))
