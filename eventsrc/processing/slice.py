"""What a projection receives: a slice of one stream's commits. What a handler receives: the context of its event."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from ..store import Commit, EventId


class Fence(NamedTuple):
    """The slot that a worker holds, and its epoch. Each write of a position carries it; a stale one is refused."""

    slot: int
    epoch: int


class Slice(NamedTuple):
    """Commits of one stream that follow version `after`, without gaps.

    Their effect and the new position are stored together, or neither is.
    """

    stream: str
    after: int
    commits: Sequence[Commit]
    fence: Fence
    muted: bool = False  # another version of the processor has handled these: no outside effects

    @property
    def last_version(self) -> int:
        """The version of the last commit: the position after this slice."""
        return self.commits[-1].version


class Context:
    """Facts about the event that a handler receives; for a sequence of events, about the last one.

    - `commit` is the commit that holds the event, and `index` the event's place in it, from 0.
    - `muted` is true in a rebuild for events that the active version has handled: do not act outside.
    """

    __slots__ = ("commit", "index", "muted")

    def __init__(self, commit: Commit, index: int, muted: bool) -> None:
        self.commit, self.index, self.muted = commit, index, muted

    @property
    def stream(self) -> str:
        return self.commit.stream

    @property
    def id(self) -> str:
        """The event id, as `account-a-1@7.0`. It is the same in every attempt, so use it as an idempotency key."""
        return str(EventId(self.commit.stream, self.commit.version, self.index))

    @property
    def at(self) -> datetime:
        """When the event was stored, in UTC, by the writer's clock."""
        return self.commit.at


class PositionMoved(Exception):
    """The stream's position is not where the slice begins: another process has handled it. Nothing was changed."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.stream = stream


class HandlerFailed(Exception):
    """A handler failed. `error` is what it raised, or why its event could not be read."""

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        self.error = error
