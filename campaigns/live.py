"""Live faults: the stores as they are shipped against the real DynamoDB Local, with a proxy between that does harm."""

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
    ANSWER_LOST,
    FLIP,
    HALF_ANSWER,
    LATE,
    LOST,
    PASS,
    RESET,
    SLOW,
    STALL,
    TWICE,
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
from .report import Layer
from .workload import Workload

DEADLINE = 1.5
LAYOUTS = ("snapshot-last", "snapshot-first", "interleaved")
CLIENTS, STEPS = 24, 36  # of a round, on streams of its own
STREAMS = 12

HARM: tuple[Fault, ...] = (  # which any network and any service does
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
    """Which requests meet which fault."""

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
    """At least so many calls of repositories, on both layouts; a share `rate` of the requests meets a fault. A small
    campaign has fewer clients.

    The faults come from the seed, but not which request is next: the network is real.
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
    """The clients of a round, and the streams that only they write."""

    def make_store() -> DynamoDBStore:
        options: dict[str, Any] = {"layout": layout, "deadline": DEADLINE, "max_connections": 16}
        return store_on(proxy.url, tables[layout], **options)

    policy = SnapshotPolicy(floor=0, ratio=random.choice((0.1, 1.0)), inline=random.random() < 0.3)
    ids = [f"{layout}.{number}.{each}" for each in range(STREAMS // 2)]
    # Beyond the deadlines for the put and for reading the slot: two cores are shared with the service.
    return Workload(history, random, make_store, ids, policy, clock=monotonic, deadline=2 * DEADLINE + 2.0)


async def stored_logs(endpoint: str, table: str) -> dict[str, list[Commit]]:
    """What is stored, read past the library's reads."""
    items = Items("PK", "SK", None)
    logs: dict[str, list[Commit]] = {}
    async with session().client("dynamodb", endpoint_url=endpoint) as client:
        async for page in client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True):
            for item in page["Items"]:
                stream = item["PK"]["S"]
                if SNAPSHOT_VERSION not in item:
                    logs.setdefault(stream, []).append(items.to_commit(msgspec.convert(item, items.stored), stream))
    return logs


@asynccontextmanager
async def left_behind() -> AsyncIterator[list[str]]:
    """Notes what is there afterwards and was not before: tasks, threads, open files and sockets."""
    violations: list[str] = []
    tasks, threads, files = asyncio.all_tasks(), set(threading.enumerate()), _open_files()
    yield violations
    for _ in range(100):  # a closed connection is gone a turn or two later
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
        except FileNotFoundError:  # the listing itself
            continue
    return found
