"""Workers as they are stored: with the processors that each runs, so that it counts as a sharer of these only.

Heartbeats of all workers that use the same checkpoints are in one place, whatever they run. A worker is stored under
its name, followed by a hash of the name of each of its processors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import NamedTuple

_MAX_PROCESSORS = 32  # whose hashes are stored; a worker of more counts as one that runs all there are


class Beats(NamedTuple):
    """The heartbeats of one worker, as seen from here."""

    number: int
    since: float  # when this number was first seen, by our clock
    has_changed: bool  # another number was seen before, so the worker has been alive since


class Member(NamedTuple):
    """A worker, and hashes of the processors that it runs; None if it may be any."""

    worker: str
    runs: frozenset[str] | None

    def has(self, processor: str) -> bool:
        return self.runs is None or _hash(processor) in self.runs


def to_key(worker: str, processors: Iterable[str]) -> str:
    """Return the text under which a worker is stored."""
    hashes = sorted({_hash(each) for each in processors})
    return f"{worker}\n{' '.join(hashes)}" if len(hashes) <= _MAX_PROCESSORS else worker


def parse_key(key: str) -> Member:
    """Return the worker that is stored under a key."""
    worker, found, hashes = key.rpartition("\n")
    return Member(worker, frozenset(hashes.split())) if found else Member(key, None)


def _hash(processor: str) -> str:
    return sha256(processor.encode()).hexdigest()[:16]


class Members:
    """The workers that were seen, by the key of each."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Member, Beats]] = {}

    def refresh(self, beats: Mapping[str, int], now: float) -> None:
        """Note the numbers of heartbeats that are stored now."""
        seen = self._seen
        self._seen = {
            key: seen[key]
            if key in seen and seen[key][1].number == number
            else (parse_key(key), Beats(number, now, has_changed=key in seen))
            for key, number in beats.items()
        }

    def alive(self, now: float, ttl: float, processor: str = "") -> dict[str, Beats]:
        """Return the workers with a heartbeat within `ttl` seconds: all, or those that run a processor."""
        return {
            member.worker: beats
            for member, beats in self._seen.values()
            if now - beats.since < ttl and (not processor or member.has(processor))
        }

    def dead(self, now: float, seconds: float) -> list[str]:
        """Return the keys of workers without a heartbeat for so long."""
        return [key for key, (_, beats) in self._seen.items() if now - beats.since > seconds]
