"""Events to bytes and back.

A payload is `format byte | body | CRC-32 of all before, little endian`. The body is the MessagePack of a list of
tagged events, as it is (format 1) or as an lz4 block behind its expanded size (format 2), whichever is smaller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from hashlib import blake2b
from operator import or_
from typing import TYPE_CHECKING, Any
from zlib import crc32

import lz4.block
import msgspec

from .errors import CorruptPayload, InvalidEvent, PayloadTooLarge, SchemaMismatch, UnknownEventType
from .event import Event, tag_of
from .poison import find_poison, may_poison

if TYPE_CHECKING:
    from .wiring import Upcaster

MAX_EXPANDED = 16 * 1024 * 1024
"""Bytes a body may have when expanded; more is refused when writing and, before expanding, when reading."""

RAW, LZ4 = b"\x01", b"\x02"
_RAW, _LZ4 = 1, 2

_SOUND = 0x2144DF1C
"""The CRC-32 of anything followed by its own CRC-32 is this constant: one call checks a whole payload."""

_WORTH_COMPRESSING = 128  # bytes; an lz4 block of less is rarely smaller, and then by little


def pack(body: bytes, stream: str, version: int) -> bytes:
    """Wrap a body for storage. Raises PayloadTooLarge if it could not be read back."""
    if len(body) > MAX_EXPANDED:
        raise PayloadTooLarge(stream, version, len(body), MAX_EXPANDED)
    framed = RAW + body
    if len(body) >= _WORTH_COMPRESSING:
        block = lz4.block.compress(body)
        if len(block) < len(body):
            framed = LZ4 + block
    return framed + crc32(framed).to_bytes(4, "little")


def unpack(payload: bytes, stream: str, version: int) -> bytes:
    """The body of a payload. Raises CorruptPayload, and PayloadTooLarge before anything is expanded."""
    if crc32(payload) != _SOUND:
        raise CorruptPayload(stream, version, f"wrong checksum over {len(payload):,} bytes")
    if payload[0] == _RAW:
        return payload[1:-4]
    if payload[0] != _LZ4:
        raise CorruptPayload(stream, version, f"format {payload[0]} is not known; written by a newer version?")
    size = int.from_bytes(payload[1:5], "little")
    if size > MAX_EXPANDED:
        raise PayloadTooLarge(stream, version, size, MAX_EXPANDED)
    try:
        body: bytes = lz4.block.decompress(payload[1:-4])
        return body
    except (lz4.block.LZ4BlockError, ValueError):
        raise CorruptPayload(stream, version, "the lz4 block is damaged") from None


class Codec:
    """Turns the events of one aggregate class, or of one reader, into payloads and back."""

    def __init__(self, events: Iterable[type[Event]], upcasters: Mapping[type[Event], Upcaster]) -> None:
        types = [*events, *upcasters]
        self._tags = {tag_of(event) for event in types}
        self._upcasters = upcasters
        union: Any = reduce(or_, types)
        self._decode: Callable[[bytes], list[Event]] = msgspec.msgpack.Decoder(list[union]).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._suspicious = {event for event in types if may_poison(event)}

    def encode(self, events: Sequence[Event]) -> bytes:
        """The body for these events, shown to decode again. Raises InvalidEvent, which names the field."""
        try:
            for event in events:
                if type(event) in self._suspicious and (reason := find_poison(event)):
                    raise InvalidEvent(tag_of(type(event)), reason)
            body = self._encode(events)
            self._decode(body)
        except (msgspec.MsgspecError, OverflowError, UnicodeError, TypeError, ValueError, RecursionError) as error:
            if isinstance(error, InvalidEvent):
                raise
            raise self._culprit(events, error) from None
        return body

    def decode(self, payload: bytes, stream: str, version: int) -> list[Event]:
        """The events of a stored commit, upcast.

        Raises CorruptPayload, PayloadTooLarge, UnknownEventType or SchemaMismatch.
        """
        try:
            if crc32(payload) == _SOUND and payload[0] == _RAW:
                events: list[Event] = self._decode(payload[1:-4])
            else:
                events = self._decode(unpack(payload, stream, version))
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise self._misfit(payload, stream, version, error) from None
        return [self._upcast(event) for event in events] if self._upcasters else events

    def _upcast(self, event: Event) -> Event:
        while upcaster := self._upcasters.get(type(event)):
            event = upcaster(event)
        return event

    def _culprit(self, events: Sequence[Event], error: Exception) -> InvalidEvent:
        for event in events:
            try:
                self._decode(self._encode([event]))
            except (msgspec.MsgspecError, OverflowError, UnicodeError, TypeError, ValueError, RecursionError) as own:
                return InvalidEvent(tag_of(type(event)), _reason(own))
        return InvalidEvent(tag_of(type(events[0])), _reason(error))

    def _misfit(self, payload: bytes, stream: str, version: int, error: Exception) -> Exception:
        """Tell an unknown tag from a wrong field and from bytes that are no list of events."""
        if not isinstance(error, msgspec.ValidationError):
            return CorruptPayload(stream, version, "the body is not MessagePack of events")
        try:
            tags = [event.tag for event in _TAGS.decode(unpack(payload, stream, version))]
        except msgspec.MsgspecError:
            return CorruptPayload(stream, version, "the body is not a list of tagged events")
        for tag in tags:
            if tag not in self._tags:
                return UnknownEventType(stream, version, tag)
        index = str(error).rpartition("`$[")[2].partition("]")[0]
        tag = tags[int(index)] if index.isdecimal() and int(index) < len(tags) else tags[0] if tags else "?"
        return SchemaMismatch(stream, version, tag, _reason(error))


def digest_of(content: Any) -> bytes:
    """8 bytes that tell a redelivered command from another one under its id; the same in every process."""
    encoded = msgspec.msgpack.encode(content, enc_hook=lambda value: type(value).__qualname__, order="deterministic")
    return blake2b(encoded, digest_size=8).digest()


class _Tagged(msgspec.Struct):
    tag: str = msgspec.field(name="$")


_TAGS = msgspec.msgpack.Decoder(list[_Tagged])


def _reason(error: Exception) -> str:
    """What went wrong, without the values: a UnicodeEncodeError carries the whole text it was given."""
    if isinstance(error, UnicodeError):
        return "a text holds a lone surrogate, which is not valid Unicode"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OverflowError):
        return "an integer needs more than 64 bits"
    return re.sub(r"^(Invalid [a-z ]*?value) .*?( - at `[^`]*`)?$", r"\1\2", str(error), flags=re.DOTALL)
