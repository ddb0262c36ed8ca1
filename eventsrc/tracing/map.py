"""A map: which types of events cause which, how often and how fast, over all traces of some stores."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import msgspec


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A type of events."""

    tag: str
    count: int  # commits of the period that have an event of this type; 0 if only earlier ones are causes
    places: tuple[str, ...]  # the services, or stores, that record it; the first 20 that were read
    failed: int = 0  # of these commits, those at which a processor has parked or retries a stream


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """That events of the type `cause` cause events of the type `effect`."""

    cause: str
    effect: str
    count: int  # commits of the period that have the effect, for each commit that caused it
    followed: int  # commits of the period that have the cause and led to the effect, each once while remembered
    p50: float | None  # seconds from the cause to the effect, within 1 %; None if no clock was right
    p95: float | None
    skewed: int  # of `count`: the effect is older than its cause by the clocks of their writers; not in p50 and p95
    failed: int  # commits with the cause, at which a processor that makes the effect is parked or retried
    processors: tuple[str, ...] = ()  # that made the effect, as reserve@1


class Map(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The types of events by frequency, and the kinds of edges by frequency.

    - `since` and `until` are the bounds of the period in µs since the epoch, or None.
    - `outside` counts causes that none of the stores has: foreign ids, or commits that were deleted.
    - `unread` counts causes that were not looked up, and kinds of types and edges that were not kept: see `find_map`.
    - `damaged` counts stored rows that cannot be read as commits. `failures` say what could not be read, and why.
    """

    kinds: tuple[Kind, ...]
    edges: tuple[Edge, ...]
    since: int | None = None
    until: int | None = None
    outside: int = 0
    unread: int = 0
    damaged: int = 0
    failures: tuple[str, ...] = ()

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """The number of commits of each type."""
        return {kind.tag: kind.count for kind in self.kinds}

    def share(self, edge: Edge) -> float:
        """Return the part, from 0 to 1, of the commits with the cause that led to the effect."""
        return min(1.0, edge.followed / self.counts[edge.cause]) if edge.followed else 0.0
