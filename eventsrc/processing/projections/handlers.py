"""Which handler takes which event: read off the annotations of a projection class, once, and checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_origin

from ...aggregates.codec import Codec
from ...aggregates.declaration import check_event, check_tags, collect_upcasters, event_types, get_name, read_hints
from ...aggregates.event import Event
from ...errors import DeclarationError

if TYPE_CHECKING:
    from ...store import Commit


class Handler(NamedTuple):
    """A `handle_*` method."""

    call: Callable[..., Any]
    of_run: bool  # takes a sequence of events, not one
    with_context: bool
    awaits: bool


class Call(NamedTuple):
    """One call of a handler that is due."""

    handler: Handler
    given: Event | list[Event]
    commit: Commit  # of the event; of the last one, if there are several
    place: int  # in the commit


class Handlers:
    """What a projection class handles."""

    def __init__(self, by_type: Mapping[type[Event], Handler], codec: Codec) -> None:
        self._by_type, self._codec = by_type, codec

    @property
    def awaiting(self) -> Handler | None:
        """One that is a coroutine function, if there is any."""
        return next((handler for handler in self._by_type.values() if handler.awaits), None)

    def calls(self, commits: Sequence[Commit]) -> Iterator[Call]:
        """The calls that these commits of one stream lead to, in order; events of other types are passed over.

        A handler of runs gets the events that come one after the other. Raises StoredDataError.
        """
        by_type, decode = self._by_type, self._codec.decode_known
        run: list[Event] = []
        last: Call | None = None  # with `run`, which goes on
        for commit in commits:
            for index, event in decode(commit):
                if (handler := by_type.get(type(event))) is None:
                    continue  # an upcaster made it
                if last is not None and last.handler is not handler:
                    yield last
                    run, last = [], None
                if handler.of_run:
                    run.append(event)
                    last = Call(handler, run, commit, index)
                else:
                    yield Call(handler, event, commit, index)
        if last is not None:
            yield last


def handlers_of(projection: type[Any], upcasters: object) -> Handlers:
    """What a projection class declares. Raises DeclarationError, which names the culprit."""
    name = projection.__qualname__
    found: dict[type[Event], Handler] = {}
    for attribute in dir(projection):
        if not attribute.startswith("handle_"):
            continue
        function = inspect.getattr_static(projection, attribute)
        culprit = f"{name}.{attribute}"
        events, handler = _read(function, culprit)
        for event in events:
            if event in found:
                raise DeclarationError(
                    culprit, f"handles {event.__qualname__}, and so does {get_name(found[event].call)}"
                )
            found[event] = handler
    if not found:
        raise DeclarationError(name, "has no handle_* method; without events there is nothing to project")
    upcast = collect_upcasters(upcasters, name)
    if both := found.keys() & upcast.keys():
        raise DeclarationError(name, f"handles {both.pop().__qualname__}, which an upcaster takes")
    check_tags([*found, *upcast], name)
    for event in (*found, *upcast):
        check_event(event)
    return Handlers(found, Codec(found, upcast))


def _read(function: object, culprit: str) -> tuple[list[type[Event]], Handler]:
    if not isinstance(function, FunctionType):
        raise DeclarationError(culprit, "a handler is a plain or an async method")
    parameters = list(inspect.signature(function).parameters.values())
    positional = all(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters)
    generates = function.__code__.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR)
    if generates or not positional or len(parameters) not in (2, 3):
        raise DeclarationError(
            culprit, "a handler is a method: def handle_x(self, event: X), with a context: Context or not"
        )
    annotation = read_hints(function).get(parameters[1].name)
    of_run = get_origin(annotation) in (list, Sequence)
    events = event_types(get_args(annotation)[0] if of_run else annotation, function, parameters[1].name)
    awaits = inspect.iscoroutinefunction(function)
    return events, Handler(function, of_run, len(parameters) == 3, awaits)
