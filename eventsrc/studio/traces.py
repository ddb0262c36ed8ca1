"""Pages about cause and effect: one trace, with its lanes and its steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from urllib.parse import urlencode

from markupsafe import Markup
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..inspection.events import describe_events
from ..stores.causes import identity_of
from ..tracing import Step, Trace, draw_lanes, draw_page, draw_tree, find_trace
from ..tracing.page import draw_head, draw_steps
from .site import Site

_STEPS_BYTES = 200_000
_TITLES = {"causes": "What led to", "effects": "What followed from"}
_QUIET = 30.0  # seconds without a new step


def make_routes(site: Site) -> Sequence[Route]:
    """Return the routes of these pages."""

    async def show_trace(request: Request) -> Response:
        root, part = request.scope.get("root_path", ""), request.query_params.get("part", "")
        id, only = request.query_params.get("id", ""), request.query_params.get("only", "")
        trace = _choose(await _find(site, id), id, only)
        by_stream = request.query_params.get("by", "") == "stream"
        if part == "text":
            return Response(f"{draw_tree(trace)}\n", media_type="text/plain; charset=utf-8")
        if part == "page":
            headers = {"content-disposition": 'attachment; filename="trace.html"'}
            return Response(draw_page(trace), media_type="text/html; charset=utf-8", headers=headers)

        def link(step: Step) -> str:
            stream, _, version = step.id.rpartition("@")
            return f"{root}/stream?{urlencode({'name': stream, 'store': step.store, 'version': version})}"

        live = _is_live(trace)
        return site.render(
            request,
            "steps.html" if part == "steps" else "trace.html",
            f"{_TITLES.get(only, 'Trace')} {id if only in _TITLES else trace.id}",
            trace=trace,
            id=id if only in _TITLES else trace.id,
            only=only,
            by_stream=by_stream,
            head=Markup(draw_head(trace)),  # noqa: S704  # they escape all texts
            lanes=Markup(draw_lanes(trace, link, by_stream=by_stream)),  # noqa: S704
            steps=Markup(draw_steps(trace, _STEPS_BYTES, link)),  # noqa: S704
            live=live,
        )

    return [Route("/trace", show_trace)]


def _choose(trace: Trace, id: str, only: str) -> Trace:
    """Return the part of a trace that a page shows: what led to an event, or what it led to."""
    found = [number for number, step in enumerate(trace.steps) if step.id == identity_of(id)]
    if only not in _TITLES or not found:
        return trace
    return trace.keep(trace.ancestors(found[0]) if only == "causes" else trace.descendants(found[0]))


async def _find(site: Site, id: str) -> Trace:
    """Return a trace, with what may be shown of the errors of handlers."""
    describe = partial(describe_events, show=site.masked, aggregates=site.app.aggregates)
    trace = await find_trace(id, site.app.stores, processors=site.app.processors, describe=describe)
    steps = [
        replace(step, handled=tuple(replace(each, error=site.show_error(each.error)) for each in step.handled))
        for step in trace.steps
    ]
    return replace(trace, steps=tuple(steps))


def _is_live(trace: Trace) -> bool:
    """Whether more may follow: something waits for a processor, or the last step is not long ago."""
    waiting = any(handling.state in ("pending", "retrying") for _, handling in trace.open)
    newest = max((step.time for step in trace.steps), default=0)
    return waiting or time.time() - newest / 1e6 < _QUIET
