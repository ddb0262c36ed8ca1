"""The contract of timers, and the kind that goes with checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from zlib import crc32

import msgspec

from ...processing.checkpoints.checkpoints import Checkpoints


class Due(msgspec.Struct, frozen=True, order=True):
    """A pending timer of a process. They are ordered by time."""

    due: int  # µs since the epoch
    stream: str  # of the process
    number: int
    name: str = ""
    cause: str = ""  # the id of the event that has started it
    correlation_id: str = ""


class Timers(ABC):
    """The pending timers of processes, by the name of a processor, in parts by the hash of their streams.

    They can be built again from the events of the processes: each write may be done twice.
    """

    parts: int

    async def prepare(self) -> None:  # noqa: B027  # some need nothing
        """Create what is needed, if it does not exist."""

    @abstractmethod
    async def put(self, processor: str, timer: Due) -> None:
        """Store a timer."""

    @abstractmethod
    async def remove(self, processor: str, timer: Due) -> None:
        """Remove a timer, if it is stored: time, stream and number say which."""

    @abstractmethod
    async def first(self, processor: str, part: int, limit: int, after: Due | None = None) -> Sequence[Due]:
        """Return the timers of a part that are due first, in their order, whether they are due already or not.

        - Fewer than `limit` are returned only if there are no more.
        - `after` is a timer that was returned, and may be removed since: those that follow it are returned.
        """

    @abstractmethod
    async def count(self, processor: str) -> int:
        """Return the number of pending timers. It may cost a read of all of them."""

    def part_of(self, stream: str) -> int:
        """Return the part of a stream."""
        return crc32(stream.encode()) % self.parts


def timers_in(checkpoints: Checkpoints) -> Timers:
    """Return timers that are kept in the file, the table or the memory of these checkpoints.

    Raises TypeError for checkpoints of another kind.
    """
    from ...processing.checkpoints.memory import MemoryCheckpoints
    from ...processing.checkpoints.sqlite.checkpoints import SQLiteCheckpoints

    if isinstance(checkpoints, MemoryCheckpoints):
        from .memory import MemoryTimers

        return MemoryTimers.of(checkpoints)
    if isinstance(checkpoints, SQLiteCheckpoints):
        from .sqlite import SQLiteTimers

        return SQLiteTimers(checkpoints)
    from ...processing.checkpoints.dynamodb.checkpoints import DynamoDBCheckpoints

    if isinstance(checkpoints, DynamoDBCheckpoints):
        from .dynamodb import DynamoDBTimers

        return DynamoDBTimers(checkpoints)
    raise TypeError(
        f"{type(checkpoints).__qualname__} has no timers of its own; give ProcessManager(timers=...) an object of a "
        "subclass of Timers"
    )
