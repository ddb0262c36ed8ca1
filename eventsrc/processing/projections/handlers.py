"""Find the handlers of a projection class by their annotations, and check them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FunctionType, NoneType
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_origin

from ...aggregates.annotations import expand_union
from ...aggregates.declaration import check_event, check_tags, collect_upcasters, event_types, get_name, read_hints
from ...aggregates.event import Event, tag_of
from ...aggregates.event_reader import EventReader
from ...aggregates.upcasting import Upcasting
from ...errors import DeclarationError
from ...trace_context import TraceContext, trace_id_of
from ..slice import Context

if TYPE_CHECKING:
    from ...store import Commit, EventIndex


MAX_CAUSES = 100
"""Causation ids of a commit that a handler of many events makes: more of them could make it too large for a store."""

_KINDS = f"{__package__}."
"""The modules in which the kinds of projections are."""


class Handler(NamedTuple):
    """A `handle_*` method."""

    call: Callable[..., Any]
    takes_sequence: bool  # of events, not one event
    with_context: bool
    awaits: bool

    @property
    def name(self) -> str:
        return get_name(self.call)


class Call(NamedTuple):
    """One call of a handler to make."""

    handler: Handler
    given: Event | list[Event]
    commit: Commit  # that holds the event; with several events, the last one
    event_index: EventIndex  # of the event in the commit
    earlier: Sequence[tuple[Commit, EventIndex]] = ()  # where the other events are, in order

    @property
    def first_commit(self) -> Commit:
        """The commit of the first event."""
        return self.earlier[0][0] if self.earlier else self.commit

    def cause(self, processor: str, attempt: int) -> Cause:
        """Return what this call of the processor is the cause of."""
        return Cause(self.handler, self.commit, self.event_index, self.earlier, processor, attempt)


class Cause(NamedTuple):
    """A call of a handler as the cause of what it commits. Calling it returns the trace of those commits."""

    handler: Handler
    commit: Commit  # of the event, or the last event
    event_index: EventIndex
    earlier: Sequence[tuple[Commit, EventIndex]]  # as in Call
    processor: str
    attempt: int

    def __call__(self) -> TraceContext:
        """Return the trace. Of many events, the last MAX_CAUSES are the causes."""
        events = [*self.earlier[1 - MAX_CAUSES :], (self.commit, self.event_index)]
        metadata = {"handler": f"{self.processor}.{self.handler.call.__name__}"}
        if self.attempt > 1:
            metadata["attempt"] = str(self.attempt)
        ids = tuple(str(commit.event_id(index)) for commit, index in events)
        return TraceContext(trace_id_of(self.commit), ids, metadata)


class Handlers:
    """The handlers of a projection class."""

    def __init__(self, by_type: Mapping[type[Event], Handler], upcasters: Mapping[type[Event], Upcasting]) -> None:
        self.by_type = by_type
        self.find = by_type.get  # the handler of a type of events, or None
        self.take_sequences = any(handler.takes_sequence for handler in by_type.values())
        self.tags = {tag_of(event) for event in (*by_type, *upcasters)}
        self._reader = EventReader(by_type, upcasters)
        self.read_each = self._reader.read_each

    @property
    def awaiting(self) -> Handler | None:
        """A handler that is a coroutine function, if there is one."""
        return next((handler for handler in self.by_type.values() if handler.awaits), None)

    def calls(self, commits: Iterable[Commit]) -> Iterator[Call]:
        """Yield the calls for these commits, in order. Events without a handler are skipped.

        - A handler that takes a sequence receives consecutive events together. If some do, which `take_sequences` says,
          give commits of one stream.
        - Otherwise each commit is asked for after the calls for the one before.

        Raises:
            StoredDataError: an event cannot be read.
        """
        by_type, read = self.by_type, self._reader.read
        if not self.take_sequences:
            for commit in commits:
                for index, event in read(commit):
                    if (handler := by_type.get(type(event))) is not None:  # none takes what an upcaster returned
                        yield _make_call(Call, (handler, event, commit, index, ()))
            return
        run: list[Event] = []
        earlier: list[tuple[Commit, EventIndex]] = []  # where all events of `run` are, except the last
        last: Call | None = None  # with `run`, which still grows
        for commit in commits:
            for index, event in read(commit):
                if (handler := by_type.get(type(event))) is None:
                    continue
                if last is not None and last.handler is not handler:
                    yield last
                    run, earlier, last = [], [], None
                if handler.takes_sequence:
                    if last is not None:
                        earlier.append((last.commit, last.event_index))
                    run.append(event)
                    last = _make_call(Call, (handler, run, commit, index, earlier))
                else:
                    yield _make_call(Call, (handler, event, commit, index, ()))
        if last is not None:
            yield last


_make_call: Any = tuple.__new__  # twice as fast as calling the class
make_cause: Any = tuple.__new__


def handlers_of(projection: type[Any], upcasters: object) -> Handlers:
    """Return the handlers that a projection class declares. Raises DeclarationError, which names the culprit."""
    name = projection.__qualname__
    found: dict[type[Event], Handler] = {}
    for attribute in dir(projection):
        if not attribute.startswith("handle_"):
            continue
        function = inspect.getattr_static(projection, attribute)
        culprit = f"{name}.{attribute}"
        events, handler = _read(function, culprit, projection)
        for event in events:
            if event in found:
                raise DeclarationError(
                    culprit, f"handles {event.__qualname__}, and so does {get_name(found[event].call)}"
                )
            found[event] = handler
    _check_misspelt(projection)
    if not found:
        raise DeclarationError(name, "has no handle_* method; write one for each event that it needs")
    upcast = collect_upcasters(upcasters, name, projection)
    if both := found.keys() & upcast.keys():
        raise DeclarationError(
            name, f"handles {both.pop().__qualname__}, which an upcaster replaces; handle the new type"
        )
    check_tags([*found, *upcast], name)
    for event in (*found, *upcast):
        check_event(event)
    return Handlers(found, upcast)


def has_handlers(projection: type[Any]) -> bool:
    return any(attribute.startswith("handle_") for attribute in dir(projection))


def _check_misspelt(projection: type[Any]) -> None:
    """Raise DeclarationError for a public method that takes an event but is not named as a handler.

    Classes that are not projections and have no handlers are not checked: they may help with events. The kinds of
    projections of the library have no misspelt handlers.
    """
    for base in projection.__mro__:
        if base.__module__.startswith(_KINDS) or not (hasattr(base, "tag") or has_handlers(base)):
            continue
        for attribute, member in vars(base).items():
            is_static = isinstance(member, staticmethod)
            function = member.__func__ if isinstance(member, staticmethod | classmethod) else member
            if attribute.startswith(("_", "handle_")) or not isinstance(function, FunctionType):
                continue
            if (event := _find_event(function, 0 if is_static else 1, projection)) is not None:
                raise DeclarationError(
                    f"{base.__qualname__}.{attribute}",
                    f"takes {event.__qualname__}, but is not a handler; name it handle_..., or _{attribute}",
                )


def _find_event(function: FunctionType, start: int, projection: type[Any]) -> type[Event] | None:
    """Return an event class in the annotation of the first parameter, if there is one.

    `start` is the number of parameters before it: self, or none. A context is passed over.
    """
    try:
        hints = read_hints(function, projection)
        parameters = list(inspect.signature(function).parameters)[start:]
        name = next((each for each in parameters if each != "context" and not _is_context(hints.get(each))), None)
        annotation = hints.get(name) if name is not None else None
        members = [each for each in expand_union(annotation) if each is not NoneType]
        items = [item for each in members for item in (get_args(each) if _is_sequence(each) else (each,))]
        found = [each for item in items for each in event_types(item, function, "event")]
        return next((each for each in found if each is not Event), None)
    except (DeclarationError, ValueError):
        return None  # it takes something else


def _is_context(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Context)


def _is_sequence(annotation: object) -> bool:
    return get_origin(annotation) in (list, Sequence)


def _read(function: object, culprit: str, projection: type[Any]) -> tuple[list[type[Event]], Handler]:
    if not isinstance(function, FunctionType):
        raise DeclarationError(culprit, "is not a plain or async method; a handler is one")
    parameters = list(inspect.signature(function).parameters.values())
    positional = all(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters)
    generates = function.__code__.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR)
    if generates or not positional or len(parameters) not in (2, 3):
        raise DeclarationError(
            culprit, "has the wrong parameters; write def handle_x(self, event: X), with a context: Context or without"
        )
    annotation = read_hints(function, projection).get(parameters[1].name)
    [first, *others] = expand_union(annotation)
    takes_sequence = _is_sequence(first) and not others
    events = event_types(get_args(first)[0] if takes_sequence else annotation, function, parameters[1].name)
    awaits = inspect.iscoroutinefunction(function)
    return events, Handler(function, takes_sequence, len(parameters) == 3, awaits)
