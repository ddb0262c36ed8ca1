"""The positions of streams: what was handled last, and where a stream begins for a processor that started "now"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import aclosing, suppress
from typing import NamedTuple

from ..concurrency import load_all
from ..errors import StoreChanged, StoredDataError
from ..store import MAX_VERSION, Commit, Store
from .assignment import Assignment
from .checkpoints.registry import Registration
from .progress import Progress
from .projections.projection import Projection
from .slice import Position, Slice

CLOCK_SKEW = 15 * 60 * 1_000_000
"""µs by which the clocks of writers may be slow, where only a commit's time says whether it is older than the start."""

_MAX_POSITIONS = 200_000  # kept in memory
_CHECKS = 16  # positions that are compared with the store at once


class Known(NamedTuple):
    """How far a stream is handled."""

    version: int  # handled last, or where the stream begins
    stored: Position | None = None  # None if no position is stored
    end: int = 0  # of a stream that begins: its newest version, if the feed may have delivered that before the start

    @property
    def is_first(self) -> bool:
        """Whether the next position of the stream is its first one."""
        return self.stored is None


class Positions:
    """The positions of streams in memory, read from the projection when they are needed.

    They may be forgotten at any await, so use what `load` returns.
    """

    def __init__(self, projection: Projection, assignment: Assignment, store: Store, progress: Progress) -> None:
        self._projection, self._assignment, self._store, self._progress = projection, assignment, store, progress
        self._known: dict[str, Known] = {}
        self.unchecked: set[str] = set()  # streams whose positions were read, and not compared with the store
        self._in_part: dict[str, int] = {}  # where slices began that were not handled to their ends
        self._loads: dict[int, set[str]] = {}  # for each load on its way, the streams that have moved since it began

    async def load(self, streams: Iterable[str]) -> dict[str, Known]:
        """Return the positions of these streams, from memory or else as they are stored."""
        streams = list(streams)
        known = {stream: self._known[stream] for stream in streams if stream in self._known}
        if len(known) == len(streams):
            return known
        unknown = [stream for stream in streams if stream not in known]
        moved = set[str]()
        self._loads[id(moved)] = moved
        try:
            found = await self._projection.positions(unknown)
            for stream in unknown:
                position = found.get(stream)
                known[stream] = Known(position.version, position) if position is not None else await self.start(stream)
                if (before := self._in_part.pop(stream, None)) is not None:
                    self._progress.commits += max(0, known[stream].version - before)
        finally:
            del self._loads[id(moved)]
        if len(self._known) + len(unknown) > _MAX_POSITIONS:
            self.clear()
        if not self._assignment.feed.ordered:  # a checkpoint of these holds the id of the commit that it stands at
            self.unchecked |= {stream for stream, position in found.items() if position.id}
        self._known |= {stream: known[stream] for stream in unknown if stream not in moved}
        return known

    async def read(self, stream: str) -> Known:
        """Return the position of a stream as it is stored now, as another process may have moved it."""
        self.forget(stream)
        return (await self.load([stream]))[stream]

    async def start(self, stream: str) -> Known:
        """Return the version after which a stream begins that has no position: 0, or its last one before the start.

        On ordered feeds the position of the start decides. Elsewhere the commit's time does, and commits of the last
        CLOCK_SKEW before the start are handled, too, as the clock of their writer may have been slow. As the feed may
        have delivered later ones of them before the start, the stream is handled up to its `end`.
        """
        registration = await self._assignment.registrar.current()
        if registration.started <= 0:  # it began at the beginning, or has not begun
            return Known(0)
        until = MAX_VERSION
        while True:
            try:
                return await self._find_start(stream, until, registration)
            except StoredDataError as error:  # a commit that nobody can read may be of after the start
                if not error.version:
                    return Known(0)
                until = error.version - 1

    async def _find_start(self, stream: str, until: int, registration: Registration) -> Known:
        end = 0
        place = int(registration.start.partition(".")[0] or 0) if self._assignment.feed.ordered else 0
        earliest = registration.started - CLOCK_SKEW
        async with aclosing(self._store.read(stream, until=until, backward=True)) as commits:
            async for commit in commits:
                if self._assignment.feed.ordered and commit.position is not None:
                    if commit.position <= place:
                        return Known(commit.version)
                elif commit.time < earliest:
                    return Known(commit.version, end=end)
                else:
                    end = end or commit.version
        return Known(0, end=end)

    async def check_stored(self, known: Mapping[str, Known]) -> None:
        """Check that the store still holds the commits at these positions, before commits after them are handled.

        It is one read of one commit for each position that was read from the checkpoints.

        Raises:
            StoreChanged: the store holds another commit there.
            StoreError: it cannot be read.
        """
        unchecked = {stream: each for stream, each in known.items() if stream in self.unchecked}

        async def check(stream: str) -> None:
            version = unchecked[stream].version
            with suppress(StoredDataError):  # it was handled, and is damaged since
                self.check(
                    unchecked[stream], [c async for c in self._store.read(stream, after=version - 1, until=version)]
                )
            self.unchecked.discard(stream)

        await load_all(check, unchecked, _CHECKS)

    def check_known(self, commits: Iterable[Commit]) -> None:
        """Check commits whose streams have positions in memory. Raises StoreChanged."""
        for commit in commits:
            if (known := self._known.get(commit.stream)) is not None:
                self.check(known, [commit])

    def check(self, known: Known, commits: Iterable[Commit]) -> None:
        """Check that commits of a stream are of the history that was handled.

        Raises:
            StoreChanged: the store holds another commit in the place of a handled one.
        """
        for commit in commits:
            if known.stored is not None and known.stored.contradicts(commit):
                raise StoreChanged(
                    self._assignment.name,
                    f"{commit.stream} has another commit at version {commit.version} than the history that was handled",
                )

    def moved(self, run: Slice) -> None:
        """Note that a slice was handled."""
        self.unchecked.discard(run.stream)
        self._known[run.stream] = Known(run.last_version, run.position)
        self._note([run.stream])

    def handled_in_part(self, run: Slice) -> None:
        """Note that a slice was not handled to its end, so that its position is read again."""
        self.forget(run.stream)
        self._in_part[run.stream] = run.after

    def forget(self, stream: str) -> None:
        """Forget a position that may have moved, so that it is read again."""
        self._known.pop(stream, None)
        self.unchecked.discard(stream)
        self._note([stream])

    def _note(self, streams: Iterable[str]) -> None:
        for moved in self._loads.values():
            moved.update(streams)

    def clear(self) -> None:
        """Forget all positions."""
        self._known.clear()
        self.unchecked.clear()
