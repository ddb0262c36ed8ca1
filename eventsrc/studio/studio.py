"""The ASGI app of the studio: its pages, and what guards them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from ..errors import EventsrcError, StoreError
from ..inspection import App, UsageError
from . import catalogue, live, maps, processors, streams, traces
from .guard import Guard
from .rebuilds import Rebuilds
from .site import FOLDER, Mask, Site


class Studio:
    """An ASGI app that shows a program: its streams, states, traces, processors and event classes.

    - The stores and checkpoints of `app` are open, in the event loop that serves the studio.
    - Nothing can be changed, unless `write` is true: then parked streams can be retried and skipped, and read models
      rebuilt. Each change asks first, and is logged with the actor, the text that `actor(scope)` returns.
    - `mask(kind, fields)` returns what may be shown of an event, whose tag is `kind`, or of a state, whose category it
      is. Errors of handlers are then shown without their text, which may quote an event.
    - With a `token`, each browser must know it: open the studio once with `?token=`. Mounted in a service, the service
      may guard it by itself.
    - `hosts` are the names under which it is served; none: all. Give them if it is reached without a password.

    Other pages can neither read its answers nor send it changes. Its pages run no script but its own file. Call
    `aclose` before the stores close.

    Raises ImportError if `eventsrc[studio]` is not installed.
    """

    def __init__(
        self,
        app: App,
        *,
        write: bool = False,
        token: str = "",
        hosts: Collection[str] = (),
        mask: Mask | None = None,
        actor: Callable[[Mapping[str, Any]], str] = lambda scope: "unknown",
    ) -> None:
        site = Site(app, write=write, mask=mask, actor=actor)
        self._closing, self._rebuilds = asyncio.Event(), Rebuilds()

        async def explain(request: Request, error: Exception) -> Response:
            if isinstance(error, HTTPException):
                return site.refuse(request, error.detail, HTTPStatus(error.status_code))
            status = HTTPStatus.SERVICE_UNAVAILABLE if isinstance(error, StoreError) else HTTPStatus.NOT_FOUND
            return site.refuse(request, str(error), status)

        pages = [
            *streams.make_routes(site),
            *traces.make_routes(site),
            *maps.make_routes(site),
            *live.make_routes(site, self._closing),
            *processors.make_routes(site, self._rebuilds),
            *catalogue.make_routes(site),
            Mount("/static", StaticFiles(directory=FOLDER / "static")),
        ]
        handlers = dict.fromkeys((HTTPException, EventsrcError, UsageError), explain)
        self._guarded = Guard(Starlette(routes=pages, exception_handlers=handlers), hosts=hosts, token=token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._guarded(scope, receive, send)

    async def aclose(self) -> None:
        """End the pages that follow the stores, and the rebuilds, after which the old versions continue."""
        self._closing.set()
        await self._rebuilds.aclose()
