"""Events to bytes and back.

A payload is `format byte | body | trailer`. The body is the MessagePack of a list of tagged events, as it is (format 1)
or as an lz4 block behind its expanded size (format 2), whichever is smaller. The trailer is four bytes, little endian:
the CRC-32 of all before, exclusive-or a constant of the format. That of format 1 makes the CRC-32 of a whole payload 0,
and so that of any number of them joined: one pass at full speed over a run of payloads shows that all are sound.
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
    from .store import Commit
    from .wiring import Upcaster

MAX_EXPANDED = 16 * 1024 * 1024
"""Bytes a body may have when expanded; more is refused when writing and, before expanding, when reading."""

RAW, LZ4 = b"\x01", b"\x02"

_BODY = slice(1, -4)

_TRAILER_RAW = 0x6DD90A9D  # leads to 0, where a CRC-32 starts
_TRAILER_LZ4 = 0xFFFFFFFF
_SOUND_RAW = 0
_SOUND_LZ4 = 0xFFFFFFFF

_WORTH_COMPRESSING = 128  # bytes; an lz4 block of less is rarely smaller, and then by little


def pack(body: bytes, stream: str, version: int) -> bytes:
    """Wrap a body for storage. Raises PayloadTooLarge if it could not be read back."""
    if len(body) > MAX_EXPANDED:
        raise PayloadTooLarge(stream, version, len(body), MAX_EXPANDED)
    if len(body) >= _WORTH_COMPRESSING:
        block: bytes = lz4.block.compress(body)
        if len(block) < len(body):
            return _seal(LZ4 + block, _TRAILER_LZ4)
    return _seal(RAW + body, _TRAILER_RAW)


def _seal(content: bytes, constant: int) -> bytes:
    return content + (crc32(content) ^ constant).to_bytes(4, "little")


def unpack(payload: bytes, stream: str, version: int) -> bytes:
    """The body of a payload. Raises CorruptPayload, and PayloadTooLarge before anything is expanded."""
    found, format = crc32(payload), payload[:1]
    if found == _SOUND_RAW and format == RAW:
        return payload[_BODY]
    if found == _SOUND_LZ4 and format == LZ4:
        return _expand(payload[_BODY], stream, version)
    raise CorruptPayload(stream, version, f"wrong checksum, or unknown format, of {len(payload):,} bytes")


def _expand(block: bytes, stream: str, version: int) -> bytes:
    size = int.from_bytes(block[:4], "little")
    if size > MAX_EXPANDED:
        raise PayloadTooLarge(stream, version, size, MAX_EXPANDED)
    try:
        body: bytes = lz4.block.decompress(block)
    except (lz4.block.LZ4BlockError, ValueError):
        raise CorruptPayload(stream, version, "the lz4 block is damaged") from None
    return body


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
            events = self._decode(unpack(payload, stream, version))
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise self._misfit(payload, stream, version, error) from None
        return [self._upcast(event) for event in events] if self._upcasters else events

    def decode_run(self, commits: Sequence[Commit]) -> tuple[list[list[Event]], int]:
        """The events of each commit, and the bytes of their payloads: `decode` for many, at half its cost."""
        payloads = [commit.payload for commit in commits]
        joined = b"".join(payloads)
        if crc32(joined) == _SOUND_RAW and not self._upcasters:
            try:
                decode = self._decode
                return [decode(payload[_BODY]) for payload in payloads], len(joined)
            except (msgspec.MsgspecError, RecursionError, ValueError):
                pass  # one by one, to name the culprit
        return [self.decode(commit.payload, commit.stream, commit.version) for commit in commits], len(joined)

    def _upcast(self, event: Event) -> Event:
        """The event as its newest class."""
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
    """8 bytes that tell a redelivered command from another one under its id; the same in every process.

    A value that msgspec cannot encode counts by its type only. Raises ValueError for what cannot be encoded at all.
    """
    try:
        encoded = msgspec.msgpack.encode(content, enc_hook=_type_name, order="deterministic")
    except (OverflowError, UnicodeError, RecursionError) as error:
        raise ValueError(f"the arguments of a command with an id cannot be encoded: {_reason(error)}") from None
    return blake2b(encoded, digest_size=8).digest()


def _type_name(value: Any) -> str:
    return type(value).__qualname__


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
