"""Declarations are read from the annotations of an aggregate class, and errors name the culprit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar, Union

import pytest
from support import bank
from support.bank import Account

from eventsrc import Aggregate, DeclarationError, Event, MemoryStore, Repository
from eventsrc.aggregates.declaration import declaration_of

if TYPE_CHECKING:
    from decimal import Decimal


class A(Event, tag="a"):
    n: int = 0


class B(Event, tag="b"):
    n: int = 0


class C(Event, tag="c"):
    n: int = 0


class D(Event, tag="d"):
    n: int = 0


class SameTag(Event, tag="a"):
    pass


class Nested(Event, tag="nested"):
    pass


class NoTag(Event):
    pass


class Priced(Event, tag="priced"):
    price: Decimal


class Listed(Event, tag="listed", array_like=True):
    pass


class Kinded(Event, tag="kinded", tag_field="kind"):
    pass


class Mutable(Event, tag="mutable", frozen=False):  # type: ignore[misc]
    pass


AorB = A | B


class Base(Aggregate, tag="base"):
    seen: tuple[str, ...] = ()

    def apply_a(self, event: A) -> None:
        self.seen += ("Base.a",)

    def apply_b(self, event: B) -> None:
        self.seen += ("Base.b",)


class Child(Base, tag="child"):
    def apply_a(self, event: A) -> None:
        super().apply_a(event)
        self.seen += ("Child.a",)

    def apply_c(self, event: C) -> None:
        self.seen += ("Child.c",)


class Swapped(Base, tag="swapped"):
    def apply_b(self, event: C) -> None:  # type: ignore[override]  # replaces the inherited handler
        self.seen += ("Swapped.c",)


class Mixin:
    __slots__ = ()

    def apply_d(self, event: D) -> None:
        self.seen += ("Mixin.d",)  # type: ignore[attr-defined]


class Mixed(Mixin, Base, tag="mixed"):
    pass


class Plain(Aggregate, tag="plain"):
    """Handlers with every way to write an annotation."""

    seen: tuple[str, ...] = ()

    def apply_union(self, happened: Union[AorB, Annotated[Nested, "note"]], /) -> None:  # noqa: UP007
        self.seen += ("union",)

    def apply_annotated(self, event: Annotated[C, "note"]) -> None:
        self.seen += ("annotated",)

    def apply_text(self, event: "D") -> None:  # noqa: UP037
        self.seen += ("text",)

    def applicable(self, anything: int) -> None:
        """Not a handler, because its name does not start with `apply_`."""


def seen(aggregate: type[Any], *events: Event) -> tuple[str, ...]:
    it = aggregate(id="1")
    for event in events:
        it.record(event)
    names: tuple[str, ...] = it.seen
    return names


def test_handlers_are_found_by_annotation() -> None:
    assert seen(Plain, A(), Nested(), B(), C(), D()) == ("union",) * 3 + ("annotated", "text")


if sys.version_info >= (3, 12):
    from typing import TypeAliasType

    # The same as `type AliasOfTwo = A | B`, in a form that older Pythons can parse.
    AliasOfTwo = TypeAliasType("AliasOfTwo", A | B)
    AliasOfAlias = TypeAliasType("AliasOfAlias", AliasOfTwo | C)

    class Aliased(Aggregate, tag="aliased"):
        seen: tuple[str, ...] = ()

        def apply_some(self, event: AliasOfAlias) -> None:
            self.seen += (type(event).__name__,)

        def apply_other(self, event: Annotated[TypeAliasType("AliasOfD", D), "note"]) -> None:
            self.seen += ("D",)

    def test_aliases_of_the_type_statement_are_resolved() -> None:
        assert seen(Aliased, A(), B(), C(), D()) == ("A", "B", "C", "D")


def test_handlers_are_inherited_and_overridden() -> None:
    assert seen(Base, A(), B()) == ("Base.a", "Base.b")
    assert seen(Child, A(), B(), C()) == ("Base.a", "Child.a", "Base.b", "Child.c")
    assert seen(Mixed, A(), D()) == ("Base.a", "Mixin.d")


def test_an_overriding_handler_takes_only_the_events_of_its_own_annotation() -> None:
    assert seen(Swapped, A(), C()) == ("Base.a", "Swapped.c")
    with pytest.raises(TypeError, match="Swapped has no"):
        seen(Swapped, B())


def test_a_class_is_read_once() -> None:
    assert declaration_of(Account) is declaration_of(Account)
    assert declaration_of(Account).category == "account"


T = TypeVar("T", bound=Aggregate)


def wrong(culprit: str, reason: str) -> Callable[[type[T]], type[T]]:
    """Add a class to those for which `test_the_error_for_a_mistake_names_the_culprit` expects an error."""

    def mark(aggregate: type[T]) -> type[T]:
        WRONG.append(pytest.param(aggregate, culprit, reason, id=aggregate.__name__))
        return aggregate

    return mark


WRONG: list[Any] = []


@wrong("TwoForOne.apply_y", "handles A, and so does TwoForOne.apply_x")
class TwoForOne(Aggregate, tag="x"):
    def apply_x(self, event: A) -> None: ...
    def apply_y(self, event: B | A) -> None: ...


@wrong("TwoByInheritance.apply_also_a", "handles A, and so does Base.apply_a")
class TwoByInheritance(Base, tag="x"):
    def apply_also_a(self, event: A) -> None: ...


@wrong("TwiceInOne.apply_x", "handles A, and so does TwiceInOne.apply_x")
class TwiceInOne(Aggregate, tag="x"):
    def apply_x(self, event: Annotated[A, 1] | Annotated[A, 2]) -> None: ...


@wrong("NoAnnotation.apply_x", "annotate 'event' with its event class")
class NoAnnotation(Aggregate, tag="x"):
    def apply_x(self, event) -> None: ...  # type: ignore[no-untyped-def]


@wrong("NoEvent.apply_x", "the annotation int is not a subclass of Event; write the event class, or a union")
class NoEvent(Aggregate, tag="x"):
    def apply_x(self, event: int) -> None: ...


@wrong("NoEventInUnion.apply_x", "is not a subclass of Event")
class NoEventInUnion(Aggregate, tag="x"):
    def apply_x(self, event: Optional[A]) -> None: ...  # noqa: UP045


@wrong("NoClass.apply_x", r"annotation list\[test_declaration.A\] is not a subclass of Event")
class NoClass(Aggregate, tag="x"):
    def apply_x(self, event: list[A]) -> None: ...


@wrong("Anything.apply_x", "the annotation Any is not a subclass of Event")
class Anything(Aggregate, tag="x"):
    def apply_x(self, event: Any) -> None: ...


@wrong("OnlyForTypeCheckers.apply_x", "annotation 'Decimal' is not defined in its module")
class OnlyForTypeCheckers(Aggregate, tag="x"):
    def apply_x(self, event: Decimal) -> None: ...


@wrong("Misspelt.apply_x", "no attribute 'Openned'")
class Misspelt(Aggregate, tag="x"):
    def apply_x(self, event: bank.Openned) -> None: ...  # type: ignore[name-defined]


@wrong("NoExpression.apply_x", "cannot be used")
class NoExpression(Aggregate, tag="x"):
    def apply_x(self, event: "A B") -> None: ...  # type: ignore[valid-type]  # noqa: F722


@wrong("EventItself.apply_x|Event", "no tag")
class EventItself(Aggregate, tag="x"):
    def apply_x(self, event: Event) -> None: ...


@wrong("NoTag", 'has no tag, its stored name; write `class NoTag\\(Event, tag="..."\\)`')
class EventWithoutTag(Aggregate, tag="x"):
    def apply_x(self, event: NoTag) -> None: ...


@wrong("DuplicateTag", "A and SameTag have the same tag 'a'")
class DuplicateTag(Aggregate, tag="x"):
    def apply_x(self, event: A | SameTag) -> None: ...


@wrong("Async.apply_x", "a plain method")
class Async(Aggregate, tag="x"):
    async def apply_x(self, event: A) -> None: ...


@wrong("Static.apply_x", "a plain method")
class Static(Aggregate, tag="x"):
    @staticmethod
    def apply_x(event: A) -> None: ...


@wrong("ClassMethod.apply_x", "a plain method")
class ClassMethod(Aggregate, tag="x"):
    @classmethod
    def apply_x(cls, event: A) -> None: ...


@wrong("Property.apply_x", "a plain method")
class Property(Aggregate, tag="x"):
    @property
    def apply_x(self) -> A:
        return A()


@wrong("Generator.apply_x", "a plain method")
class Generator(Aggregate, tag="x"):
    def apply_x(self, event: A) -> Any:
        yield


@wrong("AsyncGenerator.apply_x", "a plain method")
class AsyncGenerator(Aggregate, tag="x"):
    async def apply_x(self, event: A) -> Any:
        yield


@wrong("TooMany.apply_x", "a plain method: def apply_x")
class TooMany(Aggregate, tag="x"):
    def apply_x(self, event: A, other: A) -> None: ...


@wrong("TooFew.apply_x", "a plain method: def apply_x")
class TooFew(Aggregate, tag="x"):
    def apply_x(self) -> None: ...


@wrong("KeywordOnly.apply_x", "a plain method: def apply_x")
class KeywordOnly(Aggregate, tag="x"):
    def apply_x(self, *, event: A) -> None: ...


@wrong("Variadic.apply_x", "a plain method: def apply_x")
class Variadic(Aggregate, tag="x"):
    def apply_x(self, *events: A) -> None: ...


@wrong("NoHandler", "has no apply_. handler")
class NoHandler(Aggregate, tag="x"):
    pass


@wrong("Required.amount", "has no default")
class Required(Aggregate, tag="x"):
    amount: int

    def apply_x(self, event: A) -> None: ...


@wrong("StateOnlyForTypeCheckers", "annotation 'Decimal' is not defined in its module")
class StateOnlyForTypeCheckers(Base, tag="x"):
    price: Decimal | None = None


@wrong("AmbiguousState", "may not contain more than one dict-like type")
class AmbiguousState(Base, tag="x"):
    either: A | dict[str, int] | None = None


@wrong("Priced", "annotation 'Decimal' is not defined in its module")
class EventOnlyForTypeCheckers(Aggregate, tag="x"):
    def apply_x(self, event: Priced) -> None: ...


@wrong("Listed", "array_like or tag_field, which belong to the framework")
class EventThatIsNoMap(Aggregate, tag="x"):
    def apply_x(self, event: Listed) -> None: ...


@wrong("Kinded", "array_like or tag_field, which belong to the framework")
class EventWithItsTagElsewhere(Aggregate, tag="x"):
    def apply_x(self, event: Kinded) -> None: ...


@wrong("Mutable", "sets frozen")
class EventThatMayChange(Aggregate, tag="x"):
    def apply_x(self, event: Mutable) -> None: ...


@wrong("OwnVersion.version", "is a name of the framework")
class OwnVersion(Base, tag="x"):
    version: int = 0  # pyright: ignore[reportIncompatibleMethodOverride]


@wrong("OwnStream.stream", "is a name of the framework")
class OwnStream(Base, tag="x"):
    stream: str = ""  # pyright: ignore[reportIncompatibleMethodOverride]


@wrong("AnnotatedSetting.snapshot_version", "write a setting without annotation")
class AnnotatedSetting(Base, tag="x"):
    snapshot_version: int = 1  # type: ignore[misc]


@wrong("NegativeSetting.remembered_commands", "is -1; it must be an int of at least 0")
class NegativeSetting(Base, tag="x"):
    remembered_commands = -1


@wrong("NegativeTime.remembered_commands", "it must be an int of at least 0, or a timedelta above 0")
class NegativeTime(Base, tag="x"):
    remembered_commands = timedelta(days=-1)


@wrong("SettingOfText.snapshot_version", "is '2'; it must be an int of at least 0")
class SettingOfText(Base, tag="x"):
    snapshot_version = "2"  # type: ignore[assignment]


@wrong("BooleanSetting.snapshot_version", "is True; it must be an int of at least 0")
class BooleanSetting(Base, tag="x"):
    snapshot_version = True


@wrong("NoCategory", 'has no tag, its stream category; write `class NoCategory\\(Aggregate, tag="..."\\)`')
class NoCategory(Aggregate):
    def apply_x(self, event: A) -> None: ...


@wrong("NumberedCategory", "has no tag, its stream category")
class NumberedCategory(Aggregate, tag=5):  # type: ignore[arg-type]
    def apply_x(self, event: A) -> None: ...


@wrong("EmptyCategory", "has no tag, its stream category")
class EmptyCategory(Aggregate, tag=""):
    def apply_x(self, event: A) -> None: ...


@wrong("Hyphen", "the tag 'my-base' contains '-'")
class Hyphen(Aggregate, tag="my-base"):
    def apply_x(self, event: A) -> None: ...


@wrong("Delimiter", "cannot start a stream id: it contains '|'")
class Delimiter(Aggregate, tag="my|base"):
    def apply_x(self, event: A) -> None: ...


@wrong("OnlyTo", "override both")
class OnlyTo(Base, tag="x"):
    def to_snapshot(self) -> int:
        return 0


@wrong("OnlyFrom", "override both")
class OnlyFrom(Base, tag="x"):
    @classmethod
    def from_snapshot(cls, id: str, state: int) -> OnlyFrom:
        return cls(id=id)


@wrong("UnannotatedSnapshot.to_snapshot", "annotate its return type")
class UnannotatedSnapshot(Base, tag="x"):
    def to_snapshot(self):  # type: ignore[no-untyped-def]
        return 0

    @classmethod
    def from_snapshot(cls, id: str, state: int) -> UnannotatedSnapshot:
        return cls(id=id)


@wrong("AnySnapshot.to_snapshot", "annotate its return type")
class AnySnapshot(Base, tag="x"):
    def to_snapshot(self) -> Any:
        return 0

    @classmethod
    def from_snapshot(cls, id: str, state: Any) -> AnySnapshot:
        return cls(id=id)


@wrong("SnapshotOnlyForTypeCheckers.to_snapshot", "annotation 'Decimal' is not defined")
class SnapshotOnlyForTypeCheckers(Base, tag="x"):
    def to_snapshot(self) -> dict[str, Decimal]:
        return {}

    @classmethod
    def from_snapshot(cls, id: str, state: Any) -> SnapshotOnlyForTypeCheckers:
        return cls(id=id)


@wrong("SnapshotThatIsNotDecoded.to_snapshot", "more than one dict-like type")
class SnapshotThatIsNotDecoded(Base, tag="x"):
    def to_snapshot(self) -> A | dict[str, int]:
        return {}

    @classmethod
    def from_snapshot(cls, id: str, state: Any) -> SnapshotThatIsNotDecoded:
        return cls(id=id)


@wrong("Untagged", 'has the tag of its base Base, .* write `class Untagged\\(Base, tag="..."\\)`, or move')
class Untagged(Base):
    def apply_c(self, event: C) -> None: ...


class Middle(Base, tag="middle"):
    pass


@wrong("UntaggedFurtherDown", "has the tag of its base Middle")
class UntaggedFurtherDown(Middle):
    pass


@wrong("SameTagAsItsBase", "has the tag of its base Base")
class SameTagAsItsBase(Base, tag="base"):
    pass


class UntaggedEvent(A):
    more: int = 0


@wrong("UntaggedEvent", 'has the tag of its base A, .* write `class UntaggedEvent\\(A, tag="..."\\)`')
class WithUntaggedEvent(Aggregate, tag="x"):
    def apply_x(self, event: UntaggedEvent) -> None: ...


class Loose:
    """A base without slots: its attributes are not fields."""

    notes: str = ""


@wrong("Untidy", "has a base without __slots__")
class Untidy(Loose, Aggregate, tag="a"):
    def apply_a(self, event: bank.Opened) -> None: ...


@dataclass
class Bag:
    items: list[str] = field(default_factory=list)


@wrong("Sharing.bag", "has a mutable default that all objects would share")
class Sharing(Aggregate, tag="a"):
    bag: Bag = Bag()

    def apply_a(self, event: bank.Opened) -> None: ...


@wrong("Recording.record", "is a name of the framework")
class Recording(Aggregate, tag="a"):
    def record(self, event: Event) -> None: ...

    def apply_a(self, event: bank.Opened) -> None: ...


@wrong("PostInit.__post_init__", "is a name of the framework")
class PostInit(Base, tag="x"):
    def __post_init__(self) -> None: ...


def a_to_b(old: A) -> B:
    return B(n=old.n + 1)


def b_to_c(old: B) -> C:
    return C(n=old.n * 10)


def c_to_a(old: C) -> A:
    return A(n=old.n)


def c_to_b(old: C) -> B:
    return B(n=old.n)


def a_to_a(old: A) -> A:
    return old


def a_to_c(old: A) -> C:
    return C(n=old.n)


def ab_to_cd(old: A | B) -> C | D:
    return C(n=old.n) if isinstance(old, A) else D(n=old.n)


def no_parameter() -> C:
    return C()


def two_parameters(old: A, more: B) -> C:
    return C()


def no_annotation(old) -> C:  # type: ignore[no-untyped-def]
    return C()


def no_return(old: A):  # type: ignore[no-untyped-def]
    return C()


def from_int(old: int) -> C:
    return C()


def to_int(old: A) -> int:
    return 0


def to_ints(old: A) -> list[C | int]:
    return []


def same_tag_to_c(old: SameTag) -> C:
    return C()


def untagged_to_c(old: NoTag) -> C:
    return C()


async def asynchronous(old: A) -> C:
    return C()


def generator(old: A) -> C:  # type: ignore[misc]
    yield C()  # pyright: ignore[reportReturnType]


def variadic(*old: A) -> C:
    return C()


class OnlyC(Aggregate, tag="only_c"):
    total: int = 0

    def apply_c(self, event: C) -> None:
        self.total += event.n


@wrong("no_parameter", "a plain function: def")
class UpcasterWithoutParameter(OnlyC, tag="x"):
    upcasters = (no_parameter,)  # type: ignore[assignment]


@wrong("two_parameters", "a plain function: def")
class UpcasterOfTwoParameters(OnlyC, tag="x"):
    upcasters = (two_parameters,)  # type: ignore[assignment]


@wrong("no_annotation", "annotate 'old'")
class UpcasterWithoutAnnotation(OnlyC, tag="x"):
    upcasters = (no_annotation,)


@wrong("no_return", "annotate its return type")
class UpcasterWithoutReturn(OnlyC, tag="x"):
    upcasters = (no_return,)


@wrong("from_int", "is not a subclass of Event")
class UpcasterOfNoEvent(OnlyC, tag="x"):
    upcasters = (from_int,)


@wrong("to_int", "is not a subclass of Event")
class UpcasterToNoEvent(OnlyC, tag="x"):
    upcasters = (to_int,)  # type: ignore[assignment]


@wrong("to_ints", "is not a subclass of Event")
class UpcasterToSomeNoEvents(OnlyC, tag="x"):
    upcasters = (to_ints,)  # type: ignore[assignment]


@wrong("asynchronous", "a plain function: def")
class AsyncUpcaster(OnlyC, tag="x"):
    upcasters = (asynchronous,)  # type: ignore[assignment]


@wrong("generator", "a plain function: def")
class GeneratorUpcaster(OnlyC, tag="x"):
    upcasters = (generator,)


@wrong("variadic", "a plain function: def")
class VariadicUpcaster(OnlyC, tag="x"):
    upcasters = (variadic,)


@wrong("UpcasterOfNoFunction.upcasters", "is not a function")
class UpcasterOfNoFunction(OnlyC, tag="x"):
    upcasters = (C,)  # type: ignore[assignment]


@wrong("OneUpcaster.upcasters", "is not a tuple or list")
class OneUpcaster(OnlyC, tag="x"):
    upcasters = a_to_c  # type: ignore[assignment]


@wrong("a_to_b|b_to_c|c_to_a", "back to itself")
class Circle(Aggregate, tag="x"):
    upcasters = (a_to_b, b_to_c, c_to_a)

    def apply_d(self, event: D) -> None: ...


@wrong("b_to_c|c_to_b", "back to itself")
class WayIntoCircle(Aggregate, tag="x"):
    upcasters = (a_to_b, b_to_c, c_to_b)

    def apply_d(self, event: D) -> None: ...


@wrong("a_to_a", "leads from A back to itself")
class SmallCircle(OnlyC, tag="x"):
    upcasters = (a_to_a,)


@wrong("a_to_c", "upcasts A, and so does a_to_b")
class TwoForOneClass(OnlyC, tag="x"):
    upcasters = (a_to_b, b_to_c, a_to_c)


@wrong("OldAlsoHandled.apply_a", "handles A, which a_to_c upcasts")
class OldAlsoHandled(OnlyC, tag="x"):
    upcasters = (a_to_c,)

    def apply_a(self, event: A) -> None: ...


@wrong("a_to_b", "returns B, which ResultNotHandled does not handle")
class ResultNotHandled(OnlyC, tag="x"):
    upcasters = (a_to_b,)


@wrong("ab_to_cd", "returns D, which OneResultNotHandled does not handle")
class OneResultNotHandled(OnlyC, tag="x"):
    upcasters = (ab_to_cd,)


@wrong("OldTagTwice", "have the same tag 'a'")
class OldTagTwice(OnlyC, tag="x"):
    upcasters = (a_to_c, same_tag_to_c)


@wrong("NoTag", "has no tag")
class OldWithoutTag(OnlyC, tag="x"):
    upcasters = (untagged_to_c,)


@pytest.mark.parametrize(("aggregate", "culprit", "reason"), WRONG)
def test_the_error_for_a_mistake_names_the_culprit(aggregate: type[Aggregate], culprit: str, reason: str) -> None:
    with pytest.raises(DeclarationError, match=reason) as raised:
        Repository(aggregate, MemoryStore())
    assert raised.value.culprit in culprit.split("|")
    assert str(raised.value) == f"{raised.value.culprit}: {raised.value.reason}"
    with pytest.raises(DeclarationError):  # also the second time
        Repository(aggregate, MemoryStore())


@pytest.mark.parametrize("thing", [5, "account", int, A, Event, None])
def test_a_repository_needs_an_aggregate_class(thing: Any) -> None:
    with pytest.raises(DeclarationError, match="is not a subclass of Aggregate") as raised:
        Repository(thing, MemoryStore())
    assert raised.value.culprit == getattr(thing, "__qualname__", repr(thing))


class OldTotal(Aggregate, tag="total"):
    def apply(self) -> None: ...
    def apply_any(self, event: A | B | C | D) -> None: ...


class Total(OnlyC, tag="total"):
    upcasters = (b_to_c, a_to_b)


class TotalOfTwo(Aggregate, tag="total"):
    upcasters = [ab_to_cd]  # noqa: RUF012
    seen: tuple[str, ...] = ()

    def apply_cd(self, event: C | D) -> None:
        self.seen += (f"{type(event).__name__}{event.n}",)


class WithoutHandlers(Aggregate, tag="without_handlers"):
    """Not usable by itself, so its tag is free."""

    total: int = 0


class WithHandlers(WithoutHandlers):
    def apply_a(self, event: A) -> None:
        self.total += event.n


class BaseEvent(Event):
    n: int = 0


class DerivedEvent(BaseEvent, tag="derived"):
    more: int = 0


class WithBases(WithoutHandlers, tag="with_bases"):
    def apply_derived(self, event: DerivedEvent) -> None:
        self.total += event.n


def test_bases_that_cannot_be_used_share_their_tag() -> None:
    assert WithHandlers(id="1").stream == "without_handlers-1"
    other = WithBases(id="1")
    other.record(DerivedEvent(n=2))
    assert (other.stream, other.total) == ("with_bases-1", 2)


async def test_upcasters_are_chained_in_any_listed_order() -> None:
    async with MemoryStore() as store:
        old = OldTotal(id="1")
        for event in (A(n=1), B(n=3), C(n=5)):
            old.record(event)
        await Repository(OldTotal, store).save(old)
        assert (await Repository(Total, store).load("1")).total == (1 + 1) * 10 + 3 * 10 + 5


async def test_an_upcaster_may_take_and_return_several_classes() -> None:
    async with MemoryStore() as store:
        old = OldTotal(id="1")
        for event in (A(n=1), B(n=3), D(n=5)):
            old.record(event)
        await Repository(OldTotal, store).save(old)
        assert (await Repository(TotalOfTwo, store).load("1")).seen == ("C1", "D3", "D5")


def test_an_old_class_cannot_be_recorded() -> None:
    with pytest.raises(TypeError, match="Total: A is upcast by a_to_b; record B"):
        Total(id="1").record(A(n=1))
