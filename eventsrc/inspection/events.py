"""The events of a commit as they are stored, as values and as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..aggregates.codec import unpack
from ..aggregates.custom_types import encode_custom
from ..store import Commit
from ..tracing.wording import plain

Show = Callable[[str, dict[str, Any]], dict[str, Any]]
"""Returns what may be shown of the fields of an event, which it is called with after its tag."""


def read_events(commit: Commit) -> list[dict[str, Any]]:
    """Return the events of a commit as stored, each with its tag as `$`. Raises StoredDataError or ValueError."""
    events: list[dict[str, Any]] = msgspec.msgpack.decode(unpack(commit.payload, commit.stream, commit.version))
    return events


def describe_events(commit: Commit, show: Show = lambda kind, fields: fields) -> list[str]:
    """Return the fields of each event of a commit as text: what `show(tag, fields)` returns of them.

    Raises StoredDataError or ValueError.
    """
    return [
        show_fields(show(str(event.get("$", "")), {name: value for name, value in event.items() if name != "$"}))
        for event in read_events(commit)
    ]


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
