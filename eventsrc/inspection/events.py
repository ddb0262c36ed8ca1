"""The events of a commit as they are stored, as values and as text."""

from __future__ import annotations

from typing import Any

import msgspec

from ..aggregates.codec import unpack
from ..aggregates.custom_types import encode_custom
from ..store import Commit
from ..tracing.wording import plain


def read_events(commit: Commit) -> list[dict[str, Any]]:
    """Return the events of a commit as stored, each with its tag as `$`. Raises StoredDataError or ValueError."""
    events: list[dict[str, Any]] = msgspec.msgpack.decode(unpack(commit.payload, commit.stream, commit.version))
    return events


def show_fields(fields: dict[str, Any]) -> str:
    """Return fields as `amount=100 memo="rent"`, on one line."""
    return " ".join(f"{plain(str(name))}={show_value(value)}" for name, value in fields.items())


def show_value(value: Any) -> str:
    """Return a value as JSON, on one line; what JSON cannot hold as Python shows it."""
    try:
        return plain(to_json(value))
    except (TypeError, ValueError, UnicodeError):
        return plain(repr(value))


def to_json(value: Any) -> str:
    """Return a value as JSON. Types of the user are shown as they are stored. Raises TypeError or ValueError."""
    return msgspec.json.encode(value, enc_hook=_to_builtin).decode()


def _to_builtin(value: Any) -> Any:
    """Return a value of a type of the user's, or of MessagePack, as JSON can hold it."""
    try:
        return encode_custom(value)
    except TypeError:
        return repr(value)
