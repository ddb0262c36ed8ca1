"""Pages about processors: their status, what is parked, and what an operator may do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ..errors import EventsrcError
from ..inspection import UsageError
from ..inspection.states import load_state
from ..log import log
from ..processing import Parked, Processor, rebuild, status
from ..store import Store
from ..stream_id import category_of
from .site import Site

_FORM_BYTES = 10_000
_QUESTIONS = {
    "retry": "Handle the stream again, from the commit that failed?",
    "skip": "Skip this commit for ever? The processor then acts as if it were not there.",
    "rebuild": "Build the read model of this version, and switch readers to it?",
}


class Rebuilding(msgspec.Struct):
    """A rebuild that was started here."""

    task: asyncio.Task[None] | None = None
    handled: int = 0
    total: int = 0
    error: str = ""

    def note(self, handled: int, total: int) -> None:
        self.handled, self.total = handled, total


def make_routes(site: Site) -> Sequence[Route]:
    """Return the routes of these pages."""
    rebuilding: dict[str, Rebuilding] = {}

    async def list_processors(request: Request) -> Response:
        found: list[dict[str, Any]] = []
        for processor in site.app.processors:
            try:
                found.append({"name": processor.name, "status": await status(processor), "problem": ""})
            except EventsrcError as error:
                found.append({"name": processor.name, "status": None, "problem": f"{type(error).__name__}: {error}"})
        return site.render(request, "processors.html", "Processors", processors=found)

    async def show_processor(request: Request) -> Response:
        processor = site.app.find_processor(request.query_params.get("name", ""))
        parked = [await _show_parked(site, processor, each) for each in await processor.parked()]
        skipped = await processor.checkpoints.skipped(processor.name)
        return site.render(
            request,
            "processor.html",
            processor.name,
            name=processor.name,
            status=await status(processor),
            parked=parked,
            skipped=skipped,
            rebuilding=rebuilding.get(processor.name),
        )

    async def ask(request: Request) -> Response:
        name, action, stream = _read_action(request)
        processor = site.app.find_processor(name)
        found = [each for each in await processor.parked() if each.stream == stream]
        return site.render(
            request,
            "ask.html",
            f"{action} {stream or processor.name}",
            name=processor.name,
            action=action,
            stream=stream,
            question=_QUESTIONS[action],
            parked=await _show_parked(site, processor, found[0]) if found else None,
        )

    async def act(request: Request) -> Response:
        name, action, stream = _read_action(request)
        processor = site.app.find_processor(name)
        form = dict(parse_qsl((await _read_body(request)).decode("utf-8", "replace")))
        typed, reason = form.get("typed", ""), form.get("reason", "").strip()
        expected = stream or processor.name
        if typed.strip() != expected:
            return site.refuse(request, f"Nothing was done: {typed!r} is not {expected!r}.", HTTPStatus.BAD_REQUEST)
        if action == "skip" and not reason:
            return site.refuse(request, "Nothing was done: a reason is needed.", HTTPStatus.BAD_REQUEST)
        actor = site.actor(request.scope)
        log.warning("studio: %s asks to %s %s of %s", actor, action, stream or "all", processor.name)
        try:
            if action == "retry":
                await processor.retry(stream)
            elif action == "skip":
                await processor.skip(stream, f"{reason} ({actor})")
            else:
                _start_rebuild(processor, rebuilding)
        except (EventsrcError, ValueError, RuntimeError, TimeoutError) as error:
            text = site.show_error(f"{type(error).__name__}: {error}")
            return site.refuse(request, text, HTTPStatus.CONFLICT)
        to = f"{request.scope.get('root_path', '')}/processor?{urlencode({'name': processor.name})}"
        return RedirectResponse(to, HTTPStatus.SEE_OTHER)

    def _read_action(request: Request) -> tuple[str, str, str]:
        """Return the processor, what to do, and the stream. Raises HTTPException."""
        if not site.write:
            raise HTTPException(
                HTTPStatus.FORBIDDEN, "This studio only shows. Start it with --write to change something."
            )
        action = request.path_params["action"]
        stream = request.query_params.get("stream", "")
        if action not in _QUESTIONS or bool(stream) == (action == "rebuild"):
            raise HTTPException(HTTPStatus.NOT_FOUND, f"{action!r} is not an action for this")
        return request.query_params.get("name", ""), action, stream

    return [
        Route("/processors", list_processors),
        Route("/processor", show_processor),
        Route("/processor/{action}", ask, methods=["GET"]),
        Route("/processor/{action}", act, methods=["POST"]),
    ]


async def _read_body(request: Request) -> bytes:
    """Return the body of a form. Raises HTTPException if it is too large for one."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _FORM_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The form is too large.")
    return body


def _start_rebuild(processor: Processor[Any], rebuilding: dict[str, Rebuilding]) -> None:
    """Start a rebuild in the background. Raises RuntimeError if one is under way."""
    known = rebuilding.get(processor.name)
    if known is not None and known.task is not None and not known.task.done():
        raise RuntimeError(f"{processor.name} is being rebuilt already")
    found = rebuilding[processor.name] = Rebuilding()

    async def run() -> None:
        try:
            await rebuild(processor, progress=found.note)
        except Exception as error:  # noqa: BLE001  # the page shows it
            found.error = f"{type(error).__name__}: {error}"
            log.warning("studio: the rebuild of %s has failed: %s", processor.name, error)

    found.task = asyncio.create_task(run())


async def _show_parked(site: Site, processor: Processor[Any], parked: Parked) -> dict[str, Any]:
    """Return what a page shows of a parked stream: the error, the commit, and the state before it."""
    name, store = _name_store(site, processor.store)
    commit, state, no_state = None, {}, ""
    try:
        async with aclosing(store.read(parked.stream, after=parked.version - 1, until=parked.version)) as commits:
            async for found in commits:
                commit = site.show_commit(name, found)
    except EventsrcError as error:
        no_state = f"{type(error).__name__}: {error}"
    if parked.version > 1:
        try:
            loaded = await load_state(site.app, parked.stream, parked.version - 1)
            state = site.show(category_of(parked.stream), loaded)
        except (EventsrcError, UsageError) as error:
            no_state = str(error)
    shown = {"parked": parked, "error": site.show_error(parked.error)}
    return {**shown, "commit": commit, "state": state, "no_state": no_state}


def _name_store(site: Site, store: Store) -> tuple[str, Store]:
    return next((name for name, each in site.app.stores.items() if each is store), ""), store
