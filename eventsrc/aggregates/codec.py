"""Encode events as payloads, and decode them.

A payload is `format byte | body | trailer`. The body is the MessagePack of a list of tagged events, stored unchanged in
format 1, and as its size and an lz4 block in format 2. The smaller one is used. The trailer is the CRC-32 of all bytes
before it, XOR a constant of the format, as four little-endian bytes. The constant of format 1 makes the CRC-32 of a
payload 0. The CRC-32 of several such payloads joined is then 0 too, so one pass over them checks them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from types import GenericAlias
from typing import Any
from zlib import crc32

import lz4.block
import msgspec

from ..errors import CorruptPayload, InvalidEvent, PayloadTooLarge
from ..store import Commit
from .custom_types import decode_custom, encode_custom
from .event import Event, tag_of
from .event_values import EventCheck, explain_failure, explain_mismatch
from .expansion import MAX_EXPANDED, count_fitting, expand, may_expand_beyond
from .upcasting import Upcasters, Upcasting

RAW, LZ4 = b"\x01", b"\x02"
_BODY = slice(1, -4)
_TRAILER_RAW = 0x6DD90A9D  # makes the CRC-32 of the payload 0, the value at which a CRC-32 starts
_TRAILER_LZ4 = 0xFFFFFFFF
_CRC_RAW, _CRC_LZ4 = 0, 0xFFFFFFFF  # of undamaged payloads
_MIN_COMPRESSED = 128  # bytes; the lz4 block of a shorter body is rarely smaller, and then by little


def pack(body: bytes, stream: str, version: int) -> bytes:
    """Return the payload of a body. Raises PayloadTooLarge if it could not be read back."""
    if len(body) > MAX_EXPANDED:
        raise PayloadTooLarge(stream, version, len(body), MAX_EXPANDED)
    if len(body) >= _MIN_COMPRESSED:
        block: bytes = lz4.block.compress(body)
        if len(block) < len(body):
            return _seal(LZ4 + block, _TRAILER_LZ4)
    return _seal(RAW + body, _TRAILER_RAW)


def _seal(content: bytes, constant: int) -> bytes:
    return content + (crc32(content) ^ constant).to_bytes(4, "little")


def join(events: Sequence[bytes]) -> bytes:
    """Return the body of encoded events."""
    return msgspec.msgpack.encode([msgspec.Raw(event) for event in events])


def unpack(payload: bytes, stream: str, version: int) -> bytes:
    """Return the body of a payload. Raises CorruptPayload, and PayloadTooLarge before anything is expanded."""
    checksum, format = crc32(payload), payload[:1]
    if checksum == _CRC_RAW and format == RAW:
        return payload[_BODY]
    if checksum == _CRC_LZ4 and format == LZ4:
        return expand(payload[_BODY], stream, version)
    raise CorruptPayload(stream, version, f"wrong checksum or format of {len(payload):,} bytes; restore from a backup")


class Codec:
    """Encodes and decodes the events of one aggregate class, or of one reader."""

    def __init__(self, events: Iterable[type[Event]], upcasters: Mapping[type[Event], Upcasting]) -> None:
        types = [*events, *upcasters]
        self.tags = {tag_of(event) for event in types}
        self.types = frozenset(types)
        self.upcasters = Upcasters(upcasters, self.types, self.encode) if upcasters else None
        union: Any = reduce(or_, types)
        self.decode_event: Callable[[bytes], Event] = msgspec.msgpack.Decoder(union, dec_hook=decode_custom).decode
        many: Any = GenericAlias(list, (union,))
        self._decode: Callable[[bytes], list[Event]] = msgspec.msgpack.Decoder(many, dec_hook=decode_custom).decode
        self._encode = msgspec.msgpack.Encoder(enc_hook=encode_custom).encode
        self._checks = {event: EventCheck(event) for event in types}

    def encode(self, event: Event) -> tuple[bytes, Event]:
        """Return the encoded event, and the event decoded from it. Raises InvalidEvent if a value would be lost."""
        try:
            reason = (check := self._checks[type(event)]).find_unstorable(event)
            body = self._encode(event)
            decoded = self.decode_event(body)
            if not (reason := reason or check.find_change(event, decoded)):
                return body, decoded
        except Exception as error:  # noqa: BLE001  # a check in __post_init__ may raise anything
            reason = explain_failure(event, error)
        raise InvalidEvent(tag_of(type(event)), reason)  # outside the except block: its cause may quote the event

    def decode(self, payload: bytes, stream: str, version: int) -> list[Event]:
        """Return the events of a payload, upcast. Raises StoredDataError."""
        # Most payloads are not compressed; these are unpacked here, which saves a call.
        body = payload[_BODY] if payload[:1] == RAW and not crc32(payload) else unpack(payload, stream, version)
        try:
            events = self._decode(body)
        except Exception as error:  # noqa: BLE001  # as above
            failure = explain_mismatch(body, self.tags, stream, version, error)
        else:
            return self.upcasters.upcast_all(events, stream, version) if self.upcasters else events
        raise failure  # outside the except block, as in encode

    def decode_run(self, commits: Sequence[Commit]) -> tuple[list[list[Event]], int]:
        """Return the events of each commit, and the bytes of their payloads. Costs half as much as `decode` for each.

        If these expand to more than MAX_EXPANDED bytes together, only the first ones are decoded, at least one.
        """
        payloads = [commit.payload for commit in commits]
        joined = b"".join(payloads)
        if crc32(joined) == _CRC_RAW and self.upcasters is None:
            try:
                decode = self._decode
                return [decode(payload[_BODY]) for payload in payloads], len(joined)
            except Exception:  # noqa: BLE001, S110  # each is decoded below, which names the commit
                pass
        if may_expand_beyond(len(joined)):
            commits = commits[: count_fitting(each[1:5] if each[:1] == LZ4 else b"" for each in payloads)]
        decoded = [self.decode(commit.payload, commit.stream, commit.version) for commit in commits]
        return decoded, sum(map(len, payloads[: len(commits)]))
