"""The live campaign in its short form, and that it would notice if the library were broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from campaigns.live import campaign
from campaigns.mutants import broken, no_condition, own_commit_taken_for_a_conflict


async def test_nothing_is_lost_and_nothing_stored_twice(dynamodb_endpoint: str) -> None:
    layer = await campaign(600, 1, dynamodb_endpoint)
    assert not layer.violations, "\n".join(layer.violations)
    assert (layer.lost, layer.duplicated) == (0, 0)
    assert layer.operations >= 600
    assert layer.faults > 20
    assert layer.acknowledged > 100


@pytest.mark.parametrize("mutant", [no_condition, own_commit_taken_for_a_conflict])
async def test_a_broken_library_is_noticed(dynamodb_endpoint: str, mutant: Callable[[], Any]) -> None:
    with broken(mutant):
        assert (await campaign(100, 2, dynamodb_endpoint, rate=0.1)).violations
