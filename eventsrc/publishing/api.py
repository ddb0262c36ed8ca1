"""The ASGI app that serves published events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from ..aggregates.event import Upcaster
from ..errors import StoreClosed, StoreError
from ..log import log
from ..stores.ordered import OrderedStore
from .asgi import HttpProblem, Receive, Scope, Send, choose_media_type, get_header, respond, start_response
from .catalogue import Catalogue, PublishedEvent
from .history import History
from .live import LiveReader
from .pages import Page, read_page
from .sse import HEADERS, EventStream
from .start import LATEST, TokenGone, find_start
from .token import FeedToken

JSON, BATCH, SSE = "application/json", "application/cloudevents-batch+json", "text/event-stream"
STREAM_HEADERS = {**HEADERS, "vary": "accept"}
FOR_EVER = "max-age=31536000, immutable"


def events_api(
    store: OrderedStore,
    published: Iterable[PublishedEvent[Any]],
    *,
    source: str,
    upcasters: Sequence[Upcaster] = (),
    tracing: bool = False,
    private: bool = False,
    page: int = 500,
    heartbeat: float = 15.0,
    retry: float = 3.0,
    max_clients: int = 1_000,
    max_page_bytes: int = 1_000_000,
) -> EventsApi:
    """Return an ASGI 3 app that serves the published events of a store. Serve it, or mount it in another app.

    - `source`: the CloudEvents attribute, a URI of this service; it may be relative.
    - `upcasters`: as in an aggregate; publish only the newest class of an event.
    - `tracing`: include correlation and causation ids, which may identify people, and the W3C `traceparent`.
    - `private`: only each client's own cache may keep pages; by default shared caches may, too.
    - `page`: how many positions of the store one page covers.
    - `heartbeat`: seconds of silence after which a stream sends a comment.
    - `retry`: seconds after which a client that lost its stream should connect again.
    - `max_clients`: how many streams may be open at once. More are refused with 503.
    - `max_page_bytes`: how large a page may be. A larger event has a page of its own.

    Raises:
        DeclarationError: the events cannot be published as declared.
        TypeError: the store has no order of its own.
        ValueError: `page`, `heartbeat`, `max_clients` or `max_page_bytes` is not positive, or `retry` is negative.
    """
    given: object = store
    if not isinstance(given, OrderedStore):
        raise TypeError(
            f"{type(given).__name__} keeps no order of all its commits, from which clients could resume; "
            "mirror its commits into an SQLiteStore, and publish that"
        )
    if min(page, max_clients, max_page_bytes) < 1 or heartbeat <= 0 or retry < 0:
        raise ValueError(
            f"page is {page}, heartbeat {heartbeat}, retry {retry}, max_clients {max_clients}, max_page_bytes "
            f"{max_page_bytes}; give positive numbers (retry may be 0)"
        )
    catalogue = Catalogue(published, upcasters, source, tracing=tracing)
    limits = Limits(page, max_page_bytes, max_clients, heartbeat, retry)
    return EventsApi(store, catalogue, limits, private=private)


class Limits(NamedTuple):
    """The numbers that `events_api` was given."""

    page: int
    max_page_bytes: int
    max_clients: int
    heartbeat: float
    retry: float


class EventsApi:
    """The app that `events_api` returns. It serves `GET /` and `HEAD /`."""

    def __init__(self, store: OrderedStore, catalogue: Catalogue, limits: Limits, *, private: bool) -> None:
        self._store, self._catalogue, self._limits = store, catalogue, limits
        self._audience = "private" if private else "public"
        self._live, self._history = LiveReader(store, catalogue), History(store)
        self._clients = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                try:
                    await self._serve(scope, receive, send)
                except HttpProblem as problem:
                    await problem.respond(send)
            case "lifespan":
                await self._run_lifespan(receive, send)
            case "websocket":
                await send({"type": "websocket.close"})
            case other:
                raise ValueError(f"events are served over http, not over {other}")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _get_path(scope) not in ("", "/"):
            raise HttpProblem(HTTPStatus.NOT_FOUND, "all events are served at the root of this API")
        if scope["method"] not in ("GET", "HEAD"):  # servers leave out the body of the response to HEAD
            raise HttpProblem(HTTPStatus.METHOD_NOT_ALLOWED, "events can only be read", allow="GET, HEAD")
        media_type = choose_media_type(get_header(scope, b"accept"), (JSON, BATCH, SSE))
        if media_type is None:
            raise HttpProblem(
                HTTPStatus.NOT_ACCEPTABLE, f"the media types are {JSON}, {BATCH} and {SSE}", vary="accept"
            )
        after = _parse_after(scope)
        if media_type == SSE:
            await self._serve_stream(scope, receive, send, after)
        else:
            await self._serve_page(scope, send, media_type, after)

    async def _serve_stream(self, scope: Scope, receive: Receive, send: Send, after: str) -> None:
        if self._clients >= self._limits.max_clients:
            raise HttpProblem(HTTPStatus.SERVICE_UNAVAILABLE, "too many streams are open; try again", retry_after="5")
        self._clients += 1
        try:
            start = await self._find_start(get_header(scope, b"last-event-id") or after)
            if scope["method"] == "HEAD":
                await respond(send, HTTPStatus.OK, STREAM_HEADERS, b"")
                return
            async with AsyncExitStack() as stack:
                try:
                    tail = await stack.enter_async_context(self._live.follow())
                except StoreError as error:
                    raise _to_problem(error) from None
                await start_response(send, HTTPStatus.OK, STREAM_HEADERS)
                limits = self._limits
                stream = EventStream(self._history, tail, self._catalogue, start, limits.heartbeat, limits.retry)
                await stream.run(receive, send)
        finally:
            self._clients -= 1

    async def _serve_page(self, scope: Scope, send: Send, media_type: str, after: str) -> None:
        start = await self._find_start(after)
        try:
            if after == LATEST:
                page = Page(b"[]\n", start, full=False)
            else:
                size, max_bytes = self._limits.page, self._limits.max_page_bytes
                async with self._history.page:
                    page = await read_page(self._store, self._catalogue, start, size, max_bytes)
        except StoreError as error:
            raise _to_problem(error) from None
        except Exception:  # noqa: BLE001  # `data` may raise anything
            log.exception("an event cannot be published")
            raise HttpProblem(HTTPStatus.INTERNAL_SERVER_ERROR, "an event cannot be published") from None
        etag = page.make_etag(media_type)
        headers = {
            "content-type": media_type,
            # Without an id the address is the same for another store, so caches must ask.
            "cache-control": f"{self._audience}, {FOR_EVER if page.full and after else 'no-cache'}",
            "etag": etag,
            "vary": "accept",
        }
        if page.next:
            headers["link"] = f'<?after={page.next.text}>; rel="next"'
        known = {tag.strip().removeprefix("W/") for tag in get_header(scope, b"if-none-match").split(",")}
        if known & {etag, "*"}:
            await respond(send, HTTPStatus.NOT_MODIFIED, headers, b"")
        else:
            await respond(send, HTTPStatus.OK, headers, page.body)

    async def _find_start(self, after: str) -> FeedToken:
        """Return the token from which a client wants to continue.

        Raises:
            HttpProblem: `after` is not an id that a client got from this store, or the store is not available.
        """
        try:
            return await find_start(self._store, after)
        except ValueError as error:
            raise HttpProblem(HTTPStatus.BAD_REQUEST, str(error)) from None
        except TokenGone as error:
            raise HttpProblem(HTTPStatus.GONE, str(error)) from None
        except StoreError as error:
            raise _to_problem(error) from None

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        """Open the store when a server starts this app, and close it at the end, unless it is open already."""
        await receive()
        try:
            await self._store.open()
            opened = True
        except StoreClosed:
            opened = False  # it is open already, and is closed where it was opened
        except Exception as error:  # noqa: BLE001  # an error raised here would mean that the app does not support lifespan
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        try:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        finally:
            if opened:
                await self._store.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def _get_path(scope: Scope) -> str:
    """Return the path below the mount. Servers put the mount in front of it; older frameworks cut it off."""
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")))


def _parse_after(scope: Scope) -> str:
    """Return the query parameter `after`; "" if it is not there."""
    query: bytes = scope["query_string"]
    try:
        [after] = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=100).get("after", [""])
    except ValueError:
        raise HttpProblem(HTTPStatus.BAD_REQUEST, "give after=... at most once") from None
    return after


def _to_problem(error: StoreError) -> HttpProblem:
    log.warning("published events are not available: %s", error)
    return HttpProblem(HTTPStatus.SERVICE_UNAVAILABLE, "the events are not available now; try again", retry_after="5")
