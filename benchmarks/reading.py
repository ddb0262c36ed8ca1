"""Measure the read side: catching up from SQLite and DynamoDB, the delay of a handler, and the CPU of the gate."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict
from time import perf_counter, process_time
from typing import Any

from support.tables import fresh_name, session, store_on

from eventsrc import DynamoDBStore, MemoryStore
from eventsrc.local import dynamodb_local
from eventsrc.processing import Processor
from eventsrc.stores.dynamodb.items import PAYLOAD
from eventsrc.stores.gate import Gate

from . import bare, catching_up, delays, idling
from .filling import fill
from .measure import Figure, markdown, median_of
from .models import Balances

ROUNDS = 5
SCANNED = (400, 20)  # on DynamoDB Local


def measure() -> dict[str, Any]:
    return {"figures": [asdict(figure) for figure in asyncio.run(_measure())]}


async def _measure() -> list[Figure]:
    found = await catching_up.figures()
    print("  delays", file=sys.stderr, flush=True)
    found += await delays.figures()
    loop = f"events/s of CPU, {catching_up.BARE}, SQLite to memory, 1 event a commit"
    rate = next(figure.value for figure in found if figure.name == loop)
    found += await _gate(1e6 / rate)
    print("  scans and streams of DynamoDB", file=sys.stderr, flush=True)
    found += await _dynamodb()
    print("  idle processors", file=sys.stderr, flush=True)
    return found + await idling.figures()


async def _gate(loop: float) -> list[Figure]:
    """Measure the CPU that the gate adds per event, for commits of one event that arrive in order.

    `loop` is what the bare loop from SQLite to memory takes for an event, in µs.
    """
    async with MemoryStore() as store:
        await fill(store, 100, 100, 1)
        commits = [commit async for batch in store.feed(follow=False) for commit in batch.commits]
        costs = []
        for _ in range(ROUNDS):
            gate = Gate(store, {})
            start = process_time()
            for commit in commits:
                for due in await gate.due(commit):
                    gate.handled(due)
            costs.append((process_time() - start) / len(commits) * 1e6)
    return [
        Figure(
            "CPU of an event: the gate ÷ a bare loop from SQLite to memory", median_of(costs) / loop, 1, at_most=True
        ),
        Figure("µs of CPU in the gate per event", median_of(costs)),
    ]


async def _dynamodb() -> list[Figure]:
    async with dynamodb_local() as local, AsyncExitStack() as stack:
        table = fresh_name()
        store = await stack.enter_async_context(store_on(local.endpoint_url, table))
        sdk = await stack.enter_async_context(session().client("dynamodb", endpoint_url=local.endpoint_url))
        await store.create_table()
        await fill(store, *SCANNED, 1)
        total = SCANNED[0] * SCANNED[1] + SCANNED[0]
        rounds = [
            (await _bare_scan(sdk, table, total), await _own_scan(store), await _scan_into(store, total))
            for _ in range(ROUNDS)
        ]
        ratio = median_of(ours / bare for bare, _, ours in rounds)
        own_ratio = median_of(ours / own for _, own, ours in rounds)
        live = fresh_name()
        streaming = await stack.enter_async_context(store_on(local.endpoint_url, live))
        await streaming.create_table(stream=True)
        seen = await delays.measure_seen(streaming, Processor(Balances(), streaming))
        rate = await _streamed(streaming)
    return [
        Figure("events/s, a DynamoDB scan into memory ÷ a bare scan by the SDK", ratio, 0.7),
        Figure("events/s, a DynamoDB scan into memory ÷ a scan by this library, nothing handled", own_ratio),
        Figure("events/s, a DynamoDB scan into memory", median_of(ours for *_, ours in rounds)),
        Figure("events/s, DynamoDB Streams into memory", rate),
        *delays.describe("DynamoDB Streams to memory, the same process", seen),
    ]


async def _bare_scan(sdk: Any, table: str, total: int) -> float:
    """Return events per second of a scan that reads streams and payloads, decodes the events, and handles them."""
    model, start = Balances(), perf_counter()
    key: dict[str, Any] = {}
    while True:
        page = await sdk.scan(TableName=table, ProjectionExpression=f"PK, {PAYLOAD}", **key)
        bare.handle(
            model, ((item["PK"]["S"], item[PAYLOAD]["B"][bare.BODY]) for item in page["Items"] if len(item) > 1)
        )
        if "LastEvaluatedKey" not in page:
            break
        key = {"ExclusiveStartKey": page["LastEvaluatedKey"]}
    rate = total / (perf_counter() - start)
    assert sum(model.balances.values()) == total - SCANNED[0]
    return rate


async def _own_scan(store: DynamoDBStore) -> float:
    start, count = perf_counter(), 0
    async with aclosing(store.scan(segments=1)) as batches:
        async for batch in batches:
            count += sum(commit.events for commit in batch.commits)
    return count / (perf_counter() - start)


async def _scan_into(store: DynamoDBStore, total: int) -> float:
    """Return events per second of a processor that handles the commits of a scan of one segment."""
    processor = Processor(Balances(), store)
    await processor.pipeline.prepare()
    await processor.pipeline.assignment.take_all()
    start = perf_counter()
    async with aclosing(store.scan(segments=1)) as batches:
        async for batch in batches:
            await processor.pipeline.handle(batch.commits)
    await processor.pipeline.wait_until_idle()
    rate = total / (perf_counter() - start)
    assert sum(processor.projection.balances.values()) == total - SCANNED[0]
    return rate


async def _streamed(store: DynamoDBStore) -> float:
    """Return events per second of a DynamoDB stream that contains all events from the start."""
    await fill(store, 100, 20, 1, prefix="streamed")
    processor, start = Processor(Balances(), store), perf_counter()
    await processor.pipeline.prepare()
    await processor.pipeline.assignment.take_all()
    async with aclosing(store.feed(after=await store.end(), follow=False)) as batches:
        async for batch in batches:
            await processor.pipeline.handle(batch.commits)
    return processor.pipeline.progress.commits / (perf_counter() - start)


def goals(found: dict[str, Any]) -> list[Figure]:
    return [figure for each in found["figures"] if (figure := Figure(**each)).goal is not None]


def section(found: dict[str, Any]) -> str:
    rows = [[each["name"], f"{each['value']:,.{0 if each['value'] >= 1000 else 2}f}"] for each in found["figures"]]
    return f"""## Feeds and processors

A processor handles a bank account's events. The read model is a dictionary of balances in memory, or a table of
balances in SQLite with the positions in the same transaction. Rates per second of CPU are for one core, over all
threads. A bare loop reads stream and payload of the same events in the order of the feed from a table of its own,
decodes them with msgspec into the same classes, and calls the same handlers; nothing else. Where it writes, it stores
one position for each {bare.PAGE:,} commits, in the same transaction. *Batched* loops run one statement for each stream
of these. The scans take turns in reading the same table in one segment, of which the bare one asks for streams and
payloads, and handles them. DynamoDB Local shares the machine's cores with them.

A commit is seen when `wait_for` returns in the process that runs the processor. A process that reads an SQLite file
which another one writes looks for commits every 50 ms. The idle figures are those of one process that runs one
processor while nothing is stored; its DynamoDB stream has one shard. Without leases it looks every 2 seconds whether
another process has taken over. With leases it sends a heartbeat every 2 seconds, and at every other one it reads the
owners of slots; while other workers are alive, at each one. In both cases it looks every 4 seconds whether streams were
released, and every 4 seconds whether it was paused.

{markdown(["figure", "measured"], rows)}
"""


def draw(found: dict[str, Any]) -> None:
    """Draw nothing: this part has no plots."""
