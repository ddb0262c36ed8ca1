"""Ways to break the read side, each of which its campaign must detect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from msgspec import structs

from eventsrc import Commit
from eventsrc.processing import Effects, Processor, leases
from eventsrc.processing.checkpoints.sqlite import checkpoints as sqlite_checkpoints
from eventsrc.processing.checkpoints.sqlite import positions as sqlite_positions
from eventsrc.processing.slice import Slice
from eventsrc.stores.gate import Gate

from .mutants import Patch, Verdict, broken
from .progress import report
from .reading import silence, tell


def gap_not_read() -> list[Patch]:
    """A commit after a gap is handled without the commits in the gap."""

    async def mutant(self: Gate, hint: Commit, seen: int) -> Sequence[Commit]:
        return []

    return [(Gate, "_missing", mutant)]


def position_before_the_effect() -> list[Patch]:
    """The position is written before the effect, so a worker that is killed in between skips a commit."""

    async def mutant(self: Effects, run: Slice) -> None:
        for commit in run.commits:
            await self._checkpoints.advance(self.name, run._replace(after=commit.version - 1, commits=(commit,)))
            await self._call(commit)

    return [(Effects, "_handle", mutant)]


def checkpoint_beyond_what_is_aside() -> list[Patch]:
    """The checkpoint moves beyond streams that are being retried, so a kill loses their commits."""

    async def mutant(self: Processor[Any]) -> None:
        await self.write()

    return [(Processor, "save", mutant)]


def fence_not_checked() -> list[Patch]:
    """A worker that counts as dead can still write."""
    modules = (sqlite_checkpoints, sqlite_positions)
    return [(module, "check_fence", lambda db, processor, fence: None) for module in modules]


def position_not_compared() -> list[Patch]:
    """A position is written without comparing the old one."""
    update = sqlite_positions._UPDATE.replace("AND version = ?", "AND ? >= 0")
    return [(sqlite_positions, "_UPDATE", update)]


def checkpoint_of_another_slot() -> list[Patch]:
    """A new owner starts a slot at its own checkpoint instead of the slot's."""
    claim = Processor.claim

    async def mutant(self: Processor[Any], seen: Any, owner: str = "") -> None:
        await claim(self, structs.replace(seen, checkpoint=max(seen.checkpoint, self.checkpoint, key=len)), owner)

    return [(Processor, "claim", mutant), (Processor, "changed", lambda self: self._positions.clear())]


def worker_that_cannot_beat_goes_on() -> list[Patch]:
    """A worker without heartbeats continues until a write is refused."""
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
    """Return the first of these seeds in which the campaign detects the mutant."""
    with broken(mutant), TemporaryDirectory() as folder, silence():
        for tried, seed in enumerate(seeds, 1):
            report(tried, len(seeds))
            if violations := tell(seed, Path(folder)).violations:
                return Verdict(mutant.__name__, tried, f"seed {seed}: {violations[0]}")
    return Verdict(mutant.__name__, None, "")
