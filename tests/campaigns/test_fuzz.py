"""Fuzzing in its short form, and that it would notice if a decoder let anything else out."""

from __future__ import annotations

from typing import Any

import pytest

from campaigns.fuzz import campaign


def test_only_the_librarys_errors_come_out() -> None:
    layer = campaign(30_000, 1)
    assert not layer.violations, "\n".join(layer.violations[:20])
    assert layer.operations == 30_000
    assert layer.acknowledged > 3_000  # good ones among them are decoded


def test_it_replays() -> None:
    assert campaign(2_000, 7)[:6] == campaign(2_000, 7)[:6]
    assert campaign(2_000, 7)[:6] != campaign(2_000, 8)[:6]


def _unchecked(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("target", "broken"),
    [
        ("eventsrc.stores.dynamodb.items._require", _unchecked),
        ("eventsrc.stores.sqlite.pages.CorruptPayload", ArithmeticError),
        ("eventsrc.aggregates.expansion.MAX_EXPANDED", 2**40),
    ],
)
def test_a_broken_decoder_is_noticed(monkeypatch: pytest.MonkeyPatch, target: str, broken: Any) -> None:
    monkeypatch.setattr(target, broken)
    assert campaign(5_000, 1).violations
