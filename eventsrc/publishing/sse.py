"""Events as a live stream of Server-Sent Events, until the client leaves or the store is closed."""

from __future__ import annotations

import asyncio
import random

from ..errors import StoreClosed
from .asgi import Receive, Send
from .catalogue import Catalogue
from .chunk import Chunk, make_chunks
from .history import History
from .live import Tail
from .token import FeedToken

TURN = 0.25
"""Seconds that a client may read history before others have their turn."""

PATIENCE = 0.005
"""Seconds in which a client takes what it is sent if it takes it at once; others then need not wait for it."""

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # otherwise nginx buffers events
}


class EventStream:
    """The stream of events of one client.

    - Until the client has caught up, it reads the history itself, a few clients at a time. Then it follows the tail. A
      client that is too slow for the tail reads the history again. It keeps no more than one chunk in memory.
    - A client that does not take a chunk at once gives its turn to others, and is then waited for.
    - The id of an event is the token from which a client resumes after that event.
    - Where nothing is published for long, ids are sent without events: they only advance the client's last id.
    - A comment is sent after at most `heartbeat` seconds of silence, by each client at another moment.
    - A client that does not take a chunk within four heartbeats is dropped. It may resume.
    """

    def __init__(
        self,
        history: History,
        tail: Tail,
        catalogue: Catalogue,
        start: FeedToken,
        heartbeat: float,
        retry: float,
    ) -> None:
        self._history, self._tail, self._catalogue = history, tail, catalogue
        self._heartbeat, self._retry = heartbeat, retry
        # Clients that got the same event would otherwise all be due at the same moment.
        self._silence = heartbeat * random.uniform(0.8, 1)  # noqa: S311
        self._at = start  # how far it was read
        self._sent = start.place  # the last id that was sent
        self._clock = asyncio.get_running_loop().time
        self._last_sent = self._clock()
        self._sending: asyncio.Task[None] | None = None

    async def run(self, receive: Receive, send: Send) -> None:
        """Stream until the client leaves. Closing the store ends the response.

        If an error is raised, the client sees a broken stream. When it connects again it resumes where it was: no event
        is left out.

        Raises:
            StoreError: the store cannot be read.
            StoredDataError: a commit cannot be decoded, or an upcaster fails.
            Exception: anything that `PublishedEvent.data` raises.
        """
        gone = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            await self._send(send, f"retry: {self._retry * 1000:.0f}\nid: {self._at.text}\n\n".encode())
            await self._run(gone, send)
        except StoreClosed:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except _ClientGone:
            pass
        finally:
            for task in filter(None, (gone, self._sending)):
                await _cancel(task)

    async def _run(self, gone: asyncio.Task[None], send: Send) -> None:
        tail = self._tail
        while not gone.done():
            changed = tail.changed
            if self._at.place < tail.start.place:
                await self._catch_up(gone, send)
            elif chunk := tail.next_chunk(self._at):
                await self._send(send, self._take(chunk))
            elif tail.has_ended:
                raise tail.error.with_traceback(None) if tail.error else StoreClosed("the store was closed")
            else:
                self._at = max(self._at, tail.end)
                await self._wait(changed, gone, send)
            await self._finish_sending()

    async def _catch_up(self, gone: asyncio.Task[None], send: Send) -> None:
        """Read history in one turn: a page of commits, or less if the client takes it slowly."""
        turns = self._history.turns
        turn = asyncio.create_task(turns.take())
        try:
            await self._wait(turn, gone, send)
            deadline = self._clock() + TURN
            if turn.done() and await self._is_taken(deadline):
                await self._read_history(deadline, gone, send)
        finally:
            if not turn.cancel():
                turns.give_back()
        await self._finish_sending()  # in the meantime others have their turns
        if self._at.place < self._tail.start.place and (advanced := self._advance_id()):
            await self._send(send, advanced)

    async def _read_history(self, deadline: float, gone: asyncio.Task[None], send: Send) -> None:
        end = self._tail.start
        commits, caught_up = await self._history.read(self._at)
        for chunk in make_chunks(self._catalogue, commits, self._at):
            if text := self._take(chunk):
                self._sending = asyncio.create_task(self._send(send, text))
                if not await self._is_taken(deadline) or gone.done() or self._clock() > deadline:
                    return
        if caught_up:
            self._at = max(self._at, end)  # positions at the end may be vacant

    async def _is_taken(self, deadline: float) -> bool:
        """Return whether the client takes what is being sent at once, or by the deadline if nobody wants the turn."""
        while self._sending and not self._sending.done():
            await asyncio.wait((self._sending,), timeout=PATIENCE)
            if not self._sending.done() and (self._history.turns.are_wanted or self._clock() > deadline):
                return False
        await self._finish_sending()
        return True

    def _take(self, chunk: Chunk) -> bytes:
        """Return what the client has not had yet of a chunk, and count it as read."""
        if text := chunk.text_after(self._at.place):
            self._sent = chunk.last_id
        self._at = max(self._at, chunk.after)
        return text

    def _advance_id(self) -> bytes:
        """Return an id without an event, if more was read than the last id sent stands for; otherwise b''."""
        if self._at.place <= self._sent:
            return b""
        self._sent = self._at.place
        return f"id: {self._at.text}\n\n".encode()

    async def _wait(
        self, future: asyncio.Future[None] | asyncio.Task[None], gone: asyncio.Task[None], send: Send
    ) -> None:
        """Wait until a future is done, or the client is gone. Send ids and comments until then.

        The last one may still be on its way: a turn that has come must not wait for it.
        """
        while not (future.done() or gone.done()):
            left = self._silence - (self._clock() - self._last_sent)
            if left > 0:
                await asyncio.wait((gone, future), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            else:
                self._sending = asyncio.create_task(self._send(send, self._advance_id() or b":\n\n"))
                await asyncio.wait((self._sending, future), return_when=asyncio.FIRST_COMPLETED)
                if self._sending.done():
                    await self._finish_sending()

    async def _finish_sending(self) -> None:
        """Wait until the client has taken what is being sent."""
        if self._sending:
            await self._sending
            self._sending = None

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


async def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it has ended; ignore its outcome."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
