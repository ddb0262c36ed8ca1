"""The decisions of a process: pure functions that record what it took in and what its handlers ask for.

Each is called as a command of the process's aggregate, and is idempotent: what was taken in before records nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from ..aggregates.codec import Codec
from ..aggregates.declaration import collect_upcasters
from ..aggregates.event import Event, tag_of
from ..store import EventId
from .asks import Ask, Call, Cancel, Command, EncodedCommand, Timer
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


class Known(NamedTuple):
    """What has to be known before a process decides."""

    versions: Mapping[tuple[str, str], int] = {}  # of aggregates, by category and id: before a command is first issued
    origin: str = ""  # names the store of the process, in the ids of its commands
    services: frozenset[str] | None = None  # that can be called; None: all


class Taken(NamedTuple):
    """What a process asks for, and how many events are held that have to be handled first."""

    asks: list[Ask] = []  # noqa: RUF012  # never changed
    held: int = 0
    cause: str = ""  # the id of the event that was held
    has_ended: bool = False  # before, so that nothing was handled


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LATEST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


class VersionsMissing(Exception):
    """The process asks for commands, and it is not known at which versions their aggregates are."""

    def __init__(self, targets: list[tuple[str, str]]) -> None:
        super().__init__(targets)
        self.targets = targets


def codec_of(process: type[Process]) -> Codec:
    """Return the codec of the events that a process class handles, from other streams, timers and services."""
    if (found := _codecs.get(process)) is None:
        upcasters = collect_upcasters(process.input_upcasters, f"{process.__qualname__}.input_upcasters", process)
        found = _codecs[process] = Codec(handlers_of(process).inputs, upcasters)
    return found


_codecs: dict[type[Process], Codec] = {}


def take_event(process: Process, event: Event, given: Input, known: Known) -> Taken:
    """Handle an event of another stream. If events are held that come before it, nothing is done: take those first."""
    instance = process.instance
    is_known = given.place <= instance.inputs.get(given.origin, (0, 0, 0))
    if instance.ended or (not instance.started and is_known):
        return Taken()
    if not instance.started and process.starts and type(event) not in process.starts:
        body, _ = codec_of(type(process)).encode(event)
        process.record(InputHeld(stream=given.origin, place=given.place, at=given.time, event=body))
        return Taken()
    if instance.started and instance.held:
        return Taken(held=len(instance.held))
    if is_known:
        return Taken()
    asks = _handle(process, [event], given, known)
    return Taken(asks, len(process.instance.held))


def take_held(process: Process, known: Known) -> Taken:
    """Handle the first of the events that came before the start."""
    instance = process.instance
    if instance.ended or not instance.started or not instance.held:
        return Taken()
    held = instance.held[0]
    source, _, stream = held.stream.rpartition("|")
    id = str(EventId(stream, *held.place))
    given = Input(id, stream, held.place, held.at, source)
    asks = _handle(process, _decode(process, held.event), given, known)
    return Taken(asks, len(process.instance.held), id)


def is_pending(process: Process, number: int) -> bool:
    """Whether a command or a call has no outcome yet."""
    return str(number) in process.instance.pending


def fire_timer(process: Process, name: str, number: int, now: int) -> None:
    """Record that a timer is due, if it is still pending. `now` is in µs since the epoch."""
    timer = process.instance.timers.get(name)
    if timer is not None and timer.number == number and timer.due <= now and not process.instance.ended:
        process.record(TimerFired(number=number, name=name, due=timer.due, at=now))


def take_timer(process: Process, fired: TimerFired, given: Input, known: Known) -> Taken:
    """Handle the event of a timer that has fired. Return what the process asks for."""
    timer = process.instance.fired.get(fired.name)
    if process.instance.ended or timer is None or timer.number != fired.number:
        return Taken()
    events = _decode(process, timer.event)
    process.record(TimerHandled(number=fired.number))
    return Taken(_run_all(process, events, given, known))


def take_outcome(process: Process, outcome: Done | Refused | Answered, given: Input, known: Known) -> Taken:
    """Record the outcome of a command or a call, and handle it. Return what the process asks for.

    Raises RuntimeError if the process has no handler for a refusal.
    """
    if str(outcome.number) not in process.instance.pending:
        return Taken()
    process.record(outcome)
    event: Event | None = outcome
    if isinstance(outcome, Answered):
        event = codec_of(type(process)).decode_event(outcome.answer) if outcome.answer is not None else None
    if process.instance.ended or event is None:
        return Taken(has_ended=process.instance.ended)
    if type(event) in handlers_of(type(process)).by_type:
        return Taken(_run(process, event, given, known))
    if isinstance(outcome, Refused):
        raise RuntimeError(
            f"{process.stream}: {outcome.category}.{outcome.name} was refused with {outcome.error}, and "
            f"{type(process).__qualname__} does not handle that; write on_refused(self, event: Refused), and retry"
        )
    return Taken()


def start_timer(process: Process, timer: Timer, given: Input) -> None:
    """Record a timer, in place of one with the same name. Raises ValueError if it is due after the year 9999."""
    if timer.due is not None:
        due = (timer.due - _EPOCH) // _MICROSECOND
    else:
        due = given.time + (timer.delay or timedelta()) // _MICROSECOND
    if type(timer.event) not in handlers_of(type(process)).by_type:
        kind, event = type(process).__qualname__, type(timer.event).__qualname__
        raise TypeError(f"{kind} starts a timer with {event}, which no on_* method handles; write one")
    if due > _LATEST:
        raise ValueError(f"timer {timer.name!r} is due after the year 9999; give a shorter time")
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


def _decode(process: Process, body: bytes) -> list[Event]:
    """Return an event that the process has stored, upcast if its class was replaced since."""
    codec = codec_of(type(process))
    try:
        event = codec.decode_event(body)
    except msgspec.MsgspecError as error:
        raise RuntimeError(
            f"{process.stream} keeps an event, of a timer or from before its start, that {type(process).__qualname__} "
            f"cannot read any more: {error}; keep its class and handler, or write an upcaster in input_upcasters"
        ) from None
    return codec.upcasters.upcast(event, process.stream, process.version) if codec.upcasters else [event]


def _handle(process: Process, events: Sequence[Event], given: Input, known: Known) -> list[Ask]:
    """Handle one input, which is several events if it was upcast after it was held."""
    tag = tag_of(type(events[0])) if events else ""
    process.record(InputTaken(stream=given.origin, place=given.place, type=tag))
    return _run_all(process, events, given, known)


def _run_all(process: Process, events: Sequence[Event], given: Input, known: Known) -> list[Ask]:
    return [
        ask
        for event in events
        if type(event) in handlers_of(type(process)).by_type and not process.instance.ended
        for ask in _run(process, event, given, known)
    ]


def _run(process: Process, event: Event, given: Input, known: Known) -> list[Ask]:
    """Call the handler of an event, record what it asks for, and return that."""
    recorded, pending = len(process.uncommitted), len(process.instance.pending)
    asks = handlers_of(type(process)).by_type[type(event)].run(process, event, given)
    commands = [ask for ask in asks if isinstance(ask, Command | EncodedCommand)]
    missing = [ask.target for ask in commands if ask.target not in known.versions]
    if missing:
        raise VersionsMissing(missing)
    for ask in asks:
        _ask(process, ask, given, known)
    has_asked = process.instance.ended or len(process.instance.pending) > pending
    if not has_asked and len(process.uncommitted) > recorded:
        process.record(Waiting(version=process.version + 1))
    return asks


def _ask(process: Process, ask: Ask, given: Input, known: Known) -> None:
    number = process.instance.asked + 1
    if process.instance.ended:
        raise RuntimeError(f"{process.stream}: a handler asked for more after end(); ask for the end last")
    if isinstance(ask, Command):
        ask = EncodedCommand.of(ask)
    if isinstance(ask, EncodedCommand):
        event = CommandRequested(
            number=number,
            command_id=f"{known.origin}:{process.stream}:{number}",
            category=ask.category,
            id=ask.id,
            name=ask.name,
            args=ask.args,
            kwargs=ask.kwargs,
            since=known.versions[ask.target],
            create=ask.create,
        )
        process.record(event)
    elif isinstance(ask, Call):
        if known.services is not None and ask.service not in known.services:
            raise RuntimeError(f"there is no service {ask.service!r}; give it to ProcessManager(services=...)")
        body, _ = Codec([type(ask.request)], {}).encode(ask.request)
        key = f"{known.origin}:{process.stream}:{number}"
        process.record(CallRequested(number=number, key=key, service=ask.service, request=body))
    elif isinstance(ask, Timer):
        start_timer(process, ask, given)
    elif isinstance(ask, Cancel):
        cancel_timer(process, ask.name)
    else:
        for name, timer in [*process.instance.timers.items(), *process.instance.fired.items()]:
            _cancel(process, name, timer)
        process.record(Ended())
