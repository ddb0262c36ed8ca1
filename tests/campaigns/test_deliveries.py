"""The checker of acts outside accepts what the promise allows, and finds everything else."""

from __future__ import annotations

from typing import Any

import pytest

from campaigns.deliveries import BOUND, Claim, Delivery, Disturbance, Disturbances, check_deliveries

EVENTS = [(1, 0), (2, 0), (2, 1), (3, 0)]
FIRST = Claim(0.0, 1, forced=False)
ANN, BEN, CAT = 1, 2, 3


def acts(worker: int, start: float, *places: tuple[int, int], takes: float = 0.1) -> list[Delivery]:
    """Return acts of a worker, one after the other."""
    return [Delivery(start + n * takes, start + (n + 1) * takes, worker, *place) for n, place in enumerate(places)]


def check(deliveries: list[Delivery], *claims: Claim, disturbed: tuple[Disturbance, ...] = (), **options: Any) -> Any:
    return check_deliveries(EVENTS, deliveries, claims or [FIRST], Disturbances(disturbed), **options)


def is_legal(found: Any) -> bool:
    return not (found.missing or found.twice or found.disordered or found.violations)


def test_each_event_once_and_in_order_is_legal() -> None:
    found = check(acts(ANN, 1.0, *EVENTS))
    assert is_legal(found)
    assert found.repeated == 0


def test_a_commit_repeated_after_a_disturbance_of_its_worker_is_legal() -> None:
    deliveries = acts(ANN, 1.0, (1, 0), (2, 0)) + acts(ANN, 2.0, (2, 0), (2, 1), (3, 0))
    found = check(deliveries, disturbed=(Disturbance(1.5, ANN),))
    assert is_legal(found)
    assert found.repeated == 1


@pytest.mark.parametrize(
    "disturbed",
    [
        (),
        (Disturbance(0.5, ANN),),  # before
        (Disturbance(2.5, ANN),),  # after
        (Disturbance(1.5, BEN),),  # of another worker
    ],
)
def test_a_commit_repeated_without_a_disturbance_is_found(disturbed: tuple[Disturbance, ...]) -> None:
    deliveries = acts(ANN, 1.0, (1, 0), (2, 0)) + acts(ANN, 2.0, (2, 0), (2, 1), (3, 0))
    found = check(deliveries, disturbed=disturbed)
    assert found.twice == 1
    assert "(2, 0) was repeated without a reason at 2.000 s" in found.violations[0]


def test_only_the_last_commit_may_be_repeated_and_from_its_first_event() -> None:
    disturbed = (Disturbance(1.5, ANN),)
    older = acts(ANN, 1.0, (1, 0), (2, 0), (2, 1)) + acts(ANN, 2.0, (1, 0), (2, 0), (2, 1), (3, 0))
    assert check(older, disturbed=disturbed).twice == 1
    middle = acts(ANN, 1.0, (1, 0), (2, 0), (2, 1)) + acts(ANN, 2.0, (2, 1), (3, 0))
    assert check(middle, disturbed=disturbed).twice == 1


@pytest.mark.parametrize("left_out", EVENTS)
def test_a_missing_event_is_found(left_out: tuple[int, int]) -> None:
    found = check(acts(ANN, 1.0, *[each for each in EVENTS if each != left_out]))
    assert found.missing == 1
    assert str(left_out) in found.violations[0]


def test_a_stream_that_nobody_handled_is_missing() -> None:
    assert check([]).missing == len(EVENTS)


def test_a_skipped_commit_may_be_missing_or_half_done() -> None:
    assert is_legal(check(acts(ANN, 1.0, (1, 0), (3, 0)), optional={2}))
    assert is_legal(check(acts(ANN, 1.0, (1, 0), (2, 0), (3, 0)), optional={2}))
    assert check(acts(ANN, 1.0, (1, 0), (3, 0)), optional={3}).missing == 2


def test_an_event_that_is_not_in_the_log_is_found() -> None:
    found = check(acts(ANN, 1.0, *EVENTS, (4, 0)))
    assert found.violations == ["1 events were not to be handled, the first one (4, 0)"]


def test_first_acts_out_of_order_are_found() -> None:
    found = check(acts(ANN, 1.0, (1, 0), (3, 0), (2, 0), (2, 1)), disturbed=(Disturbance(1.15, ANN),))
    assert found.disordered
    assert found.missing == 0


def test_two_workers_share_a_stream_that_was_given_up() -> None:
    deliveries = acts(ANN, 1.0, (1, 0)) + acts(BEN, 2.0, (2, 0), (2, 1), (3, 0))
    assert is_legal(check(deliveries, FIRST, Claim(1.9, BEN, forced=False)))


def test_a_repetition_by_the_new_owner_of_a_slot_that_was_given_up_is_found() -> None:
    deliveries = acts(ANN, 1.0, (1, 0)) + acts(BEN, 2.0, *EVENTS)
    assert check(deliveries, FIRST, Claim(1.9, BEN, forced=False)).twice == 1


def test_effects_that_overlap_at_a_takeover_are_legal() -> None:
    """The old owner has begun within the bound, and acts after the new owner has begun."""
    takeover = Claim(2.0, BEN, forced=True)
    old = [*acts(ANN, 1.0, (1, 0)), Delivery(2.0 + BOUND, 3.9, ANN, 2, 0), Delivery(2.0 + BOUND, 9.9, ANN, 2, 1)]
    new = acts(BEN, 2.0 + BOUND + 0.001, (2, 0), (2, 1), (3, 0))
    found = check(old + new, FIRST, takeover)
    assert is_legal(found), found.violations
    assert found.repeated == 1


def test_an_act_of_the_old_owner_after_the_bound_is_found() -> None:
    takeover = Claim(2.0, BEN, forced=True)
    old = [*acts(ANN, 1.0, (1, 0)), Delivery(2.0 + BOUND + 0.01, 3.2, ANN, 2, 0)]
    found = check(old + acts(BEN, 3.5, (2, 0), (2, 1), (3, 0)), FIRST, takeover)
    assert any("1.010 s after another worker's claim" in each for each in found.violations)


def test_an_act_of_the_old_owner_after_the_new_one_has_begun_is_found() -> None:
    takeover = Claim(2.0, BEN, forced=True)
    old = [*acts(ANN, 1.0, (1, 0)), Delivery(2.6, 2.7, ANN, 2, 1)]
    found = check(old + acts(BEN, 2.5, (2, 0), takes=0.05) + acts(BEN, 3.5, (2, 1), (3, 0)), FIRST, takeover)
    assert any("after the new owner had begun" in each for each in found.violations)


def test_an_act_without_a_claim_is_found() -> None:
    found = check(acts(CAT, 1.0, *EVENTS), FIRST)
    assert len(found.violations) == len(EVENTS)
    assert "worker 3 began (1, 0) at 1.000 s without a claim" in found.violations[0]


def test_a_worker_that_has_claimed_again_may_act_again() -> None:
    deliveries = acts(ANN, 1.0, (1, 0)) + acts(BEN, 3.0, (2, 0), (2, 1)) + acts(ANN, 6.0, (3, 0))
    claims = (FIRST, Claim(2.0, BEN, forced=False), Claim(5.0, ANN, forced=False))
    assert is_legal(check(deliveries, *claims))
    assert check(deliveries, *claims[:2]).violations


def test_a_process_that_fences_the_owner_ends_its_acts() -> None:
    deliveries = acts(ANN, 1.0, *EVENTS[:3]) + acts(ANN, 4.0, (3, 0))
    assert check(deliveries, FIRST, Claim(2.0, 0, forced=True)).violations


def test_a_worker_that_was_fenced_may_repeat_its_last_commit_when_it_has_claimed_again() -> None:
    """As after a rebuild that failed in its switch."""
    deliveries = acts(ANN, 1.0, *EVENTS[:2]) + acts(ANN, 1.5, *EVENTS[1:])
    claims = (FIRST, Claim(1.3, 0, forced=True), Claim(1.4, ANN, forced=False))
    found = check(deliveries, *claims)
    assert is_legal(found), found.violations
    assert check(deliveries, FIRST, Claim(1.4, ANN, forced=False)).twice
