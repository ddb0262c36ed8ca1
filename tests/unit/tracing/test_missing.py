"""Steps that usually follow, and have not: by a map of real commits, and in the head of a trace."""

from __future__ import annotations

import msgspec
import pytest
from support.maps import caused, edge, kind
from support.traces import step, trace_of

from eventsrc import MemoryStore
from eventsrc.tracing import Map, Trace, draw_lanes, draw_page, draw_tree, find_map, find_missing, find_trace
from eventsrc.tracing.missing import USUAL_COUNT, USUAL_SHARE

MAP = Map(
    kinds=(kind("order.placed", 100), kind("payment.taken", USUAL_COUNT - 1)),
    edges=(
        edge("order.placed", "payment.taken", 90, 2.0),
        edge("order.placed", "order.cancelled", 89),
        edge("payment.taken", "letter.sent", USUAL_COUNT - 1),
    ),
)


def with_missing(trace: Trace) -> Trace:
    return msgspec.structs.replace(trace, missing=find_missing(trace, MAP))


def test_a_usual_effect_that_is_not_there_is_named() -> None:
    assert USUAL_SHARE == 0.9
    trace = with_missing(trace_of(step("order-7@1"), step("payment-7@1", tag="payment.taken"), step("order-8@1")))
    assert [(each.step, each.cause, each.effect) for each in trace.missing] == [
        ("order-7@1", "order.placed", "payment.taken"),
        ("order-8@1", "order.placed", "payment.taken"),
    ]
    line = "usually followed by payment.taken within 2 s (p95): order-7@1 and 1 more not yet"
    assert line in draw_tree(trace).splitlines()
    assert f"<li>{line}</li>" in draw_page(trace)
    assert ">2 missing<" in draw_lanes(trace)


def test_an_effect_that_is_there_is_not_named() -> None:
    steps = step("order-7@1"), step("x-7@1", tag="x"), step("payment-7@1", 0, 1, tag="payment.taken")
    assert find_missing(trace_of(*steps), MAP) == ()
    assert "usually" not in draw_tree(with_missing(trace_of(*steps)))


def test_nothing_is_missing_where_something_could_not_be_read() -> None:
    trace = trace_of(step("order-7@1"))
    assert find_missing(trace, MAP)
    assert not find_missing(trace_of(step("order-7@1"), failures=("stock: StoreUnavailable",)), MAP)
    assert not find_missing(trace, msgspec.structs.replace(MAP, failures=("stock: StoreUnavailable",)))
    assert not find_missing(trace, msgspec.structs.replace(MAP, unread=1))


@pytest.mark.parametrize(("paid", "expected"), [(17, []), (18, ["order-19@1"])])
async def test_what_is_usual_comes_from_stored_commits(paid: int, expected: list[str]) -> None:
    async with MemoryStore() as store:
        for number in range(USUAL_COUNT):
            in_trace = {"correlation_id": f"request-{number}"}
            await store.append(caused(f"order-{number}@1", ms=number, **in_trace))
            if number < paid:
                await store.append(caused(f"pay-{number}@1", f"order-{number}@1.0", tags=["paid"], ms=40, **in_trace))
        missing = find_missing(await find_trace("request-19", store), await find_map(store))
        assert [each.step for each in missing] == expected
