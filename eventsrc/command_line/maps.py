"""The verb about all traces together: which types of events cause which, and what has changed since another period."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import NamedTuple

from ..inspection import App, UsageError
from ..stores.feed import Feed
from ..tracing import change_lines, compare_maps, draw_map, draw_map_mermaid, draw_map_table, find_map
from .output import Output, write_file
from .verbs import Verbs, parse_time

_DONE, _DIFFERENT = 0, 1


class Period(NamedTuple):
    """From `since` to before `until`; None is without a bound."""

    since: datetime | None = None
    until: datetime | None = None


def add_verbs(verbs: Verbs) -> None:
    """Add the verb of this module to the command line."""
    found = verbs.add(
        "map",
        lambda app, output, given: show_map(
            app, output, Period(given.since, given.until), given.against, svg=given.svg, mermaid=given.mermaid
        ),
        "print which types of events cause which, how often and how fast; this reads all commits of the stores",
        "map --store sqlite:///shop.db --since 2026-02-01 --against 2026-01-01..2026-02-01",
    )
    found.add_argument("--since", type=parse_time, metavar="TIME", help="only what was stored from this time on")
    found.add_argument("--until", type=parse_time, metavar="TIME", help="only what was stored before this time")
    found.add_argument(
        "--against",
        type=parse_period,
        metavar="SINCE..UNTIL",
        help="print what differs from this period, either side of which may be empty; the stores are read twice",
    )
    found.add_argument("--svg", metavar="FILE", help="write it to a file, too, as boxes and lines: an SVG")
    found.add_argument("--mermaid", action="store_true", help="print a Mermaid flowchart instead of tables")


def parse_period(text: str) -> Period:
    """Return the period of `SINCE..UNTIL`. Raises argparse.ArgumentTypeError."""
    since, dots, until = text.partition("..")
    if not dots or not (since or until):
        raise argparse.ArgumentTypeError(f"{text!r} is not a period; write it as 2026-01-01..2026-01-31T12:00:00Z")
    return Period(parse_time(since) if since else None, parse_time(until) if until else None)


async def show_map(
    app: App, output: Output, period: Period, against: Period | None, *, svg: str | None, mermaid: bool
) -> int:
    """Print the map of a period, or what differs from another one; then return 1 if something does."""
    for name, store in app.stores.items():
        if not isinstance(store, Feed):
            raise UsageError(f"the store {name} has no feed, so its commits cannot be read")
    found = await find_map(app.stores, *period, processors=app.processors)
    if svg is not None:
        write_file(svg, draw_map(found))
    if against is None:
        output.show(draw_map_mermaid(found) if mermaid else draw_map_table(found), found)
        return _DONE
    if mermaid:
        raise UsageError("--mermaid draws one period; leave out --against")
    changes = compare_maps(await find_map(app.stores, *against, processors=app.processors), found)
    for change, line in zip(changes, change_lines(changes), strict=True):
        output.show(line, change)
    return _DIFFERENT if changes else _DONE
