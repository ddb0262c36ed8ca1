"""The positions of streams: what was handled last, and where a stream begins for a processor that started "now"."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing

from ..errors import StoreChanged
from ..store import Commit, Store
from .assignment import Assignment
from .projections.projection import Projection
from .slice import Position, Slice

CLOCK_SKEW = 15 * 60 * 1_000_000
"""µs by which the clocks of writers may be slow, where only a commit's time says whether it is older than the start."""

_MAX_POSITIONS = 200_000  # kept in memory


class Positions:
    """The positions of streams in memory, read from the projection when they are needed."""

    def __init__(self, projection: Projection, assignment: Assignment, store: Store) -> None:
        self._projection, self._assignment, self._store = projection, assignment, store
        self.versions: dict[str, int] = {}  # the version handled last, or where the stream begins
        self._stored: dict[str, Position | None] = {}

    async def load(self, streams: Iterable[str]) -> None:
        """Load the positions of these streams into memory."""
        unknown = [stream for stream in streams if stream not in self.versions]
        if not unknown:
            return
        if len(self.versions) + len(unknown) > _MAX_POSITIONS:
            self.clear()
        found = await self._projection.positions(unknown)
        for stream in unknown:
            position = found.get(stream)
            self._stored[stream] = position
            self.versions[stream] = position.version if position is not None else await self.start(stream)

    async def read(self, stream: str) -> int:
        """Read the position of a stream again, as another process may have moved it, and return its version."""
        self.forget(stream)
        await self.load([stream])
        return self.versions[stream]

    async def start(self, stream: str) -> int:
        """Return the version after which a stream begins that has no position: 0, or its last one before the start.

        On ordered feeds the position of the start decides. Elsewhere the commit's time does, and commits of the last
        CLOCK_SKEW before the start are handled, too, as the clock of their writer may have been slow.
        """
        registration = self._assignment.registration or await self._assignment.register()
        if not registration.started:
            return 0
        place = int(registration.start.partition(".")[0] or 0) if self._assignment.feed.ordered else 0
        earliest = registration.started - CLOCK_SKEW
        async with aclosing(self._store.read(stream, backward=True)) as commits:
            async for commit in commits:
                if self._assignment.feed.ordered and commit.position is not None:
                    if commit.position <= place:
                        return commit.version
                elif commit.time < earliest:
                    return commit.version
        return 0

    def is_first(self, stream: str) -> bool:
        """Whether no position of this stream is stored."""
        return self._stored.get(stream) is None

    def check(self, commits: Iterable[Commit]) -> None:
        """Check that commits of one stream, whose position is loaded, are of the history that was handled.

        Raises:
            StoreChanged: the store holds another commit in the place of a handled one.
        """
        for commit in commits:
            position = self._stored.get(commit.stream)
            if position is not None and position.contradicts(commit):
                raise StoreChanged(
                    self._assignment.name,
                    f"{commit.stream} has another commit at version {commit.version} than the history that was handled",
                )

    def moved(self, run: Slice) -> None:
        """Note that a slice was handled."""
        self.versions[run.stream], self._stored[run.stream] = run.last_version, run.position

    def forget(self, stream: str) -> None:
        """Forget a position that may have moved, so that it is read again."""
        self.versions.pop(stream, None)
        self._stored.pop(stream, None)

    def clear(self) -> None:
        self.versions.clear()
        self._stored.clear()
