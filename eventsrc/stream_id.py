"""Stream ids: how they are made, and which texts are allowed."""

from __future__ import annotations

from .errors import DeclarationError, InvalidStreamId

MAX_STREAM_BYTES = 2048
"""The length of a stream id in UTF-8, in every store: the limit of a partition key of DynamoDB."""

TENANT_DELIMITER = "|"
"""Separates tenant and stream in a key, so it is not allowed in either."""

_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_REFUSED_CATEGORIES = {
    "Cc": "control characters",
    "Cs": "lone surrogates",
    "Zl": "line separators",
    "Zp": "paragraph separators",
}


def stream_id(category: str, id: str) -> str:
    """Return the stream of an aggregate: `account` and `a-1` give `account-a-1`. Raises InvalidStreamId."""
    if not isinstance(id, str):
        raise InvalidStreamId(id, f"an id is a string, not {type(id).__name__}")
    if not id:
        raise InvalidStreamId(id, "it is empty")
    stream = f"{category}-{id}"
    check_stream(stream)
    if id[0].isspace():
        raise InvalidStreamId(id, "it starts with a space")
    return stream


def check_stream(stream: str) -> None:
    """Raise InvalidStreamId unless `stream` can be a key in every store and is safe to write to a log."""
    if not isinstance(stream, str):
        raise InvalidStreamId(stream, f"a stream is a string, not {type(stream).__name__}")
    if not stream:
        raise InvalidStreamId(stream, "it is empty")
    if not (stream.isascii() and stream.isprintable()):
        import unicodedata  # here, because few ids need it

        for character in stream:
            if character in _BIDI_CONTROLS:
                raise InvalidStreamId(stream, "it contains bidirectional controls")
            if refused := _REFUSED_CATEGORIES.get(unicodedata.category(character)):
                raise InvalidStreamId(stream, f"it contains {refused}")
    if TENANT_DELIMITER in stream:
        raise InvalidStreamId(stream, f"it contains {TENANT_DELIMITER!r}, which separates tenants")
    if stream != stream.strip():
        raise InvalidStreamId(stream, "it starts or ends with a space")
    if len(stream) > MAX_STREAM_BYTES // 4 and len(stream.encode()) > MAX_STREAM_BYTES:
        raise InvalidStreamId(stream, f"it has {len(stream.encode()):,} bytes, the limit is {MAX_STREAM_BYTES:,}")


def check_category(category: str, culprit: str) -> None:
    """Raise DeclarationError unless `category` can start a stream id. It must not contain '-', which ends it."""
    if "-" in category:
        raise DeclarationError(culprit, f"the tag {category!r} contains '-', which separates category and id")
    try:
        check_stream(category)
    except InvalidStreamId as error:
        raise DeclarationError(culprit, f"the tag {category!r} cannot start a stream id: {error.reason}") from None


def category_of(stream: str) -> str:
    """Return the category of a stream: `account` for `account-a-1`."""
    return stream.partition("-")[0]
