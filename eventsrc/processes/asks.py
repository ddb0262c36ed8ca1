"""What a process asks for, as values: commands, calls of services, timers, and its own end.

Handlers yield or return them, and tests compare them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import msgspec

from ..aggregates.aggregate import Aggregate
from ..aggregates.commands import command_name
from ..aggregates.declaration import declaration_of
from ..aggregates.event import Event, tag_of
from ..errors import kind_of
from .arguments import encode_arguments

A = TypeVar("A", bound=Aggregate)
T = TypeVar("T")
P = ParamSpec("P")


class Command(msgspec.Struct, frozen=True):
    """A command: a method of an aggregate, which is stored by the tag of the aggregate and the name of the method."""

    aggregate: type[Any]
    id: str
    method: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    create: bool = False

    @property
    def category(self) -> str:
        return declaration_of(self.aggregate).category

    @property
    def name(self) -> str:
        return command_name(self.method)

    @property
    def target(self) -> tuple[str, str]:
        """Category and id of the aggregate."""
        return self.category, self.id


class EncodedCommand(msgspec.Struct, frozen=True):
    """A command as it is stored."""

    category: str
    id: str
    name: str
    args: list[bytes]
    kwargs: dict[str, bytes]
    create: bool

    @classmethod
    def of(cls, asked: Command) -> EncodedCommand:
        """Raises TypeError if an argument would not be read back."""
        args, kwargs = encode_arguments(asked.method, asked.args, asked.kwargs)
        return cls(asked.category, asked.id, asked.name, args, kwargs, asked.create)

    @property
    def target(self) -> tuple[str, str]:
        """Category and id of the aggregate."""
        return self.category, self.id


class Call(msgspec.Struct, frozen=True):
    """A call of a service, with an event as the request."""

    service: str
    request: Event


class Timer(msgspec.Struct, frozen=True):
    """A timer: after a time or at a time, its event is an input of the process."""

    name: str
    event: Event
    delay: timedelta | None = None
    due: datetime | None = None


class Cancel(msgspec.Struct, frozen=True):
    """The end of a timer that has not fired, or whose event is not handled yet."""

    name: str


class End(msgspec.Struct, frozen=True):
    """The end of the process."""


Ask = Command | EncodedCommand | Call | Timer | Cancel | End
Asks = Iterable[Ask]
"""What a handler of a process yields or returns."""


def command(
    aggregate: type[A], id: str, method: Callable[Concatenate[A, P], Any], /, *args: P.args, **kwargs: P.kwargs
) -> Command:
    """Ask for a command: `command(Stock, "pen", Stock.reserve, order, quantity=3)`.

    - It is applied exactly once, unless it is refused, and commands of one process in the order in which they are asked
      for. Its outcome is an input of the process: Done or Refused.
    - It is stored under the tag of the aggregate and the name of the method, so do not rename a method while processes
      are under way. Arguments are read back by the annotations of the method.

    Raises:
        TypeError: the method is not one of the aggregate, or does not take these arguments.
    """
    return _to_command(aggregate, id, method, args, kwargs, create=False)


def create_or_command(
    aggregate: type[A], id: str, method: Callable[Concatenate[A, P], Any], /, *args: P.args, **kwargs: P.kwargs
) -> Command:
    """Ask for a command, on a new aggregate if there is none with this id. As `command`."""
    return _to_command(aggregate, id, method, args, kwargs, create=True)


def _to_command(
    aggregate: type[Any], id: str, method: Callable[..., Any], args: Any, kwargs: Any, *, create: bool
) -> Command:
    name = command_name(method)
    declaration_of(aggregate)
    if inspect.getattr_static(aggregate, name, None) is not method:
        raise TypeError(
            f"{name} is not a method of {aggregate.__qualname__}; a command of a process is stored by the name of a "
            "method, so write one"
        )
    bound = inspect.signature(method).bind(None, *args, **kwargs)
    return Command(aggregate, id, method, bound.args[1:], bound.kwargs, create)


def call(service: str, request: Event) -> Call:
    """Ask for a call of a service that `ProcessManager(services=...)` names. Its answer is an input of the process."""
    return Call(service, request)


def after(delay: timedelta, event: Event, *, name: str = "") -> Timer:
    """Start a timer. It is due this long after the time of the input that is handled.

    It replaces a timer of the same name; the name is by default the tag of the event. Raises TypeError.
    """
    if not isinstance(given := cast(object, delay), timedelta):
        raise TypeError(f"{kind_of(given)}, given as a delay, is not a timedelta; write timedelta(minutes=15)")
    _check_event(event)
    return Timer(name or tag_of(type(event)), event, delay=delay)


def at(due: datetime, event: Event, *, name: str = "") -> Timer:
    """Start a timer that is due at a time with a zone. As `after`. Raises ValueError if the time has no zone."""
    if due.tzinfo is None:
        raise ValueError("the time of a timer has no zone; give one, as datetime.now(UTC)")
    _check_event(event)
    return Timer(name or tag_of(type(event)), event, due=due)


def cancel(timer: str | type[Event]) -> Cancel:
    """Cancel a timer by its name, or by the class of its event. If there is none, nothing is done."""
    return Cancel(timer if isinstance(timer, str) else tag_of(timer))


def end() -> End:
    """End the process. Commands that it has asked for are still issued; timers are cancelled; inputs are ignored."""
    return End()


def _check_event(event: object) -> None:
    if not isinstance(event, Event):
        raise TypeError(
            f"{kind_of(event)}, given as the event of a timer, is not an event; give an object of its class"
        )
