"""Find the handlers of a process class by their annotations, and call them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, NamedTuple, cast

from ..aggregates.commands import check_has_run
from ..aggregates.declaration import check_event, check_tags, declaration_of, event_types, get_name, read_hints
from ..aggregates.event import Event, tag_of
from ..errors import DeclarationError
from .asks import Ask, Call, Cancel, Command, EncodedCommand, End, Timer
from .events import Answered, Done, Refused
from .process import Input, Process

OUTCOMES = (Done, Refused)

_ASKS = (Command, EncodedCommand, Call, Timer, Cancel, End)


class Handler(NamedTuple):
    """An `on_*` method."""

    call: Callable[..., Any]
    with_input: bool

    def run(self, process: Process, event: Event, given: Input) -> list[Ask]:
        """Call it, and return what it asks for. Raises TypeError if that is something else."""
        result = self.call(process, event, given) if self.with_input else self.call(process, event)
        if result is None:
            return []
        if not inspect.isgenerator(result):
            check_has_run(self.call, result)
        if not isinstance(result, Iterable) or isinstance(result, str | bytes | dict):
            raise TypeError(f"{get_name(self.call)} returned {type(result).__name__}; yield commands and timers")
        found = list(result)
        for ask in found:
            if not isinstance(ask, _ASKS):
                raise TypeError(
                    f"{get_name(self.call)} asked for {type(ask).__name__}; ask with command(), call(), after(), "
                    "at(), cancel() or end()"
                )
        return cast(list[Ask], found)


class Handlers(NamedTuple):
    """The handlers of a process class."""

    by_type: dict[type[Event], Handler]

    @property
    def inputs(self) -> tuple[type[Event], ...]:
        """The events that may come from other streams, or from timers and services."""
        return tuple(event for event in self.by_type if event not in OUTCOMES)


def handlers_of(process: type[Process]) -> Handlers:
    """Return the handlers that a process class declares, read and checked once. Raises DeclarationError."""
    if (found := _known.get(process)) is None:
        found = _known[process] = _read_handlers(process)
    return found


_known: dict[type[Process], Handlers] = {}


def _read_handlers(process: type[Process]) -> Handlers:
    name = process.__qualname__
    declaration_of(process)
    found: dict[type[Event], Handler] = {}
    for attribute in dir(process):
        if not attribute.startswith("on_"):
            continue
        culprit, function = f"{name}.{attribute}", inspect.getattr_static(process, attribute)
        is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        if not isinstance(function, FunctionType) or is_async:
            raise DeclarationError(culprit, "is not a plain method; a handler of a process awaits nothing")
        parameters = list(inspect.signature(function).parameters.values())
        if len(parameters) not in (2, 3):
            raise DeclarationError(
                culprit, "has the wrong parameters; write def on_x(self, event: X), or with an Input"
            )
        hint = read_hints(function, process).get(parameters[1].name)
        for event in event_types(hint, function, parameters[1].name):
            if event in found:
                raise DeclarationError(
                    culprit, f"handles {event.__qualname__}, and so does {get_name(found[event].call)}"
                )
            if event is Answered:
                raise DeclarationError(culprit, "handles Answered; handle the event that the service answers with")
            found[event] = Handler(function, len(parameters) == 3)
    if not isinstance(inspect.getattr_static(process, "key"), classmethod | staticmethod):
        raise DeclarationError(f"{name}.key", "is called without a process; write @classmethod above it")
    if not isinstance(process.starts, tuple | list):
        raise DeclarationError(f"{name}.starts", "is not a tuple; write starts = (X,)")
    if not [event for event in found if event not in OUTCOMES]:
        raise DeclarationError(name, "has no on_* handler; write one for each event that it reacts to")
    for event in (*found, *process.starts):
        tag_of(event)
        check_event(event)
    if missing := [event for event in process.starts if event not in found]:
        raise DeclarationError(f"{name}.starts", f"names {missing[0].__qualname__}, which no on_* method handles")
    check_tags(list(found), name)
    return Handlers(found)
