"""The snapshot policy: when a snapshot is encoded and written, and that it is not tried too often."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventsrc import SnapshotPolicy


def test_the_default_policy_writes_in_the_background_above_one_read_unit() -> None:
    assert SnapshotPolicy() == SnapshotPolicy(ratio=1.0, floor=4096, inline=False, enabled=True)


def test_nothing_is_encoded_before_the_floor() -> None:
    policy = SnapshotPolicy(floor=4096)
    assert not policy.should_encode(4095, 0)
    assert policy.should_encode(4096, 0)


def test_nothing_is_encoded_before_the_tail_exceeds_the_threshold() -> None:
    policy = SnapshotPolicy(floor=10)
    assert not policy.should_encode(500, 500)
    assert policy.should_encode(501, 500)


def test_a_disabled_policy_never_encodes() -> None:
    assert not SnapshotPolicy(enabled=False).should_encode(10**9, 0)


def test_without_a_floor_an_empty_tail_is_still_not_encoded() -> None:
    assert not SnapshotPolicy(floor=0).should_encode(0, 0)
    assert SnapshotPolicy(floor=0).should_encode(1, 0)


@pytest.mark.parametrize(("ratio", "enough"), [(0.5, 500), (1.0, 1000), (3.0, 3000)])
def test_a_snapshot_is_written_once_the_commits_have_ratio_times_its_size(ratio: float, enough: int) -> None:
    policy = SnapshotPolicy(ratio=ratio)
    assert not policy.should_write(enough - 1, 1000)
    assert policy.should_write(enough, 1000)


@pytest.mark.parametrize("ratio", [0, -1, float("nan"), float("inf")])
def test_an_invalid_ratio_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio"):
        SnapshotPolicy(ratio=ratio)


def test_a_negative_floor_is_refused() -> None:
    with pytest.raises(ValueError, match="floor"):
        SnapshotPolicy(floor=-1)


def test_after_a_snapshot_that_was_too_large_the_threshold_is_its_size() -> None:
    assert SnapshotPolicy(ratio=2).next_threshold(4096, 100_000) == 200_000


@settings(deadline=None)
@given(st.integers(1, 10**7), st.integers(1, 10**7), st.floats(0.1, 10))
def test_the_threshold_grows_by_at_least_a_quarter_and_no_write_is_late(tail: int, size: int, ratio: float) -> None:
    policy = SnapshotPolicy(ratio=ratio)
    threshold = policy.next_threshold(tail, size)
    assert threshold >= tail + tail // 4
    assert threshold <= max(ratio * size, 1.25 * tail)
    if threshold == int(ratio * size):
        assert policy.should_write(threshold + 1, size)  # the next commit is enough


@pytest.mark.parametrize("ratio", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("growth", [0.0, 0.3, 1.0, 1.5])
def test_the_cost_of_encoding_stays_in_proportion_to_saving(growth: float, ratio: float) -> None:
    """However the state grows, written and refused snapshots have a constant multiple of the size of the commits."""
    policy = SnapshotPolicy(ratio=ratio)
    state, tail, threshold = 100_000.0, 0, 0
    saved = written = in_vain = 0
    for commit in range(20_000):
        size = 100 + commit % 900
        tail, saved, state = tail + size, saved + size, state + growth * size
        if not policy.should_encode(tail, threshold):
            continue
        if policy.should_write(tail, int(state)):
            written += int(state)
            tail, threshold = 0, int(policy.ratio * state)
        else:
            in_vain += int(state)
            threshold = policy.next_threshold(tail, int(state))
    assert bool(written) == (ratio * growth < 1)  # otherwise the state always grows faster than the commits
    assert written <= saved / ratio
    # Each try except the first waits for a tail of `ratio` states, and after a refusal for a quarter more. The tails
    # of all tries are a geometric sum: five times the last tail.
    assert in_vain <= 100_000 + 5 * (1 / ratio + growth) * saved
