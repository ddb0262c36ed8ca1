"""Plain Python values as attributes of items, and back."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ....errors import StoreRejected
from .responses import Item


def to_value(value: object) -> dict[str, Any]:
    """A text, an int, a Decimal, a bool, bytes, None, or a list or dict of these. Raises TypeError, ValueError."""
    match value:
        case str():
            return {"S": value}
        case bool():
            return {"BOOL": value}
        case Decimal() if not value.is_finite():
            raise ValueError("DynamoDB has no numbers that are not finite")
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
    hint = "; numbers there are decimal, so give a Decimal" if isinstance(value, float) else ""
    raise TypeError(f"an attribute cannot be a {type(value).__name__}{hint}")


def to_item(values: Mapping[str, object]) -> dict[str, dict[str, Any]]:
    """Attributes by name, as in `{"PK": "airline#LH", "flights": 3}`. Raises TypeError, ValueError."""
    if not all(isinstance(name, str) for name in values):
        raise TypeError("names of attributes, and keys of a dict, are texts")
    return {name: to_value(value) for name, value in values.items()}


def text_of(item: Item, name: str) -> str:
    """Return an attribute that is a text. Raises StoreRejected."""
    return _attribute(item, name, "S")


def number_of(item: Item, name: str) -> int:
    """Return an attribute that is a whole number. Raises StoreRejected."""
    try:
        return int(_attribute(item, name, "N"))
    except ValueError:
        pass
    raise _foreign(name)


def _attribute(item: Item, name: str, kind: str) -> str:
    value = item.get(name, {}).get(kind)
    if not isinstance(value, str):
        raise _foreign(name)
    return value


def _foreign(name: str) -> StoreRejected:
    return StoreRejected("ForeignItem", f"an item has no {name} as this library writes it; who else writes there?")
