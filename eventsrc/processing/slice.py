"""What a projection is given: a run of one stream's commits, and for a handler the place where its event stands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from ..store import Commit, EventId


class Fence(NamedTuple):
    """What a worker shows with each position it writes: the slot it holds, and its epoch there."""

    slot: int
    epoch: int


class Slice(NamedTuple):
    """Commits of one stream that follow `after`, without a gap. They take effect together with the new position, or not
    at all.
    """

    stream: str
    after: int
    commits: Sequence[Commit]
    fence: Fence
    muted: bool = False  # an earlier version of the processor has handled these: no outside effects now

    @property
    def last_version(self) -> int:
        """The version that is handled once this run is."""
        return self.commits[-1].version


class Context:
    """What a handler may ask beside its event; of several events, it is about the last one."""

    __slots__ = ("commit", "index", "muted")

    def __init__(self, commit: Commit, index: int, muted: bool) -> None:
        self.commit, self.index, self.muted = commit, index, muted

    @property
    def stream(self) -> str:
        return self.commit.stream

    @property
    def id(self) -> str:
        """Where the event stands, as `account-a-1@7.0`: the same whenever it is handled, so an idempotency key."""
        return str(EventId(self.commit.stream, self.commit.version, self.index))

    @property
    def at(self) -> datetime:
        """When it was stored, in UTC, by the clock of who stored it."""
        return self.commit.at


class PositionMoved(Exception):
    """A stream's position is not where a run begins: somebody else has handled it meanwhile. Nothing was done."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.stream = stream


class HandlerFailed(Exception):
    """What a handler raised, or why its event could not be read: `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        self.error = error
