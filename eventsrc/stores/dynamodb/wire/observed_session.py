"""The SDK's own HTTP session, which reports while a request waits for a connection: nothing of it was sent then."""

from __future__ import annotations

from typing import Any

from aiobotocore.httpsession import AIOHTTPSession
from aiohttp import TraceConfig

from .attempts import note_waiting


class ObservedSession(AIOHTTPSession):  # type: ignore[misc]  # it has no types
    """As its base. If that stops calling these methods, no request counts as one that waits."""

    async def _get_session(self, proxy_url: str | None) -> Any:
        note_waiting(True)  # the base loads certificates
        session = await super()._get_session(proxy_url)
        note_waiting(False)
        if _TRACE not in session.trace_configs:
            session.trace_configs.append(_TRACE)
        return session


async def _begin(*_: object) -> None:
    note_waiting(True)


async def _end(*_: object) -> None:
    note_waiting(False)


_TRACE = TraceConfig()
_TRACE.on_request_start.append(_begin)
_TRACE.on_request_headers_sent.append(_end)  # called before they are sent
_TRACE.freeze()
