"""Maps and followed traces over a file and a table in DynamoDB Local."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest
from support.maps import caused
from support.tables import fresh_name, store_on

from eventsrc import SQLiteStore
from eventsrc.tracing import find_map, follow_trace


@pytest.mark.parametrize("stream", [False, True])
async def test_a_map_of_a_table_and_a_file(dynamodb_endpoint: str, tmp_path: Path, *, stream: bool) -> None:
    async with store_on(dynamodb_endpoint, fresh_name()) as orders, SQLiteStore(tmp_path / "stock.db") as stock:
        await orders.create_table(stream=stream)
        for number in range(30):
            await orders.append(caused(f"order-{number}@1", ms=number))
            await stock.append(caused(f"item-{number}@1", f"order-{number}@1.0", tags=["reserved"], ms=number + 40))
            await orders.append(caused(f"order-{number}@2", f"item-{number}@1.0", tags=["confirmed"], ms=number + 50))
        found = await find_map({"orders": orders, "stock": stock})
    assert [(edge.cause, edge.effect, edge.count, edge.followed) for edge in found.edges] == [
        ("order.placed", "reserved", 30, 30),
        ("reserved", "confirmed", 30, 30),
    ]
    assert found.counts == {"confirmed": 30, "order.placed": 30, "reserved": 30}
    assert [edge.p50 for edge in found.edges] == [pytest.approx(0.04, rel=0.01), pytest.approx(0.01, rel=0.01)]


async def test_a_trace_in_a_table_and_a_file_is_followed(dynamodb_endpoint: str, tmp_path: Path) -> None:
    async with store_on(dynamodb_endpoint, fresh_name()) as orders, SQLiteStore(tmp_path / "stock.db") as stock:
        await orders.create_table(stream=True, traces=True)
        await orders.append(caused("order-7@1"))
        async with aclosing(follow_trace("request-9", {"orders": orders, "stock": stock}, quiet=600)) as traces:
            assert len((await anext(traces)).steps) == 1
            reading = asyncio.ensure_future(anext(traces))
            await stock.append(caused("item-1@1", "order-7@1.0"))
            assert len((await reading).steps) == 2
            await orders.append(caused("order-7@2", "item-1@1.0"))
            assert [step.id for step in (await anext(traces)).steps] == ["order-7@1", "item-1@1", "order-7@2"]
