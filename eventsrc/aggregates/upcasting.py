"""Call upcasters, and hold them to what their annotations promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from os.path import basename
from types import TracebackType
from typing import Any, NamedTuple

from ..errors import InvalidEvent, UpcasterFailed, kind_of
from .event import Event, Upcaster


class Upcasting(NamedTuple):
    """An upcaster, and what it may return: one event of a class in `one`, a list of events of classes in `many`, or
    None if it `may_drop` the event.
    """

    upcaster: Upcaster
    one: Set[type[Event]]
    many: Set[type[Event]]
    may_drop: bool

    @property
    def name(self) -> str:
        return getattr(self.upcaster, "__qualname__", repr(self.upcaster))

    @property
    def successors(self) -> list[type[Event]]:
        """All event classes that it may return."""
        return [*self.one, *(self.many - self.one)]

    def upcast(self, old: Event, stream: str, version: int) -> Sequence[Event]:
        """Return the events that follow from an old event, in order. Raises UpcasterFailed."""
        try:
            new: Any = self.upcaster(old)
        except Exception as error:  # noqa: BLE001  # an upcaster may raise anything
            reason = f"raised {type(error).__name__}{_find_place(error.__traceback__)}"
        else:
            if type(new) in self.one:
                return (new,)
            if new is None and self.may_drop:
                return ()
            if not (self.many and isinstance(new, (list, tuple))):
                reason = f"returned {_describe(new)}, {_NOT_ALLOWED}"
            elif wrong := [each for each in new if type(each) not in self.many]:
                reason = f"returned a {type(new).__name__} with {_describe(wrong[0])}, {_NOT_ALLOWED}"
            else:
                return new
        raise self.failed(stream, version, reason)  # outside the except block: its cause may quote the event

    def failed(self, stream: str, version: int, reason: str) -> UpcasterFailed:
        return UpcasterFailed(stream, version, self.name, reason)


class Upcasters:
    """The upcasters of one aggregate class, or of one reader, by the class that they take.

    `taken` are the classes that it handles or upcasts, and `encode` the function that encodes a recorded event.
    """

    def __init__(
        self,
        by_class: Mapping[type[Event], Upcasting],
        taken: Set[type[Event]],
        encode: Callable[[Event], tuple[bytes, Event]],
    ) -> None:
        self._by_class, self._taken, self._encode = by_class, taken, encode

    def upcast_all(self, events: list[Event], stream: str, version: int) -> list[Event]:
        """Return these events, with those that follow from old ones in their places. Raises UpcasterFailed."""
        if self._by_class.keys().isdisjoint(map(type, events)):
            return events
        return [new for event in events for new in self.upcast(event, stream, version)]

    def upcast(self, event: Event, stream: str, version: int) -> list[Event]:
        """Return the events of the newest classes that follow from an event, in order. Raises UpcasterFailed.

        They are as if they had been recorded: encoded, and decoded again. Those that nobody takes are left as they are.
        """
        if (upcasting := self._by_class.get(type(event))) is None:
            return [event]
        found: list[Event] = []
        for new in upcasting.upcast(event, stream, version):
            if type(new) not in self._taken:
                found.append(new)
                continue
            try:
                _, decoded = self._encode(new)
            except InvalidEvent as error:
                reason = f"returned an event {error.event!r} that cannot be stored: {error.reason}"
            else:
                found += self.upcast(decoded, stream, version)
                continue
            raise upcasting.failed(stream, version, reason)
        return found


_NOT_ALLOWED = "which its annotation does not allow"


def _describe(value: object) -> str:
    return "None" if value is None else kind_of(value)


def _find_place(traceback: TracebackType | None) -> str:
    """Return the file and line where an error was raised, for a message."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    return f" at {basename(traceback.tb_frame.f_code.co_filename)}:{traceback.tb_lineno}"
