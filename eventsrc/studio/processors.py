"""Pages about processors: their status, what is parked, and what an operator may do about it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ..errors import EventsrcError, StreamParked
from ..inspection import UsageError
from ..inspection.states import load_state
from ..log import log
from ..processing import Parked, Processor, status
from ..processing.rebuild import plan_rebuild
from ..stream_id import category_of
from .rebuilds import Rebuilds
from .site import Site

_FORM_BYTES = 10_000
_QUESTIONS = {
    "retry": "Handle the stream again, from the commit that failed?",
    "skip": "Skip this commit for ever? The processor then acts as if it were not there.",
    "rebuild": "Build the read model of this version, and switch readers to it?",
}


class Action(NamedTuple):
    """What an operator asks for."""

    processor: str
    verb: str
    stream: str
    version: int

    @property
    def where(self) -> tuple[str, int]:
        return self.stream, self.version

    @property
    def target(self) -> str:
        """The name that is typed to confirm it."""
        return self.processor if self.verb == "rebuild" else f"{self.stream}@{self.version}"


def make_routes(site: Site, rebuilds: Rebuilds) -> Sequence[Route]:
    """Return the routes of these pages."""

    async def list_processors(request: Request) -> Response:
        return site.render(request, "processors.html", "Processors", processors=await read_statuses(site))

    async def show_processor(request: Request) -> Response:
        processor = site.app.find_processor(request.query_params.get("name", ""))
        parked = [await _show_parked(site, processor, each) for each in await processor.parked()]
        skipped = await processor.checkpoints.skipped(processor.name)
        return site.render(
            request,
            "processor.html",
            processor.name,
            name=processor.name,
            store=site.name_store(processor.store),
            status=await status(processor),
            parked=parked,
            skipped=skipped,
            rebuilding=rebuilds.find(processor),
        )

    async def ask(request: Request) -> Response:
        action = _read_action(request)
        processor = site.app.find_processor(action.processor)
        found = [each for each in await processor.parked() if (each.stream, each.version) == action.where]
        if action.verb != "rebuild" and not found:
            raise UsageError(f"{processor.name} has not parked {action.stream}@{action.version} (any more)")
        return site.render(
            request,
            "ask.html",
            f"{action.verb.capitalize()} {action.target}",
            name=processor.name,
            verb=action.verb,
            target=action.target,
            question=_QUESTIONS[action.verb],
            plan=await _plan(processor) if action.verb == "rebuild" else "",
            parked=await _show_parked(site, processor, found[0]) if found else None,
        )

    async def act(request: Request) -> Response:
        action = _read_action(request)
        processor = site.app.find_processor(action.processor)
        form = dict(parse_qsl((await _read_body(request)).decode("utf-8", "replace")))
        typed, reason = form.get("typed", ""), form.get("reason", "").strip()
        if typed.strip() != action.target:
            text = f"Nothing was done: {typed!r} is not {action.target!r}. Go back to type it again."
            return site.refuse(request, text, HTTPStatus.BAD_REQUEST)
        if action.verb == "skip" and not reason:
            return site.refuse(request, "Nothing was done: a reason is needed.", HTTPStatus.BAD_REQUEST)
        actor = site.actor(request.scope)
        log.warning("studio: %s asks processor %s to %s %s", actor, processor.name, action.verb, action.target)
        try:
            if action.verb == "retry":
                await processor.retry(action.stream)
            elif action.verb == "skip":
                await processor.skip(action.stream, f"{reason} ({actor})", version=action.version)
            else:
                await _plan(processor)
                rebuilds.start(processor)
        except StreamParked as error:
            done = f"{action.target} was skipped. " if action.verb == "skip" else ""
            text = f"{done}{error.stream} is parked at version {error.version}; the page of {processor.name} says why."
            return site.refuse(request, text, HTTPStatus.CONFLICT)
        except (EventsrcError, ValueError, RuntimeError, TimeoutError) as error:
            return site.refuse(request, site.show_error(error), HTTPStatus.CONFLICT)
        to = f"{request.scope.get('root_path', '')}/processor?{urlencode({'name': processor.name})}"
        return RedirectResponse(to, HTTPStatus.SEE_OTHER)

    def _read_action(request: Request) -> Action:
        """Return what is asked for. Raises HTTPException."""
        if not site.write:
            text = "This studio only shows. Start it with --write to change something."
            raise HTTPException(HTTPStatus.FORBIDDEN, text)
        given, verb = request.query_params, request.path_params["verb"]
        version = given.get("version", "0")
        found = Action(
            given.get("name", ""), verb, given.get("stream", ""), int(version[:20]) if version.isdecimal() else 0
        )
        if verb not in _QUESTIONS or (verb != "rebuild" and not (found.stream and found.version)):
            raise HTTPException(
                HTTPStatus.NOT_FOUND, f"{verb!r} is not an action, or its stream and version are missing"
            )
        return found

    return [
        Route("/processors", list_processors),
        Route("/processor", show_processor),
        Route("/processor/{verb}", ask, methods=["GET"]),
        Route("/processor/{verb}", act, methods=["POST"]),
    ]


async def _read_body(request: Request) -> bytes:
    """Return the body of a form. Raises HTTPException if it is too large for one."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _FORM_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The form is too large.")
    return body


async def read_statuses(site: Site) -> Sequence[dict[str, Any]]:
    """Return the status of each processor; of one whose checkpoints cannot be read, why."""
    found: list[dict[str, Any]] = []
    for processor in site.app.processors:
        try:
            found.append({"name": processor.name, "status": await status(processor), "problem": ""})
        except EventsrcError as error:
            found.append({"name": processor.name, "status": None, "problem": site.show_error(error)})
    return found


async def _plan(processor: Processor[Any]) -> str:
    """Return what a rebuild would do. Raises UsageError if it is of no use."""
    plan = await plan_rebuild(processor)
    tag, version = processor.projection.tag, processor.projection.version
    if plan.active == version:
        raise UsageError(f"{processor.name} is active, so run it; to build it again, raise its version")
    then = f"while {tag}@{plan.active} continues, and then replaces it" if plan.active else "and becomes active"
    return f"{processor.name} handles {plan.total - plan.handled:,} of {plan.total:,} commits, {then}."


async def _show_parked(site: Site, processor: Processor[Any], parked: Parked) -> dict[str, Any]:
    """Return what a page shows of a parked stream: the error, the commit, and the state before it."""
    store, commit, state, no_state = processor.store, None, {}, ""
    try:
        async with aclosing(store.read(parked.stream, after=parked.version - 1, until=parked.version)) as commits:
            async for found in commits:
                commit = site.show_commit(site.name_store(store), found)
        if parked.version > 1:
            loaded = await load_state(site.app, store, parked.stream, parked.version - 1)
            state = site.show(category_of(parked.stream), loaded)
    except UsageError as error:
        no_state = str(error)
    except Exception as error:  # noqa: BLE001  # the class may fail, too; the rest is shown
        no_state = site.show_error(error)
    shown = {"parked": parked, "error": site.show_error(parked.error)}
    return {**shown, "commit": commit, "state": state, "no_state": no_state}
