"""The campaign of restored and exchanged stores, in its short form."""

from __future__ import annotations

from campaigns.restoring import campaign


def test_a_store_that_was_restored_or_exchanged_is_noticed_before_anything_is_handled() -> None:
    layer = campaign(range(70))
    assert not layer.violations, "\n".join(layer.violations)
    assert layer.faults > 40
    assert layer.kinds["noticed"] > 25
    assert layer.kinds["nothing"] > 15
