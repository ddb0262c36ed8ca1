"""A trace in columns: each step is in the column of its service, and no name drives the terminal."""

from __future__ import annotations

from support.traces import small_trace, step, trace_of, worst_trace

from eventsrc.tracing import draw_columns
from eventsrc.tracing.cells import count_cells


def test_each_step_is_in_the_column_of_its_service_or_stream() -> None:
    trace = trace_of(
        step("order-1@1", tag="order.placed", service="shop"),
        step("item-1@1", 0, ms=5, tag="stock.reserved", service="stock"),
        step("order-1@2", 1, ms=9, tag="order.confirmed", service="shop"),
    )
    head, *lines = draw_columns(trace).split("\n\n")[1].splitlines()
    assert [line.index(name) for line, name in zip(lines, ("order.", "stock.", "order."), strict=True)] == [
        head.index("shop"),
        head.index("stock"),
        head.index("shop"),
    ]
    assert draw_columns(trace, by_stream=True).split("\n\n")[1].splitlines()[0].split() == ["order-1", "item-1"]


def test_steps_and_services_that_do_not_fit_are_counted() -> None:
    trace = trace_of(*(step(f"a-{number}@1", service=f"service-{number}") for number in range(400)))
    text = draw_columns(trace)
    table = text.split("\n\n")[1].splitlines()
    assert table[0].split() == [*(f"service-{number}" for number in range(7)), "others"]
    assert len(table) == 302
    assert table[-1] == "and 100 more steps, not drawn"
    assert draw_columns(trace_of()).splitlines()[0].startswith("request-9: 0 steps")


def test_no_name_drives_the_terminal() -> None:
    for trace in (worst_trace(100), small_trace()):
        table = draw_columns(trace).split("\n\n")[1].splitlines()
        assert all(line.isprintable() for line in table)
        assert all(count_cells(line) <= 9 * 30 for line in table)
