"""Helpers for concurrent tasks: load many, run all, wait for the first of several events, cancel all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from .errors import AggregateNotFound

T = TypeVar("T")


async def load_all(load: Callable[[str], Awaitable[T]], ids: Iterable[str], concurrency: int) -> dict[str, T]:
    """Load these ids, up to `concurrency` at once. Return the results by id, in the order of `ids`.

    Ids that raise AggregateNotFound are left out. If a load raises another error, the other loads are cancelled and
    that error is raised.
    """
    if isinstance(ids, str):
        raise TypeError(f"ids is the string {ids!r}; pass a list of ids: [{ids!r}]")
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; it must be at least 1")
    wanted, found = list(dict.fromkeys(ids)), dict[str, T]()
    rest = iter(wanted)

    async def load_some() -> None:
        for id in rest:
            with suppress(AggregateNotFound):
                found[id] = await load(id)

    loading = [asyncio.ensure_future(load_some()) for _ in range(min(concurrency, len(wanted)))]
    try:
        await asyncio.gather(*loading)
    finally:
        await cancel_all(loading)
    return {id: found[id] for id in wanted if id in found}


async def run_all(work: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Run these coroutines concurrently, each to its end. Then raise the first error, if there is one."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
    finally:
        await cancel_all(tasks)


async def first_of(*events: asyncio.Event, timeout: float | None = None) -> None:
    """Wait until one of these events is set, or for `timeout` seconds. Without events, wait for `timeout` seconds."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        if waiting:
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        elif timeout is not None:
            await asyncio.sleep(timeout)
    finally:
        await cancel_all(waiting)


async def cancel_all(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel these tasks and wait until all have ended. Their errors are dropped."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
