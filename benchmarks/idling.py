"""Measure what a running processor costs while nothing is stored: its CPU, and its requests to DynamoDB.

Each processor runs in a child process, so that its CPU is its own; a few of them run at a time. Proxies here count the
requests.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from support.bank import Account, Deposited, Opened
from support.tables import checkpoints_on, fresh_name, session, store_on

from eventsrc import DynamoDBStore, Repository, SQLiteStore
from eventsrc.local import dynamodb_local
from eventsrc.processing import Context, Effects, Leases, Processor, Runner, SQLiteCheckpoints

from .counting import CountingProxy, Counts, counting
from .measure import Figure, median_of
from .models import BalancesInSQLite

ROUNDS = 3
SETTLED = 20.0  # seconds after which a quiet stream is asked least often, and the checkpoint is in all slots
SECONDS = 20.0
WORKERS = ("alone", "with leases")
PER_MINUTE = 60 / SECONDS


class Letters(Effects, tag="letters"):
    async def handle_event(self, event: Opened | Deposited, context: Context) -> None:
        pass


async def figures() -> list[Figure]:
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        async with SQLiteStore(path) as store:
            await Repository(Account, store).save(Account.open("a-1", owner="ann"))

        async def spend(workers: str) -> list[float]:
            names = [f"{path}.{workers}.{number}" for number in range(ROUNDS)]
            return await asyncio.gather(*(_run_child("sqlite", str(path), name, workers) for name in names))

        for workers, spent in zip(WORKERS, await asyncio.gather(*map(spend, WORKERS)), strict=True):
            found.append(Figure(f"ms of CPU a minute, idle, SQLite, {workers}", median_of(spent)))
    async with dynamodb_local() as local:
        table = fresh_name()
        async with store_on(local.endpoint_url, table) as events:
            await events.create_table(stream=True)
            await Repository(Account, events).save(Account.open("a-1", owner="ann"))

        async def run(workers: str) -> list[tuple[float, float, float]]:
            return await asyncio.gather(*(_on_dynamodb(local.endpoint_url, table, workers) for _ in range(ROUNDS)))

        for workers, rounds in zip(WORKERS, await asyncio.gather(*map(run, WORKERS)), strict=True):
            found += [
                Figure(f"{name}, idle, DynamoDB, {workers}", median_of(values))
                for name, values in zip(
                    ("ms of CPU a minute", "requests a minute to the tables", "requests a minute to the stream"),
                    zip(*rounds, strict=True),
                    strict=True,
                )
            ]
    return found


async def _on_dynamodb(endpoint: str, table: str, workers: str) -> tuple[float, float, float]:
    """Return the ms of CPU and the requests to tables and stream, each in a minute."""
    checkpoints = fresh_name()
    async with session().client("dynamodb", endpoint_url=endpoint) as client:
        keys = {"PK": "HASH", "SK": "RANGE"}
        await client.create_table(
            TableName=checkpoints,
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in keys.items()],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in keys],
            BillingMode="PAY_PER_REQUEST",
        )
    async with counting(endpoint) as proxy:
        spent = await _run_child("dynamodb", f"{proxy.url} {table}", checkpoints, workers, proxy)
    return spent, proxy.counts.requests * PER_MINUTE, proxy.counts.streams.total() * PER_MINUTE


async def _run_child(
    kind: str, store: str, checkpoints: str, workers: str, proxy: CountingProxy | None = None
) -> float:
    """Return the ms of CPU that an idle processor spends in a minute."""
    arguments = (kind, store, checkpoints, workers)
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "benchmarks.idling", *arguments, stdout=PIPE)
    assert child.stdout is not None
    await child.stdout.readline()  # it is idle
    if proxy is not None:
        proxy.counts = Counts()
    spent = float(await child.stdout.readline())
    counts = Counts() if proxy is None else proxy.counts
    if proxy is not None:
        proxy.counts = Counts()  # of its end
    assert await child.wait() == 0
    if proxy is not None:
        proxy.counts = counts
    return spent * 1000 * PER_MINUTE


async def _idle(kind: str, place: str, checkpoints: str, workers: str) -> None:
    """Be the child process: print a line when idle, and after SECONDS the seconds of CPU."""
    async with AsyncExitStack() as stack:
        processor: Processor[Any]
        if kind == "sqlite":
            store = await stack.enter_async_context(SQLiteStore(place))
            found = await stack.enter_async_context(SQLiteCheckpoints(checkpoints))
            processor = Processor(BalancesInSQLite(), store, found)
        else:
            endpoint, table = place.split()
            events: DynamoDBStore = await stack.enter_async_context(store_on(endpoint, table))
            rows = await stack.enter_async_context(checkpoints_on(endpoint, checkpoints))
            processor = Processor(Letters(), events, rows)
        runner = Runner(processor, leases=Leases() if workers == "with leases" else None)
        running = asyncio.create_task(runner.run())
        await processor.caught_up.wait()
        await asyncio.sleep(SETTLED)
        print(flush=True)
        cpu, wall = process_time(), perf_counter()
        await asyncio.sleep(SECONDS)
        spent = (process_time() - cpu) / (perf_counter() - wall) * SECONDS
        print(spent, flush=True)
        runner.stop()
        await running


if __name__ == "__main__":
    asyncio.run(_idle(*sys.argv[1:]))
