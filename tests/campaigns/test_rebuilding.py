"""The campaign of rebuilds, in its short form."""

from __future__ import annotations

from campaigns.rebuilding import campaign


def test_rebuilds_that_end_at_any_moment_lose_and_double_nothing() -> None:
    layer = campaign(range(20))
    assert not layer.violations, "\n".join(layer.violations)
    assert (layer.lost, layer.duplicated) == (0, 0)
    assert layer.acknowledged > 700
    assert layer.kinds["rebuild killed"] > 5
    assert layer.kinds["rebuild failed"] > 2
    assert layer.kinds["another store"] > 1
