"""Check the acts of effects on the outside: nothing is missing, the order is right, and repetitions have a reason.

- Every event of the log is acted on, and the first acts of a stream come in the order of the log.
- Only the events of the commit that was handled last may be repeated, from its first event on, and only if one of the
  two workers was disturbed since the last act, or if another worker has taken over a slot that was not given up.
- Only a worker that has claimed the slot acts. After another worker's claim it begins nothing later than `bound`
  seconds, and nothing after the new owner has begun. What it has begun by then may end later.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

BOUND = 1.0  # seconds; the age of a worker's check of its lease when it begins an act
_EPSILON = 1e-6  # seconds, for the arithmetic of floats

Place = tuple[int, int]  # version of a commit, and index of the event in it


class Delivery(NamedTuple):
    """An act of a handler."""

    begun: float  # when the handler was called, in seconds
    at: float  # when it acted
    worker: int
    version: int
    place: int  # index in the commit


class Claim(NamedTuple):
    """A claim of the slot that a stream is in."""

    at: float
    worker: int  # 0: of a process that fences the others, but does not handle commits
    forced: bool  # its owner before had not given it up, so that it may have been at work


class Disturbance(NamedTuple):
    """A time at which a worker may have acted without storing its position."""

    at: float
    worker: int


class Checked(NamedTuple):
    """What was found in one stream. All fields except `repeated` must be zero or empty."""

    missing: int  # events
    twice: int  # acts that repeat an event without a reason
    disordered: bool
    repeated: int  # commits, with a reason
    violations: Sequence[str]


class Disturbances:
    """The disturbances of a history."""

    def __init__(self, each: Iterable[Disturbance]) -> None:
        self._times: dict[int, list[float]] = {}
        for at, worker in sorted(each):
            self._times.setdefault(worker, []).append(at)

    def are_between(self, start: float, end: float, workers: Collection[int]) -> bool:
        """Return whether one of these workers was disturbed at a time from `start` to `end`."""
        return any(_is_between(self._times.get(worker, ()), start, end) for worker in workers)


def check_deliveries(
    events: Sequence[Place],
    deliveries: Sequence[Delivery],
    claims: Sequence[Claim],
    disturbances: Disturbances,
    *,
    optional: Collection[int] = (),
    bound: float = BOUND,
) -> Checked:
    """Compare the acts on one stream with the events of its log that must be handled, in order.

    Events of the versions in `optional`, which were skipped, may or may not have been acted on.
    """
    begun = sorted(deliveries, key=lambda each: (each.begun, each.at))
    first = list(dict.fromkeys((each.version, each.place) for each in sorted(deliveries, key=lambda each: each.at)))
    expected = [each for each in events if each[0] not in optional]
    missing = [each for each in expected if each not in set(first)]
    unknown = [each for each in first if each not in set(events)]
    claims = sorted(claims)
    taken_over = sorted(_find_takeovers(claims, bound))
    twice, repeated = _find_repetitions(begun, taken_over, disturbances)
    violations = [*_find_late_acts(begun, claims, bound)]
    if missing:
        violations.append(f"{len(missing)} events are missing, the first one {missing[0]}")
    if unknown:
        violations.append(f"{len(unknown)} events were not to be handled, the first one {unknown[0]}")
    if disordered := first != sorted(first):
        violations.append(f"the order of first acts is {first}")
    violations += [
        f"{(each.version, each.place)} was repeated without a reason at {each.begun:.3f} s" for each in twice
    ]
    return Checked(len(missing), len(twice), disordered, repeated, violations)


def _find_takeovers(claims: Sequence[Claim], bound: float) -> Iterable[float]:
    """Yield when the acts of earlier owners that have not given up have begun.

    A worker that claims its own slot again, as after a lease that expired or after it was fenced, has ended what it did
    before it does so. It may repeat its last commit at once, as the position of that may be unstored.
    """
    last = 0
    fenced: set[int] = set()
    for claim in claims:
        if claim.worker in fenced or (claim.forced and claim.worker == last):
            fenced.discard(claim.worker)
            yield claim.at
        if claim.forced and claim.worker != last:
            fenced.add(last)
            yield claim.at + bound
        last = claim.worker


def _find_repetitions(
    begun: Sequence[Delivery], taken_over: Sequence[float], disturbances: Disturbances
) -> tuple[list[Delivery], int]:
    """Return the acts that repeat others without a reason, and the number of repetitions with one."""
    twice: list[Delivery] = []
    repeated = 0
    for last, each in pairwise(begun):
        if (each.version, each.place) > (last.version, last.place):
            continue
        has_reason = _is_between(taken_over, last.begun, each.begun) or disturbances.are_between(
            last.begun, each.begun, {last.worker, each.worker}
        )
        if has_reason and each.version == last.version and each.place == 0:
            repeated += 1
        else:
            twice.append(each)
    return twice, repeated


def _find_late_acts(begun: Sequence[Delivery], claims: Sequence[Claim], bound: float) -> Iterable[str]:
    """Yield acts of workers that have not claimed the slot, or have lost it for longer than the bound."""
    newest = -1  # the index of the newest claim under which an act has begun
    for each in begun:
        what = f"worker {each.worker} began {(each.version, each.place)} at {each.begun:.3f} s"
        mine = [number for number, claim in enumerate(claims) if _is_of(claim, each)]
        if not mine:
            yield f"{what} without a claim"
            continue
        later = [claim.at for claim in claims[mine[-1] + 1 :] if claim.worker != each.worker]
        if later and each.begun > later[0] + bound + _EPSILON:
            yield f"{what}, {each.begun - later[0]:.3f} s after another worker's claim"
        elif mine[-1] < newest:
            yield f"{what}, after the new owner had begun"
        newest = max(newest, mine[-1])


def _is_of(claim: Claim, delivery: Delivery) -> bool:
    return claim.worker == delivery.worker and claim.at <= delivery.begun + _EPSILON


def _is_between(times: Sequence[float], start: float, end: float) -> bool:
    """Return whether one of these sorted times is from `start` to `end`."""
    return bisect_left(times, start - _EPSILON) < bisect_right(times, end + _EPSILON)
