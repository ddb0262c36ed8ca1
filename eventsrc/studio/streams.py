"""Pages about streams: a list, one stream with its state at any version, and the search for an id."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ..errors import EventsrcError, StoredDataError
from ..inspection import UsageError, find_feed
from ..inspection.states import find_changes, load_state
from ..store import MAX_VERSION, Store
from ..stores.causes import identity_of, parse_identity
from ..stores.feed import Head
from ..stream_id import category_of
from .processors import read_statuses
from .scenario import write_scenario
from .site import Site

_LISTED = 200  # streams of a page
_SHOWN = 50  # commits of a page


def make_routes(site: Site) -> Sequence[Route]:
    """Return the routes of these pages."""

    async def show_home(request: Request) -> Response:
        return site.render(request, "home.html", "eventsrc", statuses=await read_statuses(site))

    async def find(request: Request) -> Response:
        """Go to the stream, event or trace that a text names."""
        root, text = request.scope.get("root_path", ""), request.query_params.get("q", "").strip()
        if not text:
            return RedirectResponse(f"{root}/", HTTPStatus.SEE_OTHER)
        stream, version = parse_identity(identity_of(text)) or (text, 0)
        try:
            name, _, _ = await site.app.locate(stream, version=version or 1)
        except (EventsrcError, ValueError):
            return RedirectResponse(f"{root}/trace?{urlencode({'id': text})}", HTTPStatus.SEE_OTHER)
        address = {"name": stream, "store": name} | ({"version": version} if version else {})
        return RedirectResponse(f"{root}/stream?{urlencode(address)}", HTTPStatus.SEE_OTHER)

    async def list_streams(request: Request) -> Response:
        category, prefix = request.query_params.get("category", ""), request.query_params.get("prefix", "")
        found: list[tuple[str, Head]] = []
        categories = Counter[str]()
        failures: list[str] = []
        for name, store in site.app.stores.items():
            try:
                async with aclosing(find_feed(name, store).heads()) as pages:
                    async for heads in pages:
                        for head in heads:
                            categories[category_of(head.stream)] += 1
                            if head.stream.startswith(prefix) and category in ("", category_of(head.stream)):
                                found.append((name, head))
            except (EventsrcError, UsageError) as error:
                failures.append(f"{name}: {site.show_error(error)}")
        found.sort(key=lambda each: (each[1].stream, each[0]))
        after = request.query_params.get("after", ""), request.query_params.get("after_store", "")
        rest = [each for each in found if (each[1].stream, each[0]) > after] if after[0] else found
        return site.render(
            request,
            "streams.html",
            "Streams",
            streams=rest[:_LISTED],
            more=rest[_LISTED - 1] if len(rest) > _LISTED else None,
            total=len(found),
            categories=sorted(categories.items()),
            category=category,
            prefix=prefix,
            failures=failures,
        )

    async def show_stream(request: Request) -> Response:
        stream = request.query_params.get("name", "")
        asked = _read_version(request)
        name, store, last = await site.app.locate(
            stream, store=request.query_params.get("store", ""), version=asked or 1
        )
        version = asked or last
        part = request.query_params.get("part", "")
        if part == "test":
            return await show_scenario(request, stream, store, version)
        start = max(0, min(version - _SHOWN // 2, last - _SHOWN))
        commits = [each async for each in _read_commits(site, name, store, stream, start, start + _SHOWN)]
        state, changes, no_state = await _show_state(site, store, stream, version)
        shown = next((each for each in commits if each["version"] == version), None)
        return site.render(
            request,
            "state.html" if part == "state" else "stream.html",
            stream,
            stream=stream,
            store=name,
            version=version,
            last=last,
            first_shown=start + 1,
            last_shown=start + len(commits),
            commits=commits,
            shown=shown,
            state=state,
            changes=changes,
            no_state=no_state,
        )

    async def show_scenario(request: Request, stream: str, store: Store, version: int) -> Response:
        try:
            text = await write_scenario(store, site.app.find_aggregate(stream), stream, version, show=site.show)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001  # a class may fail at an event
            return site.refuse(request, site.show_error(error))
        title = f"{stream}@{version} as a test"
        return site.render(request, "scenario.html", title, stream=stream, version=version, text=text)

    return [
        Route("/", show_home),
        Route("/find", find),
        Route("/streams", list_streams),
        Route("/stream", show_stream),
    ]


async def _show_state(
    site: Site, store: Store, stream: str, version: int
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return the state of a stream at a version, the values before it of what differs, and why there is no state."""
    try:
        state = await load_state(site.app, store, stream, version)
        before = await load_state(site.app, store, stream, version - 1) if version > 1 else {}
    except UsageError as error:
        return {}, {}, str(error)
    except Exception as error:  # noqa: BLE001  # a class may fail at an event; the events are shown all the same
        return {}, {}, site.show_error(error)
    category = category_of(stream)
    changes = {name: old for name, (old, _) in find_changes(before, state).items()}
    shown = site.show(category, state)
    old = site.show(category, before)
    return shown, {name: old[name] for name in changes if name in old}, ""


async def _read_commits(
    site: Site, name: str, store: Store, stream: str, after: int, until: int
) -> AsyncGenerator[dict[str, Any]]:
    """Yield what is shown of the commits of a stream. Those that cannot be read say why."""
    while after < until:
        try:
            async with aclosing(store.read(stream, after=after, until=until)) as commits:
                async for commit in commits:
                    after = commit.version
                    yield site.show_commit(name, commit)
            return
        except StoredDataError as error:
            after = max(error.version, after + 1)
            damage = site.show_error(error)
            yield {"store": name, "version": after, "commit": None, "events": [], "more": 0, "damage": damage}


def _read_version(request: Request) -> int:
    """Return the version that a request asks for; 0 if it asks for none. Raises UsageError."""
    text = request.query_params.get("version")
    if text is None:
        return 0
    if not text.isdecimal() or not 1 <= int(text[:20]) <= MAX_VERSION:
        raise UsageError(f"{text[:40]!r} is not a version; give a number from 1")
    return int(text)
