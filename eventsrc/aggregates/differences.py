"""Where a value that was read back differs from the original, in types as well as values.

`==` does not show that: `1 == True`, a `defaultdict` equals a `dict`, times in two zones are equal, and neither NaN nor
objects of a class with `eq=False` equal themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from inspect import getattr_static
from types import NoneType
from typing import Any
from uuid import UUID

import msgspec

from .custom_types import encode_custom, is_registered, is_same_custom
from .pydantic_models import is_model, names_of, read_others

_SIMPLE = {bool, int, float, str, bytes, date, timedelta, UUID, NoneType}
"""Types for which `==` shows every change but that of a NaN, which does not equal itself."""


def find_difference(one: Any, other: Any, *, exact: bool = True) -> str | None:
    """Return the path to a place where two values differ, "" for the values themselves, or None if there is none.

    With `exact=False`, values of a subclass of a builtin class equal those of the base, an int equals a float of the
    same value, and a time with a zone equals the same moment in another zone. Keys and items are not named, because
    they may be content.
    """
    kind = type(other)
    if kind in _SIMPLE and type(one) is kind:
        return None if one == other or one != one else ""
    if is_registered(kind):
        return None if is_same_custom(one, other) else ""
    names = field_names(other)
    if type(one) is not kind and (exact or names is not None or not isinstance(one, kind)):
        return None if not exact and not _has_parts(other) and one == other else ""
    if names is not None:
        for name in names:
            if (place := find_difference(getattr(one, name), getattr(other, name), exact=exact)) is not None:
                return f".{name}{place}"
        if is_model(kind):
            return _find_in_model(one, other, exact)
        return "" if find_extra(one, names, exact) or find_extra(other, names, exact) else None
    if isinstance(other, dict):
        return _find_in_items([*one, *one.values()], [*other, *other.values()], exact)
    if isinstance(other, (list, tuple)):
        return _find_in_items(one, other, exact)
    if isinstance(other, (set, frozenset)):
        return _find_in_items(sorted(one, key=_encode), sorted(other, key=_encode), exact)
    return None if _is_same(one, other, exact) else ""


def _find_in_items(one: Iterable[Any], other: Iterable[Any], exact: bool) -> str | None:
    ones, others = list(one), list(other)
    if len(ones) != len(others):
        return ""
    if {*map(type, ones)} <= _SIMPLE and [*map(type, ones)] == [*map(type, others)] and ones == others:
        return None
    for each, another in zip(ones, others, strict=True):
        if (place := find_difference(each, another, exact=exact)) is not None:
            return f"[...]{place}"
    return None


def field_names(value: Any) -> Collection[str] | None:
    """Return the fields of an object that has declared ones: a Struct, a dataclass, an attrs object or a model."""
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if hasattr(type(value), "__dataclass_fields__"):
        from dataclasses import fields  # here, as most programs need not import it

        return [field.name for field in fields(value)]
    if hasattr(type(value), "__attrs_attrs__"):
        return [attribute.name for attribute in type(value).__attrs_attrs__]
    return names_of(value) if is_model(type(value)) else None


def find_extra(value: Any, names: Collection[str], exact: bool = True) -> set[str]:
    """Return the attributes of an object that are not fields, and so are not restored.

    A `cached_property` is computed again. With `exact` it counts if the object may have changed since it was computed.
    """
    if not hasattr(value, "__dict__") or vars(value).keys() <= set(names):
        return set()
    extra: set[str] = vars(value).keys() - set(names)
    kind = type(value)
    if exact and not is_frozen(kind):
        return extra
    return {name for name in extra if not isinstance(getattr_static(kind, name, None), cached_property)}


def is_frozen(kind: Any) -> bool:
    """Return whether the fields of an object of a class cannot be set."""
    if issubclass(kind, msgspec.Struct):
        return bool(kind.__struct_config__.frozen)
    if is_model(kind):
        return bool(kind.model_config.get("frozen"))
    if hasattr(kind, "__attrs_attrs__"):
        return bool(kind.__setattr__.__name__ == "_frozen_setattrs")
    parameters = getattr(kind, "__dataclass_params__", None)
    return issubclass(kind, tuple) or (parameters is not None and bool(parameters.frozen))


def _find_in_model(one: Any, other: Any, exact: bool) -> str | None:
    """Return where two models differ except in their fields. Which fields have been set counts only with `exact`."""
    if find_extra(one, names_of(one), exact) or find_extra(other, names_of(other), exact):
        return ""
    ones, others = read_others(one), read_others(other)
    for name, value in others.items():
        counts = exact or name != "model_fields_set"
        if counts and (place := find_difference(ones[name], value, exact=exact)) is not None:
            return f".{name}{place}"
    return None


def _has_parts(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple, set, frozenset)) or field_names(value) is not None


def _is_same(one: Any, other: Any, exact: bool) -> bool:
    if isinstance(other, (datetime, time)):
        return _is_same_time(one, other, exact)
    if isinstance(other, Decimal):  # 1.0 equals 1.00, and a signalling NaN cannot be compared
        return str(one) == str(other)
    return bool(one == other) or (isinstance(other, float) and one != one and other != other)


def _is_same_time(one: Any, other: Any, exact: bool) -> bool:
    if not exact and isinstance(other, datetime) and other.tzinfo is not None:
        # `==` is never true between zones for a local time that is skipped or repeated.
        return one.tzinfo is not None and one.astimezone(other.tzinfo) == other
    zones = [each.tzinfo if exact else (each.tzinfo is None, each.utcoffset()) for each in (one, other)]
    return zones[0] == zones[1] and one.fold == other.fold and one.replace(tzinfo=None) == other.replace(tzinfo=None)


def _encode(value: Any) -> bytes:
    """Return what a member of a set is sorted by."""
    return msgspec.msgpack.encode(value, enc_hook=_encode_member)


def _encode_member(value: Any) -> Any:
    return encode_custom(value) if is_registered(type(value)) else repr(value)
