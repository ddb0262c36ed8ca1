"""Command ids: recognise a redelivered command."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec

from ..errors import kind_of
from ..store import Commit
from ..tracing import check_text
from .event_values import explain_error
from .shape import compute_fingerprint

T = TypeVar("T")


class AppliedCommand(NamedTuple):
    """The command of a commit that has a command id: the commit's version, and a digest of the command."""

    version: int
    digest: bytes

    @classmethod
    def of(cls, commit: Commit) -> AppliedCommand:
        return cls(commit.version, commit.command_digest or b"")


def check_command_id(command_id: object) -> None:
    """Raise TypeError or ValueError unless this can be a command id."""
    check_text("command_id", command_id)
    if not command_id:
        raise ValueError("command_id is empty; give each command its own id, or None")


def command_name(command: Callable[..., Any]) -> str:
    return getattr(command, "__name__", type(command).__name__)


def check_command(command: object, aggregate: type[Any]) -> None:
    """Raise TypeError unless this can be called with an object of the aggregate class."""
    name = aggregate.__qualname__
    if not callable(command):
        raise TypeError(
            f"{kind_of(command)}, given as the command, is not a function; pass the function without calling it, and "
            f"then its arguments: execute(id, {name}.method, ...)"
        )
    if inspect.ismethod(command) and isinstance(command.__self__, aggregate):
        raise TypeError(
            f"{command_name(command)} is a method of one {name} object; pass the function of the class, "
            f"{name}.{command_name(command)}, and its arguments"
        )


def describe_call(command: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the content of a command: its name and arguments. `partial` objects are resolved."""
    while isinstance(command, partial):
        args, kwargs, command = (*command.args, *args), {**command.keywords, **kwargs}, command.func
    return [command_name(command), args, kwargs]


def run_command(command: Callable[..., Any], aggregate: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what the command returned. Raises its error, or TypeError if it is not a plain function."""
    check_command(command, type(aggregate))
    return check_has_run(command, command(aggregate, *args, **kwargs))


def check_has_run(command: Callable[..., Any], result: T) -> T:
    """Return the result of a command. Raises TypeError if the command has not run because it awaits or yields."""
    if inspect.iscoroutine(result):
        result.close()
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        kind = type(result).__name__
        raise TypeError(f"{command_name(command)} returned {kind}; a command is a plain function without await")
    return result


def compute_digest(content: Any) -> bytes:
    """Return 8 bytes that differ for other content and are the same in every process.

    Of a value that msgspec cannot encode, only the type counts. Raises ValueError for content that cannot be encoded,
    or not in the same way each time.
    """
    try:
        encoded = msgspec.msgpack.encode(content, enc_hook=_type_name, order="deterministic")
    except (OverflowError, UnicodeError, RecursionError) as error:
        reason = explain_error(error)
    except TypeError:
        reason = "a map has keys that are not strings, or the members of a set have no order"
    else:
        return compute_fingerprint(encoded)
    raise ValueError(f"the arguments of a command with an id cannot be encoded: {reason}")


def _type_name(value: Any) -> str:
    return type(value).__qualname__
