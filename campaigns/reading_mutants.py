"""Ways to break the read side, each of which one of its campaigns must detect."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent
from typing import Any

from eventsrc.processing import Effects, leases, worker
from eventsrc.processing.assignment import Assignment
from eventsrc.processing.checkpointer import Checkpointer
from eventsrc.processing.checkpoints.sqlite import checkpoints as sqlite_checkpoints
from eventsrc.processing.checkpoints.sqlite import positions as sqlite_positions
from eventsrc.processing.following import Following
from eventsrc.processing.parking import Parking
from eventsrc.processing.positions import Known, Positions
from eventsrc.processing.registrar import Registrar
from eventsrc.processing.releasing import Releasing
from eventsrc.processing.retries import Retries
from eventsrc.stores import ordered
from eventsrc.stores.gate import Gate

from . import reading, rebuilding, restoring
from .mutants import Patch, Verdict, broken
from .progress import report
from .reading import silence

REBUILD: Any = importlib.import_module("eventsrc.processing.rebuild")  # the package exports a function of this name

Tell = Callable[[int, Path], Any]


def edited(owner: Any, name: str, *changes: tuple[str, str]) -> Patch:
    """Return a patch of a function in whose source each of these texts is replaced by another.

    Raises:
        ValueError: the source does not have a text.
    """
    function: Any = inspect.getattr_static(owner, name)
    source = dedent(inspect.getsource(function))
    for old, new in changes:
        if old not in source:
            raise ValueError(f"{function.__qualname__} has changed: {old!r} is not in it, so this mutant is void")
        source = source.replace(old, new)
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    found: dict[str, Any] = {}
    exec(compile(f"from __future__ import annotations\n{source}", "mutant", "exec"), function.__globals__, found)
    return owner, name, found[name]


async def _nothing(*_: Any, **__: Any) -> None: ...


def gap_not_read() -> list[Patch]:
    """A commit after a gap is handled without the commits in the gap."""

    async def mutant(*_: Any) -> Sequence[Any]:
        return []

    return [(Gate, "_missing", mutant)]


def position_before_the_effect() -> list[Patch]:
    """The position is written before the effect, so a worker that is killed in between skips a commit."""
    advance = "        await self._checkpoints.advance(self.name, run.part(index, index + 1))\n"
    loop = "for index, commit in enumerate(run.commits):\n"
    return [edited(Effects, "_handle", (advance, ""), (loop, loop + advance))]


def checkpoint_beyond_what_is_aside() -> list[Patch]:
    """The checkpoint moves beyond streams that are aside, but they are not stored, so a kill loses their commits."""
    return [(Checkpointer, "_store_aside", _nothing)]


def fence_not_checked() -> list[Patch]:
    """A worker that counts as dead can still write."""
    modules = (sqlite_checkpoints, sqlite_positions)
    return [(module, "check_fence", lambda db, processor, fence: None) for module in modules]


def position_not_compared() -> list[Patch]:
    """A position is written without comparing the old one."""
    update = sqlite_positions._UPDATE.replace("AND version = ?", "AND ? >= 0")
    return [(sqlite_positions, "_UPDATE", update)]


def checkpoint_of_another_slot() -> list[Patch]:
    """A new owner starts a slot at the end of the feed instead of at the slot's checkpoint."""
    return [edited(Assignment, "claim", ("seen.checkpoint or", "await self.feed.end() or"))]


def worker_that_cannot_beat_goes_on() -> list[Patch]:
    """A worker without heartbeats continues until a write is refused, and its acts are not preceded by a check."""
    return [(leases, "_MARGIN", 1_000.0), *slot_not_confirmed()]


def start_ignored() -> list[Patch]:
    """A processor with start="now" handles the history of each stream that it meets."""

    async def mutant(*_: Any) -> Known:
        return Known(0)

    return [(Positions, "start", mutant)]


def start_by_time() -> list[Patch]:
    """Where a stream begins is derived from the time of its commits, although the clock of their writer is slow."""
    by_time = ("if self._assignment.feed.ordered and commit.position is not None", "if False")
    return [edited(Positions, "_find_start", by_time, ("registration.started - CLOCK_SKEW", "registration.started"))]


def release_without_a_second_look() -> list[Patch]:
    """A released stream is not handled up to what was delivered since then, and nobody is asked to."""
    asked = "await self._put(retrying, instead_of=entry.stored)"
    return [
        edited(Parking, "release", (asked, ""), ("await self._catch_up.has_more(stream)", "False")),
        edited(Parking, "refresh", ("self.orphans[stream] = None", "pass")),
    ]


def retry_by_two() -> list[Patch]:
    """Two calls that retry a stream do not exclude each other, nor the worker that holds the slot."""

    async def mutant(*_: Any) -> bool:
        return True

    return [
        edited(Parking, "_put", ("instead_of=instead_of", "instead_of=None")),
        (Releasing, "_is_free", mutant),
    ]


def slot_not_confirmed() -> list[Patch]:
    """An act outside is not preceded by a check that the slot is still held."""
    return [(Assignment, "confirm", _nothing)]


def claim_that_does_not_wait() -> list[Patch]:
    """The new owner of a slot that was not given up acts at once, while the old one may still act."""
    return [edited(Assignment, "claim", ("now + self.former_acts", "now"))]


def orphans_left_alone() -> list[Patch]:
    """Nobody continues with streams that are stored as not handled."""
    return [(Retries, "start_orphans", lambda *_: None)]


def hanging_handler_waited_for() -> list[Patch]:
    """A handler has no time limit."""
    return [edited(Effects, "_handle", ("self._handler_timeout", "1e9"))]


def another_store_accepted() -> list[Patch]:
    """The identity of the store is not compared."""
    return [edited(Registrar, "register", ("found.store != identity", "False"))]


def anchor_not_checked() -> list[Patch]:
    """The commit at the checkpoint of the feed is not compared."""
    return [(ordered, "_check", _nothing)]


def commit_ids_not_compared() -> list[Patch]:
    """The ids of handled commits are not compared with the store's."""
    return [(Positions, "check", lambda *_: None)]


def rebuild_that_retires_first() -> list[Patch]:
    """A rebuild that fails in its switch retires the old version all the same."""
    return [edited(REBUILD, "_undo", ("_resumed if was_kept else _retired", "_retired"))]


def killed_rebuild_not_noticed() -> list[Patch]:
    """The workers of the old version wait for a rebuild that was killed in the middle of its switch."""
    return [(worker._Beats, "is_dead", lambda *_: False)]


def rebuild_that_acts() -> list[Patch]:
    """A rebuild calls the handlers of what the old version has handled, and they act."""
    return [edited(Following, "split", ("._replace(muted=True)", ""))]


def rebuild_ahead_of_the_old_version() -> list[Patch]:
    """A rebuild handles commits, muted, that the old version has not handled."""
    return [edited(Following, "_count", ("enumerate(run.commits)", "()"))]


def switch_that_does_not_wait() -> list[Patch]:
    """The new version acts at once after the switch, while the old one may still act."""
    return [edited(REBUILD, "_switching", ("await asyncio.sleep(CONFIRM_SECONDS)", "pass"))]


def rebuild_from_another_store() -> list[Patch]:
    """A rebuild follows the positions of a version that belongs to another store."""
    [patch] = another_store_accepted()
    return [patch, edited(REBUILD, "_find_old", ("registration.store != await", "not await"))]


MUTANTS: Sequence[tuple[Callable[[], list[Patch]], Tell]] = (
    (gap_not_read, reading.tell),
    (position_before_the_effect, reading.tell),
    (checkpoint_beyond_what_is_aside, reading.tell),
    (fence_not_checked, reading.tell),
    (checkpoint_of_another_slot, reading.tell),
    (start_ignored, reading.tell),
    (start_by_time, reading.tell),
    (retry_by_two, reading.tell),
    (orphans_left_alone, reading.tell),
    (hanging_handler_waited_for, reading.tell),
    (another_store_accepted, restoring.tell),
    (anchor_not_checked, restoring.tell),
    (commit_ids_not_compared, restoring.tell),
    (rebuild_that_retires_first, rebuilding.tell),
    (killed_rebuild_not_noticed, rebuilding.tell),
    (rebuild_that_acts, rebuilding.tell),
    (rebuild_ahead_of_the_old_version, rebuilding.tell),
    (rebuild_from_another_store, rebuilding.tell),
)
READING = tuple(mutant for mutant, _ in MUTANTS)


def hunt(
    mutant: Callable[[], list[Patch]],
    seeds: Sequence[int],
    known: Sequence[tuple[Callable[[], list[Patch]], Tell]] = MUTANTS,
) -> Verdict:
    """Return the first of these seeds in which a campaign detects the mutant."""
    tell = dict(known)[mutant]
    with broken(mutant), TemporaryDirectory() as folder, silence():
        for tried, seed in enumerate(seeds, 1):
            report(tried, len(seeds))
            if violations := tell(seed, Path(folder)).violations:
                return Verdict(mutant.__name__, tried, f"seed {seed}: {violations[0]}")
    return Verdict(mutant.__name__, None, "")
