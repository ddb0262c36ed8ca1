"""The little of HTTP and ASGI that it takes."""

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
    """A request that gets no other answer than this, as RFC 9457 has it."""

    def __init__(self, status: HTTPStatus, detail: str, **headers: str) -> None:
        super().__init__(status, detail)
        self.status, self.detail = status, detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(self, send: Send) -> None:
        told = {"type": "about:blank", "title": self.status.phrase, "status": self.status.value, "detail": self.detail}
        headers = {"content-type": "application/problem+json", "cache-control": "no-store", **self.headers}
        await answer(send, self.status, headers, msgspec.json.encode(told))


async def begin(send: Send, status: int, headers: Mapping[str, str]) -> None:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def answer(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    if status != HTTPStatus.NOT_MODIFIED:
        headers = {**headers, "content-length": str(len(body))}
    await begin(send, status, headers)
    await send({"type": "http.response.body", "body": body})


def header(scope: Scope, name: bytes) -> str:
    """All that a request says under this name; "" if it says nothing."""
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name)


def chosen(accept: str, offered: Sequence[str]) -> str | None:
    """The media type that a client likes best of those offered; the first of equals. None if it takes none."""
    ranges = [_range(each) for each in (accept or "*/*").split(",")]

    def quality(type: str) -> float:
        matching = {type, type.partition("/")[0] + "/*", "*/*"}
        # The most specific range that matches decides: the longest without a star.
        rated = [(len(range.replace("*", "")), q) for range, q in ranges if range in matching]
        return max(rated)[1] if rated else 0.0

    best = max(offered, key=quality)  # the first of equals
    return best if quality(best) > 0 else None


def _range(text: str) -> tuple[str, float]:
    type, *parameters = (part.strip().lower() for part in text.split(";"))
    said = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
    return type, float(said) if re.fullmatch(r"[01](\.\d{0,3})?", said) else 0.0
