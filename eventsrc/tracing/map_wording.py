"""The words of a map, as all its pictures say them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from .map import Edge, Kind, Map
from .wording import plain, show_count, show_time

_FAILURES = 20  # lines


def map_lines(map: Map) -> Iterator[str]:
    """Yield what is to be said of a whole map: its size and period, and what it does not know."""
    sizes = f"{show_count(len(map.kinds), 'type')} of events, {show_count(len(map.edges), 'kind')} of causes"
    period = [
        f"{word} {datetime.fromtimestamp(bound / 1e6, UTC):%Y-%m-%d %H:%M:%SZ}"
        for word, bound in (("since", map.since), ("until", map.until))
        if bound is not None
    ]
    yield ", ".join([sizes, *period])
    if map.outside:
        yield f"{show_count(map.outside, 'cause')} outside: none of these stores has them"
    if map.unread:
        yield f"{show_count(map.unread, 'cause')} not counted: there are too many to look up, or too many types"
    if map.damaged:
        yield f"{show_count(map.damaged, 'commit')} cannot be read"
    for failure in map.failures[:_FAILURES]:
        yield f"not read: {plain(failure)}"
    if len(map.failures) > _FAILURES:
        yield f"not read: and {len(map.failures) - _FAILURES:,} more"


def describe_kind(kind: Kind) -> str:
    """Return how often events of a type were recorded, where, and how often a processor failed at them."""
    failed = [f"{kind.failed:,} failed"] if kind.failed else []
    return ", ".join([f"{kind.count:,}", *failed, *(["in " + plain(", ".join(kind.places))] if kind.places else [])])


def describe_edge(edge: Edge) -> str:
    """Return how often a cause had its effect, how fast, and how often a processor failed at the cause."""
    parts = [f"{edge.count:,}"]
    if edge.p95 is not None:
        parts.append(f"p95 {show_time(edge.p95)}")
    parts += [f"{edge.failed:,} failed"] if edge.failed else []
    parts += [f"{edge.skewed:,} clock skew"] if edge.skewed else []
    return ", ".join(parts)
