"""The shop example: three services, a store each, and what must hold of a day however it was interrupted."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from support.tables import session

from eventsrc import DynamoDBStore, Repository, SQLiteStore, Store
from eventsrc.inspection import App
from eventsrc.processing import status
from eventsrc.tracing import Trace, find_trace
from examples.shop.__main__ import main
from examples.shop.day import ARTICLES, Wish, open_bank, plan_day, run_day
from examples.shop.orders import Order
from examples.shop.payments import Payment
from examples.shop.services import SERVICES, open_services
from examples.shop.warehouse import Item

ROOT = Path(__file__).parents[2]
WISHES = plan_day(seed=7, orders=24)


@pytest.fixture(params=["sqlite", "dynamodb"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Mapping[str, Store]]:
    async with AsyncExitStack() as stack:
        found: dict[str, Store] = {}
        for name in SERVICES:
            if request.param == "sqlite":
                found[name] = await stack.enter_async_context(SQLiteStore(tmp_path / f"{name}.db"))
            else:
                endpoint = request.getfixturevalue("dynamodb_endpoint")
                table = DynamoDBStore(f"{name}-{uuid4().hex}", endpoint_url=endpoint, session=session())
                found[name] = await stack.enter_async_context(table)
                await table.create_table(stream=True, traces=True)
        yield found


async def test_a_day(stores: Mapping[str, Store], tmp_path: Path) -> None:
    async with open_services(stores, tmp_path, open_bank(WISHES)) as shop:
        await run_day(shop, WISHES)
        await check_day(shop.app)
        first = await find_trace(f"request-{WISHES[0].order}", stores, processors=shop.app.processors)
        assert [step.attempt for step in first.steps if step.handler == "charge@1.handle_asked"] == [2]
        found = [await status(each) for each in shop.app.processors]
        assert {each.name for each in found if each.name.startswith("fulfilment-")} == {
            "fulfilment-inputs-orders@1",
            "fulfilment-inputs-payments@1",
            "fulfilment-commands@1",
            "fulfilment-timers@1",
        }
        assert {each.name for each in found if each.problems} == {"mail@1"}


async def test_a_day_with_killed_processes(tmp_path: Path) -> None:
    """Each process is killed when the orders have grown by some commits; the last one runs to the end of the day."""
    async with AsyncExitStack() as stack:
        stores = {name: await stack.enter_async_context(SQLiteStore(tmp_path / f"{name}.db")) for name in SERVICES}
        killed = 0
        for count in (8, 20, 30):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", RUN_A_DAY, str(tmp_path), cwd=ROOT, stderr=asyncio.subprocess.DEVNULL
            )
            while process.returncode is None and await count_commits(stores["orders"]) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            if process.returncode is None:
                process.kill()
                killed += 1
            await process.wait()
        assert killed
        async with open_services(stores, tmp_path, open_bank(WISHES)) as shop:
            await run_day(shop, WISHES)
            await check_day(shop.app)


RUN_A_DAY = """
import asyncio, sys
from contextlib import AsyncExitStack
from pathlib import Path
from eventsrc import SQLiteStore
from examples.shop.day import open_bank, plan_day, run_day
from examples.shop.services import SERVICES, open_services

async def main(folder):
    async with AsyncExitStack() as stack:
        stores = {name: await stack.enter_async_context(SQLiteStore(folder / f"{name}.db")) for name in SERVICES}
        wishes = plan_day(seed=7, orders=24)
        async with open_services(stores, folder, open_bank(wishes)) as shop:
            await run_day(shop, wishes)

asyncio.run(main(Path(sys.argv[1])))
"""


async def check_day(app: App) -> None:
    """Each order has ended; no money and no goods are lost; each trace is whole, and only mails are open."""
    orders = await Repository(Order, app.stores["orders"]).load_many([wish.order for wish in WISHES])
    payments, items = Repository(Payment, app.stores["payments"]), Repository(Item, app.stores["warehouse"])
    assert {order.state for order in orders.values()} == {"shipped", "cancelled"}
    reasons = {re.sub(r"\d+|eve", "_", order.reason) for order in orders.values()}
    assert reasons == {
        "",
        "not paid in time",
        "only _ left",
        "no parcel holds _ of desk",
        "the bank pays nothing for _",
    }
    for wish in WISHES:
        order, payment = orders[wish.order], await payments.load(wish.order)
        assert payment.cents == (order.cents if order.state == "shipped" else 0)
        trace = await find_trace(f"request-{wish.order}", app.stores, processors=app.processors)
        check_trace(wish, trace)
        check_process(order, trace)
    for sku in ARTICLES:
        item = await items.load(sku)
        shipped = {
            wish.order: wish.pieces for wish in WISHES if wish.sku == sku and orders[wish.order].state == "shipped"
        }
        assert item.reserved == shipped
        assert item.left + sum(shipped.values()) == len(WISHES) // 4


def check_trace(wish: Wish, trace: Trace) -> None:
    """One root, from which all else follows. What packs a parcel or releases goods has all of its causes."""
    assert list(trace.roots) == [0]
    assert [event.tag for event in trace.steps[0].events] == ["order.placed"]
    assert trace.steps[0].actor == wish.customer
    assert not any(step.outside for step in trace.steps)
    assert {each.processor for _, each in trace.open} <= {"mail@1"}
    assert bool(trace.open) == (wish.customer == "hugo")
    for number, step in enumerate(trace.steps):
        causes = {event.tag for each in trace.ancestors(number) for event in trace.steps[each].events}
        if step.label == "parcel.packed":
            assert {"order.placed", "stock.reserved", "payment.asked", "payment.taken"} <= causes
        if step.label == "stock.released":
            assert {"order.placed", "stock.reserved"} <= causes
            assert causes & {"payment.declined", "process.fired", "process.refused"}


def check_process(order: Order, trace: Trace) -> None:
    """Its process has ended, and its timer has fired if the order was not paid, and only then."""
    [process] = trace.processes
    assert (process.stream, process.ended, process.pending) == (f"fulfilment-{order.id}", True, ())
    state = "fired" if order.reason == "not paid in time" else "cancelled"
    assert [timer.state for timer in process.timers] == [state]
    assert sum(event.tag == "process.fired" for step in trace.steps for event in step.events) == (state == "fired")


async def count_commits(store: Store) -> int:
    assert isinstance(store, SQLiteStore)
    return sum([head.version async for heads in store.heads() for head in heads])


def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "eventsrc")  # the program sets it, too; it is restored after the test
    assert main(["--folder", str(tmp_path / "shop"), "--orders", "12"]) == 0
    printed = capsys.readouterr().out
    assert "shipped" in printed
    assert "order.placed  order-" in printed
    assert main(["--folder", str(tmp_path / "shop"), "--orders", "3"]) == 0  # the day before is deleted
