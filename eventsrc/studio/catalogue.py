"""The page of all event classes: fields, upcasters, and the classes that record and handle them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import structs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..aggregates.declaration import declaration_of
from ..aggregates.event import tag_of
from ..processing.projections.handlers import handlers_of
from .site import Site


def make_routes(site: Site) -> Sequence[Route]:
    """Return the routes of this page."""

    async def show_catalogue(request: Request) -> Response:
        return site.render(request, "catalogue.html", "Events", events=list_events(site))

    return [Route("/events", show_catalogue)]


def list_events(site: Site) -> list[dict[str, Any]]:
    """Return the event classes of the program by tag, with what is known of each."""
    found: dict[Any, dict[str, Any]] = {}
    published = {each.event for each in site.app.published}

    def describe(kind: Any) -> dict[str, Any]:
        if kind not in found:
            fields = [(each.name, _name_type(each.type)) for each in structs.fields(kind)]
            found[kind] = {"tag": tag_of(kind), "name": kind.__qualname__, "about": _summarize(kind), "fields": fields}
            found[kind] |= {"recorded": [], "handled": [], "upcast": "", "published": kind in published}
        return found[kind]

    for aggregate in site.app.aggregates:
        declaration = declaration_of(aggregate)
        for kind in declaration.handlers:
            describe(kind)["recorded"].append(aggregate.__name__)
        for kind, upcasting in declaration.upcasters.items():
            successors = " or ".join(tag_of(each) for each in upcasting.successors) or "nothing"
            describe(kind)["upcast"] = f"{upcasting.name}, to {successors}"
    for processor in site.app.processors:
        projection = processor.projection
        if projection.has_handlers:
            for kind, handler in handlers_of(type(projection), projection.upcasters).by_type.items():
                describe(kind)["handled"].append(f"{processor.name}.{handler.call.__name__}")
    return sorted(found.values(), key=lambda each: (each["tag"], each["name"]))


def _name_type(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def _summarize(kind: type[Any]) -> str:
    """Return the first line of the docstring of a class."""
    return (kind.__dict__.get("__doc__") or "").strip().partition("\n")[0]
