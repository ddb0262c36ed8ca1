"""Stored events, read for clients that have not caught up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from ..store import Commit
from ..stores.ordered import OrderedStore
from .token import FeedToken

AT_ONCE = 4
"""Clients that read history at the same time. Each holds a page of commits, of up to a few MB."""


class History:
    """The stored commits of a store. Take a turn before you read: `async with history.turn`."""

    def __init__(self, store: OrderedStore) -> None:
        self._store = store
        self.turn = asyncio.Semaphore(AT_ONCE)

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
