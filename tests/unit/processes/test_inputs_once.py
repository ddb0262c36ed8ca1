"""Each input is taken in once, however often and from however long ago it is delivered again."""

from __future__ import annotations

import pytest
from support.fulfilment import Fulfilment, Order, Paid, Placed, Stock

from eventsrc import MemoryStore, Repository
from eventsrc.processes import ProcessManager
from eventsrc.processing import MemoryCheckpoints


@pytest.mark.parametrize("deliveries", [1, 2])
async def test_an_input_held_before_the_start_in_the_same_stream(deliveries: int) -> None:
    """The checkpoints are lost, so all events are delivered again."""
    async with MemoryStore() as store:
        orders, stocks = Repository(Order, store), Repository(Stock, store)
        order = Order(id="o-1")
        order.record(Paid())
        order.record(Placed(sku="pen", quantity=2))
        await orders.save(order)
        await stocks.executor(create=True).execute("pen", Stock.reserve, "another order", 1)
        for _ in range(deliveries):
            manager = ProcessManager(Fulfilment, store, MemoryCheckpoints(), targets=[orders, stocks])
            await manager.run(until_caught_up=True)
        process = await Repository(Fulfilment, store).load("o-1")
        assert process.instance.inputs["order-o-1"] == (1, 1, 0)
        assert (await stocks.load("pen")).reserved == {"another order": 1, "o-1": 2}
        assert (await orders.load("o-1")).state == "shipped"
