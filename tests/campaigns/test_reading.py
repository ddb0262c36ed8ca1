"""The campaign of the read side in its short form, that it replays, and that it would notice a broken library."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaigns import PYTHONPATH, unit_mutants, workers
from campaigns.reading import campaign, silence, tell
from campaigns.reading_mutants import (
    READING,
    checkpoint_of_another_slot,
    fence_not_checked,
    gap_not_read,
    hunt,
    position_before_the_effect,
)

# Mutants, each with a seed that detects it. If what a seed means has changed, one of the next seeds must detect it.
DETECTED = {
    gap_not_read: 1000,
    position_before_the_effect: 1000,
    fence_not_checked: 1029,
    checkpoint_of_another_slot: 1000,
}


def test_each_commit_is_handled_once_and_in_order() -> None:
    layer = campaign(range(20))
    assert not layer.violations, "\n".join(layer.violations)
    assert (layer.lost, layer.duplicated) == (0, 0)
    assert layer.acknowledged > 1_000
    assert layer.faults > 2_500


def test_workers_that_are_killed_frozen_or_stopped_handle_each_commit_once(tmp_path: Path) -> None:
    layer = workers.campaign(4, 3, tmp_path)
    assert not layer.violations, "\n".join(layer.violations)
    assert (layer.lost, layer.duplicated) == (0, 0)
    assert layer.acknowledged > 500


def fingerprint(seed: int, folder: str) -> str:
    """Of all that happened under a seed."""
    with silence():
        return str(tell(seed, Path(folder)))


def test_a_seed_replays_exactly_in_another_process(tmp_path: Path) -> None:
    code = "import sys; from tests.campaigns.test_reading import fingerprint; print(fingerprint(9, sys.argv[1]))"
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
    for mutant in (*READING, *(mutant for mutant, _ in unit_mutants.MUTANTS)):
        assert mutant(), mutant.__doc__
