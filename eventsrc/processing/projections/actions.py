"""Check the form of actions that handlers write. DynamoDB Local accepts some that the service refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_CONTENT = {"Put": "Item", "Update": "Key", "Delete": "Key", "ConditionCheck": "Key"}
_TEXTS = {"TableName", "ConditionExpression", "UpdateExpression", "ReturnValuesOnConditionCheckFailure"}
_NAMES, _VALUES = "ExpressionAttributeNames", "ExpressionAttributeValues"
_NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
_NO_VALUE = 'write an attribute value, as {"S": "text"}, {"N": "7"} or {"BOOL": True}'


def check_action(action: object) -> None:
    """Raise TypeError or ValueError unless this is an action of TransactWriteItems. No message shows a value."""
    if not isinstance(action, Mapping) or len(action) != 1 or next(iter(action)) not in _CONTENT:
        raise ValueError(f"an action is a dict with one of the keys {', '.join(_CONTENT)}")
    [(kind, request)] = action.items()
    content = _CONTENT[kind]
    if not isinstance(request, Mapping) or not isinstance(request.get("TableName"), str) or content not in request:
        raise ValueError(f"{kind} needs a TableName, which is a text, and {content}")
    for field, text in request.items():
        is_known = field in {*_TEXTS, _NAMES, _VALUES, content}
        if not is_known or (field == "UpdateExpression" and kind != "Update"):
            raise ValueError(f"{kind}.{field} is not a field of this action; leave it out")
        if field in _TEXTS:
            _checked(text, str, f"{kind}.{field}")
    for name, text in _checked(request.get(_NAMES, {}), Mapping, f"{kind}.{_NAMES}").items():
        _checked(text, str, f"{kind}.{_NAMES}.{name}")
    for part in (content, _VALUES):
        values = request.get(part, {})
        if not isinstance(values, Mapping):
            raise TypeError(f"{kind}.{part} is of type {type(values).__name__}; write a dict of attribute values")
        for name, value in values.items():
            _check_value(value, f"{kind}.{part}.{name}")


def check_owner(actions: Sequence[Mapping[str, Any]], table: str, partition_key: str) -> None:
    """Raise ValueError if one of these actions is for an item of the library in its own table."""
    for action in actions:
        for kind, request in action.items():
            key = request.get(_CONTENT[kind], {})
            if request["TableName"] == table and key.get(partition_key, {}).get("S", "").startswith("@"):
                raise ValueError(f"{kind} is for an item of the library, whose partition keys start with '@'")


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
    if kind == "N" and not re.fullmatch(_NUMBER, str(content)):
        raise ValueError(f"{path} is not the text of a number")


def _checked(content: Any, kind: Any, path: str) -> Any:
    if not isinstance(content, kind):
        wanted = kind.__name__ if isinstance(kind, type) else "list"
        raise TypeError(f"{path} is of type {type(content).__name__}; it must be a {wanted}")
    return content
