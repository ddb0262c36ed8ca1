"""Following another version: in a rebuild, only what that version has handled is handled, muted."""

from __future__ import annotations

from collections.abc import Sequence

from ..stream_id import category_of
from .checkpoints.registry import Registration
from .projections.projection import Projection
from .slice import Slice


class Following:
    """Cuts slices at the position of the version that is followed, if there is one."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self._name: str | None = None
        self._handles: frozenset[str] = frozenset()
        self._categories: tuple[str, ...] = ()
        self.held_back: set[str] = set()  # streams with commits that the followed version has not handled

    @property
    def is_on(self) -> bool:
        return self._name is not None

    def start(self, name: str, registration: Registration | None) -> None:
        """Follow the version of this name."""
        self._name = name
        self._handles = frozenset(registration.handles if registration else ())
        self._categories = registration.categories if registration else ()

    def stop(self) -> None:
        self._name = None

    async def split(self, runs: Sequence[Slice]) -> Sequence[Slice]:
        """Return what is to be handled now. Commits that the followed version has not handled are held back.

        Commits after its position that none of its handlers take, or of other categories than its own, count as handled
        by it: it has ignored them, or will.
        """
        if self._name is None:
            return runs
        theirs = await self._projection.positions_of(self._name, [run.stream for run in runs])
        found: list[Slice] = []
        for run in runs:
            position = theirs.get(run.stream)
            count = self._count(run, position.version if position is not None else 0)
            if count < len(run.commits):
                self.held_back.add(run.stream)
            if count:
                found.append(run.part(0, count)._replace(muted=True))
        return found

    def _count(self, run: Slice, position: int) -> int:
        """Return how many commits of the slice the followed version has handled or ignored."""
        if self._categories and category_of(run.stream) not in self._categories:
            return len(run.commits)
        for count, commit in enumerate(run.commits):
            if commit.version > position and (not self._handles or not self._handles.isdisjoint(commit.tags)):
                return count
        return len(run.commits)
