"""Find event values that would not be read back from a store, and explain why an event does not encode or decode.

The annotations of most event classes show that they cannot hold such values. Only events of other classes are searched.
Reasons are made from msgspec's errors. They never quote a value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from datetime import datetime
from typing import Any, get_origin

import msgspec
from msgspec import inspect

from ..errors import CorruptPayload, SchemaMismatch, StoredDataError, UnknownEventType
from .custom_types import ConversionError, encode_custom
from .differences import find_difference
from .event import Event

_BLIND = (
    inspect.AnyType,
    inspect.CustomType,
    inspect.DataclassType,
    inspect.DateTimeType,
    inspect.ExtType,
    inspect.RawType,
    inspect.TimeType,
)

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


class EventCheck:
    """Checks that the events of one class are read back as they were recorded."""

    def __init__(self, event_type: type[Any]) -> None:
        self._may_be_unstorable = may_be_unstorable(event_type)
        kinds = {field.name: inspect.type_info(field.type) for field in msgspec.structs.fields(event_type)}
        # Fields for which `==` does not show every change: with times, `Any`, or classes that have an `__eq__`.
        is_own = not _compares_fields(event_type)
        self._careful = [name for name, kind in kinds.items() if is_own or not _shows_changes(kind, set())]

    def find_unstorable(self, event: Event) -> str | None:
        """Return why an event cannot be stored, with the path to the value, or None if it can."""
        return find_unstorable(event) if self._may_be_unstorable else None

    def find_change(self, event: Event, back: Event) -> str | None:
        """Return which field is read back changed, or None. Most often its value is not of the annotated type."""
        is_equal = back == event
        for name in self._careful if is_equal else event.__struct_fields__:
            value = getattr(event, name)
            if is_equal and type(value) is datetime and value.tzinfo is not None:
                continue  # the same moment; this is the only kind of time in most events
            try:
                place = find_difference(value, getattr(back, name), exact=False)
            except ConversionError as error:
                return f"{error}, at `$.{name}`"
            if place is not None:
                return f"it would be read back as another value, at `$.{name}{place}`"
        return None


def may_be_unstorable(event_type: type[Any]) -> bool:
    """Return whether an event could hold a non-finite float, a key that is not a string, or unlimited nesting."""
    return not _is_plain(inspect.type_info(event_type), ())


def find_unstorable(value: Any) -> str | None:
    """Return why this event cannot be stored, with the path to the value, or None if it can."""
    try:
        return _walk(msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=encode_custom), "$", 1)
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


def _shows_changes(kind: Any, seen: set[Any]) -> bool:
    """Return whether values of this type that are equal are also encoded as the same."""
    if isinstance(kind, (list, tuple)):
        return all(_shows_changes(each, seen) for each in kind)
    made = getattr(kind, "cls", None)
    if isinstance(kind, _BLIND) or (isinstance(kind, inspect.StructType) and not _compares_fields(made)):
        return False
    if not isinstance(kind, (inspect.Type, inspect.Field)) or (made is not None and made in seen):
        return True
    seen.add(made)
    names = ("type",) if isinstance(kind, inspect.Field) else kind.__struct_fields__
    return all(_shows_changes(getattr(kind, name), seen) for name in names)


def _compares_fields(struct: Any) -> bool:
    made = get_origin(struct) or struct
    return made.__struct_config__.eq and made.__eq__ is msgspec.Struct.__eq__


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


def explain_failure(event: Event, error: Exception) -> str:
    """Return why an event was not encoded and decoded, with the path to the field if a function of its type failed."""
    for name in event.__struct_fields__ if isinstance(error, ConversionError) else ():
        try:
            msgspec.msgpack.encode(getattr(event, name), enc_hook=encode_custom)
        except ConversionError as reason:
            return f"{reason}, at `$.{name}`"
        except Exception:  # noqa: BLE001, S112  # another field, of which the error is not reported
            continue
    return explain_error(error)


def explain_error(error: Exception) -> str:
    """Return what went wrong without quoting values: some of these errors contain the whole text they were given."""
    if isinstance(error, UnicodeError):
        return "a text contains a lone surrogate, which is not valid Unicode"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OverflowError):
        return "an integer needs more than 64 bits"
    cause = error.__cause__ or error
    if isinstance(cause, ConversionError):
        return str(error)  # of msgspec: the text of the cause, and the path
    if error.__cause__ or not isinstance(error, (msgspec.MsgspecError, TypeError, ValueError)):
        return f"its own check raises {type(cause).__name__}"
    return re.sub(r"^(Invalid [a-z ]*?value) .*?( - at `[^`]*`)?$", r"\1\2", str(error), flags=re.DOTALL)


class _Tagged(msgspec.Struct):
    tag: str = msgspec.field(name="$")


_decode_tags = msgspec.msgpack.Decoder(list[_Tagged]).decode
