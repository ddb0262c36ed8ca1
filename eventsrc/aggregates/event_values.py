"""Find event values that would not be read back from a store, and explain why an event does not encode or decode.

The annotations of most event classes show that they cannot hold such values. Only events of other classes are searched.
Reasons are made from msgspec's errors. They never quote a value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import inspect

from ..errors import CorruptPayload, SchemaMismatch, StoredDataError, UnknownEventType
from .event import Event

MAX_DEPTH = 64
"""The largest number of nested levels in an event, including the event itself."""

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
    """Return whether an event could hold a non-finite float, a key that is not a string, or unlimited nesting."""
    return not _is_plain(inspect.type_info(event_type), ())


def find_unstorable(value: Any) -> str | None:
    """Return why this event cannot be stored, with the path to the value, or None if it can."""
    try:
        return _walk(msgspec.to_builtins(value, builtin_types=(bytes,)), "$", 1)
    except RecursionError:
        return f"it is nested more than {MAX_DEPTH} levels deep"
    except Exception as error:  # noqa: BLE001  # the caller reports it together with the event
        return explain_error(error)


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
            # Below the event's own fields a key may be content, which must not be in an error.
            if reason := _walk(item, f"{path}.{key}" if depth == 1 else f"{path}[...]", depth + 1):
                return reason
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if reason := _walk(item, f"{path}[{index}]", depth + 1):
                return reason
    return None


def find_change(event: Event, back: Event) -> str | None:
    """Return which field would be read back changed, or None. Most often its value is not of the annotated type."""
    if back == event:
        return None
    changed = [name for name in event.__struct_fields__ if getattr(event, name) != getattr(back, name)]
    return f"it would be read back as another value, at `$.{changed[0]}`" if changed else "it is not equal to itself"


def explain_mismatch(
    body: bytes, known: Collection[str], stream: str, version: int, error: Exception
) -> StoredDataError:
    """Return the typed error for a body that does not decode: unknown tag, wrong field, or not a list of events."""
    damaged = (msgspec.DecodeError, UnicodeError, RecursionError)
    if isinstance(error, damaged) and not isinstance(error, msgspec.ValidationError):
        return CorruptPayload(stream, version, "the body is not MessagePack of events; restore from a backup")
    try:
        tags = read_tags(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return CorruptPayload(stream, version, "the body is not a list of tagged events; restore from a backup")
    for tag in tags:
        if tag not in known:
            return UnknownEventType(stream, version, tag)
    index = re.search(r"`\$\[(\d+)\]", str(error))
    event = tags[int(index[1])] if index else " or ".join(dict.fromkeys(tags))
    return SchemaMismatch(stream, version, event, explain_error(error))


def read_tags(body: bytes) -> list[str]:
    """Return the tag of each event of a body, without decoding its fields. Raises what msgspec raises."""
    return [event.tag for event in _decode_tags(body)]


def explain_error(error: Exception) -> str:
    """Return what went wrong without quoting values: some of these errors contain the whole text they were given."""
    if isinstance(error, UnicodeError):
        return "a text contains a lone surrogate, which is not valid Unicode"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OverflowError):
        return "an integer needs more than 64 bits"
    cause = error.__cause__ or error
    if error.__cause__ or not isinstance(error, (msgspec.MsgspecError, TypeError, ValueError)):
        return f"its own check raises {type(cause).__name__}"
    return re.sub(r"^(Invalid [a-z ]*?value) .*?( - at `[^`]*`)?$", r"\1\2", str(error), flags=re.DOTALL)


class _Tagged(msgspec.Struct):
    tag: str = msgspec.field(name="$")


_decode_tags = msgspec.msgpack.Decoder(list[_Tagged]).decode
