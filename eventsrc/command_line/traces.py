"""Verbs about cause and effect: a trace, what led to an event, and what it led to."""

from __future__ import annotations

from ..errors import TraceNotFound
from ..stores.causes import identity_of
from ..tracing import Trace, draw_tree, find_trace
from .app import App
from .output import Output


async def show_trace(app: App, output: Output, id: str, *, every: bool) -> int:
    """Print the trace that an id belongs to."""
    _show(output, await find_trace(id, app.stores, processors=app.processors), every=every)
    return 0


async def show_causes(app: App, output: Output, event: str) -> int:
    """Print what led to an event, back to the beginning of its trace."""
    trace = await find_trace(event, app.stores, processors=app.processors)
    _show(output, trace.keep(trace.ancestors(_find_step(trace, event))), every=True)
    return 0


async def show_effects(app: App, output: Output, event: str) -> int:
    """Print what an event has led to."""
    trace = await find_trace(event, app.stores, processors=app.processors)
    _show(output, trace.keep(trace.descendants(_find_step(trace, event))), every=False)
    return 0


def _find_step(trace: Trace, event: str) -> int:
    """Return the number of the step of an event. Raises TraceNotFound."""
    identity = identity_of(event)
    for number, step in enumerate(trace.steps):
        if step.id == identity:
            return number
    raise TraceNotFound(event, [f"the steps of {trace.id}"])


def _show(output: Output, trace: Trace, *, every: bool) -> None:
    output.show(draw_tree(trace, alike=len(trace.steps) + 1) if every else draw_tree(trace), trace)
