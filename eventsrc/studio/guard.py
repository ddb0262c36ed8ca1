"""What requests are passed on: by their host, their token, and the page that sends them."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from http import HTTPStatus
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""Hosts that reach this machine only."""

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}


class Guard:
    """Passes on the requests that are allowed, and adds headers that let no other page read or frame the answers.

    - `hosts`: names in the Host header, without port; none: all. A page of another name that resolves to this machine
      is refused.
    - `token`: what a request must have in its cookie, or once in its query as `?token=`; "": nothing.
    - Requests that change something must come from a page of the studio.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], token: str) -> None:
        self._app, self._hosts, self._token = app, frozenset(hosts), token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        answer = self._refuse(Request(scope)) or self._app
        await answer(scope, receive, send_guarded)

    def _refuse(self, request: Request) -> Response | None:
        """Return the answer to a request that is not passed on."""
        if self._hosts and _strip_port(request.headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("This host is not served.", HTTPStatus.MISDIRECTED_REQUEST)
        if self._token and (answer := self._ask(request)) is not None:
            return answer
        if request.method not in ("GET", "HEAD") and not _is_from_here(request):
            return PlainTextResponse("The request comes from another page.", HTTPStatus.FORBIDDEN)
        return None

    def _ask(self, request: Request) -> Response | None:
        """Return the answer to a request that does not have the token in its cookie."""
        if _is_equal(request.cookies.get(_name_cookie(request), ""), self._token):
            return None
        if not _is_equal(request.query_params.get("token", ""), self._token):
            text = "The token is missing or wrong. Open the address of the studio with ?token= and the token, once."
            return PlainTextResponse(text, HTTPStatus.UNAUTHORIZED)
        others = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
        path = "/" + request.url.path.lstrip("/")  # two slashes would name a host
        answer = RedirectResponse(path + (f"?{urlencode(others)}" if others else ""), HTTPStatus.SEE_OTHER)
        root = request.scope.get("root_path", "") or "/"
        secure = request.url.scheme == "https"
        answer.set_cookie(
            _name_cookie(request), self._token, path=root, secure=secure, httponly=True, samesite="strict"
        )
        return answer


def _name_cookie(request: Request) -> str:
    """Return the name of the cookie. Browsers send cookies to all ports of a host, where other studios may be."""
    return f"eventsrc-studio-{request.url.port or request.url.scheme}"


def _is_from_here(request: Request) -> bool:
    """Whether a browser says that a page of this origin has sent a request; if it says nothing, it is not."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return request.headers.get("origin", "").partition("://")[2] == request.headers.get("host", "")


def _strip_port(host: str) -> str:
    return host[: host.rindex(":")] if ":" in host and not host.endswith("]") else host


def _is_equal(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())
