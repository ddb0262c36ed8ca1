"""The protocol of the drivers: one process per library, commands and answers as lines of JSON.

This file uses only the standard library, because it runs in the environment of each library. `python ours.py sqlite`
reads commands from its standard input, such as `{"do": "save", "stream": "a", "times": 100}`, and answers each with
`{"cpu": seconds, "wall": seconds, …}`.

The domain is the same for all libraries: an account is opened, and then receives deposits of an amount and a memo of 40
characters, one event per commit.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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

    async def open(self, where: str) -> None:
        await _done(self._driver.open(where))

    async def close(self) -> None:
        await _done(self._driver.close())

    async def save(self, stream: str, times: int) -> None:
        """Save `times` deposits on one object, one after the other."""
        if stream not in self._kept:
            self._kept[stream] = await _done(self._driver.create(stream))
        for _ in range(times):
            await _done(self._driver.deposit(self._kept[stream], 1))

    async def load(self, stream: str, times: int) -> dict[str, int]:
        balance = 0
        for _ in range(times):
            balance = self._driver.balance(await _done(self._driver.load(stream)))
        return {"balance": balance}

    async def snapshot(self, stream: str) -> None:
        await _done(self._driver.snapshot(await _done(self._driver.load(stream))))

    async def many(self, streams: str, tasks: int, times: int) -> None:
        """Run `tasks` tasks at once. Each saves an account of its own."""

        async def one(number: int) -> None:
            account = await self._run(pool, self._driver.create, f"{streams}-{number}")
            for _ in range(times):
                await self._run(pool, self._driver.deposit, account, 1)

        with ThreadPoolExecutor(tasks) as pool:
            await asyncio.gather(*(one(number) for number in range(tasks)))

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
