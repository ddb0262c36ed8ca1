"""Types that msgspec does not know: how their values are stored, by registered functions or as models of pydantic."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar, get_origin
from uuid import UUID

import msgspec
from msgspec import inspect

from ..errors import DeclarationError, kind_of
from .parts import Trace
from .pydantic_models import check_model, describe_model, dump, is_model, validate

T = TypeVar("T")


class ConversionError(ValueError):
    """A function that converts values of a type failed. The text names the type, and no value."""


class Converter(NamedTuple):
    """The functions that make what is stored of a value, and the value of what is stored."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]

    @property
    def names(self) -> list[str]:
        return [f"{_module_of(each)}.{_name_of(each)}" for each in self]


_registered: dict[type[Any], Converter] = {}


def register_type(kind: type[T], *, encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
    """Let fields of events and of states have a type that eventsrc does not know.

    ```python
    register_type(Money, encode=str, decode=Money.parse)
    ```

    - `encode` returns what is stored: None, bool, int, float, str, bytes, or lists, and dictionaries with strings as
      keys, of these. It must not change the value.
    - `decode` gets that, and returns a new, equal value, of exactly this class. The class needs an `__eq__`.

    Call it once, where the class is defined or imported, before an event or aggregate with such a field is used. Both
    functions apply to the whole process, also to events that are already stored.

    Raises:
        DeclarationError: the class is stored without them, has no `__eq__`, or is registered with other functions.
    """
    given: object = kind
    if not isinstance(given, type):
        raise DeclarationError(repr(given), "is not a class; register the class itself")
    name, converter = kind.__qualname__, Converter(encode, decode)
    if issubclass(kind, _STORED) or not isinstance(_read_type(kind), inspect.CustomType):
        raise DeclarationError(name, "is stored without functions of its own; use it as it is, or wrap it in a class")
    for function in converter:
        if not callable(function):
            raise DeclarationError(name, f"{kind_of(function)} is not a function; give encode= and decode= functions")
    if kind.__eq__ is object.__eq__:
        raise DeclarationError(name, "has no __eq__, so nothing can show that its values are read back; define it")
    known = _registered.get(kind)
    if known is not None and known.names != converter.names:  # of the same names: a module or a cell has run again
        raise DeclarationError(name, f"is registered already, with {' and '.join(known.names)}; register it once")
    _registered[kind] = converter


def check_custom(kind: Any, culprit: str) -> None:
    """Raise DeclarationError unless values of a type that msgspec does not know can be stored. `culprit` is a field."""
    made = get_origin(kind) or kind
    if made in _registered:
        return
    if not is_model(made):
        name = getattr(made, "__qualname__", repr(made))
        cure = f"register_type({name}, encode=..., decode=...), or use a type that is stored as it is"
        raise DeclarationError(culprit, f"holds {name}, which has no stored form; call {cure}")
    check_model(made)


def encode_custom(value: Any) -> Any:
    """Return what is stored of a value. Raises ConversionError, and TypeError if its type has no stored form."""
    name = type(value).__qualname__
    if (converter := _find_converter(type(value))) is None:
        raise TypeError(f"Encoding objects of type {name} is unsupported")
    before = Trace(value)
    try:
        stored = converter.encode(value)
    except Exception as error:  # noqa: BLE001  # code of a user
        reason = f"raises {type(error).__name__}"
    else:
        try:
            plain = msgspec.to_builtins(stored, builtin_types=(bytes,))
        except Exception:  # noqa: BLE001  # its text may quote the value
            reason = f"returns {kind_of(stored)} that cannot be stored; return what MessagePack has"
        else:
            if not before.has_changed():
                return plain
            reason = "changes the object"
    raise ConversionError(f"the encode function of {name} {reason}")  # outside the except blocks: as above


def decode_custom(kind: Any, stored: Any) -> Any:
    """Return the value of this type that was stored as this. Raises ConversionError, also for another type."""
    made = get_origin(kind) or kind
    if (converter := _find_converter(made)) is None:
        raise TypeError(f"Decoding objects of type {made.__qualname__} is unsupported")
    try:
        value = converter.decode(stored)
    except Exception as error:  # noqa: BLE001  # code of a user
        reason = f"raises {type(error).__name__}"
    else:
        if type(value) is made:
            return value
        reason = f"returns {kind_of(value)}"
    raise ConversionError(f"the decode function of {made.__qualname__} {reason}")


def publish_custom(value: Any) -> Any:
    """Return what JSON shows of a value: of a model what pydantic makes of it, of others what is stored."""
    own: Any = value
    return own.model_dump(mode="json") if is_model(type(value)) else encode_custom(value)


def is_registered(kind: type[Any]) -> bool:
    return kind in _registered


def is_custom(kind: type[Any]) -> bool:
    """Return whether values of a type that msgspec does not know have a stored form."""
    return _find_converter(kind) is not None


def is_same_custom(one: Any, other: Any) -> bool:
    """Return whether two values of a registered type are equal, and are stored as the same bytes.

    Raises ConversionError, also if decoding makes one object for two values that may change.
    """
    if type(one) is not type(other) or not (one == other):  # noqa: SIM201  # as `==` says, which may differ from `!=`
        return False
    stored = encode_custom(other)
    if type(other).__hash__ is None and decode_custom(type(other), stored) is decode_custom(type(other), stored):
        reason = "returns one object for several values; return a new one"
        raise ConversionError(f"the decode function of {type(other).__qualname__} {reason}")
    return msgspec.msgpack.encode(encode_custom(one)) == msgspec.msgpack.encode(stored)


def describe_custom(kind: Any) -> str:
    """Return a text that changes with what the declaration of a type shows of how its values are stored."""
    made = get_origin(kind) or kind
    if made in _registered:
        return f"{made.__qualname__}:{_registered[made].names}"
    return describe_model(made) if is_model(made) else made.__qualname__


_STORED = (list, dict, set, frozenset, tuple, bytearray, UUID)
"""Classes of which msgspec stores subclasses as well, without calling a function."""


def _find_converter(kind: Any) -> Converter | None:
    if (known := _registered.get(kind)) is not None or not is_model(kind):
        return known
    return Converter(dump, partial(validate, kind))


def _read_type(kind: type[Any]) -> inspect.Type | None:
    try:
        return inspect.type_info(kind)
    except Exception:  # noqa: BLE001  # a class that msgspec refuses, such as a dataclass with an InitVar
        return None


def _name_of(function: object) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)


def _module_of(function: object) -> str:
    return getattr(function, "__module__", None) or "builtins"
