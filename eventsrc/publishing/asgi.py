"""The parts of HTTP and ASGI that the API needs."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class HttpProblem(Exception):
    """A request that is answered with an error, in the format of RFC 9457. Headers are named with underscores."""

    def __init__(self, status: HTTPStatus, detail: str, **headers: str) -> None:
        super().__init__(status, detail)
        self.status, self.detail = status, detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    async def respond(self, send: Send) -> None:
        problem = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": self.detail,
        }
        headers = {"content-type": "application/problem+json", "cache-control": "no-store", **self.headers}
        await respond(send, self.status, headers, msgspec.json.encode(problem))


async def start_response(send: Send, status: int, headers: Mapping[str, str]) -> None:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def respond(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Send a whole response."""
    if status != HTTPStatus.NOT_MODIFIED:
        headers = {**headers, "content-length": str(len(body))}
    await start_response(send, status, headers)
    await send({"type": "http.response.body", "body": body})


def get_header(scope: Scope, name: bytes) -> str:
    """Return all values of a request header, joined by commas; "" if the request does not have it."""
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name)


def choose_media_type(accept: str, offered: Sequence[str]) -> str | None:
    """Return the offered media type with the highest quality in `accept`; the first of equals; None if none fits."""
    ranges = [_parse_range(each) for each in (accept or "*/*").split(",")]

    def quality(type: str) -> float:
        matching = {type, type.partition("/")[0] + "/*", "*/*"}
        # The most specific range that matches decides: the longest without a star.
        rated = [(len(range.replace("*", "")), q) for range, q in ranges if range in matching]
        return max(rated)[1] if rated else 0.0

    best = max(offered, key=quality)
    return best if quality(best) > 0 else None


def _parse_range(text: str) -> tuple[str, float]:
    """Return a media range of an Accept header, and its quality: 0 if that is malformed."""
    type, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
    return type, float(quality) if re.fullmatch(r"[01](\.\d{0,3})?", quality) else 0.0
