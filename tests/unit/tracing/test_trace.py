"""The model of a trace, and its tree of text, built from commits alone."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from eventsrc.aggregates.codec import join, pack
from eventsrc.store import Commit
from eventsrc.tracing import Handling, Trace, draw_tree
from eventsrc.tracing.trace import Found, build_trace
from eventsrc.tracing.wording import plain, show_time
from eventsrc.uuid7 import uuid7

START = 1_700_000_000_000_000


def commit(id: str, *causes: str, ms: float = 0, tags: tuple[str, ...] = ("order.placed",), **fields: Any) -> Commit:
    stream, _, version = id.rpartition("@")
    body = join([msgspec.msgpack.encode({"$": tag}) for tag in tags])
    given: dict[str, Any] = {
        "id": uuid7(),
        "payload": pack(body, stream, int(version)),
        "time": START + round(ms * 1000),
        "events": len(tags),
        "tags": tuple(dict.fromkeys(tags)),
        "causation_ids": causes,
    }
    return Commit(stream=stream, version=int(version), **(given | fields))


def build(*commits: Commit, store: str = "orders") -> Trace:
    found = [Found(store, each) for each in commits]
    random.Random(1).shuffle(found)
    return build_trace("t", found)


def ids(trace: Trace) -> list[str]:
    return [step.id for step in trace.steps]


def test_steps_are_in_the_order_of_their_causes_also_if_clocks_differ() -> None:
    trace = build(
        commit("a-1@1", ms=50),
        commit("b-1@1", "a-1@1.0", ms=10),  # the clock of this machine is 40 ms slow
        commit("c-1@1", "b-1@1.0", ms=90),
    )
    assert ids(trace) == ["a-1@1", "b-1@1", "c-1@1"]
    assert [step.parents for step in trace.steps] == [(), (0,), (1,)]
    assert [trace.latency(number) for number in range(3)] == [None, -0.04, 0.08]
    assert "clock skew 40 ms" in draw_tree(trace)


def test_a_step_with_several_causes_is_in_the_tree_once_and_names_the_others() -> None:
    trace = build(
        commit("a-1@1", tags=("order.placed", "order.paid")),
        commit("b-1@1", "a-1@1.0", ms=5, tags=("stock.reserved",)),
        commit("c-1@1", "a-1@1.1", ms=9, tags=("payment.made",)),
        commit("d-1@1", "b-1@1.0", "c-1@1.0", "a-1@1.0", ms=12, tags=("parcel.sent",)),
    )
    assert trace.steps[3].parents == (0, 1, 2)
    assert trace.critical_path == [0, 2, 3]
    assert draw_tree(trace) == (
        "t: 4 steps, 5 events, 12 ms, in orders\n"
        "longest chain: 3 steps, 12 ms; of these 9.0 ms before payment.made (c-1@1)\n"
        "\n"
        "order.placed, order.paid  a-1@1  orders\n"
        "├─ stock.reserved  b-1@1  +5.0 ms  orders\n"
        "└─ payment.made  c-1@1  +9.0 ms  orders\n"
        "   └─ parcel.sent  d-1@1  +3.0 ms  orders\n"
        "         also after a-1@1, b-1@1"
    )


def test_details_of_a_step_are_shown() -> None:
    trace = build(
        commit("a-1@1", command_id="place-7", metadata={"service": "shop", "actor": "ann"}),
        commit("b-1@1", "a-1@1.0", "other-9@4.0", metadata={"handler": "reserve@1.handle_placed", "attempt": "3"}),
    )
    first, second, note = draw_tree(trace).splitlines()[-3:]
    assert first == "order.placed  a-1@1  shop, command place-7, by ann"
    assert second == "└─ order.placed  b-1@1  +0.0 ms  orders, reserve@1.handle_placed, attempt 3"
    assert note.strip() == "caused by other-9@4.0, not in this trace"


def test_what_is_open_is_said_in_the_head_and_at_its_step() -> None:
    failed = Handling("mail@1", "parked", "SMTPException: no route", 5)
    one, two = commit("a-1@1"), commit("a-1@2", "a-1@1.0", ms=3)
    found = [
        Found("orders", one, (failed, Handling("view@1", "done"))),
        Found("orders", two, (Handling("mail@1", "pending"),)),
    ]
    text = draw_tree(build_trace("t", found))
    assert "failed: mail@1 at a-1@1: parked after 5 attempts: SMTPException: no route\n" in text
    assert "open: mail@1 has not handled a-1@2\n" in text
    assert "! mail@1: parked after 5 attempts" in text
    assert "view@1" not in text
    done = build_trace("t", [Found("orders", one, (Handling("view@1", "done"),))])
    assert "nothing is open" in draw_tree(done)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_circle_of_causes_is_drawn_once(size: int) -> None:
    circle = [commit(f"a-{n}@1", f"a-{(n + 1) % size}@1.0", ms=n) for n in range(size)]
    trace = build(*circle, commit("b-1@1", "a-0@1.0", ms=9))
    assert sorted(ids(trace)) == sorted([*(f"a-{n}@1" for n in range(size)), "b-1@1"])
    assert all(parent < number for number, step in enumerate(trace.steps) for parent in step.parents)
    assert len(draw_tree(trace).splitlines()) >= size + 2


def test_a_commit_that_two_stores_have_counts_once() -> None:
    one = commit("a-1@1")
    trace = build_trace("t", [Found("orders", one), Found("copy", one), Found("copy", commit("a-1@1", ms=1))])
    assert [step.store for step in trace.steps] == ["orders", "copy"]


def test_siblings_with_equal_subtrees_are_drawn_as_one() -> None:
    commits = [commit("a-1@1")]
    for n in range(212):
        commits.append(commit(f"b-{n}@1", "a-1@1.0", ms=n, tags=("mail.queued",)))
        commits.append(commit(f"c-{n}@1", f"b-{n}@1.0", ms=n + 1, tags=("mail.sent",)))
    commits.append(commit("b-300@1", "a-1@1.0", ms=400, tags=("mail.queued",)))  # without a consequence
    text = draw_tree(build(*commits))
    assert "mail.queued  x 212  p95 201 ms" in text
    assert len(text.splitlines()) == 7
    assert "mail.sent  x 212  p95 1.0 ms" in text
    assert len(draw_tree(build(*commits), alike=1000).splitlines()) == 3 + 426


def test_failures_in_the_subtrees_of_steps_drawn_as_one_are_counted_and_the_head_is_bounded() -> None:
    found = [Found("orders", commit("a-1@1"))]
    for n in range(50):
        found.append(Found("orders", commit(f"b-{n}@1", "a-1@1.0", tags=("mail.queued",))))
        failed = Handling("mail@1", "parked", "no route", 5)
        found.append(Found("orders", commit(f"c-{n}@1", f"b-{n}@1.0", tags=("mail.sent",)), (failed,)))
    text = draw_tree(build_trace("t", found))
    assert "mail.sent  x 50  p95 0.0 ms  50 failed" in text
    assert text.count("no route") == 20
    assert "failed: and 30 more" in text


def test_long_chains_and_wide_traces_are_drawn() -> None:
    chain = [commit("a-0@1")] + [commit(f"a-{n}@1", f"a-{n - 1}@1.0", ms=n) for n in range(1, 5_000)]
    text = draw_tree(build(*chain))
    assert text.count("order.placed") == 5_000 + 1
    assert max(map(len, text.splitlines())) < 300
    wide = [commit("a-0@1")] + [commit(f"b-{n}@1", "a-0@1.0", tags=(f"e.{n}",)) for n in range(5_000)]
    assert len(draw_tree(build(*wide)).splitlines()) > 5_000


def test_hostile_names_cannot_drive_a_terminal() -> None:
    nasty = "\x1b[2Jx\r\n\u202e\u2066evil"
    metadata = {"service": nasty, "actor": nasty, "handler": nasty, "attempt": "9" * 5000}
    trace = build(commit("a-1@1", nasty, tags=(nasty,), metadata=metadata, command_id=nasty))
    assert all(line.isprintable() for line in draw_tree(trace).splitlines())
    assert trace.steps[0].attempt == 1


def test_accents_do_not_cover_the_lines_above() -> None:
    assert plain("Zoe\u0308 " + "e" + "\u0301" * 5) == "Zoe\u0308 e\u0301\u0301\u0301\\u0301\\u0301"


def test_damaged_commits_are_shown_in_their_place() -> None:
    text = draw_tree(build(commit("a-1@1"), commit("b-1@1", "a-1@1.0", payload=b"rubbish")))
    assert "└─ order.placed  b-1@1" in text
    assert "! b-1@1: wrong checksum" in text


def test_a_trace_is_json() -> None:
    trace = build(commit("a-1@1"), commit("b-1@1", "a-1@1.0", ms=1))
    assert msgspec.json.decode(msgspec.json.encode(trace), type=Trace) == trace


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 ms"),
        (0.0004, "0.4 ms"),
        (0.012, "12 ms"),
        (1.2345, "1.23 s"),
        (59.96, "60 s"),
        (60, "1 min"),
        (7_440, "2 h 4 min"),
        (180_000, "2 d 2 h"),
    ],
)
def test_times_have_at_most_two_units(seconds: float, text: str) -> None:
    assert show_time(seconds) == text
