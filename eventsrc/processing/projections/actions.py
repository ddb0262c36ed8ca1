"""Check the form of actions that handlers write. DynamoDB Local accepts some that the service refuses."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

_CONTENT = {"Put": "Item", "Update": "Key", "Delete": "Key", "ConditionCheck": "Key"}
_NO_VALUE = 'write an attribute value, as {"S": "text"}, {"N": "7"} or {"BOOL": True}'


def check_action(action: object) -> None:
    """Raise TypeError or ValueError unless this is an action of TransactWriteItems. No message shows a value."""
    if not isinstance(action, Mapping) or len(action) != 1 or next(iter(action)) not in _CONTENT:
        raise ValueError(f"an action is a dict with one of the keys {', '.join(_CONTENT)}")
    [(kind, request)] = action.items()
    content = _CONTENT[kind]
    if not isinstance(request, Mapping) or not isinstance(request.get("TableName"), str) or content not in request:
        raise ValueError(f"{kind} needs a TableName, which is a text, and {content}")
    for part in (content, "ExpressionAttributeValues"):
        values = request.get(part, {})
        if not isinstance(values, Mapping):
            raise TypeError(f"{kind}.{part} is of type {type(values).__name__}; write a dict of attribute values")
        for name, value in values.items():
            _check_value(value, f"{kind}.{part}.{name}")


def _check_value(value: object, path: str) -> None:
    if not isinstance(value, Mapping) or len(value) != 1:
        raise TypeError(f"{path} is of type {type(value).__name__}, not an attribute value; {_NO_VALUE}")
    [(kind, content)] = value.items()
    path = f"{path}.{kind}"
    match kind:
        case "S" | "B" | "N" | "BOOL":
            _check_scalar(kind, content, path)
        case "NULL":
            if content is not True:
                raise TypeError(f"{path} is not True")
        case "M":
            for name, each in _checked(content, Mapping, path).items():
                if not isinstance(name, str):
                    raise TypeError(f"{path} has a name of type {type(name).__name__}; names are texts")
                _check_value(each, f"{path}.{name}")
        case "L":
            for index, each in enumerate(_checked(content, list | tuple, path)):
                _check_value(each, f"{path}[{index}]")
        case "SS" | "NS" | "BS":
            if not _checked(content, list | tuple, path):
                raise ValueError(f"{path} is empty; leave the attribute out")
            for index, each in enumerate(content):
                _check_scalar(kind[0], each, f"{path}[{index}]")
        case _:
            raise ValueError(f"{path} has a type that DynamoDB does not have; {_NO_VALUE}")


def _check_scalar(kind: str, content: object, path: str) -> None:
    _checked(content, {"S": str, "N": str, "B": bytes, "BOOL": bool}[kind], path)
    if kind == "N":
        try:
            is_number = Decimal(str(content)).is_finite()
        except InvalidOperation:
            is_number = False
        if not is_number:
            raise ValueError(f"{path} is not the text of a number")


def _checked(content: Any, kind: Any, path: str) -> Any:
    if not isinstance(content, kind):
        wanted = kind.__name__ if isinstance(kind, type) else "list"
        raise TypeError(f"{path} is of type {type(content).__name__}; it must be a {wanted}")
    return content
