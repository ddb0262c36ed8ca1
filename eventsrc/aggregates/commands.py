"""Command ids: how a redelivered command is told from a new one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec

from ..store import Commit
from ..tracing import check_text
from .event_values import reason_of
from .shape import fingerprint

T = TypeVar("T")


class AppliedCommand(NamedTuple):
    """A command id that a commit carried: the commit's version, and a digest of what the command was."""

    version: int
    digest: bytes

    @classmethod
    def of(cls, commit: Commit) -> AppliedCommand:
        return cls(commit.version, commit.command_digest or b"")


def check_command_id(command_id: object) -> None:
    """Raise TypeError or ValueError for what can be none."""
    check_text("command_id", command_id)
    if not command_id:
        raise ValueError("command_id is empty; give each command an id of its own, or None")


def command_name(command: Callable[..., Any]) -> str:
    return getattr(command, "__name__", type(command).__name__)


def content_of(command: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """What a call of a command is, beside its id."""
    while isinstance(command, partial):
        args, kwargs, command = (*command.args, *args), {**command.keywords, **kwargs}, command.func
    return [command_name(command), args, kwargs]


def has_run(command: Callable[..., Any], result: T) -> T:
    """What a command returned. Raises TypeError if that shows that it has not run: it awaits or yields."""
    if inspect.iscoroutine(result):
        result.close()
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        kind = type(result).__name__
        raise TypeError(f"{command_name(command)} returned {kind}; a command is a plain function, and awaits nothing")
    return result


def digest_of(content: Any) -> bytes:
    """8 bytes that tell a redelivered command from another one under its id; the same in every process.

    A value that msgspec cannot encode counts by its type only. Raises ValueError for what cannot be encoded at all, or
    not the same way each time.
    """
    try:
        encoded = msgspec.msgpack.encode(content, enc_hook=_type_name, order="deterministic")
    except (OverflowError, UnicodeError, RecursionError) as error:
        reason = reason_of(error)
    except TypeError:
        reason = "a map has other keys than strings, or the members of a set have no order"
    else:
        return fingerprint(encoded)
    raise ValueError(f"the arguments of a command with an id cannot be encoded: {reason}")


def _type_name(value: Any) -> str:
    return type(value).__qualname__
