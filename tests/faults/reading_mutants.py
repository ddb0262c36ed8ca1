"""Ways to break the read side, each of which its campaign must notice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from msgspec import structs

from eventsrc import Commit
from eventsrc.gate import Gate
from eventsrc.processor import Effects, Processor, leases, sqlite_checkpoints
from eventsrc.processor.run import Run

from .mutants import Patch, Verdict, broken
from .reading import silence, tell


def gap_not_read() -> list[Patch]:
    """What is beyond the next version is handled without what comes before it."""

    async def mutant(self: Gate, hint: Commit, seen: int) -> Sequence[Commit]:
        return []

    return [(Gate, "_missing", mutant)]


def position_before_the_effect() -> list[Patch]:
    """A worker that is killed in between has passed over a commit."""

    async def mutant(self: Effects, run: Run) -> None:
        for commit in run.commits:
            await self._checkpoints.advance(self.name, run._replace(after=commit.version - 1, commits=(commit,)))
            await self._call(commit)

    return [(Effects, "_handle", mutant)]


def checkpoint_beyond_what_is_aside() -> list[Patch]:
    """What is tried again is forgotten when its worker is killed."""

    async def mutant(self: Processor[Any]) -> None:
        await self.write()

    return [(Processor, "save", mutant)]


def fence_not_checked() -> list[Patch]:
    """Who was taken for dead goes on writing."""
    return [(sqlite_checkpoints, "_check_fence", lambda db, processor, fence: None)]


def position_not_compared() -> list[Patch]:
    """A position is set wherever it was."""
    advance = sqlite_checkpoints._ADVANCE
    return [(sqlite_checkpoints, "_ADVANCE", advance.replace("WHERE version = ?", "WHERE ? >= 0"))]


def checkpoint_of_another_slot() -> list[Patch]:
    """Who takes over begins where it was itself."""
    take = Processor.take

    async def mutant(self: Processor[Any], seen: Any, owner: str = "") -> None:
        await take(self, structs.replace(seen, checkpoint=max(seen.checkpoint, self.checkpoint, key=len)), owner)

    return [(Processor, "take", mutant), (Processor, "changed", lambda self: self._positions.clear())]


def worker_that_cannot_beat_goes_on() -> list[Patch]:
    """It learns by its writes only that others have its streams."""
    return [(leases, "_MARGIN", 1_000.0)]


READING: Sequence[Callable[[], list[Patch]]] = (
    gap_not_read,
    position_before_the_effect,
    checkpoint_beyond_what_is_aside,
    fence_not_checked,
    position_not_compared,
    checkpoint_of_another_slot,
    worker_that_cannot_beat_goes_on,
)


def hunt(mutant: Callable[[], list[Patch]], seeds: Sequence[int]) -> Verdict:
    """The first of these seeds in which the campaign notices the mutant."""
    with broken(mutant), TemporaryDirectory() as folder, silence():
        for tried, seed in enumerate(seeds, 1):
            if violations := tell(seed, Path(folder)).violations:
                return Verdict(mutant.__name__, tried, f"seed {seed}: {violations[0]}")
    return Verdict(mutant.__name__, None, "")
