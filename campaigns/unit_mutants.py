"""Ways to break the read side that no campaign detects within a few hundred histories, but a unit test does.

`python -m campaigns.unit_mutants` applies each of them, runs that test, and prints whether it fails.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from eventsrc.processing.checkpointer import Checkpointer
from eventsrc.processing.checkpoints.sqlite import checkpoints as sqlite_checkpoints
from eventsrc.processing.projections import memory, sqlite
from eventsrc.processing.retries import Retries
from eventsrc.processing.worker import Worker

from .mutants import Patch, broken
from .reading_mutants import (
    _REBUILD,
    edited,
    killed_rebuild_not_noticed,
    release_without_a_second_look,
    slot_not_confirmed,
    switch_that_does_not_wait,
)

_TESTS = Path(__file__).parents[1] / "tests" / "unit" / "processing"


def parking_without_the_fence() -> list[Patch]:
    """A worker whose slot was taken over still stores a stream as parked."""
    return [edited(sqlite_checkpoints.SQLiteCheckpoints, "park", ("check_fence(db, processor, fence)", "pass"))]


def forget_that_deletes_slots() -> list[Patch]:
    """No tombstones are left, so a worker that still runs is not fenced."""
    mutant = edited(
        sqlite_checkpoints,
        "forget",
        ("db.executemany(", "[None for _ in ("),
        ('number = ?", rows)', 'number = ?", rows)]'),
        ('("registrations",', '("slots", "registrations",'),
    )
    return [mutant, (sqlite, "forget", mutant[2])]


def end_of_a_run_that_waits_for_nobody() -> list[Patch]:
    """A run to the end of the feed ends although streams are aside."""

    async def mutant(*_: object) -> bool:
        return True

    return [(Worker, "_drain", mutant)]


def checkpoint_that_waits_for_retries() -> list[Patch]:
    """The checkpoint does not advance while a stream is retried."""
    return [edited(Checkpointer, "save", ("if any(", "if self._catch_up.entries or any("))]


def commits_grouped_by_stream() -> list[Patch]:
    """The handlers see the commits of a batch one stream after the other."""
    return [edited(module, "in_order", ('if order == "feed"', "if False")) for module in (memory, sqlite)]


def no_backing_off() -> list[Patch]:
    """Streams are parked although no handler succeeds."""
    return [(Retries, "is_backing_off", property(lambda _: False))]


def activation_without_a_look_at_the_slots() -> list[Patch]:
    """A rebuild that was stopped for long switches although the old version has taken its slots back."""
    return [edited(_REBUILD._Rebuild, "run", ("await checkpoints.save(old, slot)", "pass"))]


MUTANTS: Sequence[tuple[Callable[[], list[Patch]], str]] = (
    (
        parking_without_the_fence,
        "test_fences.py::test_a_paused_worker_does_not_park_a_stream_that_its_successor_handles",
    ),
    (slot_not_confirmed, "test_fences.py::test_after_a_takeover_each_effect_is_had_once"),
    (forget_that_deletes_slots, "test_fences.py::test_forget_fences_a_worker_that_still_runs"),
    (end_of_a_run_that_waits_for_nobody, "test_rebuild.py::test_a_run_until_caught_up_waits_for_slow_handlers"),
    (checkpoint_that_waits_for_retries, "test_advancing.py::test_the_checkpoint_advances_while_a_stream_is_retried"),
    (commits_grouped_by_stream, "test_order.py::test_handlers_are_called_in_the_order_of_the_feed"),
    (no_backing_off, "test_backing_off.py::test_an_outage_of_what_all_handlers_call_parks_nothing"),
    (
        release_without_a_second_look,
        "test_releasing.py::test_a_commit_delivered_while_a_stream_is_released_is_handled",
    ),
    (
        activation_without_a_look_at_the_slots,
        "test_rebuild.py::test_a_rebuild_that_was_stopped_in_its_switch_doubles_no_effect_when_it_continues",
    ),
    (switch_that_does_not_wait, "test_rebuild.py::test_the_old_version_begins_no_act_after_the_new_one"),
    (
        killed_rebuild_not_noticed,
        "test_rebuild.py::test_if_a_rebuild_is_killed_in_its_switch_the_old_version_continues",
    ),
)


def outcomes() -> Iterator[tuple[str, str, str]]:
    """Yield the name of each mutant, the test that is to fail, and what was printed if it does not."""
    for mutant, test in MUTANTS:
        printed = io.StringIO()
        with broken(mutant), redirect_stdout(printed), redirect_stderr(printed):
            code = pytest.main(["-x", "-p", "no:cacheprovider", "-p", "no:randomly", str(_TESTS / test)])
        yield mutant.__name__, test, "" if code == pytest.ExitCode.TESTS_FAILED else printed.getvalue() or str(code)


def main() -> int:
    passed = 0
    for name, test, printed in outcomes():
        print(f"{name}: {test} {'does not fail' if printed else 'fails, as it should'}\n{printed}", flush=True)
        passed += bool(printed)
    return min(passed, 1)


if __name__ == "__main__":
    sys.exit(main())
