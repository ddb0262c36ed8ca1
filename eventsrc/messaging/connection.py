"""Requests to an events API of another service, and its answers as typed errors."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec

from ..errors import NotAnEventsApi, SourceRejected, SourceTokenGone, SourceUnavailable
from .received_event import ReceivedEvent, parse_event
from .sse import Block, Parser, TooLong

if TYPE_CHECKING:
    import httpx

JSON, SSE = "application/json", "text/event-stream"

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAX_DETAIL = 300  # characters
_MAX_PROBLEM = 10_000  # bytes


class Limits(NamedTuple):
    """What a connection waits for, and how much it takes."""

    timeout: float  # seconds until a connection, the start of an answer, or the next part of a page
    silence: float  # seconds in which nothing comes of a stream
    max_bytes: int  # of a page, or of an event of a stream


class Page(NamedTuple):
    """A page of history. `next` is the token from which the next page starts; None if there is none."""

    events: list[ReceivedEvent]  # without tokens
    next: str | None


class Connection:
    """Asks one events API. `shown` is its address for messages.

    Raises:
        ModuleNotFoundError: httpx is not installed.
        ValueError: `url` is not an address of HTTP.
    """

    def __init__(self, url: str, headers: Mapping[str, str], client: httpx.AsyncClient | None, limits: Limits) -> None:
        try:
            import httpx  # here, because it is an extra
        except ModuleNotFoundError:
            advice = 'events_client needs httpx; run: pip install "eventsrc[client]"'
            raise ModuleNotFoundError(advice, name="httpx") from None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url is not an address of HTTP; give one such as https://ledger.example.com/events/")
        self.shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._httpx, self._url, self._headers, self._limits = httpx, httpx.URL(url), dict(headers), limits
        self._owned = client is None
        self._client = client or httpx.AsyncClient()
        self._stream: httpx.Response | None = None

    async def aclose(self) -> None:
        """End the stream, and close the client of HTTP if it is not the caller's."""
        await self.end_stream()
        if self._owned:
            await self._client.aclose()

    async def get_page(self, after: str) -> Page:
        """Return the page that starts at a token. Raises a SourceError."""
        response = await self._send(after, JSON, self._limits.timeout)
        try:
            with self._errors():
                body = await self._read_body(response, self._limits.max_bytes)
        finally:
            await response.aclose()
        with self._foreign_content():
            events = [parse_event(each) for each in _split(body)]
        following = response.links.get("next", {}).get("url")
        return Page(events, None if following is None else self._read_token(following))

    async def stream(self, after: str) -> AsyncGenerator[list[Block]]:
        """Yield the blocks of the stream that starts at a token, as they arrive: for each part, also if it has none.

        Raises a SourceError.
        """
        self._stream = await self._send(after, SSE, self._limits.silence)
        parser = Parser(self._limits.max_bytes)
        with self._errors(), self._foreign_content():
            async with aclosing(self._stream.aiter_bytes()) as chunks:  # type: ignore[type-var]  # a generator
                async for chunk in chunks:
                    yield list(parser.feed(chunk))
        raise SourceUnavailable(self.shown, "the stream has ended")

    async def end_stream(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.aclose()

    async def _send(self, after: str, media_type: str, timeout: float) -> httpx.Response:
        """Return the answer to a request, without its body, if the API has accepted it. Raises a SourceError."""
        url = self._url.copy_merge_params({"after": after}) if after else self._url
        headers = self._httpx.Headers(self._headers)
        headers["accept"] = media_type
        limit = self._httpx.Timeout(self._limits.timeout, read=timeout)
        request = self._client.build_request("GET", url, headers=headers, timeout=limit)
        with self._errors():
            response = await self._client.send(request, stream=True, follow_redirects=False)
        try:
            await self._check(response, media_type)
        except BaseException:
            await response.aclose()
            raise
        return response

    async def _check(self, response: httpx.Response, media_type: str) -> None:
        status = response.status_code
        given = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if status == 200:
            if given != media_type:
                raise NotAnEventsApi(self.shown, f"the answer is of the type {given[:100]!r}, not {media_type}")
            return
        if 200 < status < 300:
            raise NotAnEventsApi(self.shown, f"answered {status}, not 200")
        detail = ""
        if given == "application/problem+json":
            with self._errors():
                detail = _read_detail(await self._read_body(response, _MAX_PROBLEM))
        if status == 410:
            raise SourceTokenGone(self.shown, detail)
        if status in _PASSING:
            after = response.headers.get("retry-after", "")
            seconds = float(after) if after.isdecimal() and len(after) < 10 else 0.0
            raise SourceUnavailable(self.shown, f"answered {status}{': ' if detail else ''}{detail}", seconds)
        if status in (301, 302, 303, 307, 308):
            detail = "it is served at another address"
        raise SourceRejected(self.shown, status, detail)

    async def _read_body(self, response: httpx.Response, limit: int) -> bytes:
        parts, size = [], 0
        async for chunk in response.aiter_bytes():
            parts.append(chunk)
            if (size := size + len(chunk)) > limit:
                raise NotAnEventsApi(self.shown, f"an answer has more than {limit:,} bytes")
        return b"".join(parts)

    def _read_token(self, link: str) -> str:
        """Return the token in a link to the next page. Only this is used of a link: it may lead anywhere."""
        tokens = parse_qs(urlsplit(link).query).get("after", [])
        if len(tokens) != 1:
            raise NotAnEventsApi(self.shown, "the link to the next page names no place")
        return tokens[0]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what the client of HTTP raises as an error of this library."""
        httpx = self._httpx
        try:
            yield
        except (httpx.TransportError, httpx.StreamError, httpx.DecodingError) as error:
            failure = self._explain(error)
        except OSError as error:  # of a transport that is not httpx's own
            failure = self._explain(error)
        else:
            return
        raise failure  # outside the handlers: an error of the client holds the request, with its headers

    def _explain(self, error: Exception) -> SourceUnavailable | SourceRejected:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return SourceRejected(self.shown, 0, cause.verify_message)
            cause = cause.__cause__ or cause.__context__
        return SourceUnavailable(self.shown, f"no usable answer ({type(error).__name__})")

    @contextmanager
    def _foreign_content(self) -> Iterator[None]:
        """Raise what is wrong with the content of an answer as NotAnEventsApi."""
        try:
            yield
        except TooLong:
            failure = f"an event has more than {self._limits.max_bytes:,} bytes"
        except msgspec.DecodeError:
            failure = "a page is not a list of events in JSON"
        except ValueError as error:
            failure = "its text is not UTF-8" if isinstance(error, UnicodeError) else str(error)
        else:
            return
        raise NotAnEventsApi(self.shown, failure)

    def parse(self, block: Block, token: str) -> ReceivedEvent:
        """Return the event of a block of a stream. Raises NotAnEventsApi."""
        with self._foreign_content():
            event = parse_event(block.data or b"", token)
        if block.event != event.type:
            raise NotAnEventsApi(self.shown, "an event is announced under another type than its own")
        return event


_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _read_detail(body: bytes) -> str:
    """Return the `detail` of a problem (RFC 9457), shortened and on one line; "" if it has none."""
    try:
        problem: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError):
        return ""
    detail = problem.get("detail") if isinstance(problem, dict) else None
    if not isinstance(detail, str):
        return ""
    return "".join(each if each.isprintable() else " " for each in detail[:_MAX_DETAIL])
