"""The events that a process records by itself: what it took in, what it asks for, and what became of that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ..aggregates.event import Event

Place = tuple[int, int, int]
"""The place of an event in its stream: version, index and part."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class InputTaken(Event, tag="process.input"):
    """An event was handled."""

    stream: str  # of the event, after the name of its source and "|", if it has one
    place: Place
    type: str  # the tag of the event


class InputHeld(Event, tag="process.held"):
    """An event came before the one that starts the process. It is handled after that one."""

    stream: str
    place: Place
    at: int  # µs since the epoch
    event: bytes


class CommandRequested(Event, tag="process.command"):
    """The process asks for a command of an aggregate."""

    number: int  # counts what the process asks for
    command_id: str
    category: str  # of the aggregate
    id: str
    name: str  # of the method
    args: list[bytes]
    kwargs: dict[str, bytes]
    since: int  # the version of the aggregate before
    create: bool = False


class CallRequested(Event, tag="process.call"):
    """The process asks for a call of a service."""

    number: int
    key: str  # the idempotency key
    service: str
    request: bytes  # an event


class Done(Event, tag="process.done"):
    """A command was applied, or recorded nothing. As an input of the process: handle it, if more has to follow."""

    number: int
    category: str
    id: str
    name: str
    version: int  # of the aggregate, after it


class Refused(Event, tag="process.refused"):
    """A command was refused: it raised `error`, a name, with the text `reason`; or a service refused a call.

    A process whose commands can be refused handles this event. It is never decided again.
    """

    number: int
    category: str  # of the aggregate; or the name of the service, and no more names
    id: str
    name: str
    error: str
    reason: str


class Answered(Event, tag="process.answered"):
    """A service has answered a call, with an event or with nothing."""

    number: int
    service: str
    answer: bytes | None


class TimerStarted(Event, tag="process.timer"):
    """A timer was started."""

    number: int
    name: str
    due: int  # µs since the epoch
    event: bytes

    @property
    def at(self) -> datetime:
        """When it is due, in UTC."""
        return _EPOCH + timedelta(microseconds=self.due)


class TimerCancelled(Event, tag="process.timer-cancelled"):
    """A timer was cancelled, or was replaced by another one of the same name."""

    number: int
    name: str
    due: int


class TimerFired(Event, tag="process.fired"):
    """A timer is due."""

    number: int
    name: str
    due: int
    at: int  # µs since the epoch, by the clock of the worker: not before `due`


class TimerHandled(Event, tag="process.fired-handled"):
    """The event of a timer was handled."""

    number: int


class Waiting(Event, tag="process.waiting"):
    """An input has changed the state, and led to no command or call: it is a cause of what a later input leads to."""

    version: int  # of this commit


class Ended(Event, tag="process.ended"):
    """The process has ended. Later inputs are ignored, and its timers are cancelled."""
