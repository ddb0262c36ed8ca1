"""Verbs about cause and effect: a trace, what led to an event, and what it led to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..errors import TraceNotFound
from ..stores.causes import identity_of
from ..tracing import Trace, draw_lanes, draw_mermaid, draw_page, draw_tree, find_trace
from .app import App, UsageError
from .output import Output


class Pictures(NamedTuple):
    """How a trace is shown: as a tree or as a flowchart, and in these files, too."""

    svg: str | None = None
    html: str | None = None
    mermaid: bool = False


async def show_trace(app: App, output: Output, id: str, pictures: Pictures, *, every: bool) -> int:
    """Print the trace that an id belongs to. Return 1 if a processor has failed at one of its steps."""
    trace = await find_trace(id, app.stores, processors=app.processors)
    _show(output, trace, pictures, every=every)
    return 1 if trace.failed else 0


async def show_causes(app: App, output: Output, event: str, pictures: Pictures) -> int:
    """Print what led to an event, back to the beginning of its trace."""
    trace = await find_trace(event, app.stores, processors=app.processors)
    _show(output, trace.keep(trace.ancestors(_find_step(trace, event))), pictures, every=True)
    return 0


async def show_effects(app: App, output: Output, event: str, pictures: Pictures) -> int:
    """Print what an event has led to."""
    trace = await find_trace(event, app.stores, processors=app.processors)
    _show(output, trace.keep(trace.descendants(_find_step(trace, event))), pictures, every=False)
    return 0


def _find_step(trace: Trace, event: str) -> int:
    """Return the number of the step of an event. Raises TraceNotFound."""
    identity = identity_of(event)
    for number, step in enumerate(trace.steps):
        if step.id == identity:
            return number
    raise TraceNotFound(event, [f"the steps of {trace.id}"])


def _show(output: Output, trace: Trace, pictures: Pictures, *, every: bool) -> None:
    _write(pictures.svg, draw_lanes, trace)
    _write(pictures.html, draw_page, trace)
    if pictures.mermaid:
        output.show(draw_mermaid(trace), trace)
    else:
        output.show(draw_tree(trace, alike=len(trace.steps) + 1) if every else draw_tree(trace), trace)


def _write(file: str | None, draw: Callable[[Trace], str], trace: Trace) -> None:
    """Write a picture to a file, if one is given. Raises UsageError if it cannot be written."""
    if file is None:
        return
    try:
        Path(file).write_text(f"{draw(trace)}\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from None
