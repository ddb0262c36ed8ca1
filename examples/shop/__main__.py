"""Run a day of a shop: orders, a warehouse and payments, as three services that have a store each."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from eventsrc import EventsrcError, Repository, SQLiteStore, Store
from eventsrc.inspection import App, describe_events
from eventsrc.local import DynamoDBLocalUnavailable, dynamodb_local
from eventsrc.tracing import draw_map_table, draw_tree, find_map, find_trace

from .day import Wish, open_bank, plan_day, run_day
from .orders import Order
from .services import FOLDER, SERVICES, open_services


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m examples.shop", description=__doc__)
    parser.add_argument("--store", default="sqlite", choices=("sqlite", "dynamodb"), help="dynamodb: DynamoDB Local")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"of the SQLite files (default: {FOLDER})")
    parser.add_argument("--seed", type=int, default=7, help="another seed gives another day")
    parser.add_argument("--orders", type=int, default=40, choices=range(1, 1001), metavar="N", help="default: 40")
    options = parser.parse_args(arguments)
    logging.getLogger("eventsrc").setLevel(logging.CRITICAL)  # retries and the parked mails are part of the day
    wishes = plan_day(options.seed, options.orders)

    async def run() -> None:
        clear(options.folder)
        async with (
            open_stores(options.store, options.folder) as stores,
            open_services(stores, options.folder, open_bank(wishes)) as shop,
        ):
            await run_day(shop, wishes)
            await report(shop.app, wishes)

    try:
        asyncio.run(run())
    except (DynamoDBLocalUnavailable, EventsrcError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if options.store == "sqlite" and options.folder == FOLDER:
        print(HOW_TO_LOOK)
    return 0


HOW_TO_LOOK = """
Look into it:
  .venv/bin/python -m eventsrc studio --app examples.shop.services:app
  .venv/bin/python -m eventsrc trace request-001 --app examples.shop.services:app
  .venv/bin/python -m eventsrc state fulfilment-001 --app examples.shop.services:app
  .venv/bin/python -m eventsrc parked list --app examples.shop.services:app"""


def clear(folder: Path) -> None:
    """Delete the files of the day before."""
    folder.mkdir(exist_ok=True)
    for name in SERVICES:
        for file in folder.glob(f"{name}*.db*"):
            file.unlink()


@asynccontextmanager
async def open_stores(kind: str, folder: Path) -> AsyncGenerator[Mapping[str, Store]]:
    """Yield the store of each service."""
    async with AsyncExitStack() as stack:
        stores: dict[str, Store] = {}
        if kind == "dynamodb":
            local = await stack.enter_async_context(dynamodb_local())
            for name in SERVICES:
                table = await stack.enter_async_context(local.store(name))
                await table.create_table(stream=True, traces=True)
                stores[name] = table
        else:
            for name in SERVICES:
                stores[name] = await stack.enter_async_context(SQLiteStore(folder / f"{name}.db"))
        yield stores


async def report(app: App, wishes: Sequence[Wish]) -> None:
    """Print how the orders ended, one trace, and which types of events cause which."""
    orders = Repository(Order, app.stores["orders"])
    ended = [await orders.load(wish.order) for wish in wishes]
    for state, count in Counter(f"{order.state} {order.reason}".rstrip() for order in ended).most_common():
        print(f"{count:4}  {state}")
    parked = [(each.name, stream) for each in app.processors for stream in await each.parked()]
    print(f"{len(parked):4}  mails that could not be sent")
    shown = next((order for order in ended if order.reason == "not paid in time"), ended[0])
    describe = partial(describe_events, aggregates=app.aggregates)
    trace = await find_trace(f"request-{shown.id}", app.stores, processors=app.processors, describe=describe)
    print(f"\n{draw_tree(trace)}\n")
    print(draw_map_table(await find_map(app.stores, processors=app.processors)))


if __name__ == "__main__":
    sys.exit(main())
