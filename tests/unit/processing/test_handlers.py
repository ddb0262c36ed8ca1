"""Handlers of projections: found by annotation, called in order, with a context if they take one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.bank import Account, Deposited, Opened, Withdrawn

from eventsrc import Commit, DeclarationError, Event, MemoryStore, Repository
from eventsrc.processing import (
    Checkpoints,
    Context,
    Effects,
    MemoryCheckpoints,
    MemoryProjection,
    Mirror,
    Projection,
)
from eventsrc.processing.projections.handlers import handlers_of
from eventsrc.testing.contract.samples import make_commit


def bind(projection: Projection, checkpoints: Checkpoints | None = None) -> None:
    projection.bind(checkpoints or MemoryCheckpoints(), MemoryStore())


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


class Misspelt(MemoryProjection, tag="misspelt"):
    def handle_opening(self, event: Opened) -> None: ...
    def handel_deposits(self, events: Sequence[Deposited | Withdrawn], context: Context) -> None: ...


class MisspeltStatic(MemoryProjection, tag="misspelt-static"):
    def handle_opening(self, event: Opened) -> None: ...
    @staticmethod
    def handel_deposit(event: Deposited) -> None: ...


class MisspeltOfClass(MemoryProjection, tag="misspelt-of-class"):
    def handle_opening(self, event: Opened) -> None: ...
    @classmethod
    def handel_deposit(cls, event: Deposited) -> None: ...


class MisspeltOptional(MemoryProjection, tag="misspelt-optional"):
    def handle_opening(self, event: Opened) -> None: ...
    def handel_deposits(self, events: Sequence[Deposited] | None = None) -> None: ...


class MisspeltContextFirst(MemoryProjection, tag="misspelt-context-first"):
    def handle_opening(self, event: Opened) -> None: ...
    def handel_deposit(self, facts: Context, event: Deposited) -> None: ...


class TagInBody(MemoryProjection):
    tag = "h\u00e4\u00df lich"

    def handle_a(self, event: Opened) -> None: ...


class TagOfObject(MemoryProjection, tag="tag-of-object"):
    def __init__(self) -> None:
        self.tag = "balances@2"  # type: ignore[misc]

    def handle_a(self, event: Opened) -> None: ...


class TagOfOtherType(MemoryProjection):
    tag = 7  # type: ignore[assignment]

    def handle_a(self, event: Opened) -> None: ...


class MixedIn:
    def handle_opening(self, event: Opened) -> None: ...
    def on_deposit(self, event: Deposited) -> None: ...


class MisspeltInMixin(MixedIn, MemoryProjection, tag="misspelt-in-mixin"): ...


class Base(MemoryProjection, tag="base"):
    def handle_opening(self, event: Opened) -> None: ...


class Derived(Base):
    def handle_deposit(self, event: Deposited) -> None: ...


class CategoriesText(Base, tag="categories-text"):
    categories = "account"


class CategoriesOfStreams(Base, tag="categories-of-streams"):
    categories = ("account-a",)


class CategoriesOfClasses(Base, tag="categories-of-classes"):
    categories = (Account,)  # type: ignore[assignment]


class WrongOrder(Base, tag="wrong-order"):
    order = "time"  # type: ignore[assignment]


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
        (Misspelt, r"Misspelt\.handel_deposits: takes Deposited, but is not a handler; name it handle_"),
        (MisspeltStatic, r"MisspeltStatic\.handel_deposit: takes Deposited"),
        (MisspeltOfClass, r"MisspeltOfClass\.handel_deposit: takes Deposited"),
        (MisspeltOptional, r"MisspeltOptional\.handel_deposits: takes Deposited"),
        (MisspeltContextFirst, r"MisspeltContextFirst\.handel_deposit: takes Deposited"),
        (TagInBody, "TagInBody: the tag .* is not allowed"),
        (TagOfObject, "TagOfObject: the tag .* is not allowed"),
        (TagOfOtherType, "TagOfOtherType: the tag 7 is not allowed"),
        (MisspeltInMixin, r"MixedIn\.on_deposit: takes Deposited"),
        (Derived, r'Derived: has the tag and version of its base Base.* write class Derived\(Base, tag="..."\)'),
        (CategoriesText, r"CategoriesText\.categories"),
        (CategoriesOfStreams, r"CategoriesOfStreams\.categories"),
        (CategoriesOfClasses, r"CategoriesOfClasses\.categories"),
        (WrongOrder, r"WrongOrder\.order"),
    ],
)
def test_a_wrong_declaration_is_refused_with_its_culprit(kind: type[MemoryProjection], culprit: str) -> None:
    with pytest.raises(DeclarationError, match=culprit):
        bind(kind())


def test_a_tag_with_other_characters_is_refused() -> None:
    with pytest.raises(DeclarationError, match="no@name"):

        class Bad(Effects, tag="no@name"): ...


class Helper:
    """A class without handlers, which may have methods that take events."""

    def describe(self, event: Opened) -> str:
        return event.owner


async def test_methods_that_help_handlers_are_not_taken_for_misspelt_ones() -> None:
    class Helped(Helper, MemoryProjection, tag="helped"):
        def __init__(self, prefix: str = "") -> None:
            self.prefix = prefix

        def handle_opening(self, event: Opened) -> None: ...
        def _take(self, event: Deposited) -> None: ...
        def of_any(self, event: Event) -> None: ...
        def in_context(self, context: Context) -> None: ...
        @staticmethod
        def of_number(number: int, event: Deposited) -> None: ...
        def of_owner(self, owner: str, event: Deposited | None = None) -> None: ...
        def total(self) -> int:
            return 0

    bind(Helped())


async def test_a_new_version_of_the_same_class_may_keep_its_tag() -> None:
    class Second(Base):
        version = 2

    bind(Second())


async def test_two_classes_with_one_name_are_refused_while_both_are_used() -> None:
    class Other(MemoryProjection, tag="base"):
        def handle_deposit(self, event: Deposited) -> None: ...

    checkpoints = MemoryCheckpoints()
    bind(first := Base(), checkpoints)
    bind(Base(), checkpoints)  # the same class again
    with pytest.raises(DeclarationError, match=r"Other: is base@1, and so is Base: .*another tag"):
        bind(Other(), checkpoints)
    bind(Other())  # with checkpoints of its own
    del first
    bind(Other(), checkpoints)


async def test_a_class_that_is_defined_again_replaces_the_old_one() -> None:
    def define() -> MemoryProjection:
        class Cell(MemoryProjection, tag="cell"):
            def handle_deposit(self, event: Deposited) -> None: ...

        return Cell()

    checkpoints = MemoryCheckpoints()
    old, new = define(), define()
    bind(old, checkpoints)
    bind(new, checkpoints)
    assert type(old) is not type(new)


async def test_a_projection_wants_commits_with_events_that_it_handles() -> None:
    class Cents(MemoryProjection, tag="cents-only"):
        upcasters = (upcast,)

        def handle_deposit(self, event: NewDeposit) -> None: ...
        def handle_withdrawal(self, event: Withdrawn) -> None: ...

    bind(projection := Cents())
    assert projection.handles == ("account.deposited", "account.deposited.2", "account.withdrawn")
    wanted = make_commit("account-a-1", 1, tags=("account.opened", "account.deposited"))
    assert projection.wants(wanted)
    assert not projection.wants(make_commit("account-a-1", 1, tags=("account.opened",)))


async def test_categories_limit_what_a_projection_wants() -> None:
    class OfAccounts(Base, tag="of-accounts"):
        categories = ("account", "purse")

    class Backup(Mirror, tag="backup"):
        categories = ("account",)

    bind(projection := OfAccounts())
    bind(mirror := Backup(MemoryStore()))
    for stream, is_wanted in [
        ("account-a-1", True),
        ("purse-1", True),
        ("accounts-1", False),
        ("user-account-1", False),
    ]:
        commit = make_commit(stream, 1, tags=("account.opened",))
        assert projection.wants(commit) == is_wanted
        assert mirror.wants(commit) == (stream == "account-a-1")
    assert mirror.handles == ()
    assert mirror.wants(make_commit("account-a-1", 1, tags=("anything",)))


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("inf"), float("nan")])
async def test_a_time_limit_is_a_positive_number(timeout: float) -> None:
    with pytest.raises(ValueError, match="handler_timeout"):
        Base().bind(MemoryCheckpoints(), MemoryStore(), handler_timeout=timeout)
