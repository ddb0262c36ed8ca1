"""Stored events, read for clients that have not caught up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from ..store import Commit
from ..stores.ordered import OrderedStore
from .token import FeedToken

AT_ONCE = 4
"""Streams, and pages, that read history at the same time. Each holds a page of commits, of up to a few MB."""


class Turns:
    """Turns at reading, given in the order in which they are asked for."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    @property
    def are_wanted(self) -> bool:
        """Whether somebody waits for a turn."""
        return self._waiting > 0

    async def take(self) -> None:
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1

    def give_back(self) -> None:
        self._free.release()


class History:
    """The stored commits of a store. Take one of the `turns` before you read for a stream.

    Pages take turns of their own, so that they never wait for streams: `async with history.page`.
    """

    def __init__(self, store: OrderedStore) -> None:
        self._store = store
        self.turns = Turns()
        self.page = asyncio.Semaphore(AT_ONCE)

    async def read(self, after: FeedToken) -> tuple[Sequence[Commit], bool]:
        """Return the next commits, and whether there are no more.

        Raises:
            StoreError: the store cannot be read.
            StoredDataError: the next commit is damaged.
        """
        async with aclosing(self._store.feed(after=str(after.place.position), follow=False)) as batches:
            async for batch in batches:
                return batch.commits, batch.caught_up
        return (), True
