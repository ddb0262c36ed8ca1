"""The page that shows commits as they are stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ..concurrency import cancel_all
from ..errors import EventsrcError
from ..inspection.events import show_fields
from ..store import Commit, Store
from ..stores.feed import Feed
from ..tracing.wording import plain
from .site import Site, show_moment

_FOLLOWING = 16  # pages at a time: each reads the feeds of all stores
_WAITING = 1_000  # commits that a browser has not taken yet
_ALIVE = 15.0  # seconds


def make_routes(site: Site) -> Sequence[Route]:
    """Return the routes of this page."""

    async def show_live(request: Request) -> Response:
        category, tag = request.query_params.get("category", ""), request.query_params.get("tag", "")
        return site.render(request, "live.html", "Live", category=category, tag=tag)

    following = 0

    async def follow(category: str, tag: str) -> AsyncGenerator[str]:
        nonlocal following
        following += 1
        try:
            async with aclosing(_follow(site, category, tag)) as texts:
                async for text in texts:
                    yield text
        finally:
            following -= 1

    async def send_live(request: Request) -> Response:
        if following >= _FOLLOWING:
            return PlainTextResponse("Too many pages follow the stores.", HTTPStatus.SERVICE_UNAVAILABLE)
        category, tag = request.query_params.get("category", ""), request.query_params.get("tag", "")
        return StreamingResponse(follow(category, tag), media_type="text/event-stream")

    return [Route("/live", show_live), Route("/live/events", send_live)]


async def _follow(site: Site, category: str, tag: str) -> AsyncGenerator[str]:
    """Yield Server-Sent Events: what is stored from now on, until the browser goes away."""
    queue = asyncio.Queue[str](_WAITING)

    async def follow_store(name: str, store: Store) -> None:
        if not isinstance(store, Feed):
            await queue.put(_write("problem", f"{name} has no feed"))
            return
        try:
            feed = store.feed(after=await store.end(), categories=(category,) if category else ())
            async with aclosing(feed) as batches:
                async for batch in batches:
                    for commit in batch.commits:
                        for line in _show(site, name, commit, tag):
                            await queue.put(_write("commit", line))
        except EventsrcError as error:
            await queue.put(_write("problem", plain(f"{name}: {type(error).__name__}: {error}")))

    following = [asyncio.create_task(follow_store(name, store)) for name, store in site.app.stores.items()]
    try:
        yield _write("ready", "")
        while True:
            try:
                async with asyncio.timeout(_ALIVE):
                    text = await queue.get()
            except TimeoutError:
                text = ":\n\n"  # a comment, which finds out whether the browser is still there
            yield text
    finally:
        await cancel_all(following)


def _show(site: Site, store: str, commit: Commit, tag: str) -> list[dict[str, Any]]:
    shown = site.show_commit(store, commit)
    found = [each for each in shown["events"] if tag in ("", each["tag"])]
    at = {"stream": commit.stream, "version": commit.version, "store": store, "time": show_moment(commit.time)}
    if shown["damage"]:
        return [{**at, "tag": "unreadable", "fields": plain(shown["damage"])}]
    return [{**at, "tag": plain(each["tag"]), "fields": show_fields(each["fields"])} for each in found]


def _write(kind: str, value: Any) -> str:
    return f"event: {kind}\ndata: {msgspec.json.encode(value).decode()}\n\n"
