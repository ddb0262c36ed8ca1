"""Traces for tests of pictures."""

from __future__ import annotations

from typing import Any

from eventsrc.tracing import Handling, Step, Trace, TracedEvent

START = 1_700_000_000_000_000
HOUR = 3_600_000  # ms
WORST = ("&" * 200, "'" * 200, "\U0001f600" * 200)


def step(id: str, *parents: int, ms: float = 0, tag: str = "order.placed", **fields: Any) -> Step:
    given: dict[str, Any] = {"store": "orders", "events": (TracedEvent(f"{id}.0", tag),)}
    return Step(id=id, time=START + round(ms * 1000), parents=parents, **(given | fields))


def trace_of(*steps: Step, id: str = "request-9", failures: tuple[str, ...] = ()) -> Trace:
    return Trace(id=id, steps=steps, failures=failures)


def small_trace() -> Trace:
    """Return a trace with each thing that a picture shows in a way of its own."""
    sent = 2 * HOUR + 240_000
    return trace_of(
        step("order-7@1", service="shop", actor="ann", command_id="place-7"),
        step("payment-7@1", 0, ms=30, tag="payment.refused", service="payments", handler="charge@1.handle_placed"),
        step("item-lamp@8", 0, ms=40, tag="stock.reserved", service="stock", handler="reserve@1.handle_placed"),
        step("payment-7@2", 1, ms=530, tag="payment.made", service="payments", attempt=2),
        step(
            "order-7@2",
            2,
            3,
            ms=540,
            tag="order.confirmed",
            service="shop",
            handled=(Handling("mail@1", "parked", "SMTPException: no route", 5),),
        ),
        step("parcel-7@1", 4, ms=515, tag="parcel.packed", service="shipping"),  # its clock is slow
        step(
            "parcel-7@2",
            5,
            ms=sent,
            tag="parcel.sent",
            service="shipping",
            handled=(Handling("track@1", "pending"), Handling("view@1", "pending")),
        ),
        *(
            step(
                f"letter-{number}@1",
                6,
                ms=sent + 4 * number + 10,
                tag="letter.sent",
                service="mailing",
                handled=(Handling("smtp@1", "retrying", "timeout", 2),) if number < 3 else (),
            )
            for number in range(20)
        ),
        step("order-7@3", 6, ms=sent + 300, tag="order.a_name_that_is_longer_than_a_label", service="shop"),
        step("order-7@4", 27, ms=sent + 310, tag="x", service="shop", damage="order-7@4: wrong checksum", events=()),
        step("meter-1@1", 27, ms=sent + 320, tag="計測.開始", service="計測", outside=("foreign-1@2.0",)),
        failures=("archive: StoreUnavailable: no connection",),
    )


def many(size: int) -> Trace:
    """Return a trace of steps that all differ."""
    return trace_of(step("a-0@1"), *(step(f"a-{n}@1", n // 3, ms=n, tag=f"e.{n}") for n in range(1, size)))


def worst_trace(size: int) -> Trace:
    """Return a trace with the longest names, the longest waits and the most causes."""
    handled = tuple(Handling(f"{name}{n}", "parked", name, 5) for n in range(3) for name in WORST)
    return trace_of(
        *(
            step(
                f"{name}-{number}@1",
                *range(max(0, number - 6), number),
                ms=number * HOUR if number > 1 else number,
                tag=f"{number}{name}",
                service=f"{number}{name}",
                actor=name,
                handler=name,
                handled=handled,
            )
            for number, name in ((number, WORST[number % 3]) for number in range(size))
        ),
        id=WORST[1],
        failures=WORST * 40,
    )
