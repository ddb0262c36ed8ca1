"""Measure the time from the acknowledgement of a save to the end of its handler, in the same process and in another."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from support.bank import Account

from eventsrc import Repository, SnapshotPolicy, SQLiteStore, Store
from eventsrc.processing import Processor, Runner, SQLiteCheckpoints
from eventsrc.store import Receipt

from .measure import Figure, quantile
from .models import Balances, BalancesInSQLite

SAVES = 200
PAUSE = 0.01  # seconds between two saves
STREAM = "seen"

_NONE = SnapshotPolicy(enabled=False)


async def figures() -> list[Figure]:
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        for model in ("memory", "SQLite"):
            for place, measure in (("the same process", _here), ("another process", _elsewhere)):
                path = Path(folder) / f"{model} {place}"
                async with SQLiteStore(f"{path}.db") as store:
                    found += describe(f"SQLite to {model}, {place}", await measure(store, path, model))
    return found


def describe(name: str, delays: Sequence[float]) -> list[Figure]:
    return [
        Figure(f"ms from acknowledgement to seen, {name}, p50", quantile(delays, 0.5)),
        Figure(f"ms from acknowledgement to seen, {name}, p99", quantile(delays, 0.99)),
    ]


async def measure_seen(store: Store, processor: Processor[Any]) -> list[float]:
    """Return the times in ms from the return of a save to the return of `wait_for`, while the processor runs here."""
    delays: list[float] = []
    async with running(processor):

        async def wait(receipt: Any, acknowledged: float) -> None:
            await processor.wait_for(receipt)
            delays.append((perf_counter() - acknowledged) * 1000)

        await _save_all(store, wait)
    return delays


async def _here(store: Store, path: Path, model: str) -> list[float]:
    async with AsyncExitStack() as stack:
        return await measure_seen(store, await _processor(stack, store, path, model))


async def _elsewhere(store: Store, path: Path, model: str) -> list[float]:
    """Save here, and handle in a child process. Both read the same monotonic clock."""
    acknowledged: list[float] = []

    async def note(_: Any, at: float) -> None:
        acknowledged.append(at)
        await asyncio.sleep(PAUSE)

    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.delays", str(path), model, stdout=PIPE
    )
    assert child.stdout is not None
    await child.stdout.readline()  # it has caught up
    await _save_all(store, note)
    seen = json.loads(await child.stdout.readline())
    assert await child.wait() == 0
    return [(there - here) * 1000 for here, there in zip(acknowledged, seen, strict=True)]


async def _save_all(store: Store, then: Callable[[Any, float], Awaitable[None]]) -> None:
    accounts = Repository(Account, store, snapshots=_NONE)
    account = Account.open(STREAM, owner="ann")
    for _ in range(SAVES):
        account.deposit(1)
        receipt = await accounts.save(account)
        await then(receipt, perf_counter())


async def _handle(path: Path, model: str) -> None:
    """Be the child process: print a line when caught up, and then the times at which each version was seen."""
    seen: list[float] = []
    async with SQLiteStore(f"{path}.db") as store, AsyncExitStack() as stack:
        processor = await _processor(stack, store, path, model)
        async with running(processor):
            print(flush=True)
            for version in range(1, SAVES + 1):
                await processor.wait_for(Receipt(f"account-{STREAM}", version, None), timeout=60)
                seen.append(perf_counter())
    print(json.dumps(seen), flush=True)


async def _processor(stack: AsyncExitStack, store: Store, path: Path, model: str) -> Processor[Any]:
    if model == "memory":
        return Processor(Balances(), store)
    checkpoints = await stack.enter_async_context(SQLiteCheckpoints(f"{path}.model"))
    return Processor(BalancesInSQLite(), store, checkpoints)


@asynccontextmanager
async def running(processor: Processor[Any]) -> AsyncGenerator[None]:
    """Run a processor inside the block, which begins when it has caught up."""
    runner = Runner(processor)
    task = asyncio.create_task(runner.run())
    await processor.caught_up.wait()
    try:
        yield
    finally:
        runner.stop()
        await task


if __name__ == "__main__":
    asyncio.run(_handle(Path(sys.argv[1]), sys.argv[2]))
