"""New events, read and encoded once for all clients that have caught up."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from ..errors import StoreClosed
from ..log import log
from ..stores.ordered import OrderedStore
from .catalogue import Catalogue
from .chunk import Chunk, make_chunks
from .start import find_latest
from .token import FeedToken

KEPT = 1024 * 1024  # bytes of text that are kept for clients that need a little longer


class Tail:
    """The latest events. They are all events from `start` to `end`; older ones are dropped.

    Clients share it, and each keeps only its own place. A client whose place is before `start` reads the store itself.
    """

    def __init__(self, start: FeedToken) -> None:
        self.start = self.end = start
        self.error: Exception | None = None  # why it has ended; None if the store was closed
        self.has_ended = False
        self.changed = asyncio.get_running_loop().create_future()  # done when there is more, or when it has ended
        self._chunks: list[Chunk] = []
        self._size = 0

    def append(self, chunk: Chunk) -> None:
        self.end = chunk.after
        if chunk.text:
            self._chunks.append(chunk)
            self._size += len(chunk.text)
            while self._size > KEPT and len(self._chunks) > 1:
                oldest = self._chunks.pop(0)
                self._size -= len(oldest.text)
                self.start = oldest.after
        self._wake()

    def finish(self, error: Exception | None) -> None:
        self.error, self.has_ended = error, True
        self._wake()

    def next_chunk(self, after: FeedToken) -> Chunk | None:
        """Return the first chunk that has more than what is before a place; None if there is none yet."""
        index = bisect_right(self._chunks, after.place, key=lambda chunk: chunk.after.place)
        return self._chunks[index] if index < len(self._chunks) else None

    def _wake(self) -> None:
        self.changed.set_result(None)
        self.changed = asyncio.get_running_loop().create_future()


class LiveReader:
    """Reads a store from its end while at least one client follows."""

    def __init__(self, store: OrderedStore, catalogue: Catalogue) -> None:
        self._store, self._catalogue = store, catalogue
        self._starting = asyncio.Lock()
        self._tail: Tail | None = None
        self._reading: asyncio.Task[None] | None = None
        self._followers = 0  # of this tail

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[Tail]:
        """Provide the tail that all clients share. After it has ended, the next client gets a new one.

        Raises:
            StoreError: the store cannot be read.
        """
        async with self._starting:
            if self._tail is None or self._tail.has_ended:
                self._tail = Tail(await find_latest(self._store))
                self._followers = 0
                self._reading = asyncio.create_task(self._read(self._tail))
            tail = self._tail
            self._followers += 1
        try:
            yield tail
        finally:
            if tail is self._tail:
                self._followers -= 1
                if not self._followers and self._reading:
                    self._reading.cancel()
                    self._tail = self._reading = None

    async def _read(self, tail: Tail) -> None:
        try:
            async with aclosing(self._store.feed(after=str(tail.end.place.position))) as batches:
                async for batch in batches:
                    for chunk in make_chunks(self._catalogue, batch.commits, tail.end):
                        tail.append(chunk)
                        await asyncio.sleep(0)  # others run between chunks
                    del batch  # while waiting for more, no commits are kept in memory
        except StoreClosed:
            tail.finish(None)
        except Exception as error:  # noqa: BLE001  # `data` may raise anything
            log.error("streams of published events break: %s", error)  # each of them raises the error
            tail.finish(error)
