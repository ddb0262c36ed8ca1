"""The bodies of responses, as bytes: their checksum, their compression, and the code of an error.

Sources:
- "AWS JSON 1.0 protocol" in the Smithy 2.0 specification, for the code of an error;
- the documentation of the package `dynamodb/internal/customizations` in the AWS SDK for Go 2, for the checksum: the
  service computes `x-amz-crc32` over the body as it is sent, so of a compressed body over the compressed bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

from .client import TransportError

MAX_EXPANDED = 64 * 1024 * 1024
"""Bytes that a compressed body may expand to; a page of the service has about one MiB."""


class ErrorBody(msgspec.Struct):
    """The fields of an error that name its code, or have its message."""

    type: Any = msgspec.field(name="__type", default=None)
    code: Any = None
    Code: Any = None
    message: Any = None
    Message: Any = None


_decode_error = msgspec.json.Decoder(ErrorBody).decode


def read_body(headers: Mapping[str, str], body: bytes) -> bytes:
    """Return the body of a response without its compression. The names of the headers are in lower case.

    Raises TransportError if the checksum or the compressed data is wrong, or the encoding is not gzip.
    """
    expected = headers.get("x-amz-crc32")
    if expected is not None and expected != str(zlib.crc32(body)):
        raise TransportError("the response has a wrong checksum")
    encoding = headers.get("content-encoding")
    return body if encoding is None else _decompress(encoding.strip().lower(), body)


def _decompress(encoding: str, body: bytes) -> bytes:
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise TransportError("the response has an encoding that was not requested")
    member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        expanded = member.decompress(body, MAX_EXPANDED)
    except zlib.error:
        expanded = b""
    if not member.eof or member.unused_data:  # damaged, cut off, too large, or followed by other bytes
        raise TransportError("the response has damaged gzip data")
    return expanded


def read_error(headers: Mapping[str, str], body: bytes) -> tuple[str, str]:
    """Return the code of an error and its message, each empty if the response does not have it.

    The code is in `__type`, in the header `x-amzn-errortype`, or in `code`. Some servers add a namespace before it,
    as in `com.amazonaws.dynamodb#X`, or a URI after it, as in `X:http://...`.
    """
    try:
        error = _decode_error(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        error = ErrorBody()
    codes = (error.type, headers.get("x-amzn-errortype"), error.code, error.Code)
    named = [_shorten(code) for code in codes if isinstance(code, str)]
    messages = [text for text in (error.message, error.Message) if isinstance(text, str)]
    return next(filter(None, named), ""), next(filter(None, messages), "")


def _shorten(code: str) -> str:
    return code.partition(":")[0].rpartition("#")[2].strip()
