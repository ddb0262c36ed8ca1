"""Refused commands: a refusal that is final is stored, as a commit without events."""

from __future__ import annotations

from ..errors import CommandRefused, EventsrcError
from ..store import Commit

_KEY = "refused"  # in the metadata of the commit
_MAX_REASON = 1_000  # characters

_FAULTS = (
    *(EventsrcError, TypeError, AttributeError, NameError, AssertionError, ImportError, SyntaxError),
    *(NotImplementedError, RecursionError, MemoryError, OSError),
)
"""Errors that are faults of the program, the store or the machine: the command has decided nothing."""


def is_refusal(error: Exception) -> bool:
    """Whether a command that raised this error has refused, as by its business rules."""
    return not isinstance(error, _FAULTS)


def to_metadata(error: Exception) -> dict[str, str]:
    """Return what the commit of a refusal says: type and text of the error."""
    text = str(error).encode(errors="replace").decode()  # it may hold surrogates
    return {_KEY: f"{type(error).__name__}: {text}"[:_MAX_REASON]}


def read_refusal(commit: Commit) -> tuple[str, str] | None:
    """Return type and text of the error that a commit says a command was refused with; None if it says nothing."""
    if commit.events or (stored := commit.metadata.get(_KEY)) is None:
        return None
    kind, _, reason = stored.partition(": ")
    return kind, reason


def check_refused(commit: Commit) -> None:
    """Raise CommandRefused if this is the commit of a refused command."""
    if (refusal := read_refusal(commit)) is not None:
        raise CommandRefused(commit.stream, commit.command_id or "", commit.version, *refusal)
