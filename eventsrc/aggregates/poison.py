"""Values that a store would take and no reader would get back, or that other readers choke on.

Most event classes cannot hold any, which is known from their annotations; only the others are walked.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
from msgspec import inspect

from .misfit import reason_of

MAX_DEPTH = 64
"""Levels of nesting an event may have, itself counted."""

_PLAIN = (
    inspect.IntType,
    inspect.StrType,
    inspect.BytesType,
    inspect.BoolType,
    inspect.NoneType,
    inspect.DateTimeType,
    inspect.DateType,
    inspect.TimeType,
    inspect.TimeDeltaType,
    inspect.UUIDType,
    inspect.DecimalType,
    inspect.EnumType,
    inspect.LiteralType,
)


def may_be_unstorable(event_type: type[Any]) -> bool:
    """Whether an instance could hold a non-finite float, a key that is no string, or endless nesting."""
    return not _is_plain(inspect.type_info(event_type), ())


def find_unstorable(value: Any) -> str | None:
    """The reason why this event must not be stored, with the path to it; None if there is none."""
    try:
        return _walk(msgspec.to_builtins(value, builtin_types=(bytes,)), "$", 1)
    except RecursionError:
        return f"it is nested more than {MAX_DEPTH} levels deep"
    except Exception as error:  # noqa: BLE001  # whatever it is, it is said here, where the event is known
        return reason_of(error)


def _is_plain(kind: inspect.Type, above: tuple[type[Any], ...]) -> bool:
    if isinstance(kind, _PLAIN):
        return True
    if isinstance(kind, inspect.Metadata):
        return _is_plain(kind.type, above)
    if isinstance(kind, inspect.UnionType):
        return all(_is_plain(member, above) for member in kind.types)
    if isinstance(kind, inspect.CollectionType):
        return _is_plain(kind.item_type, above)
    if isinstance(kind, inspect.TupleType):
        return all(_is_plain(item, above) for item in kind.item_types)
    if isinstance(kind, inspect.DictType):
        return isinstance(kind.key_type, inspect.StrType) and _is_plain(kind.value_type, above)
    if isinstance(kind, (inspect.StructType, inspect.DataclassType, inspect.TypedDictType, inspect.NamedTupleType)):
        nested = (*above, kind.cls)
        return kind.cls not in above and all(_is_plain(field.type, nested) for field in kind.fields)
    return False


def _walk(value: Any, path: str, depth: int) -> str | None:
    if depth > MAX_DEPTH:
        return f"it is nested more than {MAX_DEPTH} levels deep"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"a number is not finite, at {path}"
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"a map key is {type(key).__name__}, not a string, at {path}"
            # Below the event's own fields a key may be content, which belongs in no error.
            if reason := _walk(item, f"{path}.{key}" if depth == 1 else f"{path}[...]", depth + 1):
                return reason
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if reason := _walk(item, f"{path}[{index}]", depth + 1):
                return reason
    return None
