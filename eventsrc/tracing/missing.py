"""Steps that usually follow, and have not: what a trace lacks by the map of all traces."""

from __future__ import annotations

from .map import Map
from .trace import Missing, Trace

USUAL_SHARE, USUAL_COUNT = 0.9, 20
"""An effect is usual if at least so large a part of the commits with its cause led to it, of at least so many."""


def find_missing(trace: Trace, map: Map) -> tuple[Missing, ...]:
    """Return the effects that steps of a trace usually have by a map, and do not have in this trace.

    An effect is usual by USUAL_SHARE and USUAL_COUNT. A step that is not old enough yet is among them, too: compare
    with `p95`. Nothing is known to be missing if a store of the trace or of the map could not be read, or the map has
    counted only some causes. An effect that has a correlation id of its own is in another trace, and so it is missing
    in this one. To show them with the trace: `msgspec.structs.replace(trace, missing=find_missing(trace, map))`.
    """
    if trace.failures or map.failures or map.unread:
        return ()
    usual: dict[str, list[tuple[str, float | None]]] = {}
    for edge in map.edges:
        if map.counts[edge.cause] >= USUAL_COUNT and map.share(edge) >= USUAL_SHARE:
            usual.setdefault(edge.cause, []).append((edge.effect, edge.p95))
    had: list[set[str]] = [set() for _ in trace.steps]
    for step in trace.steps:
        for parent in step.parents:
            had[parent].update(step.types)
    return tuple(
        Missing(step=step.id, cause=tag, effect=effect, p95=p95)
        for number, step in enumerate(trace.steps)
        for tag in step.types
        for effect, p95 in usual.get(tag, ())
        if effect not in had[number]
    )
