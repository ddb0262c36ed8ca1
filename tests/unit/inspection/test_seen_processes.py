"""Processes as people see them: in the command line, in the studio, in traces, and on the map."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from support.fulfilment import Order, Paid, Placed, Reserved, Stock
from support.fulfilment_app import app, fill, open_manager, pay

from eventsrc import MemoryStore, Repository, trace
from eventsrc.command_line.main import main
from eventsrc.processes import Asks, Input, Process, ProcessManager, Scheduler, call, command
from eventsrc.processes.describing import describe_recorded
from eventsrc.processes.events import TimerStarted
from eventsrc.processing import MemoryCheckpoints
from eventsrc.studio import Studio
from eventsrc.tracing import find_map, find_trace

LATE = 4_000_000_000_000_000  # µs: 2096, when all timers are due

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    asyncio.run(fill(tmp_path))
    capsys.readouterr()

    def run_line(*arguments: str) -> str:
        assert main([*arguments, "--app", "support.fulfilment_app:app"]) == 0
        return capsys.readouterr().out

    return run_line


def test_commands_and_timers_are_readable(run: Run) -> None:
    shown = run("show", "fulfilment-o-1")
    assert 'command="stock.reserve pen" arguments={"order":"o-1","quantity":3}' in shown
    [timer] = [line for line in shown.splitlines() if "process.timer " in line]
    assert 'timer="fulfilment.payment-missing" due="20' in timer
    assert timer.endswith('Z"')
    assert 'command="order.cancel o-2" arguments={"reason":"7 left"}' in run("show", "fulfilment-o-2")
    assert json.loads(run("show", "fulfilment-o-1", "--json").splitlines()[0])["events"][2]["name"] == "reserve"


def test_the_state_shows_what_is_pending(run: Run) -> None:
    first, last = run("state", "fulfilment-o-1@1"), run("state", "fulfilment-o-1")
    assert 'instance.pending = ["stock.reserve pen"]' in first
    assert "instance.pending = []" in last
    assert 'instance.timers = {"fulfilment.payment-missing":"20' in last
    assert "instance.ended = true" in run("state", "fulfilment-o-2")


def test_a_trace_shows_timers_and_what_is_pending(run: Run, tmp_path: Path) -> None:
    assert "process fulfilment-o-1: under way; timer fulfilment.payment-missing is due at 20" in run(
        "trace", "request-o-1"
    )
    refused = run("trace", "request-o-2")
    assert "process fulfilment-o-2: ended; timer fulfilment.payment-missing was cancelled" in refused
    assert "refused: OutOfStock  stock-pen@2" in refused
    asyncio.run(pay(tmp_path))
    assert "process fulfilment-o-1: ended; timer fulfilment.payment-missing was cancelled" in run(
        "trace", "request-o-1"
    )


def test_a_trace_shows_timers_that_have_fired(tmp_path: Path, run: Run) -> None:
    async def fire() -> None:
        async with open_manager(tmp_path, LATE) as manager:
            await manager.run(until_caught_up=True)

    asyncio.run(fire())
    shown = run("trace", "request-o-1")
    assert "ended; timer fulfilment.payment-missing fired at 2096-10-02 07:06:40Z" in shown
    assert "process.fired  fulfilment-o-1@" in shown
    found = json.loads(run("trace", "request-o-1", "--json"))
    assert found["processes"] == [
        {
            "stream": "fulfilment-o-1",
            "store": "shop",
            "ended": True,
            "timers": [
                {
                    "name": "fulfilment.payment-missing",
                    "due": found["processes"][0]["timers"][0]["due"],
                    "state": "fired",
                    "fired": LATE,
                }
            ],
        }
    ]


async def test_what_has_two_causes_has_both(tmp_path: Path) -> None:
    await fill(tmp_path)
    await pay(tmp_path)
    async with open_manager(tmp_path) as manager:
        store = manager.repository.store
        found = await find_trace("payment", store)
        [shipped] = [step for step in found.steps if step.label == "order.shipped"]
        assert shipped.parents
        [decided] = [
            step for step in found.steps if step.id.startswith("fulfilment") and "process.command" in step.label
        ]
        assert decided.outside == ("fulfilment-o-1@2",)  # which took in that the stock is reserved
        first = await find_trace("request-o-1", store)
        taken = next(number for number, step in enumerate(first.steps) if step.id == "fulfilment-o-1@2")
        causes = {first.steps[each].id for each in first.ancestors(taken)}
        assert causes == {"order-o-1@1", "fulfilment-o-1@1", "stock-pen@1", "fulfilment-o-1@2"}


class Joining(Process, tag="joining"):
    """Ships an order that is placed and reserved, and handles what comes before the order later."""

    starts = (Placed,)
    is_placed: bool = False

    @classmethod
    def key(cls, event: Any, context: Input) -> str:
        return event.order if isinstance(event, Reserved) else context.stream.partition("-")[2]

    def on_placed(self, event: Placed) -> Asks:
        self.record(event)
        return ()

    def on_reserved(self, event: Reserved) -> Asks:
        yield command(Order, self.id, Order.ship)

    def apply_placed(self, event: Placed) -> None:
        self.is_placed = True


async def test_what_was_held_is_a_cause_when_it_is_handled() -> None:
    async with MemoryStore() as store, MemoryCheckpoints() as checkpoints:
        orders, stock = Repository(Order, store), Repository(Stock, store)
        manager = ProcessManager(Joining, store, checkpoints, targets=[orders])
        await stock.executor(create=True).execute("pen", Stock.reserve, "o-1", 3)
        await manager.run(until_caught_up=True)
        with trace(correlation_id="request"):
            await orders.executor(create=True).execute("o-1", Order.place, "pen", 3)
        await manager.run(until_caught_up=True)
        found = await find_trace("request", store)
    [asked] = [step for step in found.steps if "process.command" in step.label]
    assert asked.outside == ("stock-pen@1.0",)
    assert {found.steps[parent].id for parent in asked.parents} == {"order-o-1@1", "joining-o-1@2"}


async def test_the_map_has_a_process_as_one_type(tmp_path: Path) -> None:
    await fill(tmp_path)
    async with open_manager(tmp_path) as manager:
        found = await find_map(manager.repository.store)
    assert {kind.tag for kind in found.kinds} == {"fulfilment", "order.placed", "order.cancelled", "stock.reserved"}
    assert {(edge.cause, edge.effect) for edge in found.edges} >= {
        ("order.placed", "fulfilment"),
        ("fulfilment", "stock.reserved"),
        ("stock.reserved", "fulfilment"),
    }


async def read_page(path: str, **options: Any) -> str:
    async with app() as opened:
        transport = httpx.ASGITransport(app=Studio(opened, **options))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as browser:
            answer = await browser.get(path)
    assert answer.status_code == 200, answer.text
    return unescape(answer.text)


async def test_the_studio_shows_the_state_of_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    await fill(tmp_path)
    page = await read_page("/stream?name=fulfilment-o-1")
    assert '<td>instance.timers</td><td>{"fulfilment.payment-missing":"20' in page
    assert '<dt>command</dt><dd>"stock.reserve pen"</dd>' in page
    assert '<dt>arguments</dt><dd>{"order":"o-1","quantity":3}</dd>' in page
    page = await read_page("/trace?id=request-o-1")
    assert "process fulfilment-o-1: under way; timer fulfilment.payment-missing is due at 20" in page
    assert 'command="stock.reserve pen" arguments={"order":"o-1","quantity":3}' in page


async def test_a_mask_hides_what_is_encoded_in_the_events_of_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await fill(tmp_path)

    def mask(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        return {name: "***" if name == "quantity" else value for name, value in fields.items()}

    for path in ("/stream?name=fulfilment-o-2", "/trace?id=request-o-2"):
        page = await read_page(path, mask=mask)
        assert '"quantity":"***"' in page
        assert '"quantity":30' not in page


class Billing(Process, tag="billing"):
    starts = (Placed,)

    def on_placed(self, event: Placed) -> Asks:
        yield call("provider", event)

    def on_paid(self, event: Paid) -> Asks:
        return ()


async def test_events_in_events_are_decoded() -> None:
    async def provide(request: Placed, key: str) -> Paid:
        return Paid()

    async with MemoryStore() as store, MemoryCheckpoints() as checkpoints:
        orders = Repository(Order, store)
        await orders.executor(create=True).execute("o-1", Order.place, "pen", 3)
        manager = ProcessManager(Billing, store, checkpoints, services={"provider": provide})
        await manager.run(until_caught_up=True)
        asked, answered = [
            describe_recorded(event)
            async for commit, events in manager.repository.history("o-1")
            for event in [as_stored(each) for each in events]
            if event["$"] in ("process.call", "process.answered")
        ]
    assert asked.pop("key").endswith(":billing-o-1:1")
    assert asked == {
        "number": 1,
        "service": "provider",
        "request": {"$": "order.placed", "sku": "pen", "quantity": 3},
    }
    assert answered == {"number": 1, "service": "provider", "answer": {"$": "order.paid"}}


async def test_a_scheduled_command_is_readable() -> None:
    async with MemoryStore() as store, MemoryCheckpoints() as checkpoints:
        scheduler = Scheduler(store, checkpoints, targets=[Repository(Order, store)])
        due = datetime(2100, 1, 1, tzinfo=UTC)
        key = await scheduler.schedule(command(Order, "o-1", Order.cancel, "late"), at=due)
        [(_, [event])] = [each async for each in scheduler.manager.repository.history(key)]
    assert describe_recorded(as_stored(event), [Order]) == {
        "number": 1,
        "timer": "scheduled.due",
        "due": "2100-01-01T00:00:00.000Z",
        "event": {
            "$": "scheduled.due",
            "command": "order.cancel o-1",
            "arguments": {"reason": "late"},
        },
    }
    hidden = describe_recorded(as_stored(event), show=lambda tag, fields: fields)
    assert "late" not in str(hidden)  # the class is not known, so a mask cannot know the name of the argument


def test_what_cannot_be_read_is_shown_as_it_is() -> None:
    assert describe_recorded({"$": "process.timer", "foreign": 1}) == {"foreign": 1}
    odd = TimerStarted(number=1, name="odd", due=2**62, event=b"\xc1")
    assert describe_recorded(as_stored(odd)) == {
        "number": 1,
        "timer": "odd",
        "due": f"{2**62} µs",
        "event": {"unreadable": "1 bytes"},
    }


def as_stored(event: Any) -> dict[str, Any]:
    """Return an event with its tag, as a reader of the stored bytes has it."""
    found: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(event))
    return found
