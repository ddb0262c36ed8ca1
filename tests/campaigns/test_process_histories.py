"""The campaign of processes in its short form, that it replays, and that it would notice a broken library."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaigns import PYTHONPATH, processes_live
from campaigns.processes import campaign, picking_campaign, tell
from campaigns.processes_mutants import (
    PROCESSES,
    commands_searched_from_now,
    held_events_dropped,
    hunt,
    issued_version_not_stored,
    timer_fired_early,
)
from campaigns.reading import silence

# Mutants, each with a seed that detects it. If what a seed means has changed, one of the next seeds must detect it.
DETECTED = {
    commands_searched_from_now: 1027,
    issued_version_not_stored: 1000,
    held_events_dropped: 1000,
    timer_fired_early: 1000,
}


def test_each_command_is_applied_once_and_each_timer_fires_once() -> None:
    layer = campaign(range(6))
    assert not layer.violations, "\n".join(layer.violations)
    assert (layer.lost, layer.duplicated) == (0, 0)
    assert layer.acknowledged > 30
    assert layer.faults > 150


def test_each_command_of_plain_effects_is_applied_once() -> None:
    layer = picking_campaign(range(6))
    assert not layer.violations, "\n".join(layer.violations)
    assert (layer.lost, layer.duplicated) == (0, 0)
    assert layer.acknowledged > 40


def test_workers_that_are_killed_apply_each_command_once(tmp_path: Path) -> None:
    """On SQLite; `make faults` also kills workers on DynamoDB Local."""
    layer = processes_live.kills(1, 3, tmp_path, workers=2, accounts=100)
    assert not layer.violations, "\n".join(layer.violations)
    assert (layer.lost, layer.duplicated) == (0, 0)
    assert layer.acknowledged > 20


def fingerprint(seed: int, folder: str) -> str:
    """Of all that happened under a seed."""
    with silence():
        return str(tell(seed, Path(folder)))


def test_a_seed_replays_exactly_in_another_process(tmp_path: Path) -> None:
    module = "tests.campaigns.test_process_histories"
    code = f"import sys; from {module} import fingerprint; print(fingerprint(9, sys.argv[1]))"
    seen = set()
    for hashing in ("1", "2"):
        (folder := tmp_path / hashing).mkdir()
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            env={**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONHASHSEED": hashing},
            check=True,
            capture_output=True,
            text=True,
        )
        seen.add(done.stdout.strip())
    assert seen == {fingerprint(9, str(tmp_path))} != {fingerprint(10, str(tmp_path))}


@pytest.mark.parametrize("mutant", DETECTED, ids=lambda each: each.__name__)
def test_mutants_are_noticed(mutant: Callable[[], Any]) -> None:
    """Some of them; `make faults` hunts all."""
    first = DETECTED[mutant]
    assert hunt(mutant, range(first, first + 60)).seeds is not None, mutant.__doc__


def test_every_mutant_can_be_applied() -> None:
    """A mutant whose code has changed would be void."""
    for mutant in PROCESSES:
        assert mutant(), mutant.__doc__
