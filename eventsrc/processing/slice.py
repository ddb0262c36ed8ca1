"""What a projection receives: a slice of one stream's commits. What a handler receives: the context of its event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from ..store import Commit, EventIndex


class Fence(NamedTuple):
    """The slot that a worker holds, and its epoch. Each write of a position carries it; a stale one is refused."""

    slot: int
    epoch: int


class Position(NamedTuple):
    """The commit of a stream that was handled last. Its id and time distinguish it from a commit of another history."""

    version: int
    id: bytes = b""  # b"" if it is not known: the commit was skipped
    time: int = 0  # µs since the epoch; 0 if it is not known

    def contradicts(self, commit: Commit) -> bool:
        """Whether the commit, which is in the store, cannot be of the history in which this one was handled.

        Times never decrease within a stream, so an older version with a later time was written after a restore.
        """
        if commit.version == self.version:
            return bool(self.id) and commit.id != self.id
        return commit.version < self.version and bool(self.time) and commit.time > self.time


async def _is_confirmed() -> None:
    """Confirm a slot that nobody else can claim."""


class Slice(NamedTuple):
    """Commits of one stream that follow version `after`, without gaps.

    Their effect and the new position are stored together, or neither is.
    """

    stream: str
    after: int
    commits: Sequence[Commit]
    fence: Fence
    muted: bool = False  # another version of the processor has handled these: no outside effects
    is_first: bool = False  # no position of the stream is stored; otherwise the stored version must be `after`
    attempt: int = 1  # at the first commit
    confirm: Callable[[], Awaitable[None]] = _is_confirmed
    """Await it before each act outside. Raises Fenced if a check younger than the bound shows that the slot is lost."""

    @property
    def last_version(self) -> int:
        """The version of the last commit: the position after this slice."""
        return self.commits[-1].version

    @property
    def position(self) -> Position:
        """The position after this slice."""
        last = self.commits[-1]
        return Position(last.version, last.id, last.time)

    def attempt_at(self, commit: Commit) -> int:
        """Return the number of this attempt at a commit of the slice."""
        return self.attempt if commit is self.commits[0] else 1

    def part(self, start: int, end: int) -> Slice:
        """Return the slice of the commits with these indexes."""
        after = self.commits[start - 1].version if start else self.after
        is_first, attempt = self.is_first and not start, 1 if start else self.attempt
        return self._replace(after=after, commits=self.commits[start:end], is_first=is_first, attempt=attempt)


class Context:
    """Facts about the event that a handler receives; for a sequence of events, about the last one.

    - `commit` is the commit that holds the event, and `index` the event's place in it, from 0. The events into which
      upcasters turn one stored event have its index, and are its `part` 0, 1 and so on.
    - `muted` is true in a rebuild for events that the active version has handled: do not act outside.
    """

    __slots__ = ("_index", "commit", "muted")

    def __init__(self, commit: Commit, index: EventIndex, muted: bool) -> None:
        self.commit, self._index, self.muted = commit, index, muted

    @property
    def index(self) -> int:
        return self.commit.event_id(self._index).index

    @property
    def part(self) -> int:
        return self.commit.event_id(self._index).part

    @property
    def stream(self) -> str:
        return self.commit.stream

    @property
    def id(self) -> str:
        """The event id, as `account-a-1@7.0`, or `account-a-1@7.0.1` for part 1.

        It is the same in every attempt, and no other event has it, so use it as an idempotency key.
        """
        return str(self.commit.event_id(self._index))

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
    """A handler failed. `error` is what it raised, or why its event could not be read.

    If `is_outage`, something that the handler needs cannot be reached: it is called again until it can.
    """

    def __init__(self, error: Exception, *, is_outage: bool = False) -> None:
        super().__init__(type(error).__name__)
        self.error, self.is_outage = error, is_outage
