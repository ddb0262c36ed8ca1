"""What a process class declares wrongly is reported with its place, and so are handlers that break the rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from support.fulfilment import Fulfilment, Order, Paid, PaymentMissing, Placed, Stock

from eventsrc import DeclarationError, Event, MemoryStore
from eventsrc.processes import Asks, Process, ProcessManager, after, at, cancel, command, create_or_command, end
from eventsrc.processes.arguments import decode_arguments, encode_arguments
from eventsrc.processing import MemoryCheckpoints
from eventsrc.testing import given_process


class Untagged(Event):
    pass


class NoHandler(Process, tag="nohandler"):
    pass


class Twice(Process, tag="twice"):
    def on_one(self, event: Placed) -> Asks:
        return ()

    def on_other(self, event: Placed | Paid) -> Asks:
        return ()


class Awaiting(Process, tag="awaiting"):
    async def on_placed(self, event: Placed) -> Asks:
        return ()


class Unannotated(Process, tag="unannotated"):
    def on_placed(self, event):  # type: ignore[no-untyped-def]
        return ()


class Parameters(Process, tag="parameters"):
    def on_placed(self, event: Placed, given: Any, more: Any) -> Asks:
        return ()


class NotAnEvent(Process, tag="notanevent"):
    def on_placed(self, event: int) -> Asks:
        return ()


class NoTag(Process, tag="notag"):
    def on_placed(self, event: Untagged) -> Asks:
        return ()


class WrongStart(Process, tag="wrongstart"):
    starts = (Paid,)

    def on_placed(self, event: Placed) -> Asks:
        return ()


@pytest.mark.parametrize(
    ("process", "match"),
    [
        (NoHandler, r"has no on_\* handler"),
        (Twice, "handles Placed, and so does"),
        (Awaiting, "awaits nothing"),
        (Unannotated, "annotate 'event'"),
        (Parameters, "wrong parameters"),
        (NotAnEvent, "is not a subclass of Event"),
        (NoTag, "has no tag"),
        (WrongStart, r"names Paid, which no on_\* method handles"),
        (Process, "has no tag"),
    ],
)
async def test_a_wrong_declaration_is_refused(process: type[Process], match: str) -> None:
    async with MemoryStore() as store:
        with pytest.raises(DeclarationError, match=match):
            ProcessManager(process, store, MemoryCheckpoints())
    with pytest.raises(DeclarationError, match=match):
        given_process(process)


class Returns(Process, tag="returns"):
    what: int = 0

    def on_placed(self, event: Placed) -> Any:
        found: dict[int, Any] = {
            1: 5,
            2: [5],
            3: "text",
            4: [end(), cancel("x")],
            5: [command(Order, self.id, Order.cancel, 5)],  # type: ignore[arg-type]
        }
        return found[event.quantity]


@pytest.mark.parametrize(
    ("quantity", "error", "match"),
    [
        (1, TypeError, "returned int; yield commands and timers"),
        (2, TypeError, "asked for int; ask with command"),
        (3, TypeError, "returned str"),
        (4, RuntimeError, "asked for more after end"),
        (5, TypeError, "an argument of cancel cannot be stored"),
    ],
)
def test_a_handler_that_asks_for_something_else_fails(quantity: int, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        given_process(Returns).when(Placed(sku="pen", quantity=quantity))


def test_commands_are_methods_with_their_arguments() -> None:
    with pytest.raises(TypeError, match="is not a method of Order"):
        command(Order, "o-1", lambda order: None)
    with pytest.raises(TypeError, match="is not a method of Order"):
        command(Order, "o-1", Stock.release, "o-1")  # type: ignore[misc]
    with pytest.raises(TypeError, match="too many positional arguments"):
        command(Order, "o-1", Order.pay, 5)  # type: ignore[call-arg]
    with pytest.raises(DeclarationError):
        command(int, "o-1", Order.pay)  # type: ignore[misc]
    assert command(Stock, "pen", Stock.reserve, "o-1", 3) == command(Stock, "pen", Stock.reserve, "o-1", quantity=3)
    assert command(Stock, "pen", Stock.reserve, "o-1", 3) != create_or_command(Stock, "pen", Stock.reserve, "o-1", 3)


def test_times_have_a_zone() -> None:
    with pytest.raises(ValueError, match="has no zone"):
        at(datetime(2026, 1, 1), PaymentMissing())  # noqa: DTZ001
    assert after(timedelta(0), PaymentMissing()).name == "fulfilment.payment-missing"


def test_an_event_for_another_process_is_noticed() -> None:
    class Other(Fulfilment, tag="other"):
        @classmethod
        def key(cls, event: Any, context: Any) -> str | None:
            return "another"

    with pytest.raises(AssertionError, match="is for the process 'another', and this is '1'"):
        given_process(Other).when(Placed(sku="pen", quantity=1))


def test_arguments_keep_their_types() -> None:
    def method(self: object, price: Decimal, when: datetime, *rest: int, note: str = "", **more: Decimal) -> None: ...

    args: tuple[Any, ...] = (Decimal("1.50"), datetime(2026, 1, 1, tzinfo=UTC), 1, 2)
    kwargs: dict[str, Any] = {"note": "x", "extra": Decimal(2)}
    assert decode_arguments(method, *encode_arguments(method, args, kwargs)) == (args, kwargs)
    with pytest.raises(TypeError, match="cannot be stored"):
        encode_arguments(method, (Decimal(1), object()), {})
