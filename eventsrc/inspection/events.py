"""The events of a commit as they are stored, as values and as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..aggregates.aggregate import Aggregate
from ..aggregates.codec import unpack
from ..aggregates.custom_types import encode_custom
from ..processes.describing import Show, describe_recorded
from ..store import Commit
from ..tracing.wording import plain


def read_events(commit: Commit) -> list[dict[str, Any]]:
    """Return the events of a commit as stored, each with its tag as `$`. Raises StoredDataError or ValueError."""
    events: list[dict[str, Any]] = msgspec.msgpack.decode(unpack(commit.payload, commit.stream, commit.version))
    return events


def describe_events(
    commit: Commit, show: Show | None = None, *, aggregates: Sequence[type[Aggregate]] = ()
) -> list[str]:
    """Return the fields of each event of a commit as text.

    - What a process records is readable: a command as `stock.reserve pen`, times in UTC, events that are encoded in it.
      Arguments have the names of their parameters if the class of the command is among `aggregates`.
    - `show(tag, fields)` returns what may be shown of the fields of an event, also of one that is encoded in another
      one, and of the arguments of a command, whose tag is `stock.reserve`. Without names, they are then hidden.

    Raises StoredDataError or ValueError.
    """
    return [show_fields(describe_recorded(event, aggregates, show)) for event in read_events(commit)]


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
