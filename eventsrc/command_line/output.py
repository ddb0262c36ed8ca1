"""What verbs print: lines for people, or JSON for programs."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from ..aggregates.codec import unpack
from ..aggregates.custom_types import encode_custom
from ..store import Commit
from ..tracing.wording import plain


class Output:
    """Prints to standard output. With `as_json` it prints one JSON value a line, otherwise text."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def show(self, text: str, value: Any) -> None:
        """Print a text, or the value as JSON."""
        line = msgspec.json.encode(value, enc_hook=_to_builtin).decode() if self.as_json else text
        print(line, file=sys.stdout, flush=True)


def read_events(commit: Commit) -> list[dict[str, Any]]:
    """Return the events of a commit as stored, each with its tag as `$`. Raises StoredDataError or ValueError."""
    events: list[dict[str, Any]] = msgspec.msgpack.decode(unpack(commit.payload, commit.stream, commit.version))
    return events


def show_fields(fields: dict[str, Any]) -> str:
    """Return fields as `amount=100 memo="rent"`, on one line."""
    return " ".join(f"{plain(str(name))}={show_value(value)}" for name, value in fields.items())


def show_value(value: Any) -> str:
    try:
        return plain(msgspec.json.encode(value, enc_hook=_to_builtin).decode())
    except (TypeError, ValueError, UnicodeError):
        return plain(repr(value))


def _to_builtin(value: Any) -> Any:
    """Return a value of a type of the user's, or of MessagePack, as JSON can hold it."""
    try:
        return encode_custom(value)
    except TypeError:
        return repr(value)
