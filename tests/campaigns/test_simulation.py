"""The simulation in its short form, that it replays, and that it would notice if the library were broken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec
import pytest

from campaigns import PYTHONPATH
from campaigns.mutants import MUTANTS, hunt, unconditional_snapshot, unknown_forgotten_by_the_repository
from campaigns.simulation import campaign, simulate

# Most mutants are detected by seed 1000 or the next one. For the others, begin with a seed that detects them.
FIRST = {unconditional_snapshot: 1005, unknown_forgotten_by_the_repository: 1032}


def fingerprint(seed: int) -> str:
    """Of all that happened under a seed."""
    result = simulate(seed)
    return blake2b(msgspec.msgpack.encode((result.history.operations, result.faults)), digest_size=8).hexdigest()


def test_nothing_is_lost_and_nothing_stored_twice() -> None:
    layer = campaign(range(60))
    assert not layer.violations, "\n".join(layer.violations)
    assert (layer.lost, layer.duplicated) == (0, 0)
    assert layer.operations > 10_000
    assert layer.faults > 7_500
    assert layer.acknowledged > 3_000


def test_a_seed_replays_exactly_in_another_process() -> None:
    code = "from tests.campaigns.test_simulation import fingerprint; print(fingerprint(7))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONHASHSEED": hashing},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for hashing in ("1", "2")
    }
    assert seen == {fingerprint(7)} != {fingerprint(8)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_every_mutant_is_noticed(mutant: Callable[[], Any], record_property: Callable[[str, object], None]) -> None:
    first = FIRST.get(mutant, 1000)
    verdict = hunt(mutant, range(first, first + 300))
    assert verdict.seeds is not None, f"300 seeds, and nobody noticed: {mutant.__doc__}"
    record_property("seeds", verdict.seeds)
    assert not simulate(first - 1 + verdict.seeds).findings.violations  # it was the mutant, not the seed
