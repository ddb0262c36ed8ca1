"""The trace of a CloudEvent: what a service commits because of an event of another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..stores.causes import identity_of
from ..trace_context import TRACEPARENT, TraceContext, trace


@contextmanager
def trace_cloud_event(event: Mapping[str, Any]) -> Iterator[TraceContext]:
    """Stamp what is committed in this block as an effect of a CloudEvent, such as one from an events API.

    - The cause is its `id`.
    - The correlation id is its `correlationid`; without one, the event starts a trace: the stream and version of its
      id, as `order-7@3`. An events API sends `correlationid` with `tracing=True`.
    - A valid `traceparent` is stored in the metadata under that name.

    Raises ValueError if it has no `id`, or one of these is not a text that stores keep unchanged.
    """
    id, correlation_id, parent = (event.get(name) for name in ("id", "correlationid", "traceparent"))
    if not (isinstance(id, str) and id):
        raise ValueError("this is not a CloudEvent: it has no id; give one event, as a mapping of its attributes")
    if correlation_id is not None and not isinstance(correlation_id, str):
        raise ValueError(f"the correlationid of {id} is {type(correlation_id).__name__}, not a text")
    metadata = {"traceparent": parent} if isinstance(parent, str) and TRACEPARENT.fullmatch(parent) else {}
    with trace(correlation_id or identity_of(id), id, metadata) as found:
        yield found
