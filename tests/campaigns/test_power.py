"""A short campaign of power cuts; the long one is in `make faults`."""

from __future__ import annotations

from campaigns.power import campaign

CUTS = 100


def test_power_cuts_lose_nothing_that_was_acknowledged() -> None:
    found = campaign(CUTS, seed=1)
    assert not found.violations
    assert (found.lost, found.duplicated) == (0, 0)
    assert found.acknowledged > 10 * CUTS


def test_the_campaign_sees_what_weaker_syncing_loses() -> None:
    found = campaign(CUTS, seed=1, synchronous="NORMAL")
    assert found.lost > CUTS
    assert found.violations
