"""Values that a store would take and no reader would get back, and why something does not encode or decode.

Most event classes cannot hold such values, which is known from their annotations; only the others are walked. Reasons
come from msgspec's errors and never quote a value.
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


def difference(event: Event, back: Event) -> str | None:
    """What an event is not read back as it was, if so: a value of another type than the annotated one, most often."""
    if back == event:
        return None
    changed = [name for name in event.__struct_fields__ if getattr(event, name) != getattr(back, name)]
    return f"it would be read back as another value, at `$.{changed[0]}`" if changed else "it is not equal to itself"


def explain_mismatch(
    body: bytes, known: Collection[str], stream: str, version: int, error: Exception
) -> StoredDataError:
    """Tell an unknown tag from a wrong field, and both from bytes that are no list of events."""
    damaged = (msgspec.DecodeError, UnicodeError, RecursionError)
    if isinstance(error, damaged) and not isinstance(error, msgspec.ValidationError):
        return CorruptPayload(stream, version, "the body is not MessagePack of events")
    try:
        tags = tags_in(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return CorruptPayload(stream, version, "the body is not a list of tagged events")
    for tag in tags:
        if tag not in known:
            return UnknownEventType(stream, version, tag)
    place = re.search(r"`\$\[(\d+)\]", str(error))
    event = tags[int(place[1])] if place else " or ".join(dict.fromkeys(tags))
    return SchemaMismatch(stream, version, event, reason_of(error))


def tags_in(body: bytes) -> list[str]:
    """The tag of each event of a body; its fields are not looked at. Raises what msgspec does."""
    return [event.tag for event in _tagged(body)]


def reason_of(error: Exception) -> str:
    """What went wrong, without the values: some of these errors carry the whole text they were given."""
    if isinstance(error, UnicodeError):
        return "a text holds a lone surrogate, which is not valid Unicode"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OverflowError):
        return "an integer needs more than 64 bits"
    own = error.__cause__ or error
    if error.__cause__ or not isinstance(error, (msgspec.MsgspecError, TypeError, ValueError)):
        return f"its own check raises {type(own).__name__}"
    return re.sub(r"^(Invalid [a-z ]*?value) .*?( - at `[^`]*`)?$", r"\1\2", str(error), flags=re.DOTALL)


class _Tagged(msgspec.Struct):
    tag: str = msgspec.field(name="$")


_tagged = msgspec.msgpack.Decoder(list[_Tagged]).decode
