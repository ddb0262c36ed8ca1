"""The protocol of the drivers: one process per library, commands and answers as lines of JSON.

This file uses only the standard library, because it runs in the environment of each library. `python ours.py sqlite`
reads commands from its standard input, such as `{"do": "save", "streams": ["a", "b"], "times": 100}`, and answers each
with `{"cpu": seconds, "wall": seconds, …}`. Streams of a command take turns, so that no cache has only one to hold.

The domain is the same for all libraries: an account is opened, and then receives deposits of an amount and a memo of 40
characters, one event per commit.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import platform
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, Protocol

MEMO = "rent for the room above the bakery, May "
assert len(MEMO) == 40


class Conflict(Exception):
    """Another writer was first; this event is not stored."""


class Driver(Protocol):
    """A library. Methods may be plain or `async`. Plain methods are called from threads if several tasks run."""

    def open(self, where: str) -> Any:
        """Create the tables. `where` is the path of a new SQLite file, or the endpoint of a DynamoDB."""

    def close(self) -> Any: ...

    def create(self, id: str) -> Any:
        """Save a new account; return the object."""

    def deposit(self, account: Any, amount: int) -> Any:
        """Deposit with MEMO on the object and save it: one event, one commit. Raises Conflict."""

    def load(self, id: str) -> Any:
        """Load the account from the store, without any cache. Return the object."""

    def balance(self, account: Any) -> int: ...

    def snapshot(self, account: Any) -> Any:
        """Write a snapshot that later loads use, or raise NotImplementedError."""


class Session:
    """Run the commands on one driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._kept: dict[str, Any] = {}
        self._turns = count()

    async def open(self, where: str) -> dict[str, str]:
        await _done(self._driver.open(where))
        return {"runs_on": f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"}

    async def close(self) -> None:
        await _done(self._driver.close())

    async def save(self, streams: Sequence[str], times: int) -> None:
        """Save `times` deposits, one after the other, on one object of each stream in turn."""
        for stream in streams:
            if stream not in self._kept:
                self._kept[stream] = await _done(self._driver.create(stream))
        for turn in range(times):
            await _done(self._driver.deposit(self._kept[streams[turn % len(streams)]], 1))

    async def load(self, streams: Sequence[str], times: int) -> dict[str, int]:
        """Load `times` times, one after the other, each stream in turn, and return the last balance."""
        balance = 0
        for _ in range(times):
            stream = streams[next(self._turns) % len(streams)]
            balance = self._driver.balance(await _done(self._driver.load(stream)))
        return {"balance": balance}

    async def snapshot(self, streams: Sequence[str]) -> None:
        for stream in streams:
            await _done(self._driver.snapshot(await _done(self._driver.load(stream))))

    async def many(self, streams: str, accounts: int, workers: int, times: int) -> None:
        """Save `times` commits to each of new accounts, which are divided among threads or, if it is async, tasks."""

        def names(worker: int) -> Sequence[str]:
            return [f"{streams}-{number}" for number in range(worker, accounts, workers)]

        def work(worker: int) -> None:
            held = [self._driver.create(name) for name in names(worker)]
            for _ in range(times - 1):
                for account in held:
                    self._driver.deposit(account, 1)

        async def work_async(worker: int) -> None:
            held = [await self._driver.create(name) for name in names(worker)]
            for _ in range(times - 1):
                for account in held:
                    await self._driver.deposit(account, 1)

        if inspect.iscoroutinefunction(self._driver.deposit):
            await asyncio.gather(*map(work_async, range(workers)))
        elif workers == 1:
            work(0)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(work, range(workers)))

    async def race(self, stream: str, tasks: int, times: int) -> dict[str, int]:
        """Run `tasks` tasks at once on one account: load, deposit 1, save; `times` in all. Return counts by outcome."""
        await self._run(None, self._driver.create, stream)
        counts = {"acknowledged": 0, "conflicts": 0, "errors": 0}

        async def one() -> None:
            for _ in range(times // tasks):
                try:
                    account = await self._run(pool, self._driver.load, stream)
                    await self._run(pool, self._driver.deposit, account, 1)
                    counts["acknowledged"] += 1
                except Conflict:
                    counts["conflicts"] += 1
                except Exception:
                    counts["errors"] += 1
                    if counts["errors"] == 1:
                        traceback.print_exc()

        with ThreadPoolExecutor(tasks) as pool:
            await asyncio.gather(*(one() for _ in range(tasks)))
        stored = self._driver.balance(await self._run(None, self._driver.load, stream))
        return {**counts, "stored": stored}

    async def _run(self, pool: ThreadPoolExecutor | None, call: Callable[..., Any], *arguments: Any) -> Any:
        if inspect.iscoroutinefunction(call):
            return await call(*arguments)
        return await asyncio.get_running_loop().run_in_executor(pool, call, *arguments)


def serve(driver: Driver) -> None:
    asyncio.run(_serve(Session(driver)))


async def _serve(session: Session) -> None:
    for line in sys.stdin:
        command: dict[str, Any] = json.loads(line)
        call = getattr(session, command.pop("do"))
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            found = await call(**command) or {}
        except NotImplementedError:
            answer: dict[str, Any] = {"missing": True}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:200]}
            traceback.print_exc()
        else:
            answer = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, **found}
        print(json.dumps(answer), flush=True)


async def _done(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result
