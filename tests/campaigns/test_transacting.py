"""Transactions under faults in the short form, that they replay, and that the campaign would notice broken ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaigns import transacting
from campaigns.mutants import broken
from campaigns.transacting import Sent, campaign, check, kills, live, simulate
from campaigns.transacting_mutants import MUTANTS, guards_not_sent, hunt
from eventsrc.testing.contract.samples import make_commit


def test_transactions_are_whole_and_serializable() -> None:
    layer = campaign(range(15))
    assert not layer.violations, "\n".join(layer.violations)
    assert (layer.lost, layer.duplicated) == (0, 0)
    assert layer.acknowledged > 400
    assert layer.faults > 400


def test_a_seed_replays() -> None:
    assert simulate(3) == simulate(3)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_every_mutant_is_noticed(mutant: Callable[[], Any]) -> None:
    verdict = hunt(mutant, range(1000, 1060))
    assert verdict.seeds is not None, f"60 seeds, and it was not noticed: {mutant.__doc__}"
    assert not simulate(999 + verdict.seeds).findings.violations  # it was the mutant, not the seed


async def test_transactions_on_dynamodb_local_are_whole_and_serializable(dynamodb_endpoint: str) -> None:
    layer = await live(120, 1, dynamodb_endpoint)
    assert not layer.violations, "\n".join(layer.violations)
    assert layer.acknowledged > 40
    assert layer.faults > 5
    with broken(guards_not_sent):
        assert (await live(150, 2, dynamodb_endpoint, rate=0.0)).violations


def test_kills_leave_whole_transactions(tmp_path: Path) -> None:
    layer = kills(4, 1, tmp_path)
    assert not layer.violations, "\n".join(layer.violations)
    assert layer.acknowledged > 40


def test_a_cycle_and_a_part_are_found() -> None:
    one, other = make_commit("a-1"), make_commit("a-2")
    skewed = [
        Sent([(one.stream, 1, one.id)], [("a-2", 0)], begin=0.0, end=1.0, outcome="stored"),
        Sent([(other.stream, 1, other.id)], [("a-1", 0)], begin=0.0, end=1.0, outcome="stored"),
    ]
    [violation] = check(skewed, {"a-1": [one], "a-2": [other]}).violations
    assert violation.startswith("not serializable")
    late = Sent([], [("a-1", 0)], begin=2.0, end=3.0, outcome="stored")  # reads the past of what had ended before
    assert not check([skewed[0]], {"a-1": [one]}).violations
    assert check([skewed[0], late], {"a-1": [one]}).violations
    both = Sent([(each.stream, 1, each.id) for each in (one, other)], [], begin=0.0)
    assert "a part of a transaction" in check([both], {"a-1": [one]}).violations[0]


def test_rows_outside_of_the_transaction_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transacting.Bank, "open", _open_without_rows)
    assert any("inline projection" in each for each in kills(3, 1, tmp_path).violations)


async def _open_without_rows(bank: transacting.Bank, store: Any, whole: Any = transacting.Bank.open) -> None:
    await whole(transacting.Bank(bank._random, "k", 1.0), store)


def test_losses_of_a_killed_process_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = transacting.Bank.check

    async def cut_short(bank: transacting.Bank, store: Any) -> Any:
        return {stream: log[:-2] for stream, log in (await whole(bank, store)).items()}

    monkeypatch.setattr(transacting.Bank, "check", cut_short)
    layer = kills(3, 1, tmp_path)
    assert layer.lost
    assert layer.violations
