"""The present, as Server-Sent Events: what is published, as it comes, until the client or the store is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..errors import StoreClosed
from ..stores.feed import Batch
from ..stores.ordered import OrderedStore
from .asgi import Receive, Send
from .catalogue import Catalogue
from .token import FeedToken

CHUNK = 64 * 1024  # bytes, and the event that exceeds them: sent at once

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx would hold events back
}


class Streaming:
    """One client's stream of events.

    Each event's id is where to resume behind it. Where nothing is published for long, ids go out without events: they
    move a client's last id and show it nothing. In silence a comment goes out every `heartbeat` seconds. A client that
    does not take CHUNK bytes, or one event if that is larger, within four of these is let go, and may resume.
    """

    def __init__(
        self, store: OrderedStore, catalogue: Catalogue, start: FeedToken, heartbeat: float, retry: float
    ) -> None:
        self._store, self._catalogue, self._start = store, catalogue, start
        self._heartbeat, self._retry = heartbeat, retry
        self._passed = self._told = start  # how far it has looked, and how far the client knows
        self._clock = asyncio.get_running_loop().time
        self._said = self._clock()  # when something was sent last

    async def run(self, receive: Receive, send: Send) -> None:
        """Stream. Returns when the client is gone, and ends the response when the store is closed.

        Raises StoreError and StoredDataError, and what a `data` raises. The client then sees a broken stream; when it
        comes again it is where it was: no event is passed over.
        """
        gone = asyncio.create_task(_gone(receive))
        try:
            async with aclosing(self._store.feed(after=str(self._start.position))) as batches:
                await self._run(batches, gone, send)
        except _Gone:
            pass
        finally:
            await _ended(gone)

    async def _run(self, batches: AsyncGenerator[Batch], gone: asyncio.Task[None], send: Send) -> None:
        await self._say(send, f"retry: {self._retry * 1000:.0f}\nid: {self._start.token}\n\n".encode())
        coming = asyncio.create_task(_next(batches))
        try:
            while not gone.done():
                timeout = self._heartbeat - self._silence()
                await asyncio.wait((gone, coming), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    if (batch := coming.result()) is None:
                        await send({"type": "http.response.body", "body": b"", "more_body": False})
                        return
                    await self._tell(batch, gone, send)
                    coming = asyncio.create_task(_next(batches))
                    del batch  # many clients wait, and none with a thousand commits in its hands
                if self._silence() >= self._heartbeat:  # also where batches come of which nothing is published
                    await self._say(send, self._mark() or b":\n\n")
        finally:
            await _ended(coming)

    async def _tell(self, batch: Batch, gone: asyncio.Task[None], send: Send) -> None:
        chunk = bytearray()
        for commit in batch.commits:
            assert commit.position is not None
            try:
                for index, type, body in self._catalogue.tell(commit):
                    if FeedToken(commit.position - 1, index) >= self._start:  # else the client has it
                        self._told = FeedToken(commit.position - 1, index + 1)
                        chunk += f"id: {self._told.token}\nevent: {type}\ndata: ".encode() + body + b"\n\n"
            except Exception:
                await self._say(send, bytes(chunk))  # what comes before the event that cannot be told
                raise
            if len(chunk) >= CHUNK:
                await self._say(send, bytes(chunk))
                chunk.clear()
                if gone.done():
                    return
        self._passed = FeedToken(int(batch.checkpoint))
        if not batch.caught_up:
            chunk += self._mark()
        if chunk:
            await self._say(send, bytes(chunk))

    def _mark(self) -> bytes:
        """An id without an event, if the client does not know yet how far it is."""
        if self._passed <= self._told:
            return b""
        self._told = self._passed
        return f"id: {self._told.token}\n\n".encode()

    def _silence(self) -> float:
        """Seconds for which the client has been sent nothing."""
        return self._clock() - self._said

    async def _say(self, send: Send, text: bytes) -> None:
        try:
            async with asyncio.timeout(4 * self._heartbeat):
                await send({"type": "http.response.body", "body": text, "more_body": True})
            self._said = self._clock()
        except OSError:  # what servers raise when nobody is there, and the timeout
            raise _Gone from None


class _Gone(Exception):
    """The client is gone, or has taken nothing for too long."""


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _next(batches: AsyncGenerator[Batch]) -> Batch | None:
    """None when the store is closed."""
    try:
        return await anext(batches)
    except StoreClosed:
        return None


async def _ended(task: asyncio.Task[object]) -> None:
    """Have it end. Its outcome is not asked for."""
    task.cancel()
    await asyncio.wait((task,))
