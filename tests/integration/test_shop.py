"""The shop example: three services, a store each, and what must hold of a day however it was interrupted."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from support.tables import session

from eventsrc import DynamoDBStore, Repository, SQLiteStore, Store
from eventsrc.inspection import App
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
    async with open_services(stores, tmp_path, open_bank(WISHES)) as app:
        await run_day(app, WISHES)
        await check_day(app)
        first = await find_trace(f"request-{WISHES[0].order}", app.stores, processors=app.processors)
        assert [step.attempt for step in first.steps if step.handler == "charge@1.handle_placed"] == [2]


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
        async with open_services(stores, tmp_path, open_bank(WISHES)) as app:
            await run_day(app, WISHES)
            await check_day(app)


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
        async with open_services(stores, folder, open_bank(wishes)) as app:
            await run_day(app, wishes)

asyncio.run(main(Path(sys.argv[1])))
"""


async def check_day(app: App) -> None:
    """Each order has ended; no money and no goods are lost; each trace is whole, and only mails are open."""
    orders = await Repository(Order, app.stores["orders"]).load_many([wish.order for wish in WISHES])
    payments, items = Repository(Payment, app.stores["payments"]), Repository(Item, app.stores["warehouse"])
    assert {order.state for order in orders.values()} == {"shipped", "cancelled"}
    for wish in WISHES:
        order, payment = orders[wish.order], await payments.load(wish.order)
        assert payment.cents == (order.cents if order.state == "shipped" else 0)
        check_trace(wish, await find_trace(f"request-{wish.order}", app.stores, processors=app.processors))
    for sku in ARTICLES:
        item = await items.load(sku)
        shipped = {
            wish.order: wish.pieces for wish in WISHES if wish.sku == sku and orders[wish.order].state == "shipped"
        }
        assert item.reserved == shipped
        assert item.left + sum(shipped.values()) == len(WISHES) // 4


def check_trace(wish: Wish, trace: Trace) -> None:
    """One root, from which all else follows; a packed parcel has two causes."""
    assert list(trace.roots) == [0]
    assert [event.tag for event in trace.steps[0].events] == ["order.placed"]
    assert trace.steps[0].actor == wish.customer
    assert not any(step.outside for step in trace.steps)
    packed = [step for step in trace.steps if step.label == "parcel.packed"]
    assert all(len(step.parents) == 2 for step in packed)
    assert {each.processor for _, each in trace.open} <= {"mail@1"}
    assert bool(trace.open) == (wish.customer == "hugo")
    for number, step in enumerate(trace.steps):
        if step.label == "stock.released":
            causes = [trace.steps[each].label for each in sorted(trace.ancestors(number))]
            assert causes == ["order.placed", "payment.declined", "order.cancelled", "stock.released"]


async def count_commits(store: Store) -> int:
    assert isinstance(store, SQLiteStore)
    return sum([head.version async for heads in store.heads() for head in heads])


def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--folder", str(tmp_path / "shop"), "--orders", "12"]) == 0
    printed = capsys.readouterr().out
    assert "shipped" in printed
    assert "order.placed  order-" in printed
    assert main(["--folder", str(tmp_path / "shop"), "--orders", "3"]) == 0  # the day before is deleted
