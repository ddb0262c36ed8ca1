"""The lag of a pipeline, while it reads on, reads again, or reads for other slots."""

from __future__ import annotations

import time

import pytest
from msgspec.structs import replace
from support.maps import caused

from eventsrc.processing.progress import Progress
from eventsrc.stores.feed import Batch

HOUR = 3600.0


def batch(*ages: float, caught_up: bool) -> Batch:
    """Return a batch of commits that were stored so many seconds ago."""
    now = time.time() * 1e6
    commits = [replace(caused(f"a-{number}@1"), time=round(now - age * 1e6)) for number, age in enumerate(ages)]
    return Batch(commits, "checkpoint", caught_up=caught_up)


def caught_up() -> Progress:
    progress = Progress()
    handle(progress, batch(3 * HOUR, caught_up=True))
    assert progress.lag == 0
    return progress


def handle(progress: Progress, each: Batch) -> None:
    progress.delivered(each)
    progress.batch_done(each)
    progress.update(0)


def test_it_catches_up_from_old_commits() -> None:
    progress = Progress()
    progress.delivered(batch(3 * HOUR, 2 * HOUR, caught_up=False))
    assert progress.lag == pytest.approx(3 * HOUR, abs=60)
    progress.batch_done(batch(3 * HOUR, 2 * HOUR, caught_up=False))
    assert progress.lag == pytest.approx(2 * HOUR, abs=60)


def test_what_was_handled_before_is_no_lag_when_it_is_read_again() -> None:
    """As when another processor, which lags far, shares the reader again."""
    progress = caught_up()
    progress.restart()
    assert not progress.caught_up.is_set()
    progress.delivered(batch(HOUR, caught_up=False))
    assert progress.lag < 60
    progress.batch_done(batch(HOUR, caught_up=False))
    assert progress.lag < 60


def test_old_commits_of_other_slots_are_a_lag() -> None:
    progress = caught_up()
    progress.restart_elsewhere()
    progress.delivered(batch(2 * HOUR, caught_up=False))
    assert progress.lag == pytest.approx(2 * HOUR, abs=60)
    progress.batch_done(batch(2 * HOUR, caught_up=False))
    assert progress.lag == pytest.approx(2 * HOUR, abs=60)
    handle(progress, batch(HOUR, caught_up=True))
    assert progress.lag == 0
