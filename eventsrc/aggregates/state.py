"""The types that a state may have, and whether the values of a state are restored exactly as they are.

`execute` and snapshots keep a state as MessagePack. So a state may have only types whose values are restored with the
same type and value. The types are checked when a class is declared. The values are checked each time a state is
encoded, because Python does not check them: a `defaultdict` in a field `dict[str, int]` would be restored as a `dict`.

All values of one field are checked together, by loops that run in C. So a check costs less than restoring the state.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from types import NoneType
from typing import Any, cast, get_origin
from uuid import UUID

import msgspec
from msgspec import inspect

from ..errors import DeclarationError
from .custom_types import check_custom
from .differences import field_names, find_difference, find_extra, is_frozen
from .parts import find_changeable
from .pydantic_models import is_field

Values = Collection[Any]
Seen = set[int]
"""Ids of the objects that may be referred to only once."""
Check = Callable[[Values, Seen], None]

_Class = inspect.StructType | inspect.DataclassType | inspect.NamedTupleType

_LEAVES: dict[type[inspect.Type], type[Any]] = {
    inspect.NoneType: NoneType,
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.StrType: str,
    inspect.BytesType: bytes,
    inspect.UUIDType: UUID,
    inspect.DecimalType: Decimal,
    inspect.DateType: date,
    inspect.TimeDeltaType: timedelta,
}
_LIMITS = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length", "tz")  # of msgspec.Meta
_TIMES: dict[type[inspect.Type], type[Any]] = {inspect.DateTimeType: datetime, inspect.TimeType: time}
_COLLECTIONS: dict[type[inspect.Type], type[Any]] = {
    inspect.ListType: list,
    inspect.SetType: set,
    inspect.FrozenSetType: frozenset,
    inspect.VarTupleType: tuple,
}
_SHARED = "has a mutable default that all objects would share; use a default_factory that makes a new one"
_INSTEAD = {"defaultdict": "dict", "Counter": "dict", "OrderedDict": "dict", "deque": "list", "Iterable": "list"}


class Inexact(Exception):
    """A state would be restored with another type or value. The reason names the cure, and no value."""

    def __init__(self, culprit: str, reason: str) -> None:
        super().__init__(culprit, reason)
        self.culprit, self.reason = culprit, reason

    def __str__(self) -> str:
        return f"{self.culprit} {self.reason}"


class StateType:
    """The type of a state. Raises DeclarationError unless its values are restored exactly."""

    def __init__(self, kind: inspect.Type, culprit: str) -> None:
        self.has_hooks = False
        """Whether code of a user runs when a state is restored, or a value may be refused then. Only restoring it shows
        what that code changes, or what is refused."""
        self._classes: dict[Any, _Members] = {}
        self._typed_dicts: dict[Any, _TypedDicts] = {}
        self._root = self._compile(kind, culprit)

    def check(self, state: Any) -> None:
        """Raise Inexact if a value does not have an annotated type, is restored changed, or is referred to twice."""
        self._root.check((state,), set())

    def check_initial_values(self, aggregate: type[Any]) -> None:
        """Raise DeclarationError unless new aggregates start from equal values of their own, which are restored."""
        for field in msgspec.structs.fields(aggregate):
            if field.default_factory is not msgspec.NODEFAULT:
                value, other = field.default_factory(), field.default_factory()
                if value is other and not is_shareable(value):
                    raise DeclarationError(f"{aggregate.__qualname__}.{field.name}", _SHARED)
                if find_difference(value, other) is not None:
                    reason = "has another default each time, so a replay would start from another state"
                    raise DeclarationError(f"{aggregate.__qualname__}.{field.name}", f"{reason}; set it in a handler")
            elif (value := field.default) is msgspec.NODEFAULT:
                continue  # the id
            try:
                self._classes[aggregate].fields[field.name].check((value,), set())
            except Inexact as error:
                raise DeclarationError(error.culprit, f"its default {error.reason}") from None

    def _compile(self, kind: inspect.Type, culprit: str) -> _Field:
        field = _Field(culprit)
        self._add(kind, field)
        return field

    def _add(self, kind: inspect.Type, field: _Field) -> None:
        """Add the types of values that a field may have, each with the check of its content."""
        culprit = field.culprit
        self.has_hooks |= _is_limited(kind)
        if isinstance(kind, inspect.Metadata):
            self._add(kind.type, field)
        elif isinstance(kind, inspect.UnionType):
            for member in kind.types:
                self._add(member, field)
        elif type(kind) in _LEAVES:
            field.add(_LEAVES[type(kind)])
        elif isinstance(kind, inspect.EnumType):
            field.add(kind.cls)
        elif isinstance(kind, inspect.LiteralType):
            for value in kind.values:
                field.add(type(value))
        elif type(kind) in _TIMES:
            field.add(_TIMES[type(kind)], _Times(culprit))
        elif isinstance(kind, inspect.ByteArrayType):
            field.add(bytearray, _Once(culprit))
        elif isinstance(kind, inspect.CollectionType):
            made = _COLLECTIONS[type(kind)]
            once = _Once(culprit) if made in (list, set) else None
            field.add(made, _Items(once, self._compile(kind.item_type, culprit)))
        elif isinstance(kind, inspect.TupleType):
            field.add(tuple, _Tuples(culprit, [self._compile(item, culprit) for item in kind.item_types]))
        elif isinstance(kind, inspect.DictType):
            keys, items = self._compile(kind.key_type, culprit), self._compile(kind.value_type, culprit)
            field.add(dict, _Dicts(_Once(culprit), keys, items))
        elif isinstance(kind, inspect.TypedDictType):
            field.add(dict, self._add_typed_dict(kind))
        elif isinstance(kind, (inspect.StructType, inspect.DataclassType, inspect.NamedTupleType)):
            field.add(get_origin(kind.cls) or kind.cls, self._add_class(kind))
        elif isinstance(kind, inspect.CustomType) and kind.cls.__name__ not in _INSTEAD:
            check_custom(kind.cls, culprit)
            self.has_hooks = True
            field.add(get_origin(kind.cls) or kind.cls, _Custom(_Once(culprit)))
        else:
            raise DeclarationError(culprit, _explain(kind))

    def _add_class(self, kind: _Class) -> _Members:
        if (found := self._classes.get(kind.cls)) is not None:  # the class contains itself, or is used again
            return found
        made = cast("type[Any]", get_origin(kind.cls) or kind.cls)
        is_struct, name = isinstance(kind, inspect.StructType), made.__qualname__
        if is_struct and made.__dictoffset__:
            raise DeclarationError(name, "may have attributes that a snapshot does not store; remove dict=True")
        hook = getattr(made, "__post_init__", None)
        is_ours = hook is not None and hook.__module__ == f"{__package__}.aggregate"
        self.has_hooks |= (hook is not None and not is_ours) or hasattr(made, "__attrs_attrs__")
        found = self._classes[kind.cls] = _Members(made, is_struct)
        found.add({field.name: self._compile(field.type, f"{name}.{field.name}") for field in kind.fields})
        return found

    def _add_typed_dict(self, kind: inspect.TypedDictType) -> _TypedDicts:
        if (found := self._typed_dicts.get(kind.cls)) is not None:
            return found
        name, required = kind.cls.__qualname__, {field.name for field in kind.fields if field.required}
        found = self._typed_dicts[kind.cls] = _TypedDicts(_Once(name), required)
        for field in kind.fields:
            found.fields[field.name] = self._compile(field.type, f"{name}[{field.name!r}]")
        return found


class _Field:
    """A place in a state, and the types that its values may have, each with the check of the content of the values."""

    def __init__(self, culprit: str) -> None:
        self.culprit = culprit
        self.cases: dict[type[Any], Check | None] = {}
        self.leaves: set[type[Any]] = set()  # types of values without content

    def add(self, kind: type[Any], check: Check | None = None) -> None:
        self.cases[kind] = check
        if check is None:
            self.leaves.add(kind)

    def check(self, values: Values, seen: Seen) -> None:
        kinds = {*map(type, values)}
        if not kinds <= self.leaves:
            self.check_content(values, kinds, seen)

    def check_content(self, values: Values, kinds: set[type[Any]], seen: Seen) -> None:
        """Check values that have these types."""
        if not kinds <= self.cases.keys():
            self.refuse(kinds)
        for kind in kinds:
            if check := self.cases[kind]:
                check(values if len(kinds) == 1 else [value for value in values if type(value) is kind], seen)

    def refuse(self, kinds: set[type[Any]]) -> None:
        """Raise Inexact, because not all of these types are annotated."""
        both = (kinds - self.cases.keys(), self.cases)
        names = [" and ".join(sorted(kind.__qualname__ for kind in kinds)) for kinds in both]
        raise Inexact(self.culprit, f"holds {names[0]}, and is annotated with {names[1]}; store exactly that type")


class _Once(msgspec.Struct):
    """Checks that no object is referred to twice: it would be restored as two."""

    culprit: str

    def __call__(self, values: Values, seen: Seen) -> None:
        before = len(seen)
        seen.update(map(id, values))
        if len(seen) != before + len(values):
            reason = "is one object at two places of the state, and is restored as two"
            raise Inexact(self.culprit, f"{reason}; store a copy, or a key to find it by")


class _Custom(msgspec.Struct):
    """Checks that what may change within values of a type, which msgspec does not know, is referred to once."""

    once: _Once

    def __call__(self, values: Values, seen: Seen) -> None:
        self.once([each for value in values for each in find_changeable(value)], seen)


class _Times(msgspec.Struct):
    culprit: str

    def __call__(self, values: Values, seen: Seen) -> None:
        if [1 for each in values if each.fold or (each.tzinfo is not UTC and each.tzinfo is not None)]:
            reason = "holds a time that is restored in UTC, or without its zone or fold"
            raise Inexact(self.culprit, f"{reason}; store it in UTC, and convert it where it is used")


class _Items(msgspec.Struct):
    once: _Once | None
    item: _Field

    def __call__(self, values: Values, seen: Seen) -> None:
        if self.once:
            self.once(values, seen)
        self.item.check(_flatten(values), seen)


class _Tuples(msgspec.Struct):
    culprit: str
    items: list[_Field]

    def __call__(self, values: Values, seen: Seen) -> None:
        if set(map(len, values)) != {len(self.items)}:
            raise Inexact(self.culprit, f"holds a tuple of another length; store {len(self.items)} items")
        for item, column in zip(self.items, zip(*values, strict=True), strict=True):
            item.check(column, seen)


class _Dicts(msgspec.Struct):
    once: _Once
    key: _Field
    item: _Field

    def __call__(self, values: Values, seen: Seen) -> None:
        self.once(values, seen)
        self.key.check(_flatten(values), seen)
        self.item.check(_flatten([value.values() for value in values]), seen)


class _TypedDicts(msgspec.Struct):
    """Checks the dictionaries of a TypedDict. The fields are added later, because it may contain itself."""

    once: _Once
    required: set[str]
    fields: dict[str, _Field] = {}

    def __call__(self, values: Values, seen: Seen) -> None:
        self.once(values, seen)
        if not all(self.required <= value.keys() <= self.fields.keys() for value in values):
            raise Inexact(self.once.culprit, "has other keys than its TypedDict; store exactly those")
        for name, field in self.fields.items():
            field.check([value[name] for value in values if name in value], seen)


class _Members:
    """Checks the objects of a class. The fields are added later, because a class may contain itself."""

    def __init__(self, made: type[Any], is_struct: bool) -> None:
        self._name = made.__qualname__
        self._once = _Once(self._name) if _has_identity(made) else None
        self._may_have_others = not is_struct and bool(made.__dictoffset__)  # attributes that are not fields
        self.fields: dict[str, _Field] = {}
        self._columns: list[tuple[_Field, Callable[[Values], Values], Callable[[Values], set[type[Any]]]]] = []

    def add(self, fields: dict[str, _Field]) -> None:
        """Add the fields. The functions that read them are compiled: that takes half the time of `attrgetter`."""
        self.fields.update(fields)
        for name, field in fields.items():
            read = eval(f"lambda values: [value.{name} for value in values]")  # noqa: S307  # the name of a field
            read_types = eval(f"lambda values: {{type(value.{name}) for value in values}}")  # noqa: S307  # as above
            self._columns.append((field, read, read_types))

    def __call__(self, values: Values, seen: Seen) -> None:
        if self._once:
            self._once(values, seen)
        if self._may_have_others and any(find_extra(value, self.fields.keys()) for value in values):
            raise Inexact(self._name, "has an attribute that is not a field, and is not restored; annotate it")
        for field, read, read_types in self._columns:
            kinds = read_types(values)
            if not kinds <= field.leaves:
                field.check_content(read(values), kinds, seen)


def _flatten(values: Collection[Collection[Any]]) -> Collection[Any]:
    """Return the items of all values; without a copy if there is only one value."""
    if len(values) > 1:
        return [*chain.from_iterable(values)]
    (only,) = values
    return only


def _has_identity(made: Any) -> bool:
    """Return whether it matters that two places hold one object of a class, and not two equal ones."""
    compares = made.__struct_config__.eq if issubclass(made, msgspec.Struct) else made.__eq__ is not object.__eq__
    return not (compares and is_frozen(made))


def is_shareable(value: Any) -> bool:
    """Return whether all objects can have the same default, because none of them can change it."""
    if isinstance(value, (tuple, frozenset)):
        return all(map(is_shareable, value))
    if (names := field_names(value)) is not None:
        return is_frozen(type(value)) and all(is_shareable(getattr(value, name)) for name in names)
    return type(value).__hash__ is not None


def _is_limited(kind: inspect.Type) -> bool:
    """Whether not all values of the types of a field are values of the field: it is a Literal, or has constraints."""
    return isinstance(kind, inspect.LiteralType) or any(getattr(kind, name, None) is not None for name in _LIMITS)


def check_fields(kind: inspect.Type, *, with_custom: bool) -> None:
    """Raise DeclarationError if a class within this type has a default that one of its objects could change, or, with
    `with_custom`, a type that has no stored form.
    """
    seen: set[Any] = set()

    def visit(part: Any, culprit: str) -> None:
        if isinstance(part, (list, tuple)):
            for each in part:
                visit(each, culprit)
        elif isinstance(part, inspect.Field):
            if is_field(part.default):
                reason = "has a default that only pydantic reads; write a plain default, or a BaseModel"
                raise DeclarationError(f"{culprit}.{part.name}", reason)
            if part.default is not msgspec.NODEFAULT and not is_shareable(part.default):
                raise DeclarationError(f"{culprit}.{part.name}", _SHARED)
            visit(part.type, f"{culprit}.{part.name}")
        elif isinstance(part, inspect.CustomType) and with_custom:
            check_custom(part.cls, culprit)
        elif isinstance(part, inspect.DataclassType) and (name := _find_private(part.cls)):
            reason = "is not stored, because its name starts with an underscore; rename it"
            raise DeclarationError(f"{culprit}: {name}", reason)
        elif isinstance(part, inspect.Type):
            made = getattr(part, "cls", None)
            if made is None or made not in seen:
                seen.add(made)
                for name in part.__struct_fields__:
                    visit(getattr(part, name), getattr(made, "__qualname__", culprit))

    visit(kind, "")


def _find_private(made: Any) -> str | None:
    """Return the name of a field of an attrs class that msgspec does not store."""
    return next(
        (each.name for each in getattr(get_origin(made) or made, "__attrs_attrs__", ()) if each.name.startswith("_")),
        None,
    )


def _explain(kind: inspect.Type) -> str:
    """Return why values of a type are not restored exactly, and the cure."""
    cure = "or override to_snapshot and from_snapshot"
    if isinstance(kind, inspect.AnyType):
        reason = "may hold values of any type, which a snapshot does not restore exactly"
        return f"{reason}; annotate all types, such as dict[str, int], {cure}"
    name = getattr(getattr(kind, "cls", None), "__qualname__", type(kind).__name__.removesuffix("Type"))
    instead = f"use {_INSTEAD[name]}" if name in _INSTEAD else "use a type that a snapshot restores"
    return f"holds {name}, which a snapshot does not restore exactly; {instead}, {cure}"
