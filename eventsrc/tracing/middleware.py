"""ASGI middleware: what a request commits is stamped with the ids that came with it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from ..trace_context import TRACEPARENT, current_trace, trace
from ..uuid7 import uuid7

App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI 3 app. Frameworks give scope, receive and send types of their own."""

_CORRELATION_ID = re.compile(rb"[!-~]{1,128}")
_TRACEPARENT = re.compile(TRACEPARENT.pattern.encode())
_STARTS = ("http.response.start", "websocket.accept")


class TraceMiddleware:
    """An ASGI app around another one. Commits of a request have its correlation id, and the response names it.

    - The correlation id is that of the header `X-Correlation-ID`, or of `X-Request-ID`, or of the `trace(...)` around
      the app, or the trace id of `traceparent`, or a new one. It is in the response as `X-Correlation-ID`, unless the
      app has set that header, or the id is of the `trace(...)` and not 1 to 128 visible ASCII characters.
    - A valid `traceparent` (W3C Trace Context) is stored in the metadata under that name.
    - `actor` returns the user of a request from its ASGI scope, or None. It is stored in the metadata as `actor`.

    Ids are not secrets, and not proofs: a client may send any. Headers that are not 1 to 128 visible ASCII characters
    are ignored, and so is a header that is sent more than once.
    """

    def __init__(self, app: App, *, actor: Callable[[Any], str | None] | None = None) -> None:
        self._app, self._actor = app, actor

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        metadata: dict[str, str] = {}
        if parent := _read(scope, b"traceparent", _TRACEPARENT):
            metadata["traceparent"] = parent
        if self._actor is not None and (actor := self._actor(scope)):
            metadata["actor"] = actor
        correlation_id = (
            _read(scope, b"x-correlation-id", _CORRELATION_ID)
            or _read(scope, b"x-request-id", _CORRELATION_ID)
            or current_trace().correlation_id
            or (parent and parent.split("-")[1])
            or str(UUID(bytes=uuid7()))
        )

        named = correlation_id.encode("utf-8", "replace")

        async def send_with_id(message: Any) -> None:
            if message["type"] in _STARTS and _CORRELATION_ID.fullmatch(named):
                headers: list[tuple[bytes, bytes]] = list(message.get("headers") or ())
                if all(bytes(name).lower() != b"x-correlation-id" for name, _ in headers):
                    headers.append((b"x-correlation-id", named))
                message = {**message, "headers": headers}
            await send(message)

        with trace(correlation_id, metadata=metadata):
            await self._app(scope, receive, send_with_id)


def _read(scope: Any, name: bytes, pattern: re.Pattern[bytes]) -> str:
    """Return a header that is sent once and has this form, otherwise ""."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    return values[0].decode("ascii") if len(values) == 1 and pattern.fullmatch(values[0]) else ""
