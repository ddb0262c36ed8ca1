"""Events to bytes and back.

A payload is `format byte | body | trailer`. The body is the MessagePack of a list of tagged events, as it is (format 1)
or as an lz4 block behind its expanded size (format 2), whichever is smaller. The trailer is four bytes, little endian:
the CRC-32 of all before, exclusive-or a constant of the format. That of format 1 makes the CRC-32 of a whole payload 0,
and so that of any number of them joined: one pass at full speed over a run of payloads shows that all are sound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any
from zlib import crc32

import lz4.block
import msgspec

from ..errors import CorruptPayload, InvalidEvent, PayloadTooLarge
from ..store import Commit
from .event import Event, Upcaster, tag_of
from .event_values import difference, explain_mismatch, find_unstorable, may_be_unstorable, reason_of, tags_in

MAX_EXPANDED = 16 * 1024 * 1024
"""Bytes a body may have when expanded; more is refused when writing and, before expanding, when reading."""

RAW, LZ4 = b"\x01", b"\x02"

_BODY = slice(1, -4)

_TRAILER_RAW = 0x6DD90A9D  # leads to 0, where a CRC-32 starts
_TRAILER_LZ4 = 0xFFFFFFFF
_SOUND_RAW = 0
_SOUND_LZ4 = 0xFFFFFFFF

_LIST_OF_ONE = b"\x91"  # in MessagePack, before its item

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


def join(events: Sequence[bytes]) -> bytes:
    """The body for encoded events."""
    return msgspec.msgpack.encode([msgspec.Raw(event) for event in events])


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
        self.event: Callable[[bytes], Event] = msgspec.msgpack.Decoder(union).decode
        self._decode: Callable[[bytes], list[Event]] = msgspec.msgpack.Decoder(list[union]).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._suspicious = {event for event in types if may_be_unstorable(event)}

    def encode(self, event: Event) -> tuple[bytes, Event]:
        """The event as it will be stored, and as it is read back. Raises InvalidEvent unless that is an equal one."""
        try:
            reason = find_unstorable(event) if type(event) in self._suspicious else None
            body = self._encode(event)
            decoded = self.event(body)
            if not (reason := reason or difference(event, decoded)):
                return body, decoded
        except Exception as error:  # noqa: BLE001  # an event's own check may raise anything
            reason = reason_of(error)
        raise InvalidEvent(tag_of(type(event)), reason)  # out here, as the error that led to it may quote the event

    def decode(self, payload: bytes, stream: str, version: int) -> list[Event]:
        """Return the events of a stored commit, upcast. Raises StoredDataError."""
        body = unpack(payload, stream, version)
        try:
            events = self._decode(body)
        except Exception as error:  # noqa: BLE001  # as above
            failure = explain_mismatch(body, self._tags, stream, version, error)
        else:
            return [self._upcast(event) for event in events] if self._upcasters else events
        raise failure  # out here, as in encode

    def decode_run(self, commits: Sequence[Commit]) -> tuple[list[list[Event]], int]:
        """The events of each commit, and the bytes of their payloads: `decode` for many, at half its cost."""
        payloads = [commit.payload for commit in commits]
        joined = b"".join(payloads)
        if crc32(joined) == _SOUND_RAW and not self._upcasters:
            try:
                decode = self._decode
                return [decode(payload[_BODY]) for payload in payloads], len(joined)
            except Exception:  # noqa: BLE001, S110
                pass  # one by one, to name the culprit
        return [self.decode(commit.payload, commit.stream, commit.version) for commit in commits], len(joined)

    def decode_known(self, commit: Commit) -> list[tuple[int, Event]]:
        """The events of a commit that this codec has classes for, upcast, each with its index in the commit.

        Others are skipped; where the commit's tags name only others, its payload is not even looked at. Raises
        CorruptPayload, PayloadTooLarge or SchemaMismatch; UnknownEventType only if the tags do not name all events.
        """
        payload, stream, version = commit.payload, commit.stream, commit.version
        if self._tags.issuperset(commit.tags):
            return list(enumerate(self.decode(payload, stream, version)))
        if self._tags.isdisjoint(commit.tags):
            return []
        body = culprit = unpack(payload, stream, version)
        known: list[tuple[int, Event]] = []
        try:
            for index, (tag, event) in enumerate(zip(tags_in(body), _apart(body), strict=True)):
                if tag in self._tags:
                    culprit = _LIST_OF_ONE + event
                    known.append((index, self.event(event)))
        except Exception as error:  # noqa: BLE001  # as above
            failure = explain_mismatch(culprit, self._tags, stream, version, error)
        else:
            return [(index, self._upcast(event)) for index, event in known] if self._upcasters else known
        raise failure  # out here, as in encode

    def _upcast(self, event: Event) -> Event:
        """The event as its newest class."""
        while upcaster := self._upcasters.get(type(event)):
            event = upcaster(event)
        return event


_apart = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
