"""Why something does not encode or decode: from msgspec's errors to ours, without quoting any value."""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec

from ..errors import CorruptPayload, SchemaMismatch, StoredDataError, UnknownEventType
from .event import Event


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
