"""What differs between the maps of two periods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from .map import Edge, Map
from .wording import plain, show_count, show_time

SHARE_CHANGE = 0.1
"""A share has changed if it differs by this much or more: 98 % and 88 %."""

LATENCY_CHANGE = 1.5
"""A p95 has changed if one is so many times the other, or more."""

MIN_COUNT = 20
"""Changes of kinds of causes that are rarer in one of the periods are left out."""

Sort = Literal["new", "gone", "changed"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of cause that only one of the periods has, or whose share or p95 has changed."""

    cause: str
    effect: str
    sort: Sort
    before: Edge | None
    after: Edge | None
    share_before: float | None  # of the commits with the cause, those that led to the effect
    share_after: float | None


def compare_maps(before: Map, after: Map) -> tuple[Change, ...]:
    """Return the kinds of causes that differ between two periods: new ones, those that are gone, and changed ones.

    - The share is that of the commits with the cause that led to the effect, so the periods may differ in length.
    - Changes below SHARE_CHANGE and LATENCY_CHANGE, or of fewer than MIN_COUNT commits in a period, are left out.
    """
    old = {(edge.cause, edge.effect): edge for edge in before.edges}
    new = {(edge.cause, edge.effect): edge for edge in after.edges}
    changes: list[Change] = []
    for cause, effect in [*new, *(key for key in old if key not in new)]:
        one, other = old.get((cause, effect)), new.get((cause, effect))
        share_before = before.share(one) if one else None
        share_after = after.share(other) if other else None
        sort: Sort = "new" if one is None else "gone" if other is None else "changed"
        if one and other and not _has_changed(one, other, (share_after or 0.0) - (share_before or 0.0)):
            continue
        change = Change(
            cause=cause,
            effect=effect,
            sort=sort,
            before=one,
            after=other,
            share_before=share_before,
            share_after=share_after,
        )
        changes.append(change)
    return tuple(changes)


def _has_changed(one: Edge, other: Edge, share: float) -> bool:
    if min(one.count, other.count) < MIN_COUNT:
        return False
    latencies = sorted([one.p95 or 0.0, other.p95 or 0.0])
    return abs(share) >= SHARE_CHANGE or (latencies[1] > 0 and latencies[1] >= LATENCY_CHANGE * latencies[0])


def change_lines(changes: tuple[Change, ...]) -> Iterator[str]:
    """Yield a line for each change. Control characters are escaped."""
    for change in changes:
        name = f"{change.sort}: {plain(change.cause)} -> {plain(change.effect)}"
        edge = change.after or change.before
        if change.before is None or change.after is None:
            assert edge is not None
            yield f"{name}: {show_count(edge.count, 'time')}" + (f", p95 {show_time(edge.p95)}" if edge.p95 else "")
            continue
        shares = f"share {change.share_before:.0%} -> {change.share_after:.0%}"
        yield f"{name}: {shares}, p95 {_show(change.before.p95)} -> {_show(change.after.p95)}"


def _show(seconds: float | None) -> str:
    return "unknown" if seconds is None else show_time(seconds)
