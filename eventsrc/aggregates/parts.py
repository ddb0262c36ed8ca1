"""The objects that a value consists of: its items, its attributes, and theirs.

They show what the fields of a declared type do not: whether two values hold one list, and whether a call changed one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any
from uuid import UUID

_LEAVES = (
    *(str, int, float, bytes, NoneType, Decimal, date, time, timedelta, tzinfo, UUID, Enum),
    *(type, FunctionType, BuiltinFunctionType, MethodType, ModuleType),
)


def find_changeable(value: Any) -> Iterator[object]:
    """Yield each object within a value, itself included, that is unhashable, so that it may change. One that is
    referred to twice comes twice.
    """
    seen, todo = set[int](), [value]
    while todo:
        each = todo.pop()
        if type(each).__hash__ is None:
            yield each
        if id(each) not in seen:
            seen.add(id(each))
            todo += _parts_of(each)


class Trace:
    """The parts of a value at one moment. Attributes that are added later do not count as a change: they are caches."""

    def __init__(self, value: Any) -> None:
        self._parts: dict[int, tuple[object, Sequence[object]]] = {}
        todo = [value]
        while todo:
            each = todo.pop()
            if id(each) not in self._parts and (parts := _parts_of(each)):
                self._parts[id(each)] = each, parts
                todo += parts

    def has_changed(self) -> bool:
        """Return whether one of the objects has other parts now."""
        return any(_differ(parts, _parts_of(each), each) for each, parts in self._parts.values())


def _differ(before: Sequence[object], after: Sequence[object], owner: object) -> bool:
    if len(after) < len(before) or (len(after) > len(before) and _is_container(owner)):
        return True
    return any(one is not other for one, other in zip(before, after, strict=False))


def _is_container(value: object) -> bool:
    return isinstance(value, (list, tuple, dict, set, frozenset))


def _parts_of(value: Any) -> Sequence[object]:
    if isinstance(value, _LEAVES):
        return ()
    parts: list[object] = list(vars(value).values()) if hasattr(value, "__dict__") else []
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            mangled = name.startswith("__") and not name.endswith("__")
            attribute = f"_{base.__name__.lstrip('_')}{name}" if mangled else name
            if name not in ("__dict__", "__weakref__") and hasattr(value, attribute):
                parts.append(getattr(value, attribute))
    if isinstance(value, dict):
        return [*value, *value.values(), *parts]
    return [*value, *parts] if _is_container(value) else parts
