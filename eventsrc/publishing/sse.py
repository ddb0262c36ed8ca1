"""Events as a live stream of Server-Sent Events, until the client leaves or the store is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..errors import StoreClosed
from ..stores.feed import Batch
from ..stores.ordered import OrderedStore, position_of
from .asgi import Receive, Send
from .catalogue import Catalogue
from .token import FeedToken

CHUNK = 64 * 1024  # bytes; a chunk is sent as soon as it has as many

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # otherwise nginx buffers events
}


class EventStream:
    """The stream of events of one client.

    - The id of an event is the token from which a client resumes after that event.
    - Where nothing is published for long, ids are sent without events: they only advance the client's last id.
    - A comment is sent after every `heartbeat` seconds of silence.
    - A client that does not take CHUNK bytes, or one event if that is larger, within four heartbeats is dropped. It may
      resume.
    """

    def __init__(
        self, store: OrderedStore, catalogue: Catalogue, start: FeedToken, heartbeat: float, retry: float
    ) -> None:
        self._store, self._catalogue, self._start = store, catalogue, start
        self._heartbeat, self._retry = heartbeat, retry
        self._read = self._sent = start  # how far the feed was read; the last id that was sent
        self._clock = asyncio.get_running_loop().time
        self._last_sent = self._clock()

    async def run(self, receive: Receive, send: Send) -> None:
        """Stream until the client leaves. Closing the store ends the response.

        If an error is raised, the client sees a broken stream. When it connects again it resumes where it was: no event
        is left out.

        Raises:
            StoreError: the store cannot be read.
            StoredDataError: a commit cannot be decoded.
            Exception: anything that an upcaster or `PublishedEvent.data` raises.
        """
        gone = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            async with aclosing(self._store.feed(after=str(self._start.position))) as batches:
                await self._run(batches, gone, send)
        except _ClientGone:
            pass
        finally:
            await _cancel(gone)

    async def _run(self, batches: AsyncGenerator[Batch], gone: asyncio.Task[None], send: Send) -> None:
        await self._send(send, f"retry: {self._retry * 1000:.0f}\nid: {self._start.token}\n\n".encode())
        coming = asyncio.create_task(_read_next(batches))
        try:
            while not gone.done():
                timeout = self._heartbeat - self._silence
                await asyncio.wait((gone, coming), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    if (batch := coming.result()) is None:
                        await send({"type": "http.response.body", "body": b"", "more_body": False})
                        return
                    await self._send_batch(batch, gone, send)
                    coming = asyncio.create_task(_read_next(batches))
                    del batch  # many clients wait at once, and none of them keeps its commits in memory
                if self._silence >= self._heartbeat:  # also while batches arrive of which nothing is published
                    await self._send(send, self._advance_id() or b":\n\n")
        finally:
            await _cancel(coming)

    async def _send_batch(self, batch: Batch, gone: asyncio.Task[None], send: Send) -> None:
        chunk = bytearray()
        for commit in batch.commits:
            assert commit.position is not None
            try:
                for index, type, body in self._catalogue.encode(commit):
                    if FeedToken(commit.position - 1, index) >= self._start:  # otherwise the client has it already
                        self._sent = FeedToken(commit.position - 1, index + 1)
                        chunk += f"id: {self._sent.token}\nevent: {type}\ndata: ".encode() + body + b"\n\n"
            except Exception:
                await self._send(send, bytes(chunk))  # the events before the one that cannot be published
                raise
            if len(chunk) >= CHUNK:
                await self._send(send, bytes(chunk))
                chunk.clear()
                if gone.done():
                    return
        self._read = FeedToken(position_of(batch.checkpoint))
        if not batch.caught_up:
            chunk += self._advance_id()
        if chunk:
            await self._send(send, bytes(chunk))

    def _advance_id(self) -> bytes:
        """Return an id without an event, if the feed was read further than the last id sent; otherwise b''."""
        if self._read <= self._sent:
            return b""
        self._sent = self._read
        return f"id: {self._sent.token}\n\n".encode()

    @property
    def _silence(self) -> float:
        """Seconds since something was sent to the client."""
        return self._clock() - self._last_sent

    async def _send(self, send: Send, text: bytes) -> None:
        try:
            async with asyncio.timeout(4 * self._heartbeat):
                await send({"type": "http.response.body", "body": text, "more_body": True})
            self._last_sent = self._clock()
        except OSError:  # servers raise it when the client is gone; TimeoutError is one too
            raise _ClientGone from None


class _ClientGone(Exception):
    """The client has disconnected, or has taken nothing for too long."""


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_next(batches: AsyncGenerator[Batch]) -> Batch | None:
    """Return the next batch; None when the store is closed."""
    try:
        return await anext(batches)
    except StoreClosed:
        return None


async def _cancel(task: asyncio.Task[object]) -> None:
    """Cancel a task and wait until it has ended; ignore its outcome."""
    task.cancel()
    await asyncio.wait((task,))
