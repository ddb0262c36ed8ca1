"""Verbs about cause and effect: a trace, what led to an event, and what it led to."""

from __future__ import annotations

import argparse
from contextlib import aclosing, suppress
from functools import partial
from typing import NamedTuple

import msgspec

from ..errors import EventsrcError, TraceNotFound
from ..inspection import App, UsageError
from ..inspection.events import describe_events, to_json
from ..stores.causes import identity_of
from ..tracing import (
    Map,
    Trace,
    draw_columns,
    draw_lanes,
    draw_mermaid,
    draw_page,
    draw_tree,
    find_map,
    find_missing,
    find_trace,
    follow_trace,
    to_ocel,
)
from ..tracing.following import QUIET
from ..tracing.trace import Describe
from ..tracing.wording import head_lines, note, show_step
from .output import Output, write_file
from .verbs import Verbs


class Pictures(NamedTuple):
    """How a trace is shown: as a tree or as a flowchart, and in these files, too."""

    svg: str | None = None
    html: str | None = None
    mermaid: bool = False
    ocel: str | None = None
    fields: bool = False
    lanes: bool = False
    by_stream: bool = False

    def describe(self, app: App) -> Describe | None:
        """Return what is shown of an event besides its tag: its fields, if they were asked for."""
        return partial(describe_events, aggregates=app.aggregates) if self.fields else None


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the command line."""
    found = verbs.add(
        "trace",
        lambda app, output, given: show_trace(app, output, given.id, _read_pictures(given), given),
        "print a trace: what happened, why, and what is open",
        "trace --store shop=sqlite:///shop.db --store stock=sqlite:///stock.db request-9",
    )
    found.add_argument("id", metavar="ID", help="a correlation id, an event (order-7@3.0) or a commit (order-7@3)")
    found.add_argument("--every", action="store_true", help="draw each step, also those that look alike")
    about_expect = "name steps that usually follow and have not; this reads all commits of the stores, as `map` does"
    found.add_argument("--expect", action="store_true", help=about_expect)
    about_ocel = "write it to a file, too, for process mining: OCEL 2.0 as JSON"
    found.add_argument("--ocel", metavar="FILE", help=about_ocel)
    about_follow = "print new steps as they are stored, until nothing is open and nothing has changed for some seconds"
    found.add_argument("--follow", action="store_true", help=about_follow)
    about_quiet = f"how long nothing may change before --follow ends (default: {QUIET:g})"
    found.add_argument("--quiet", type=_parse_seconds, default=QUIET, metavar="SECONDS", help=about_quiet)
    _add_pictures(found)

    found = verbs.add(
        "why",
        lambda app, output, given: show_causes(app, output, given.event, _read_pictures(given)),
        "print what led to an event",
        "why --store sqlite:///shop.db order-7@3.0",
    )
    found.add_argument("event", metavar="EVENT")
    _add_pictures(found)

    found = verbs.add(
        "effects",
        lambda app, output, given: show_effects(app, output, given.event, _read_pictures(given)),
        "print what an event has led to",
        "effects --store sqlite:///shop.db order-7@3.0",
    )
    found.add_argument("event", metavar="EVENT")
    _add_pictures(found)


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fields", action="store_true", help="show the fields of events, in the tree and the page")
    parser.add_argument("--lanes", action="store_true", help="print a column for each service instead of a tree")
    parser.add_argument("--by-stream", action="store_true", help="with --lanes or --svg: a lane for each stream")
    parser.add_argument("--svg", metavar="FILE", help="write it to a file, too, as lanes: an SVG")
    parser.add_argument("--html", metavar="FILE", help="write it to a file, too, as one page with lanes and steps")
    parser.add_argument("--mermaid", action="store_true", help="print a Mermaid flowchart instead of a tree")


def _read_pictures(given: argparse.Namespace) -> Pictures:
    return Pictures(
        given.svg, given.html, given.mermaid, getattr(given, "ocel", None), given.fields, given.lanes, given.by_stream
    )


def _parse_seconds(text: str) -> float:
    """Return a number of seconds. Raises argparse.ArgumentTypeError."""
    with suppress(ValueError):
        if 0 < (seconds := float(text)) < 1e6:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")


async def show_trace(app: App, output: Output, id: str, pictures: Pictures, given: argparse.Namespace) -> int:
    """Print the trace that an id belongs to. Return 1 if a processor has failed at one of its steps."""
    map = await find_map(app.stores) if given.expect else Map(kinds=(), edges=())

    def expect(found: Trace) -> Trace:
        return msgspec.structs.replace(found, missing=find_missing(found, map))

    if not given.follow:
        trace = expect(await _find_trace(app, id, pictures))
        _show(output, trace, pictures, every=given.every)
        return 1 if trace.failed else 0
    traces = follow_trace(id, app.stores, processors=app.processors, quiet=given.quiet, describe=pictures.describe(app))
    async with aclosing(traces):
        first = trace = expect(await anext(traces))
        _show(output, first, pictures, every=given.every)
        async for found in traces:
            before, trace = trace, expect(found)
            if output.as_json or pictures.mermaid:
                _show(output, trace, pictures, every=given.every)
            else:
                _write_pictures(trace, pictures)
                _show_new_steps(output, before, trace)
    if trace is not first and not (output.as_json or pictures.mermaid):
        output.show("\n".join(["", *head_lines(trace)]), trace)
    return 1 if trace.failed else 0


def _show_new_steps(output: Output, before: Trace, after: Trace) -> None:
    known = {(step.store, step.id) for step in before.steps}
    for number, step in enumerate(after.steps):
        if (step.store, step.id) not in known:
            output.show("\n    ".join(["  ".join(show_step(after, [number])), *note(after, [number])]), step)


async def show_causes(app: App, output: Output, event: str, pictures: Pictures) -> int:
    """Print what led to an event, back to the beginning of its trace."""
    trace = await _find_trace(app, event, pictures)
    _show(output, trace.keep(trace.ancestors(_find_step(trace, event))), pictures, every=True)
    return 0


async def show_effects(app: App, output: Output, event: str, pictures: Pictures) -> int:
    """Print what an event has led to."""
    trace = await _find_trace(app, event, pictures)
    _show(output, trace.keep(trace.descendants(_find_step(trace, event))), pictures, every=False)
    return 0


async def _find_trace(app: App, id: str, pictures: Pictures) -> Trace:
    """Return the trace of an id. Raises TraceNotFound, or UsageError for the name of a stream."""
    try:
        return await find_trace(id, app.stores, processors=app.processors, describe=pictures.describe(app))
    except TraceNotFound:
        with suppress(EventsrcError, ValueError):
            _, _, last = await app.locate(id)
            raise UsageError(f"{id} is a stream; give one of its commits, {id}@1 to {id}@{last}") from None
        raise


def _find_step(trace: Trace, event: str) -> int:
    """Return the number of the step of an event or a commit. Raises UsageError."""
    identity = identity_of(event)
    for number, step in enumerate(trace.steps):
        if step.id == identity and (event == identity or any(each.id == event for each in step.events)):
            return number
    raise UsageError(
        f"{event} is not an event of the trace {trace.id}; give one as order-7@3.0, or a commit as order-7@3"
    )


def _show(output: Output, trace: Trace, pictures: Pictures, *, every: bool) -> None:
    _write_pictures(trace, pictures)
    if pictures.mermaid:
        output.show(draw_mermaid(trace), trace)
    elif pictures.lanes:
        output.show(draw_columns(trace, by_stream=pictures.by_stream), trace)
    else:
        output.show(draw_tree(trace, alike=len(trace.steps) + 1) if every else draw_tree(trace), trace)


def _write_pictures(trace: Trace, pictures: Pictures) -> None:
    if pictures.svg is not None:
        write_file(pictures.svg, draw_lanes(trace, by_stream=pictures.by_stream))
    if pictures.html is not None:
        write_file(pictures.html, draw_page(trace))
    if pictures.ocel is not None:
        write_file(pictures.ocel, to_json(to_ocel(trace)))
