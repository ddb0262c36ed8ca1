"""The page of the map: which types of events cause which."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..tracing import draw_map, find_map
from .site import Site

PERIODS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}


def make_routes(site: Site) -> Sequence[Route]:
    """Return the routes of this page."""

    async def show_map(request: Request) -> Response:
        period = request.query_params.get("period", "")
        since = datetime.now(UTC) - PERIODS[period] if period in PERIODS else None
        found = await find_map(site.app.stores, since=since, processors=site.app.processors)
        picture = Markup(draw_map(found))  # noqa: S704  # it escapes all texts
        return site.render(request, "map.html", "Map", map=found, picture=picture, period=period, periods=list(PERIODS))

    return [Route("/map", show_map)]
