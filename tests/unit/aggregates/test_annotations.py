"""Annotations: nested classes, generic bases, aliases, and classes that exist twice."""

from __future__ import annotations

import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, new_class
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import pytest

from eventsrc import Aggregate, DeclarationError, Event, MemoryStore, Repository, UnhandledEvent
from eventsrc.aggregates.declaration import declaration_of
from eventsrc.processing import MemoryCheckpoints, MemoryProjection
from eventsrc.testing import given


class A(Event, tag="a"):
    n: int = 0


class B(Event, tag="b"):
    n: int = 0


class Named(Event, tag="outer.named"):
    """An event of the same name as one within a class below."""


def handled(aggregate: type[Any]) -> set[type[Event]]:
    return set(declaration_of(aggregate).handlers)


# --- classes within the aggregate class


class Dog(Aggregate, tag="dog"):
    class Named(Event, tag="dog.named"):
        name: str

    class Called(Event, tag="dog.called"):
        name: str

    class Chip(msgspec.Struct, frozen=True):
        number: int = 0

    class Chipped(Event, tag="dog.chipped"):
        number: int

    class Packed(msgspec.Struct):
        name: str
        number: int

    Naming = Named | Chipped
    name: str = ""
    chip: Chip = Chip()

    def upcast(old: Called) -> Named:  # type: ignore[misc]  # noqa: N805
        return Dog.Named(name=old.name)  # pyright: ignore[reportReturnType]

    upcasters = (upcast,)

    def apply_naming(self, event: Naming) -> None:
        if isinstance(event, Dog.Named):
            self.name = event.name
        else:
            self.chip = Dog.Chip(event.number)

    def to_snapshot(self) -> Packed:
        return self.Packed(self.name, self.chip.number)

    @classmethod
    def from_snapshot(cls, id: str, state: Packed) -> Dog:
        dog = cls(id=id)
        dog.name, dog.chip = state.name, Dog.Chip(state.number)
        return dog


class Puppy(Dog, tag="puppy"):
    """Inherits a handler whose annotation uses names of the base."""


@pytest.mark.parametrize("kind", [Dog, Puppy])
def test_names_of_the_class_body_are_found(kind: type[Dog]) -> None:
    given(kind, Dog.Called(name="rex"), Dog.Chipped(number=7)).then_state(name="rex", chip=Dog.Chip(7))
    assert handled(kind) == {Dog.Named, Dog.Chipped}


async def test_names_of_the_body_of_a_projection_are_found() -> None:
    bound(Names())


class Names(MemoryProjection, tag="names"):
    class Barked(Event, tag="dog.barked"):
        pass

    def handle_barks(self, events: Sequence[Barked]) -> None: ...


class Cat(Aggregate, tag="cat"):
    """Its fields have the names of types that its handlers use; those are meant."""

    B: int = 0
    seen: int = 0

    def apply_it(self, event: B) -> None:  # type: ignore[valid-type]
        self.seen += 1


def test_fields_do_not_hide_names_of_the_module() -> None:
    assert handled(Cat) == {B}


def bound(projection: MemoryProjection) -> None:
    projection.bind(MemoryCheckpoints(), MemoryStore())


# --- generic bases

E = TypeVar("E", bound=Event)
F = TypeVar("F", bound=Event)
S = TypeVar("S")
Either = TypeVar("Either", A, B)
Bounded = TypeVar("Bounded", bound=A | B)


class Counting(Aggregate, Generic[E, S]):
    count: int = 0
    last: S | None = None

    def apply_it(self, event: E) -> None:
        self.count += 1


class OfA(Counting[A, str], tag="of_a"): ...


class OfBoth(Counting[A | B, int], tag="of_both"): ...


class Between(Counting[E, int], Generic[E]): ...


class OfB(Between[B], tag="of_b"): ...


class More(Counting[E | A, int], Generic[E]): ...


class OfMore(More[B], tag="of_more"): ...


class Crossed(Counting[F, E], Generic[E, F]): ...


class OfCrossed(Crossed[A, B], tag="of_crossed"): ...


@pytest.mark.parametrize(
    ("kind", "events"),
    [(OfA, {A}), (OfBoth, {A, B}), (OfB, {B}), (OfMore, {A, B}), (OfCrossed, {B})],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_type_variables_stand_for_the_arguments_of_the_base(kind: type[Any], events: set[type[Event]]) -> None:
    assert handled(kind) == events
    given(kind, *(event() for event in events)).then_state(count=len(events))


class Constrained(Aggregate, Generic[Either], tag="constrained"):
    def apply_it(self, event: Either) -> None: ...


class ByBound(Aggregate, Generic[Bounded], tag="by_bound"):
    def apply_it(self, event: Bounded) -> None: ...


def test_a_type_variable_without_argument_stands_for_its_bound_or_constraints() -> None:
    assert handled(Constrained) == handled(ByBound) == {A, B}


class Open(Counting[E, int], Generic[E], tag="open"): ...


def test_a_type_variable_that_stands_for_nothing_is_named() -> None:
    with pytest.raises(DeclarationError, match="type variable E stands for no event class; give one"):
        declaration_of(Open)


async def test_generic_bases_of_projections() -> None:
    class Generically(MemoryProjection, Generic[E]):
        def handle_it(self, event: E) -> None: ...

    class Concrete(Generically[A], tag="concrete"): ...

    bound(concrete := Concrete())
    assert concrete.handles == ("a",)


# --- the syntax of Python 3.12

SYNTAX = """
from collections.abc import Sequence
from eventsrc import Aggregate, Event
from eventsrc.processing import MemoryProjection

class A(Event, tag="a"):
    n: int = 0

class B(Event, tag="b"):
    n: int = 0

type Both = A | B
type Again = Both
type Or[T] = A | T
type Some = Sequence[Both]

class Aliased(Aggregate, tag="aliased"):
    def apply_it(self, event: Again) -> None: ...

class AliasedWithArgument(Aggregate, tag="aliased_with_argument"):
    def apply_it(self, event: Or[B]) -> None: ...

class Base[E: Event, S](Aggregate):
    last: S | None = None
    def apply_it(self, event: E) -> None: ...

class Concrete(Base[Both, int], tag="concrete"):
    type Mine = B

class Nested(Aggregate, tag="nested"):
    type Mine = A | B
    def apply_it(self, event: Mine) -> None: ...

class OrOfBase[E: Event](Aggregate):
    def apply_it(self, event: Or[E]) -> None: ...

class OrOfB(OrOfBase[B], tag="or_of_b"): ...

class Reads(MemoryProjection, tag="reads"):
    def handle_it(self, events: Some) -> None: ...
"""

if sys.version_info >= (3, 12):

    @pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"], ids=["", "future"])
    async def test_the_syntax_of_python_3_12(future: str, tmp_path: Path) -> None:
        module = import_as("syntax_of_3_12", future + SYNTAX, tmp_path)
        for kind in (module.Aliased, module.AliasedWithArgument, module.Concrete, module.Nested, module.OrOfB):
            assert handled(kind) == {module.A, module.B}, kind
        bound(reads := module.Reads())
        assert reads.handles == ("a", "b")


# --- classes that exist twice

ACCOUNTS = """
from eventsrc import Aggregate, Event

class Opened(Event, tag="opened"):
    n: int = 0

class Account(Aggregate, tag="account"):
    def apply_opened(self, event: Opened) -> None: ...
"""


@pytest.fixture(autouse=True)
def _forget_modules() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def import_as(name: str, source: str, folder: Path) -> Any:
    """Import a module, or import it again."""
    path = folder / "accounts.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


async def test_a_module_that_was_imported_twice_is_named_with_the_cure(tmp_path: Path) -> None:
    one, other = (import_as(name, ACCOUNTS, tmp_path) for name in ("accounts", "app.accounts"))
    cure = "imported twice, as accounts and app.accounts; import it under one name"
    with pytest.raises(UnhandledEvent, match=cure):
        one.Account(id="1").record(other.Opened())
    async with MemoryStore() as store:
        account = other.Account(id="1")
        account.record(other.Opened())
        with pytest.raises(TypeError, match=f"saves Account, not another class Account: .*{cure}"):
            await Repository(one.Account, store).save(account)


async def test_a_notebook_cell_that_ran_again_is_named_with_the_cure() -> None:
    cells = {"__name__": __name__}
    events, aggregate = ACCOUNTS.split("class Account")
    exec(events, cells)
    exec(f"class Account{aggregate}", cells)
    account: Any = cells["Account"]
    account(id="1").record(cells["Opened"]())  # type: ignore[operator]
    exec(events, cells)
    with pytest.raises(UnhandledEvent, match=r"defined again, as by a notebook cell .*; run again what uses the class"):
        account(id="1").record(cells["Opened"]())  # type: ignore[operator]
    async with MemoryStore() as store:
        accounts = Repository(account, store)
        exec(f"class Account{aggregate}", cells)
        new: Any = cells["Account"](id="1")  # type: ignore[operator]
        new.record(cells["Opened"]())  # type: ignore[operator]
        with pytest.raises(TypeError, match="saves Account, not another class Account: it was defined again"):
            await accounts.save(new)
        await Repository(type(new), store).save(new)


def test_two_classes_of_one_name_in_one_aggregate_are_named_with_the_cure(tmp_path: Path) -> None:
    one, other = (import_as(name, ACCOUNTS, tmp_path) for name in ("accounts", "app.accounts"))

    def upcast(old: Any) -> Any: ...

    upcast.__annotations__ = {"old": A, "return": other.Opened}
    upcasting = type("Upcasting", (one.Account,), {"upcasters": (upcast,), "__module__": __name__}, tag="upcasting")
    with pytest.raises(DeclarationError, match=r"returns Opened, which Upcasting does not handle: .*imported twice"):
        declaration_of(upcasting)

    def apply_too(self: Any, event: Any) -> None: ...

    apply_too.__annotations__ = {"event": other.Opened}
    handling = type("Handling", (one.Account,), {"apply_too": apply_too, "__module__": __name__}, tag="handling")
    with pytest.raises(DeclarationError, match=r"uses two classes Opened: .*imported twice"):
        declaration_of(handling)


# --- bases with a metaclass of their own


class Priced(Protocol):
    def price(self) -> int: ...


class Ware(Aggregate, tag="ware"):
    """Has the methods of the protocol, without inheriting from it."""

    def price(self) -> int:
        return 7

    def apply_a(self, event: A) -> None: ...


class Priceable(Aggregate, ABC):
    """A base that says which methods its subclasses must have."""

    @abstractmethod
    def price(self) -> int: ...

    def apply_a(self, event: A) -> None: ...


class Unfinished(Priceable, tag="unfinished"):
    pass


class Finished(Priceable, tag="finished"):
    def price(self) -> int:
        return 7


def test_an_aggregate_may_have_abstract_methods() -> None:
    finished = Finished(id="1")
    finished.record(A())
    assert finished.price() == 7
    assert isinstance(finished, Priceable)
    assert not isinstance(finished, Unfinished)
    with pytest.raises(DeclarationError, match=r"Unfinished\.price: is abstract"):
        declaration_of(Unfinished)
    with pytest.raises(TypeError, match="price"):
        Unfinished(id="1")  # type: ignore[abstract]


def test_a_protocol_is_no_base_and_needs_none() -> None:
    with pytest.raises(DeclarationError, match="Thing: has the base Priced, which is a Protocol; remove this base"):
        new_class("Thing", (Aggregate, Priced))
    priced: Priced = Ware(id="1")
    assert priced.price() == 7
