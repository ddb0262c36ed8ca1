"""Where a value that was read back differs from the original, in types as well as values.

`==` does not show that: `1 == True`, a `defaultdict` equals a `dict`, times in two zones are equal, and neither NaN nor
objects of a class with `eq=False` equal themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any
from uuid import UUID

import msgspec

_SIMPLE = {bool, int, float, str, bytes, date, timedelta, UUID, NoneType}
"""Types for which `==` shows every change but that of a NaN, which does not equal itself."""


def find_difference(one: Any, other: Any, *, exact: bool = True) -> str | None:
    """Return the path to a place where two values differ, "" for the values themselves, or None if there is none.

    With `exact=False`, values of a subclass equal those of the base, an int equals a float of the same value, and a
    time with a zone equals the same moment in another zone. Keys and items are not named, because they may be content.
    """
    kind = type(other)
    if type(one) is not kind and (exact or not isinstance(one, kind)):
        return None if not exact and not _has_parts(other) and one == other else ""
    if (names := _names_of(other)) is not None:
        for name in names:
            if (place := find_difference(getattr(one, name), getattr(other, name), exact=exact)) is not None:
                return f".{name}{place}"
        return None if not exact or not hasattr(one, "__dict__") or vars(one).keys() == vars(other).keys() else ""
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


def _names_of(value: Any) -> Iterable[str] | None:
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    return [field.name for field in fields(value)] if is_dataclass(value) else None


def _has_parts(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple, set, frozenset, msgspec.Struct)) or is_dataclass(value)


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
    return msgspec.msgpack.encode(value, enc_hook=repr)
