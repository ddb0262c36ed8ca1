"""Measure the read side: catching up from SQLite and DynamoDB, the delay of a handler, and the CPU of the gate."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from support.bank import Account
from support.tables import fresh_name, session, store_on

from eventsrc import DynamoDBStore, MemoryStore, Repository, SnapshotPolicy, SQLiteStore, Store
from eventsrc.local import dynamodb_local
from eventsrc.processing import (
    Processor,
    SQLiteCheckpoints,
)
from eventsrc.stores.gate import Gate

from . import delays, idling
from .measure import Figure, markdown, median_of
from .models import Balances, BalancesByStream, BalancesInSQLite

ROUNDS = 5
STREAMS, COMMITS = 500, 40  # 20,000 commits
SCANNED = (400, 20)  # on DynamoDB Local

NONE = SnapshotPolicy(enabled=False)


def measure() -> dict[str, Any]:
    return {"figures": [asdict(figure) for figure in asyncio.run(_measure())]}


async def _measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        sqlite = await _sqlite(Path(folder))
    return [*sqlite, *await delays.figures(), await _gate(), *await _dynamodb(), *await idling.figures()]


async def _sqlite(folder: Path) -> list[Figure]:
    found: list[Figure] = []
    for name, events in (("1 event a commit", 1), ("10 events a commit", 10)):
        async with SQLiteStore(folder / f"{events}.db") as store:
            await _fill(store, STREAMS, COMMITS, events)
            total = STREAMS * COMMITS * events + STREAMS
            rates = [await _catch_up(Processor(Balances(), store), total) for _ in range(ROUNDS)]
            goal = 100_000 if events == 1 else None
            found.append(Figure(f"events/s of CPU, SQLite to memory, {name}", median_of(rates), goal))
            for order, model in (("the order of the feed", BalancesInSQLite), ("stream by stream", BalancesByStream)):
                rates = []
                for number in range(ROUNDS):
                    async with SQLiteCheckpoints(folder / f"{model.tag}-{events}-{number}.model") as checkpoints:
                        rates.append(await _catch_up(Processor(model(), store, checkpoints), total))
                found.append(Figure(f"events/s of CPU, SQLite to SQLite, {name}, {order}", median_of(rates)))
    return found


async def _gate() -> Figure:
    """Measure the CPU that the gate adds per event, for commits of one event that arrive in order."""
    async with MemoryStore() as store:
        await _fill(store, 100, 100, 1)
        commits = [commit async for batch in store.feed(follow=False) for commit in batch.commits]
        costs = []
        for _ in range(ROUNDS):
            gate = Gate(store, {})
            start = process_time()
            for commit in commits:
                for due in await gate.due(commit):
                    gate.handled(due)
            costs.append((process_time() - start) / len(commits) * 1e6)
    return Figure("µs of CPU in the gate per event", median_of(costs), 1, at_most=True)


async def _dynamodb() -> list[Figure]:
    async with dynamodb_local() as local, AsyncExitStack() as stack:
        table = fresh_name()
        store = await stack.enter_async_context(store_on(local.endpoint_url, table))
        sdk = await stack.enter_async_context(session().client("dynamodb", endpoint_url=local.endpoint_url))
        await store.create_table()
        await _fill(store, *SCANNED, 1)
        total = SCANNED[0] * SCANNED[1] + SCANNED[0]
        rounds = [
            (await _bare_scan(sdk, table), await _own_scan(store), await _scan_into(store, total))
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


async def _bare_scan(sdk: Any, table: str) -> float:
    """Return events per second of a scan that decodes nothing."""
    start, count = perf_counter(), 0
    key: dict[str, Any] = {}
    while True:
        page = await sdk.scan(TableName=table, **key)
        count += sum(int(item["n"]["N"]) for item in page["Items"] if "n" in item)  # not the identity of the table
        if "LastEvaluatedKey" not in page:
            return count / (perf_counter() - start)
        key = {"ExclusiveStartKey": page["LastEvaluatedKey"]}


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
    await _fill(store, 100, 20, 1, prefix="streamed")
    processor, start = Processor(Balances(), store), perf_counter()
    await processor.pipeline.prepare()
    await processor.pipeline.assignment.take_all()
    async with aclosing(store.feed(after=await store.end(), follow=False)) as batches:
        async for batch in batches:
            await processor.pipeline.handle(batch.commits)
    return processor.pipeline.progress.commits / (perf_counter() - start)


async def _catch_up(processor: Processor[Any], total: int) -> float:
    """Return events per second of CPU time, over all threads of this process."""
    start = process_time()
    await processor.run(until_caught_up=True)
    rate = total / (process_time() - start)
    assert processor.pipeline.progress.commits == STREAMS * COMMITS
    return rate


async def _fill(store: Store, streams: int, commits: int, events: int, prefix: str = "a") -> None:
    """Save `commits` commits of `events` deposits per stream. The first commit also opens the account."""
    accounts = Repository(Account, store, snapshots=NONE)

    async def one(number: int) -> None:
        account = Account.open(f"{prefix}-{number}", owner="ann")
        for _ in range(commits):
            for _ in range(events):
                account.deposit(1)
            await accounts.save(account)

    for start in range(0, streams, 50):
        await asyncio.gather(*(one(number) for number in range(start, min(start + 50, streams))))


def goals(found: dict[str, Any]) -> list[Figure]:
    return [figure for each in found["figures"] if (figure := Figure(**each)).goal is not None]


def section(found: dict[str, Any]) -> str:
    rows = [[each["name"], f"{each['value']:,.{0 if each['value'] >= 1000 else 2}f}"] for each in found["figures"]]
    return f"""## Feeds and processors

A processor handles a bank account's events. The read model is a dictionary of balances in memory, or a table of
balances in SQLite with the positions in the same transaction. Rates per second of CPU are for one core. The scans take
turns in reading the same table in one segment. DynamoDB Local shares the machine's cores with them.

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
