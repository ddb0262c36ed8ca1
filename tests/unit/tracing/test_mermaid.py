"""Mermaid flowcharts: their bounds, and labels that no name can leave."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from support.traces import step, trace_of

from eventsrc.tracing import Handling, Trace, TracedEvent, draw_mermaid

NODE = re.compile(r'  (?:n|more)\d+(?:\["|\(\["|\{\{"|\[/")(?:[\w .,@()-]|#\d+;|<br>)*(?:"\]|"\]\)|"\}\}|"/\])')
EDGE = re.compile(r"  n\d+ --> n\d+")


def check(chart: str) -> tuple[int, int]:
    """Return the numbers of nodes and edges of a chart that consists of nothing else."""
    first, *lines = chart.split("\n")
    assert first == "flowchart LR"
    nodes, edges = ([line for line in lines if form.fullmatch(line)] for form in (NODE, EDGE))
    assert len(nodes) + len(edges) == len(lines), set(lines) - set(nodes) - set(edges)
    return len(nodes), len(edges)


@given(st.lists(st.text(), min_size=5, max_size=5))
def test_no_name_leaves_its_label(names: list[str]) -> None:
    id, tag, service, processor, damage = names
    handled = (Handling(processor, "parked", damage, 1),)
    one = step(id, tag=tag, service=service, handled=handled)
    two = step(id, 0, service=service, damage=damage, events=(TracedEvent(id, tag),) * 2)
    assert check(draw_mermaid(trace_of(one, two, id=id))) == (2, 1)


def test_names_are_written_as_entity_codes() -> None:
    chart = draw_mermaid(trace_of(step("a-1@1", tag='x"]; click #35; `b`\n<b>'), id="t"))
    assert 'n0["x#34;#93;#59; click #35;35#59; #96;b#96;#92;n#60;b#62;<br>a-1@1<br>in orders"]' in chart


def test_equal_siblings_are_one_node() -> None:
    letters = [step(f"b-{number}@1", 0, ms=80, tag="letter.sent") for number in range(212)]
    chart = draw_mermaid(trace_of(step("a-1@1"), *letters))
    assert check(chart) == (2, 1)
    assert "letter.sent<br>x 212, p95 80 ms<br>" in chart


def wide(size: int) -> Trace:
    return trace_of(*(step(f"a-{n}@1", *range(max(0, n - 9), n), ms=n, tag="&" * n) for n in range(size)))


def test_large_charts_are_within_the_limits_of_mermaid() -> None:
    chart = draw_mermaid(wide(1_000))
    nodes, edges = check(chart)
    assert nodes <= 302
    assert edges <= 500
    assert len(chart) <= 50_000
    left_out = re.search(r"and ([\d,]+) more steps", chart)
    assert left_out is not None
    assert chart.count("<br>in orders") + int(left_out[1]) == 1_000
    assert "more edges" in chart


def test_an_empty_trace_is_a_chart() -> None:
    assert draw_mermaid(trace_of()) == "flowchart LR"
