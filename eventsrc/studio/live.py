"""The page that shows commits as they are stored."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ..concurrency import cancel_all
from ..errors import EventsrcError, StoreError
from ..inspection.events import show_fields
from ..store import Commit, Store
from ..stores.feed import Feed
from ..tracing.wording import plain
from .site import Site, show_moment

_FOLLOWING = 16  # pages at a time: each reads the feeds of all stores
_WAITING = 1_000  # commits that a browser has not taken yet
_ALIVE = 15.0  # seconds
_PAUSE = 1.0  # seconds, before a store that has failed is read again


def make_routes(site: Site, closing: asyncio.Event) -> Sequence[Route]:
    """Return the routes of this page. When `closing` is set, browsers are not sent more."""

    async def show_live(request: Request) -> Response:
        category, tag = request.query_params.get("category", ""), request.query_params.get("tag", "")
        return site.render(request, "live.html", "Live", category=category, tag=tag)

    following: set[object] = set()

    async def follow(category: str, tag: str, places: dict[str, str]) -> AsyncGenerator[str]:
        if len(following) >= _FOLLOWING:
            yield _write("problem", "Too many pages follow the stores; close some.")
            return
        following.add(me := object())
        try:
            async with aclosing(_follow(site, closing, category, tag, places)) as texts:
                async for text in texts:
                    yield text
        finally:
            following.discard(me)

    async def send_live(request: Request) -> Response:
        category, tag = request.query_params.get("category", ""), request.query_params.get("tag", "")
        texts = follow(category, tag, _read_places(request.headers.get("last-event-id", "")))
        return StreamingResponse(texts, media_type="text/event-stream")

    return [Route("/live", show_live), Route("/live/events", send_live)]


async def _follow(
    site: Site, closing: asyncio.Event, category: str, tag: str, places: dict[str, str]
) -> AsyncGenerator[str]:
    """Yield Server-Sent Events: what is stored after these checkpoints, by store, or from now on.

    It ends when the browser goes away, or the studio is closed. Each event has the checkpoints of all stores as its id,
    from which the browser resumes.
    """
    queue = asyncio.Queue[str](_WAITING)

    async def read(name: str, feed: Feed) -> None:
        places[name] = places.get(name) or await feed.end()
        batches = feed.feed(after=places[name], categories=(category,) if category else ())
        async with aclosing(batches):
            async for batch in batches:
                for commit in batch.commits:
                    for line in _show(site, name, commit, tag):
                        await queue.put(_write("commit", line))
                places[name] = batch.checkpoint
                if batch.commits:
                    await queue.put(_write("place", "", _to_id(places)))

    async def follow_store(name: str, store: Store) -> None:
        if not isinstance(store, Feed):
            await queue.put(_write("problem", f"{name} has no feed"))
            return
        while True:
            try:
                await read(name, store)
            except (EventsrcError, ValueError) as error:  # a checkpoint of another store, for one
                await queue.put(_write("problem", site.show_error(error)))
                if not isinstance(error, StoreError):
                    places.pop(name, None)
            await asyncio.sleep(_PAUSE)

    following = [asyncio.create_task(follow_store(name, store)) for name, store in site.app.stores.items()]
    ending = asyncio.create_task(closing.wait())
    try:
        yield _write("ready", "")
        while not closing.is_set():
            getting = asyncio.create_task(queue.get())
            try:
                await asyncio.wait([getting, ending], timeout=_ALIVE, return_when=asyncio.FIRST_COMPLETED)
                text = getting.result() if getting.done() else ":\n\n"  # a comment finds out whether it is there
            finally:
                await cancel_all([getting])
            yield text
    finally:
        await cancel_all([*following, ending])


def _show(site: Site, store: str, commit: Commit, tag: str) -> list[dict[str, Any]]:
    shown = site.show_commit(store, commit)
    found = [each for each in shown["events"] if tag in ("", each["tag"])]
    at = {"stream": commit.stream, "version": commit.version, "store": store, "time": show_moment(commit.time)}
    if shown["damage"]:
        return [{**at, "tag": "unreadable", "fields": plain(shown["damage"])}]
    return [{**at, "tag": plain(each["tag"]), "fields": show_fields(each["fields"])} for each in found]


def _write(kind: str, value: Any, id: str = "") -> str:
    named = f"id: {id}\n" if id else ""
    return f"{named}event: {kind}\ndata: {msgspec.json.encode(value).decode()}\n\n"


def _to_id(places: dict[str, str]) -> str:
    return urlsafe_b64encode(msgspec.json.encode(places)).decode()


def _read_places(id: str) -> dict[str, str]:
    """Return the checkpoints that an id names; none if it is not one."""
    try:
        return msgspec.json.decode(urlsafe_b64decode(id), type=dict[str, str])
    except (ValueError, msgspec.DecodeError):
        return {}
