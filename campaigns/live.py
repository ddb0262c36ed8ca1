"""Live faults: the shipped stores against the real DynamoDB Local, through a proxy that injects faults."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from time import monotonic, perf_counter
from typing import Any

import msgspec
from support.proxy import (
    ANONYMOUS,
    ANSWER_LOST,
    FLIP,
    GZIP,
    HALF_ANSWER,
    LATE,
    LOST,
    PASS,
    RESET,
    SLOW,
    STALL,
    TWICE,
    UNMETERED,
    Answer,
    Fault,
    Proxy,
    condition_failed,
    error,
    proxy_to,
)
from support.tables import fresh_name, session, store_on

from eventsrc import Commit, DynamoDBStore, SnapshotPolicy
from eventsrc.stores.dynamodb.items import SNAPSHOT_VERSION, Items

from .history import History
from .progress import report
from .report import Layer
from .workload import Workload

DEADLINE = 1.5
LAYOUTS = ("snapshot-last", "snapshot-first", "interleaved")
CLIENTS, STEPS = 24, 36  # in one round, which has streams of its own
STREAMS = 12

HARM: tuple[Fault, ...] = (  # faults of any network and any service
    LOST,
    ANSWER_LOST,
    RESET,
    HALF_ANSWER,
    FLIP,
    TWICE,
    LATE,
    SLOW,
    error("ThrottlingException"),
    error("ProvisionedThroughputExceededException"),
    error("InternalServerError", 500),
    error("InternalServerError", 500, forwarded=True),
)

FAULTS: Sequence[Fault] = (
    *HARM,
    STALL,
    UNMETERED,
    ANONYMOUS,
    GZIP,
    error("TransactionInProgressException"),
    error("TeapotException", 418, forwarded=True),
    Answer(200, b"{}"),
    Answer(200, b"{}", forwarded=True),
    Answer(200, b"{", forwarded=True),
    Answer(400, b"<html>"),
    Answer(503, b"", forwarded=True),
    condition_failed(forwarded=True),
)


class Dice:
    """Choose a fault, or none, for each request."""

    def __init__(self, seed: int, rate: float, faults: Sequence[Fault] = FAULTS) -> None:
        self.injected: Counter[str] = Counter()
        self.rate, self._faults = rate, faults
        self._random = Random(seed)

    def __call__(self) -> Fault:
        if self._random.random() >= self.rate:
            return PASS
        fault = self._random.choice(self._faults)
        self.injected[fault if isinstance(fault, str) else f"answer {fault.status}"] += 1
        return fault


async def campaign(operations: int, seed: int, endpoint: str, rate: float = 0.05) -> Layer:
    """Make at least `operations` calls of repositories, over all layouts. A share `rate` of the requests has a fault.

    A small campaign has fewer clients. The seed defines the faults, but not the order of the requests, because the
    network is real.
    """
    begun = perf_counter()
    history, dice, random = History(), Dice(seed, rate), Random(seed)
    async with left_behind() as violations, AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxy_to(endpoint))
        proxy.choose = dice
        tables = {layout: await _table(endpoint, layout) for layout in LAYOUTS}
        rounds = 0
        while sum(operation.kind != "append" for operation in history.operations) < operations:
            works = [_work(history, random, proxy, tables, layout, rounds) for layout in LAYOUTS]
            clients = min(CLIENTS, max(6, operations // 100))
            await asyncio.gather(*(work.play(clients // 2, STEPS) for work in works))
            share, dice.rate = dice.rate, 0.0
            while proxy.late:
                await asyncio.wait(proxy.late)
            for work in works:
                await work.go_on()
                violations += work.violations
            dice.rate, rounds = share, rounds + 1
            report(sum(operation.kind != "append" for operation in history.operations), operations)
        logs = {layout: await stored_logs(endpoint, table) for layout, table in tables.items()}
    findings = history.check({stream: log for each in logs.values() for stream, log in each.items()})
    findings.violations.extend(violations)
    seconds = perf_counter() - begun
    kinds = ", ".join(f"{fault} {times}" for fault, times in dice.injected.most_common())
    return Layer.of("live", findings, faults=dice.injected.total(), seconds=seconds, seed=seed, note=kinds)


async def _table(endpoint: str, layout: str) -> str:
    options: dict[str, Any] = {"layout": layout}
    async with store_on(endpoint, fresh_name(), **options) as store:
        await store.create_table()
        return store.table.name


def _work(history: History, random: Random, proxy: Proxy, tables: dict[str, str], layout: str, number: int) -> Workload:
    """Return the workload of a round: its clients, and streams that only they write."""

    def make_store() -> DynamoDBStore:
        options: dict[str, Any] = {"layout": layout, "deadline": DEADLINE, "max_connections": 16}
        return store_on(proxy.url, tables[layout], **options)

    policy = SnapshotPolicy(floor=0, ratio=random.choice((0.1, 1.0)), inline=random.random() < 0.3)
    ids = [f"{layout}.{number}.{each}" for each in range(STREAMS // 2)]
    # The deadlines of the put and of the read of its slot, and 2 s because the service shares the cores.
    return Workload(history, random, make_store, ids, policy, clock=monotonic, deadline=2 * DEADLINE + 2.0)


async def stored_logs(endpoint: str, table: str) -> dict[str, list[Commit]]:
    """Return the stored commits by stream, read without the library's reads."""
    items = Items("PK", "SK", None)
    logs: dict[str, list[Commit]] = {}
    async with session().client("dynamodb", endpoint_url=endpoint) as client:
        async for page in client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True):
            for item in page["Items"]:
                stream = item["PK"]["S"]
                if SNAPSHOT_VERSION not in item and item["PK"] != items.identity_key["PK"]:
                    logs.setdefault(stream, []).append(items.to_commit(msgspec.convert(item, items.stored), stream))
    return logs


@asynccontextmanager
async def left_behind() -> AsyncIterator[list[str]]:
    """Report tasks, threads, open files and sockets that exist afterwards and did not before."""
    violations: list[str] = []
    tasks, threads, files = asyncio.all_tasks(), set(threading.enumerate()), _open_files()
    yield violations
    for _ in range(100):  # a closed connection needs a turn or two of the loop
        if not _open_files() - files:
            break
        await asyncio.sleep(0.01)
    violations += [f"a task was left: {task!r}" for task in asyncio.all_tasks() - tasks]
    pool = {thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")}  # the loop's own
    violations += [f"a thread was left: {thread!r}" for thread in set(threading.enumerate()) - threads - pool]
    violations += [f"left open: {file}" for file in _open_files() - files]


def _open_files() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:  # the file descriptor of the listing
            continue
    return found
