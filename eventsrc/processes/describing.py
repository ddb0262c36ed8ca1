"""The events that a process records by itself, for people: names, times in UTC, and what was encoded in them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from ..aggregates.aggregate import Aggregate
from ..aggregates.declaration import declaration_of
from ..store import EventId
from .asks import EncodedCommand
from .events import (
    Answered,
    CallRequested,
    CommandRequested,
    Done,
    Ended,
    InputHeld,
    InputTaken,
    Refused,
    TimerCancelled,
    TimerFired,
    TimerHandled,
    TimerStarted,
    Waiting,
)
from .process import Instance
from .scheduling import CommandDue

Fields = dict[str, Any]
Show = Callable[[str, Fields], Fields]
"""Returns what may be shown of fields, which it is called with after the tag of their event."""

Recorded = (
    InputTaken
    | InputHeld
    | CommandRequested
    | CallRequested
    | Done
    | Refused
    | Answered
    | TimerStarted
    | TimerCancelled
    | TimerFired
    | TimerHandled
    | Waiting
    | Ended
    | CommandDue
)
"""What a process records by itself, and what the Scheduler does."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_recorded(event: Fields) -> Recorded | None:
    """Return an event as stored, with its tag as `$`, as what a process records; None if it is not such an event."""
    try:
        found: Recorded = msgspec.convert(event, type=Recorded)
    except msgspec.ValidationError:
        return None
    return found


def describe_recorded(event: Fields, aggregates: Iterable[type[Aggregate]] = (), show: Show | None = None) -> Fields:
    """Return the fields of an event as stored, with its tag as `$`, readable if a process records it.

    - A command is `stock.reserve pen`, with its arguments by the names of its parameters, if its class is among these.
    - Times are in UTC, and events in the event are decoded.
    - `show(tag, fields)` is called with the fields of each event, and with the arguments of a command after its name,
      `stock.reserve`. Arguments whose names are not known are then not shown.
    """
    tag, fields = str(event.get("$", "")), {name: value for name, value in event.items() if name != "$"}
    if (recorded := read_recorded(event)) is not None:
        fields = _describe(recorded, aggregates, show)
    return fields if show is None else show(tag, fields)


def _describe(recorded: Recorded | EncodedCommand, aggregates: Iterable[type[Aggregate]], show: Show | None) -> Fields:
    if isinstance(recorded, CommandDue):
        recorded = recorded.command
    left: Fields = {name: getattr(recorded, name) for name in recorded.__struct_fields__}
    found: Fields = {"number": left.pop("number")} if "number" in left else {}
    if isinstance(recorded, CommandRequested | EncodedCommand | Done | Refused):
        found["command"] = name_command(*(left.pop(name) for name in ("category", "name", "id")))
    if isinstance(recorded, CommandRequested | EncodedCommand):
        if arguments := _describe_arguments(recorded, aggregates, show):
            found["arguments"] = arguments
        for name in ("args", "kwargs", "command_id"):
            left.pop(name, None)
        if not recorded.create:
            del left["create"]
    if isinstance(recorded, InputTaken | InputHeld):
        found["input"] = str(EventId(left.pop("stream"), *left.pop("place")))
    if isinstance(recorded, TimerStarted | TimerCancelled | TimerFired):
        found["timer"] = left.pop("name")
    for name, value in left.items():
        if isinstance(value, bytes):
            body = _describe_body(value, aggregates, show)
            if body != {"$": found.get("timer")}:  # its name says it
                found[name] = body
        else:
            found[name] = show_moment(value) if name in ("due", "at") else value
    return found


def describe_instance(instance: Instance) -> Fields:
    """Return the bookkeeping of a process: what is pending, and its timers with the times at which they are due."""
    return {
        "started": instance.started,
        "ended": instance.ended,
        "pending": list(instance.pending.values()),
        "timers": {name: show_moment(timer.due) for name, timer in instance.timers.items()},
        "fired": {name: show_moment(timer.due) for name, timer in instance.fired.items()},
        "held": [str(EventId(each.stream, *each.place)) for each in instance.held],
        "inputs": [str(EventId(origin, *place)) for origin, place in instance.inputs.items()],
    }


def name_command(category: str, name: str, id: str) -> str:
    """Return a command as `stock.reserve pen`, and a call as the name of its service."""
    return f"{category}.{name} {id}" if name else category


def show_moment(time: int) -> str:
    """Return a time in µs since the epoch as `2026-01-31T12:00:00.000Z`; a time that no calendar has, as a number."""
    try:
        moment = _EPOCH + timedelta(microseconds=time)
    except OverflowError:
        return f"{time} µs"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _describe_body(body: bytes, aggregates: Iterable[type[Aggregate]], show: Show | None) -> Fields:
    """Return an encoded event, with its tag as `$`."""
    event = _decode(body)
    if not isinstance(event, dict):
        return {"unreadable": f"{len(body)} bytes"}
    return {"$": str(event.get("$", "")), **describe_recorded(event, aggregates, show)}


def _describe_arguments(
    command: CommandRequested | EncodedCommand, aggregates: Iterable[type[Aggregate]], show: Show | None
) -> Fields:
    args = [_decode(each) for each in command.args]
    kwargs = {name: _decode(each) for name, each in command.kwargs.items()}
    named = _name_arguments(_find_method(command.category, command.name, aggregates), args, kwargs)
    if show is None:
        return named if named is not None else {str(number): each for number, each in enumerate(args, 1)} | kwargs
    if named is not None:
        return show(f"{command.category}.{command.name}", named)
    return {"hidden": "their names are not known"} if args or kwargs else {}


def _find_method(category: str, name: str, aggregates: Iterable[type[Aggregate]]) -> Callable[..., Any] | None:
    for aggregate in aggregates:
        if declaration_of(aggregate).category == category:
            method: Callable[..., Any] | None = getattr(aggregate, name, None)
            return method
    return None


def _name_arguments(
    method: Callable[..., Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return arguments by the names of the parameters of a method; None if it does not take them."""
    if method is None:
        return None
    try:
        bound = inspect.signature(method).bind(None, *args, **kwargs)
    except TypeError:
        return None
    return dict([*bound.arguments.items()][1:])


def _decode(body: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(body)
    except (msgspec.DecodeError, ValueError):
        return f"{len(body)} bytes"
