"""Conversion of plain Python values to attributes of items, and back."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ....errors import StoreRejected
from .responses import Item


def to_value(value: object) -> dict[str, Any]:
    """Return the attribute for a str, int, Decimal, bool, bytes or None, or for a list or dict of these.

    Raises TypeError for other types, and ValueError for a Decimal that is not finite.
    """
    match value:
        case str():
            return {"S": value}
        case bool():
            return {"BOOL": value}
        case Decimal() if not value.is_finite():
            raise ValueError("DynamoDB stores finite numbers only")
        case int() | Decimal():
            return {"N": str(value)}
        case bytes():
            return {"B": value}
        case None:
            return {"NULL": True}
        case list() | tuple():
            return {"L": [to_value(each) for each in value]}
        case dict():
            return {"M": to_item(value)}
    hint = "; use a Decimal, because numbers there are decimal" if isinstance(value, float) else ""
    raise TypeError(f"an attribute cannot be a {type(value).__name__}{hint}")


def to_item(values: Mapping[str, object]) -> dict[str, dict[str, Any]]:
    """Return an item with these values, as in `{"PK": "airline#LH", "flights": 3}`. Raises as `to_value`."""
    if not all(isinstance(name, str) for name in values):
        raise TypeError("names of attributes and keys of dicts must be str")
    return {name: to_value(value) for name, value in values.items()}


def text_of(item: Item, name: str) -> str:
    """Return the value of a text attribute. Raises StoreRejected if the item has no such text."""
    return _attribute(item, name, "S")


def number_of(item: Item, name: str) -> int:
    """Return the value of an integer attribute. Raises StoreRejected if the item has no such integer."""
    try:
        return int(_attribute(item, name, "N"))
    except ValueError:
        pass
    raise _foreign(name)


def bytes_of(item: Item, name: str) -> bytes:
    """Return the value of a binary attribute. Raises StoreRejected if the item has no such bytes."""
    value = item.get(name, {}).get("B")
    if isinstance(value, bytes):  # the SDK has decoded it
        return value
    try:
        return b64decode(value if value is not None else "!", validate=True)  # "" is the id of a skipped commit
    except (TypeError, ValueError):
        pass
    raise _foreign(name)


def _attribute(item: Item, name: str, kind: str) -> str:
    value = item.get(name, {}).get(kind)
    if not isinstance(value, str):
        raise _foreign(name)
    return value


def _foreign(name: str) -> StoreRejected:
    return StoreRejected(
        "ForeignItem", f"an item has no {name} that this library wrote; does another program write to the table?"
    )
