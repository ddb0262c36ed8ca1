"""Many loads, so many at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from .errors import AggregateNotFound

T = TypeVar("T")


async def load_all(load: Callable[[str], Awaitable[T]], ids: Iterable[str], concurrency: int) -> dict[str, T]:
    """What there is of these ids, in their order. Once one load fails the others are cancelled, and it is raised."""
    if isinstance(ids, str):
        raise TypeError(f"ids is the text {ids!r}; give several, as in [{ids!r}]")
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; it is a number from 1 on")
    import asyncio  # here, as in store.py

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
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
    return {id: found[id] for id in wanted if id in found}
