"""A client of another service's events API: history in pages, then live events, from a token on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Self

import msgspec

from ..errors import NotAnEventsApi, SourceError, SourceUnavailable
from ..log import log
from ..publishing.start import LATEST
from ..retrying import on_lost_source
from .connection import Connection, Limits
from .order import Order
from .received_event import ReceivedEvent
from .sse import Block

if TYPE_CHECKING:
    import httpx


def events_client(
    url: str,
    *,
    after: str = "",
    follow: bool = True,
    headers: Mapping[str, str] | None = None,
    client: httpx.AsyncClient | None = None,
    timeout: float = 30.0,
    silence: float = 60.0,
    patience: float = inf,
    max_bytes: int = 16 * 1024 * 1024,
) -> EventsClient:
    """Return an async iterator over the events of another service, which serves them with `events_api`.

    ```python
    async with events_client("https://ledger.example.com/events/", after=token) as events:
        async for event in events:
            ...
            token = event.token
    ```

    - `after` is the token from which to resume, "" for the first event of the service, or "latest" for the next one.
    - Stored events are read in pages, which caches may answer; then live ones as a stream. `follow=False` ends where no
      more events are stored.
    - `headers` are sent with each request, for example `{"authorization": "Bearer ..."}`.
    - `client` is used instead of a new one, with its certificates and proxies; the caller closes it.
    - `timeout` is the number of seconds to wait for a connection, for the start of an answer and for the next part of a
      page. After `silence` seconds in which nothing comes, a stream is lost: that is longer than the API's `heartbeat`.
    - A lost connection is made again from the last event, with growing waits, for up to `patience` seconds.
    - `max_bytes` is the size of a page, or of an event, that is accepted. At most one page, or what has arrived of a
      stream at once, is in memory.

    Raises:
        ModuleNotFoundError: httpx is not installed.
        ValueError: an option has a value that is not allowed, or `after` is not a token of an events API.
    """
    if min(timeout, silence, patience, max_bytes) <= 0:
        raise ValueError("timeout, silence, patience and max_bytes must be above 0")
    connection = Connection(url, headers or {}, client, Limits(timeout, silence, max_bytes))
    return EventsClient(connection, after, follow=follow, patience=patience)


class EventsClient:
    """What `events_client` returns. Each event of the service is delivered once and in the order of the service.

    It ends with an error at the first event that is not in the promised order, that comes again or that follows a gap.
    Use it in one task at a time. A call that is cancelled has delivered nothing, and may be repeated.

    Iterating and `read` raise:
        SourceUnavailable: `patience` seconds after the first failure there is still no usable answer.
        SourceRejected: the service refuses the request.
        SourceTokenGone: the token is of another store, or of a history that was lost.
        SourceOutOfOrder, SourceGap: the service breaks the promise of the API.
        NotAnEventsApi: an answer is not that of an events API.
    """

    def __init__(self, connection: Connection, after: str, *, follow: bool, patience: float) -> None:
        self._connection, self._follow, self._patience = connection, follow, patience
        self._order = Order(connection.shown)
        self._blocks: AsyncGenerator[list[Block]] | None = None  # of a stream that is open
        self._begun = self._is_live = False
        self._is_open = False  # the stream has begun where it was asked to
        self._failure: SourceError | None = None  # what the service has broken
        self._retry = 0.0  # seconds that the service asks for before a lost stream is opened again
        self._pending: deque[ReceivedEvent] = deque()
        self.has_ended = False  # with `follow=False`: all stored events were delivered
        self.resume_from(after)

    def resume_from(self, token: str) -> None:
        """Start after this token instead. Raises RuntimeError after the first event, and ValueError."""
        if self._begun:
            raise RuntimeError("events were already asked for; make another client to start elsewhere")
        if token != LATEST:
            self._order.resume(token)
        self._token = self._delivered = token

    async def find_latest(self) -> str:
        """Return the token after all events that the service has now. Raises as `read`."""

        async def once() -> str:
            page = await self._connection.get_page(LATEST)
            if page.next is None:
                raise NotAnEventsApi(self._connection.shown, "it names no place after the latest event")
            Order(self._connection.shown).advance(page.next)  # raises if it is not a token
            return page.next

        return await on_lost_source(self._patience, _note)(once)

    @property
    def token(self) -> str:
        """The token from which to resume after all that was delivered."""
        return self._delivered if self._pending else self._token

    async def read(self) -> Sequence[ReceivedEvent]:
        """Return the next events: those of a page, or those of a stream that have arrived.

        There are none where only `token` has moved, and at the end.
        """
        if self._pending:
            pending, self._pending = list(self._pending), deque()
            self._delivered = self._token
            return pending
        if self.has_ended:
            return []
        self._begun = True
        try:
            if self._failure is not None:
                raise self._failure
            read = self._read_stream if self._is_live else self._read_page
            events: list[ReceivedEvent] = await on_lost_source(self._patience, _note)(read)
        except SourceUnavailable:
            raise
        except SourceError as error:
            self._failure = error
            raise
        self._delivered = self._token
        return events

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ReceivedEvent:
        while not self._pending:
            if self.has_ended:
                raise StopAsyncIteration
            before = self._token
            self._pending.extend(await self.read())
            self._delivered = before
        event = self._pending.popleft()
        self._delivered = event.token
        return event

    async def aclose(self) -> None:
        """Close the connections. Events that were read and not delivered come again after `token`."""
        await self._end_stream()
        await self._connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def _read_page(self) -> list[ReceivedEvent]:
        page = await self._connection.get_page(self._token)
        for event in page.events:
            self._order.add_to_page(event.id)
        if page.next is None:
            if page.events:
                raise NotAnEventsApi(self._connection.shown, "a page with events names no next page")
            self._is_live, self.has_ended = self._follow, not self._follow
            return []
        self._order.advance(page.next, page=self._token != LATEST)
        before, self._token = self._token, page.next
        last = len(page.events) - 1
        return [
            msgspec.structs.replace(event, token=page.next if number == last else before)
            for number, event in enumerate(page.events)
        ]

    async def _read_stream(self) -> list[ReceivedEvent]:
        """Return the next events of the stream, which is opened if it is not open. On any failure it is closed."""
        try:
            if self._blocks is None:
                self._blocks, self._is_open = self._connection.stream(self._token), False
            while True:
                was_open = self._is_open
                events = self._take(await anext(self._blocks))
                # A stream that breaks again at its first event is not a success, after which waits begin to grow again.
                if events or was_open:
                    return events
        except SourceUnavailable as error:
            await self._end_stream()
            error.retry_after = max(error.retry_after, self._retry)
            raise
        except BaseException:
            await asyncio.shield(self._end_stream())
            raise

    def _take(self, blocks: Sequence[Block]) -> list[ReceivedEvent]:
        """Check the blocks that have arrived. Return their events, and move the token after them.

        Before an event that is wrong, the others are returned; then its error is raised.
        """
        events: list[ReceivedEvent] = []
        for block in blocks:
            try:
                event = self._check(block)
            except SourceError as error:
                if not events:
                    raise
                self._failure = error
                break
            if event is not None:
                events.append(event)
        return events

    def _check(self, block: Block) -> ReceivedEvent | None:
        """Return the event of a block, if it has one. Raises a SourceError."""
        event: ReceivedEvent | None = None
        if block.retry is not None:
            self._retry = block.retry / 1000
        if block.id is None:
            if block.data is None:
                return None
            raise NotAnEventsApi(self._connection.shown, "an event has no id")
        if not self._is_open:
            self._order.begin_stream(block.id)
            self._is_open = True
        elif block.data is None:
            self._order.advance(block.id)
        if block.data is not None:
            event = self._connection.parse(block, block.id)
            self._order.add(event.id, block.id)
        self._token = block.id
        return event

    async def _end_stream(self) -> None:
        blocks, self._blocks = self._blocks, None
        if blocks is not None:
            await blocks.aclose()
        await self._connection.end_stream()


def _note(error: SourceUnavailable, seconds: float) -> None:
    log.warning("%s; asking again in %.1f s", error, seconds)
