"""Refused commands: a refusal that is final is stored, as a commit without events."""

from __future__ import annotations

import sys

from ..errors import CommandRefused, EventsrcError
from ..store import Commit

REFUSED = "eventsrc.refused"
"""The key in the metadata of a commit without events that says why its command was refused; "" if it was not."""

_MAX_REASON = 1_000  # characters
_NOT_YOURS = sys.stdlib_module_names | {"builtins", "eventsrc", "msgspec"}


def is_refusal(error: Exception) -> bool:
    """Whether a command that raised this error has refused: it is an error of the user's own, or a ValueError.

    Other errors of Python, of msgspec and of this library are faults of the program, the store or the machine.
    """
    kind = type(error)
    return kind is ValueError or not (
        isinstance(error, EventsrcError) or kind.__module__.partition(".")[0] in _NOT_YOURS
    )


def to_metadata(error: Exception) -> dict[str, str]:
    """Return what the commit of a refusal says: type and text of the error."""
    text = str(error).encode(errors="replace").decode()  # it may hold surrogates
    return {REFUSED: f"{type(error).__name__}: {text}"[:_MAX_REASON]}


def read_refusal(commit: Commit) -> tuple[str, str] | None:
    """Return type and text of the error that a commit says a command was refused with; None if it says nothing."""
    if commit.events or not (stored := commit.metadata.get(REFUSED)):
        return None
    kind, _, reason = stored.partition(": ")
    return kind, reason


def check_refused(commit: Commit) -> None:
    """Raise CommandRefused if this is the commit of a refused command."""
    if (refusal := read_refusal(commit)) is not None:
        raise CommandRefused(commit.stream, commit.command_id or "", commit.version, *refusal)
