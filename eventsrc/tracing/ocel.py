"""A trace for process mining: an object-centric event log, OCEL 2.0, as JSON.

The format is that of https://www.ocel-standard.org: types of events and objects with their attributes, then objects and
events, which name the objects that they are about.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..stream_id import category_of
from .trace import Step, Trace, TracedEvent

_EPOCH = "1970-01-01T00:00:00Z"  # the time of attributes that do not change
_UNREADABLE = "unreadable"  # the type of what stands for the events of a damaged commit
_ATTRIBUTES = {
    "store": "string",
    "service": "string",
    "actor": "string",
    "handler": "string",
    "command_id": "string",
    "attempt": "integer",
    "causes": "string",
}


def to_ocel(trace: Trace) -> dict[str, Any]:
    """Return a trace as OCEL 2.0, as builtin values that JSON can hold.

    - Each stream is an object, and its category the object's type. Each event is an event of the type that is its tag;
      a commit whose events cannot be read is one event of the type `unreadable`.
    - An event has its stream as the relationship `stream`, and the other streams whose events caused it as `cause`. A
      stream has those as `caused by`. The attribute `causes` has the commits that caused an event, also those that are
      not in the trace, with spaces between them.
    - If two stores of the trace have a stream of one name, the names of stores are put before all of them, as
      `shop/order-7`.
    """
    stores: dict[str, set[str]] = {}
    for step in trace.steps:
        stores.setdefault(_stream_of(step), set()).add(step.store)

    ambiguous = any(len(each) > 1 for each in stores.values())

    def name(step: Step, id: str) -> str:
        return f"{step.store}/{id}" if ambiguous else id

    objects: dict[str, dict[str, Any]] = {}
    related: dict[str, dict[str, None]] = {}  # the streams that caused something in a stream
    events: list[dict[str, Any]] = []
    for step in trace.steps:
        stream = name(step, _stream_of(step))
        streams = dict.fromkeys(name(trace.steps[each], _stream_of(trace.steps[each])) for each in step.parents)
        causes = [each for each in streams if each != stream]
        objects.setdefault(
            stream,
            {
                "id": stream,
                "type": category_of(_stream_of(step)),
                "attributes": [{"name": "store", "time": _EPOCH, "value": step.store}],
            },
        )
        related.setdefault(stream, {}).update(dict.fromkeys(causes))
        ids = [name(trace.steps[each], trace.steps[each].id) for each in step.parents]
        attributes = [{"name": key, "value": value} for key, value in _attributes_of(step, [*ids, *step.outside])]
        events += [
            {
                "id": name(step, event.id),
                "type": event.tag,
                "time": step.at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
                "attributes": attributes,
                "relationships": [
                    {"objectId": stream, "qualifier": "stream"},
                    *({"objectId": each, "qualifier": "cause"} for each in causes),
                ],
            }
            for event in step.events or (TracedEvent(step.id, _UNREADABLE),)
        ]
    for stream, found in objects.items():
        found["relationships"] = [{"objectId": each, "qualifier": "caused by"} for each in related[stream]]
    event_types = dict.fromkeys(event["type"] for event in events)
    object_types = dict.fromkeys(each["type"] for each in objects.values())
    declared = [{"name": key, "type": sort} for key, sort in _ATTRIBUTES.items()]
    return {
        "objectTypes": [{"name": each, "attributes": [{"name": "store", "type": "string"}]} for each in object_types],
        "eventTypes": [{"name": each, "attributes": declared} for each in event_types],
        "objects": list(objects.values()),
        "events": events,
    }


def _attributes_of(step: Step, causes: list[str]) -> Iterator[tuple[str, str | int]]:
    """Yield the attributes of an event that are set."""
    for key in _ATTRIBUTES:
        if value := " ".join(causes) if key == "causes" else getattr(step, key):
            yield key, value


def _stream_of(step: Step) -> str:
    return step.id.rpartition("@")[0]
