"""The kit that users test their aggregates with: it passes what is true and fails, in words, what is not."""

from __future__ import annotations

from typing import Any

import pytest
from bank import Account, Deposited, InsufficientFunds, Opened, Withdrawn

from eventsrc import Aggregate, Event, InvalidEvent, UnhandledEvent
from eventsrc.testing import given, when

PAST = (Opened(owner="ann"), Deposited(amount=80))


class Renamed(Event, tag="account.renamed"):
    name: str


def as_opened(old: Renamed) -> Opened:
    return Opened(owner=old.name)


class Evolved(Account, tag="evolved"):
    upcasters = (as_opened,)


class Sloppy(Aggregate, tag="sloppy"):
    """Its handler puts into the state what the field does not admit."""

    owner: str = ""

    def rename(self, owner: str) -> None:
        self.record(Opened(owner=owner))

    def apply_opened(self, event: Opened) -> None:
        lost: Any = [event.owner]
        self.owner = lost


def test_what_is_true_passes() -> None:
    outcome = given(Account, *PAST, id="a-9").when(Account.withdraw, 30)
    outcome.then(Withdrawn(amount=30)).then_returns(50).then_state(owner="ann", balance=50, id="a-9")
    given(Account, *PAST).when(Account.withdraw, amount=90).then_raises(InsufficientFunds, "holds 80")
    given(Account, *PAST).then_state(balance=80)
    given(Account).when(lambda account: account.balance).then().then_returns(0)
    when(Account.open, "a-1", owner="ann").then(Opened(owner="ann")).then_state(owner="ann")


def test_other_events_are_told_side_by_side() -> None:
    outcome = given(Account, *PAST).when(Account.withdraw, 30)
    for expected in (
        (),
        (Withdrawn(amount=31),),
        (Withdrawn(amount=30), Withdrawn(amount=30)),
        (Deposited(amount=30),),
    ):
        with pytest.raises(AssertionError, match=r"recorded:\n  Withdrawn\(amount=30\)\nexpected:"):
            outcome.then(*expected)


def test_another_result_or_state_is_told() -> None:
    outcome = given(Account, *PAST).when(Account.withdraw, 30)
    with pytest.raises(AssertionError, match="returned 50, expected 51"):
        outcome.then_returns(51)
    with pytest.raises(AssertionError, match="state is balance=50; expected balance=51"):
        outcome.then_state(owner="ann", balance=51)
    with pytest.raises(AssertionError, match="balance=80"):
        given(Account, *PAST).then_state(balance=1)


def test_an_error_that_does_not_come_or_is_another_one() -> None:
    with pytest.raises(AssertionError, match="nothing was raised; expected InsufficientFunds"):
        given(Account, *PAST).when(Account.withdraw, 30).then_raises(InsufficientFunds)
    failed = given(Account, *PAST).when(Account.withdraw, 90)
    with pytest.raises(AssertionError, match="not in"):
        failed.then_raises(InsufficientFunds, "holds 81")
    with pytest.raises(InsufficientFunds):
        failed.then()
    with pytest.raises(InsufficientFunds):
        failed.then_returns(5)
    with pytest.raises(InsufficientFunds):
        failed.then_state()
    with pytest.raises(InsufficientFunds):
        failed.then_raises(KeyError)


def test_a_command_that_raises_must_not_have_recorded() -> None:
    def command(account: Account) -> None:
        account.deposit(1)
        raise KeyError

    with pytest.raises(AssertionError, match="recorded before"):
        given(Account, *PAST).when(command).then_raises(KeyError)


def test_old_events_are_upcast() -> None:
    given(Evolved, Renamed(name="bob")).then_state(owner="bob")
    given(Evolved).when(lambda account: account.record(Renamed(name="bob"))).then_raises(UnhandledEvent)


def test_what_could_not_be_stored_fails() -> None:
    with pytest.raises(InvalidEvent, match="64 bits"):
        given(Account).when(Account.deposit, 2**70).then(Deposited(amount=2**70))
    wrong: Any = 5
    with pytest.raises(InvalidEvent, match="owner"):
        given(Account, Opened(owner=wrong))


def test_a_state_that_a_snapshot_would_lose_fails() -> None:
    with pytest.raises(Exception, match="Expected `str`"):
        given(Sloppy).when(Sloppy.rename, "ann").then(Opened(owner="ann"))


def test_when_makes_aggregates() -> None:
    wrong: Any = lambda: 5  # noqa: E731
    with pytest.raises(AssertionError, match="no aggregate"):
        when(wrong).then_raises(KeyError)
