"""The ASGI app."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from ..aggregates.event import Upcaster
from ..errors import StoreClosed, StoreError
from ..log import log
from ..stores.ordered import OrderedStore
from .asgi import HttpProblem, Receive, Scope, Send, answer, begin, chosen, header
from .catalogue import Catalogue, PublishedEvent
from .pages import Page, read_page
from .sse import HEADERS, Streaming
from .token import FeedToken

JSON, BATCH, SSE = "application/json", "application/cloudevents-batch+json", "text/event-stream"
LATEST = "latest"
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
) -> EventsApi:
    """An ASGI 3 app that serves the published events of a store; mount it in another app, or serve it by itself.

    `source` is the CloudEvents attribute: a URI of this service, which may be relative. With `tracing`, events tell
    their correlation and causation ids, which may tell of people. Pages are for caches that many share, or if they are
    `private` for each client's own; one covers `page` positions of the store. A stream sends a comment after
    `heartbeat` seconds of silence, and asks clients that lost it to come again after `retry` seconds.

    Raises DeclarationError for what cannot be published, ValueError for a number that makes no sense, and TypeError for
    a store without an order of its own.
    """
    given: object = store
    if not isinstance(given, OrderedStore):
        raise TypeError(
            f"{type(given).__name__} tells its commits in no fixed order, so ids to resume from mean nothing there; "
            "mirror its commits into an SQLiteStore, and publish that"
        )
    if page < 1 or heartbeat <= 0 or retry < 0:
        raise ValueError(f"page {page}, heartbeat {heartbeat}, retry {retry}: all are positive numbers")
    catalogue = Catalogue(published, upcasters, source, tracing=tracing)
    return EventsApi(store, catalogue, private, page, heartbeat, retry)


class EventsApi:
    """What `events_api` makes: `GET /` is all there is."""

    def __init__(
        self, store: OrderedStore, catalogue: Catalogue, private: bool, page: int, heartbeat: float, retry: float
    ) -> None:
        self._store, self._catalogue = store, catalogue
        self._audience = "private" if private else "public"
        self._page, self._heartbeat, self._retry = page, heartbeat, retry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                try:
                    await self._serve(scope, receive, send)
                except HttpProblem as problem:
                    await problem.answer(send)
            case "lifespan":
                await self._live(receive, send)
            case "websocket":
                await send({"type": "websocket.close"})
            case other:
                raise ValueError(f"events are served over http, not {other}")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _path(scope) not in ("", "/"):
            raise HttpProblem(HTTPStatus.NOT_FOUND, "all events are at the root of this API")
        if scope["method"] not in ("GET", "HEAD"):  # of the latter, servers leave out the body
            raise HttpProblem(HTTPStatus.METHOD_NOT_ALLOWED, "events can be read, and nothing else", allow="GET, HEAD")
        media_type = chosen(header(scope, b"accept"), (JSON, BATCH, SSE))
        if media_type is None:
            raise HttpProblem(HTTPStatus.NOT_ACCEPTABLE, f"there is {JSON}, {BATCH} and {SSE}", vary="accept")
        after = _after(scope)
        if media_type == SSE:
            start = await self._place(header(scope, b"last-event-id") or after)
            await begin(send, HTTPStatus.OK, {**HEADERS, "vary": "accept"})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            await Streaming(self._store, self._catalogue, start, self._heartbeat, self._retry).run(receive, send)
        else:
            await self._serve_page(scope, send, media_type, after)

    async def _serve_page(self, scope: Scope, send: Send, media_type: str, after: str) -> None:
        start = await self._place(after)
        try:
            if after == LATEST:
                page = Page(b"[]\n", start, full=False)
            else:
                page = await read_page(self._store, self._catalogue, start, self._page)
        except StoreError as error:
            raise _unavailable(error) from None
        except Exception:  # noqa: BLE001  # a mapping may raise anything
            log.exception("a page of published events cannot be told")
            raise HttpProblem(HTTPStatus.INTERNAL_SERVER_ERROR, "an event cannot be told") from None
        etag = page.etag(media_type)
        headers = {
            "content-type": media_type,
            "cache-control": f"{self._audience}, {FOR_EVER if page.full else 'no-cache'}",
            "etag": etag,
            "vary": "accept",
        }
        if page.next:
            headers["link"] = f'<?after={page.next.token}>; rel="next"'
        known = {tag.strip().removeprefix("W/") for tag in header(scope, b"if-none-match").split(",")}
        if known & {etag, "*"}:
            await answer(send, HTTPStatus.NOT_MODIFIED, headers, b"")
        else:
            await answer(send, HTTPStatus.OK, headers, page.body)

    async def _place(self, after: str) -> FeedToken:
        """Where a client wants to go on. Raises Problem for what no client has got from this store."""
        try:
            end = FeedToken(int(await self._store.end()))
        except StoreError as error:
            raise _unavailable(error) from None
        if after == LATEST:
            return end
        try:
            start = FeedToken.parse(after) if after else FeedToken(0)
        except ValueError as error:
            raise HttpProblem(HTTPStatus.BAD_REQUEST, str(error)) from None
        if start > end:
            raise HttpProblem(
                HTTPStatus.BAD_REQUEST, "this id is ahead of all events; it is of another API, or of other data"
            )
        return start

    async def _live(self, receive: Receive, send: Send) -> None:
        """Served by itself: it opens the store and closes it, unless it is open already."""
        await receive()
        try:
            await self._store.open()
            opened = True
        except StoreClosed:
            opened = False  # it is open already; who opened it closes it
        except Exception as error:  # noqa: BLE001  # servers take one that is raised for an app without lifespan
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        try:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        finally:
            if opened:
                await self._store.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def _path(scope: Scope) -> str:
    """The path below where the app is mounted. Servers put the mount before it, older frameworks cut it off."""
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")))


def _after(scope: Scope) -> str:
    query: bytes = scope["query_string"]
    try:
        [after] = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=100).get("after", [""])
    except ValueError:
        raise HttpProblem(HTTPStatus.BAD_REQUEST, "say after=... once, or not at all") from None
    return after


def _unavailable(error: StoreError) -> HttpProblem:
    log.warning("published events are not to be had: %s", error)
    return HttpProblem(HTTPStatus.SERVICE_UNAVAILABLE, "the events are not to be had now; try again", retry_after="5")
