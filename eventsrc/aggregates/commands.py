"""Command ids: recognise a redelivered command."""

from __future__ import annotations

import inspect
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, ItemsView, KeysView, ValuesView
from contextlib import suppress
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import msgspec

from ..errors import kind_of
from ..store import Commit
from ..trace_context import check_text
from .custom_types import encode_custom, is_custom
from .event_values import explain_error
from .shape import compute_fingerprint

T = TypeVar("T")

_MICROSECOND = timedelta(microseconds=1)


class AppliedCommand(NamedTuple):
    """The command of a commit that has a command id: the commit's version, and a digest of the command."""

    version: int
    digest: bytes
    time: int = 0  # of the commit, if ids are remembered for a time

    @classmethod
    def of(cls, commit: Commit) -> AppliedCommand:
        return cls(commit.version, commit.command_digest or b"")


def add_command(commands: dict[str, AppliedCommand], id: str, commit: Commit, limit: int | timedelta) -> None:
    """Add the command of a commit, and remove those beyond `Aggregate.remembered_commands`. The oldest are first."""
    commands[id] = applied = AppliedCommand.of(commit)
    if isinstance(limit, timedelta):
        commands[id] = applied._replace(time=commit.time)
        oldest = commit.time - limit // _MICROSECOND
        while next(iter(commands.values())).time < oldest:
            del commands[next(iter(commands))]
        return
    while len(commands) > limit:
        del commands[next(iter(commands))]


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


class CommandCall:
    """A command and its arguments, also those within `partial` objects. Each run of it sees the same arguments.

    Lists, dictionaries and sets are copied at once, and again for each run. Other objects are passed as they are.

    Raises:
        TypeError: an argument, a default of the command, or a variable that it takes from around it is a generator, or
            another iterator, which a second run would find empty.
    """

    def __init__(self, command: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._command, self._args, self._kwargs = command, args, kwargs
        for value in _read_captured(command):
            _check_repeatable(value)
        self._is_fixed = _NEVER_CHANGED.issuperset(map(type, (command, *args, *kwargs.values())))
        if not self._is_fixed:
            self._command, self._args, self._kwargs = _copy((command, args, kwargs))

    def run(self, aggregate: object) -> Any:
        """Return what the command returned. Raises its error, or TypeError if it is not a plain function."""
        command, args, kwargs = self._command, self._args, self._kwargs
        check_command(command, type(aggregate))
        if not self._is_fixed:
            command, args, kwargs = _copy((command, args, kwargs))
        return check_has_run(command, command(aggregate, *args, **kwargs))

    def compute_digest(self) -> bytes:
        """Return the digest of the command's name and arguments, and of the object, if it is one or a method of one.

        Raises ValueError, as `compute_digest`.
        """
        command, args, kwargs = self._command, self._args, self._kwargs
        while isinstance(command, partial):
            args, kwargs, command = (*command.args, *args), {**command.keywords, **kwargs}, command.func
        owner = command.__self__ if inspect.ismethod(command) else command
        owners = () if isinstance(owner, (type, FunctionType, BuiltinFunctionType)) else (owner,)
        return compute_digest([command_name(command), args, kwargs, *owners])


def _copy(value: Any) -> Any:
    """Return a value with containers of its own. Raises TypeError for an iterator."""
    kind = type(value)
    if kind in _NEVER_CHANGED:
        return value
    if kind is tuple:
        return value if _NEVER_CHANGED.issuperset(map(type, value)) else tuple(map(_copy, value))
    if kind is dict:
        if _NEVER_CHANGED.issuperset(map(type, value.values())):
            return value.copy()
        return {key: _copy(item) for key, item in value.items()}
    if kind is list:
        return value.copy() if _NEVER_CHANGED.issuperset(map(type, value)) else list(map(_copy, value))
    if kind is partial:
        return partial(_copy(value.func), *_copy(value.args), **_copy(value.keywords))
    if kind in _COPIED:
        return value.copy()
    _check_repeatable(value)
    return value


def _check_repeatable(value: Any) -> None:
    """Raise TypeError for an iterator."""
    if hasattr(type(value), "__next__") and iter(value) is value:
        raise TypeError(
            f"{kind_of(value)}, given as an argument of a command or used by it, can be read only once, and a command "
            "may be called again; give a list or a tuple"
        )


def _read_captured(command: Any) -> list[Any]:
    """Return what a function uses besides its arguments: variables from around it, and its defaults."""
    while isinstance(command, partial):
        command = command.func
    function = getattr(command, "__func__", command)  # of a bound method
    if not isinstance(function, FunctionType):
        return []
    found = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # the variable has no value yet
            found.append(cell.cell_contents)
    return found


_NEVER_CHANGED = frozenset((str, int, float, bool, bytes, NoneType, Decimal, datetime, date, UUID, FunctionType))
_COPIED = frozenset((set, bytearray, deque, defaultdict, OrderedDict, Counter))


def check_has_run(command: Callable[..., Any], result: T, what: str = "a command") -> T:
    """Return the result of a command. Raises TypeError if the command has not run because it awaits or yields."""
    if inspect.iscoroutine(result):
        result.close()
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        kind = type(result).__name__
        raise TypeError(f"{command_name(command)} returned {kind}; {what} is a plain function without await")
    return result


def compute_digest(content: Any) -> bytes:
    """Return 8 bytes that differ for other content and are the same in every process.

    Of a value that msgspec cannot encode, only the type counts. Raises ValueError for content that cannot be encoded,
    or not in the same way each time.
    """
    try:
        encoded = msgspec.msgpack.encode(content, enc_hook=_describe, order="deterministic")
    except (OverflowError, UnicodeError, RecursionError) as error:
        reason = explain_error(error)
    except TypeError:
        reason = "a map has keys that are not strings, or the members of a set have no order"
    else:
        return compute_fingerprint(encoded)
    raise ValueError(f"the arguments of a command with an id cannot be encoded: {reason}")


def _describe(value: Any) -> Any:
    if is_custom(type(value)):
        return encode_custom(value)
    return [*value] if isinstance(value, _COLLECTIONS) else type(value).__qualname__


_COLLECTIONS = (range, deque, KeysView, ValuesView, ItemsView)
