"""Handlers of projections: found by annotation, called in order, with a context if they take one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.bank import Account, Deposited, Opened, Withdrawn

from eventsrc import Commit, DeclarationError, Event, MemoryStore, Repository
from eventsrc.processing import Context, Effects, MemoryProjection, Processor
from eventsrc.processing.projections.handlers import handlers_of


async def stored(*steps: int) -> list[Commit]:
    """Commits of one account: per step one commit, with that many deposits; the first one also opens it."""
    async with MemoryStore() as store:
        accounts = Repository(Account, store)
        account = Account.open("a-1", owner="ann")
        account.deposit(1_000)
        for count in steps:
            for number in range(count):
                account.deposit(number + 1)
            await accounts.save(account)
        return [commit async for commit in store.read("account-a-1")]


async def test_calls_come_in_order_with_the_index_of_each_event() -> None:
    class Seen(MemoryProjection, tag="seen"):
        def handle_opening(self, event: Opened) -> None: ...
        def handle_deposit(self, event: Deposited, context: Context) -> None: ...

    handlers = handlers_of(Seen, ())
    calls = list(handlers.calls(await stored(2, 1)))
    assert [(type(call.given), call.commit.version, call.event_index) for call in calls] == [
        (Opened, 1, 0),
        (Deposited, 1, 1),
        (Deposited, 1, 2),
        (Deposited, 1, 3),
        (Deposited, 2, 0),
    ]
    assert [call.handler.with_context for call in calls] == [False, True, True, True, True]


async def test_a_handler_of_a_sequence_receives_consecutive_events() -> None:
    class Runs(MemoryProjection, tag="runs"):
        def handle_opening(self, event: Opened) -> None: ...
        def handle_movements(self, events: Sequence[Deposited | Withdrawn]) -> None: ...

    given = [call.given for call in handlers_of(Runs, ()).calls(await stored(1, 2))]
    assert isinstance(given[0], Opened)
    assert [event.amount for event in given[1]] == [1_000, 1, 1, 2]  # type: ignore[union-attr]
    assert len(given) == 2


async def test_events_without_a_handler_are_skipped() -> None:
    class Openings(MemoryProjection, tag="openings"):
        def handle_opening(self, event: Opened) -> None: ...

    calls = list(handlers_of(Openings, ()).calls(await stored(1, 1)))
    assert [type(call.given) for call in calls] == [Opened]


class OldDeposit(Event, tag="account.deposited"):
    amount: int


class NewDeposit(Event, tag="account.deposited.2"):
    cents: int


def upcast(old: OldDeposit) -> NewDeposit:
    return NewDeposit(cents=old.amount * 100)


async def test_upcasters_apply() -> None:
    class Cents(MemoryProjection, tag="cents"):
        upcasters = (upcast,)

        def handle_deposit(self, event: NewDeposit) -> None: ...

    calls = list(handlers_of(Cents, Cents.upcasters).calls(await stored(1)))
    assert [call.given for call in calls] == [NewDeposit(cents=100_000), NewDeposit(cents=100)]


class NoHandlers(MemoryProjection, tag="no-handlers"):
    pass


class Twice(MemoryProjection, tag="twice"):
    def handle_a(self, event: Opened) -> None: ...
    def handle_b(self, event: Opened | Deposited) -> None: ...


class Unannotated(MemoryProjection, tag="unannotated"):
    def handle_a(self, event) -> None: ...  # type: ignore[no-untyped-def]


class NoEvent(MemoryProjection, tag="no-event"):
    def handle_a(self, event: int) -> None: ...


class TooMany(MemoryProjection, tag="too-many"):
    def handle_a(self, event: Opened, context: Context, more: int) -> None: ...


class Generating(MemoryProjection, tag="generating"):
    def handle_a(self, event: Opened):  # type: ignore[no-untyped-def]
        yield


class HandlesOld(MemoryProjection, tag="handles-old"):
    upcasters = (upcast,)

    def handle_a(self, event: OldDeposit) -> None: ...


class Waits(MemoryProjection, tag="waits"):
    async def handle_a(self, event: Opened) -> None: ...


class NoTag(MemoryProjection):
    def handle_a(self, event: Opened) -> None: ...


class NoVersion(MemoryProjection, tag="no-version"):
    version = 0

    def handle_a(self, event: Opened) -> None: ...


@pytest.mark.parametrize(
    ("kind", "culprit"),
    [
        (NoHandlers, "NoHandlers"),
        (Twice, r"Twice\.handle_b"),
        (Unannotated, r"Unannotated\.handle_a"),
        (NoEvent, r"NoEvent\.handle_a"),
        (TooMany, r"TooMany\.handle_a"),
        (Generating, r"Generating\.handle_a"),
        (HandlesOld, "HandlesOld"),
        (Waits, r"Waits\.handle_a"),
        (NoTag, "NoTag"),
        (NoVersion, r"NoVersion\.version"),
    ],
)
def test_a_wrong_declaration_is_refused_with_its_culprit(kind: type[MemoryProjection], culprit: str) -> None:
    with pytest.raises(DeclarationError, match=culprit):
        Processor(kind(), MemoryStore())


def test_a_tag_with_other_characters_is_refused() -> None:
    with pytest.raises(DeclarationError, match="no@name"):

        class Bad(Effects, tag="no@name"): ...
