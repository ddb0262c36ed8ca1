"""Measure the events API: what idle clients cost, and how they delay a load of the same store."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from support.bank import Account, Deposited

from eventsrc import Repository, SQLiteStore
from eventsrc.publishing import PublishedEvent, events_api

from .measure import Figure, markdown, median_of

ROUNDS = 3
CLIENTS = (0, 1, 1_000)
SECONDS = 15.0  # in which nothing is stored, and each client is sent a comment
LOADS = 500  # in each round, one every 10 ms

_SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/",
    "root_path": "",
    "headers": [(b"accept", b"text/event-stream")],
    "query_string": b"after=latest",
}


def measure() -> dict[str, Any]:
    return {"figures": [asdict(figure) for figure in asyncio.run(_measure())]}


async def _measure() -> list[Figure]:
    cpu: dict[int, list[float]] = {count: [] for count in CLIENTS}
    loads: dict[int, list[float]] = {count: [] for count in CLIENTS}
    slowest: dict[int, list[float]] = {count: [] for count in CLIENTS}
    with tempfile.TemporaryDirectory() as folder:
        async with SQLiteStore(Path(folder) / "ledger.db") as store:
            await Repository(Account, store).save(Account.open("a-1", owner="ann"))
            for _ in range(ROUNDS):
                for count in CLIENTS:  # they take turns, so that all see the same machine
                    connected = await _connect(store, count)
                    cpu[count].append(await _idle())
                    times = await _load(store)
                    loads[count].append(statistics.median(times) * 1000)
                    slowest[count].append(max(times) * 1000)
                    for client in connected:
                        client.cancel()
                    await asyncio.gather(*connected, return_exceptions=True)
    most = CLIENTS[-1]
    ratios = [crowded / alone for crowded, alone in zip(loads[most], loads[0], strict=True)]
    found = [Figure(f"time of a load: with {most:,} idle clients ÷ without", median_of(ratios), 2, at_most=True)]
    for count in CLIENTS:
        found.append(Figure(f"ms of CPU a second, {count:,} idle clients", median_of(cpu[count]) * 1000))
        found.append(Figure(f"ms of a load with {count:,} idle clients, median", median_of(loads[count])))
        found.append(Figure(f"ms of a load with {count:,} idle clients, slowest of {LOADS}", median_of(slowest[count])))
    return found


async def _connect(store: SQLiteStore, count: int) -> list[asyncio.Task[None]]:
    """Connect clients without a server, and wait until all have their first id."""
    app = events_api(store, [PublishedEvent(Deposited, type="deposited")], source="/ledger")
    waiting = asyncio.Semaphore(0)

    async def receive() -> Any:
        await asyncio.Future()

    async def send(message: Any) -> None:
        if message.get("body", b"").startswith(b"retry"):
            waiting.release()

    connected = [asyncio.ensure_future(app(dict(_SCOPE), receive, send)) for _ in range(count)]
    for _ in connected:
        await waiting.acquire()
    return connected


async def _idle() -> float:
    """Return the seconds of CPU per second in which nothing is stored."""
    cpu, wall = process_time(), perf_counter()
    await asyncio.sleep(SECONDS)
    return (process_time() - cpu) / (perf_counter() - wall)


async def _load(store: SQLiteStore) -> list[float]:
    times = []
    for _ in range(LOADS):
        start = perf_counter()
        await store.load("account-a-1")
        times.append(perf_counter() - start)
        await asyncio.sleep(0.01)
    return times


def goals(found: dict[str, Any]) -> list[Figure]:
    return [figure for each in found["figures"] if (figure := Figure(**each)).goal is not None]


def section(found: dict[str, Any]) -> str:
    values = {each["name"]: each["value"] for each in found["figures"]}
    rows = [
        [
            f"{count:,}",
            f"{values[f'ms of CPU a second, {count:,} idle clients']:.1f}",
            f"{values[f'ms of a load with {count:,} idle clients, median']:.2f}",
            f"{values[f'ms of a load with {count:,} idle clients, slowest of {LOADS}']:.2f}",
        ]
        for count in CLIENTS
    ]
    return f"""## Clients of the events API

Clients that wait for new events of an `SQLiteStore`, with the default heartbeat of 15 s. They are connected without a
server, so what its connections cost is not counted. Each line is the median of {ROUNDS} rounds that took turns.

{markdown(["idle clients", "ms of CPU a second", "ms of a load, median", f"ms of a load, slowest of {LOADS}"], rows)}
"""


def draw(found: dict[str, Any]) -> None:
    """Draw nothing: this part has no plots."""
