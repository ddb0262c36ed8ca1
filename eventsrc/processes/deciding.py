"""The decisions of a process: pure functions that record what it took in and what its handlers ask for.

Each is called as a command of the process's aggregate, and is idempotent: what was taken in before records nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from ..aggregates.codec import Codec
from ..aggregates.event import Event, tag_of
from ..store import EventId
from .arguments import encode_arguments
from .asks import Ask, Call, Cancel, Command, Timer
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
from .handlers import handlers_of
from .process import Input, PendingTimer, Process

Since = Mapping[tuple[str, str], int]
"""Versions of aggregates, by category and id: from before a command is issued for the first time."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class VersionsMissing(Exception):
    """The process asks for commands, and it is not known at which versions their aggregates are."""

    def __init__(self, targets: list[tuple[str, str]]) -> None:
        super().__init__(targets)
        self.targets = targets


def codec_of(process: type[Process]) -> Codec:
    """Return the codec of the events that a process class handles, from other streams, timers and services."""
    if (found := _codecs.get(process)) is None:
        found = _codecs[process] = Codec(handlers_of(process).inputs, {})
    return found


_codecs: dict[type[Process], Codec] = {}


def take_event(process: Process, event: Event, given: Input, since: Since) -> list[Ask]:
    """Handle an event of another stream. Return what the process asks for."""
    instance = process.instance
    if instance.ended or given.place <= instance.inputs.get(given.origin, (0, 0, 0)):
        return []
    if not instance.started and process.starts and type(event) not in process.starts:
        body, _ = codec_of(type(process)).encode(event)
        process.record(InputHeld(stream=given.origin, place=given.place, at=given.time, event=body))
        return []
    asks = _handle(process, event, given, since)
    for held in list(instance.held):  # what came before the start
        if not process.instance.ended:
            decoded = codec_of(type(process)).decode_event(held.event)
            source, _, stream = held.stream.rpartition("|")
            version, index, part = held.place
            id = str(EventId(stream, version, index, part))
            asks += _handle(process, decoded, Input(id, stream, held.place, held.at, source), since)
    return asks


def fire_timer(process: Process, name: str, number: int, now: int) -> None:
    """Record that a timer is due, if it is still pending. `now` is in µs since the epoch."""
    timer = process.instance.timers.get(name)
    if timer is not None and timer.number == number and timer.due <= now and not process.instance.ended:
        process.record(TimerFired(number=number, name=name, due=timer.due, at=now))


def take_timer(process: Process, fired: TimerFired, given: Input, since: Since) -> list[Ask]:
    """Handle the event of a timer that has fired. Return what the process asks for."""
    timer = process.instance.fired.get(fired.name)
    if process.instance.ended or timer is None or timer.number != fired.number:
        return []
    event = codec_of(type(process)).decode_event(timer.event)
    process.record(TimerHandled(number=fired.number))
    return _run(process, event, given, since)


def take_outcome(process: Process, outcome: Done | Refused | Answered, given: Input, since: Since) -> list[Ask]:
    """Record the outcome of a command or a call, and handle it. Return what the process asks for.

    Raises RuntimeError if the process has no handler for a refusal.
    """
    if str(outcome.number) not in process.instance.pending:
        return []
    process.record(outcome)
    event: Event | None = outcome
    if isinstance(outcome, Answered):
        event = codec_of(type(process)).decode_event(outcome.answer) if outcome.answer is not None else None
    if process.instance.ended or event is None:
        return []
    if type(event) in handlers_of(type(process)).by_type:
        return _run(process, event, given, since)
    if isinstance(outcome, Refused):
        raise RuntimeError(
            f"{process.stream}: {outcome.category}.{outcome.name} was refused with {outcome.error}, and "
            f"{type(process).__qualname__} does not handle that; write on_refused(self, event: Refused), and retry"
        )
    return []


def start_timer(process: Process, timer: Timer, given: Input) -> None:
    """Record a timer, in place of one with the same name."""
    if timer.due is not None:
        due = (timer.due - _EPOCH) // _MICROSECOND
    else:
        due = given.time + (timer.delay or timedelta()) // _MICROSECOND
    cancel_timer(process, timer.name)
    body, _ = codec_of(type(process)).encode(timer.event)
    number = process.instance.asked + 1
    process.record(TimerStarted(number=number, name=timer.name, due=due, event=body))


def cancel_timer(process: Process, name: str) -> None:
    """Record that a timer is cancelled, if it is pending, or has fired and is not handled."""
    for timers in (process.instance.timers, process.instance.fired):
        if (timer := timers.get(name)) is not None:
            _cancel(process, name, timer)


def _cancel(process: Process, name: str, timer: PendingTimer) -> None:
    process.record(TimerCancelled(number=timer.number, name=name, due=timer.due))


def _handle(process: Process, event: Event, given: Input, since: Since) -> list[Ask]:
    process.record(InputTaken(stream=given.origin, place=given.place, type=tag_of(type(event))))
    return _run(process, event, given, since)


def _run(process: Process, event: Event, given: Input, since: Since) -> list[Ask]:
    """Call the handler of an event, record what it asks for, and return that."""
    recorded, pending = len(process.uncommitted), len(process.instance.pending)
    asks = handlers_of(type(process)).by_type[type(event)].run(process, event, given)
    missing = [ask.target for ask in asks if isinstance(ask, Command) and ask.target not in since]
    if missing:
        raise VersionsMissing(missing)
    for ask in asks:
        _ask(process, ask, given, since)
    has_asked = process.instance.ended or len(process.instance.pending) > pending
    if not has_asked and len(process.uncommitted) > recorded:
        process.record(Waiting(version=process.version + 1))
    return asks


def _ask(process: Process, ask: Ask, given: Input, since: Since) -> None:
    number = process.instance.asked + 1
    if process.instance.ended:
        raise RuntimeError(f"{process.stream}: a handler asked for more after end(); ask for the end last")
    if isinstance(ask, Command):
        args, kwargs = encode_arguments(ask.method, ask.args, ask.kwargs)
        event = CommandRequested(
            number=number,
            category=ask.category,
            id=ask.id,
            name=ask.name,
            args=args,
            kwargs=kwargs,
            since=since[ask.target],
            create=ask.create,
        )
        process.record(event)
    elif isinstance(ask, Call):
        body, _ = Codec([type(ask.request)], {}).encode(ask.request)
        process.record(CallRequested(number=number, service=ask.service, request=body))
    elif isinstance(ask, Timer):
        start_timer(process, ask, given)
    elif isinstance(ask, Cancel):
        cancel_timer(process, ask.name)
    else:
        for name, timer in [*process.instance.timers.items(), *process.instance.fired.items()]:
            _cancel(process, name, timer)
        process.record(Ended())
