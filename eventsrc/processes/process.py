"""Processes: state folded from events, as an aggregate, and handlers that decide what has to be done."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import msgspec

from ..aggregates.aggregate import Aggregate
from ..aggregates.event import Event
from .events import (
    Answered,
    CallRequested,
    CommandRequested,
    Done,
    Ended,
    InputHeld,
    InputTaken,
    Place,
    Refused,
    TimerCancelled,
    TimerFired,
    TimerHandled,
    TimerStarted,
    Waiting,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Input(msgspec.Struct, frozen=True):
    """Facts about the event that a handler of a process receives."""

    id: str  # of the event, as order-o-1@7.0
    stream: str
    place: Place
    time: int  # µs since the epoch: when it was stored, or when the timer fired
    source: str = ""  # the name of the store that it is from, if the process has several

    @property
    def origin(self) -> str:
        """The stream after the name of its source, if that has one: as `shop|order-o-1`."""
        return f"{self.source}|{self.stream}" if self.source else self.stream

    @property
    def at(self) -> datetime:
        """When the event was stored, or when the timer fired, in UTC. Timers are due from then on."""
        return _EPOCH + timedelta(microseconds=self.time)


class PendingTimer(msgspec.Struct, frozen=True):
    """A timer that has not fired, or whose event is not handled yet."""

    number: int
    due: int  # µs since the epoch
    event: bytes

    @property
    def at(self) -> datetime:
        """When it is due, in UTC."""
        return _EPOCH + timedelta(microseconds=self.due)


class Instance(msgspec.Struct):
    """The bookkeeping of one process."""

    started: bool = False
    ended: bool = False
    asked: int = 0  # how many commands, calls and timers
    waited: int = (
        0  # version of the last commit that changed the state and asked for nothing; what follows has it as a cause
    )
    inputs: dict[str, Place] = {}  # by the origin of events, the place of the event that was handled last
    pending: dict[str, str] = {}  # commands and calls without an outcome, by number: what they are
    timers: dict[str, PendingTimer] = {}  # by name
    fired: dict[str, PendingTimer] = {}  # by name: due, and not handled yet
    held: list[InputHeld] = []

    @property
    def is_waiting(self) -> bool:
        """Whether nothing will happen without another input from outside."""
        return not (self.ended or self.pending or self.timers or self.fired)


class Process(Aggregate):
    """Reacts to events with commands, calls of services, and timers.

    ```python
    class Fulfilment(Process, tag="fulfilment"):
        starts = (Placed,)
        reserved: bool = False

        def on_placed(self, event: Placed) -> Asks:
            yield command(Stock, event.sku, Stock.reserve, self.id, event.quantity)
            yield after(timedelta(minutes=15), PaymentMissing())

        def on_refused(self, event: Refused) -> Asks:
            yield command(Order, self.id, Order.reject, event.reason)
            yield end()
    ```

    - It is an aggregate: it has state, records events of its own, and `apply_*` handlers change the state. Its stream
      also holds what it took in, what it asked for and what became of that, so it can be traced and replayed.
    - `on_*` handlers receive events by their annotations, with an `Input` as a second parameter, or without: events of
      any stream, the events of its timers, answers of services, and Done or Refused for its commands. They may be
      called again before anything is stored, so they have no effects: they record events, and yield what they ask for.
    - `key` says which process an event is for. By default that is the id of its stream.
    - Each event is handled once, and each thing asked for is done once, also if a process of the machine is killed at
      any moment. All that one event leads to is one commit.
    - `starts` are the events that start it. Others, which come before, are held until then. Without it, any event does.
    """

    instance: Instance = msgspec.field(default_factory=Instance)

    starts: ClassVar[tuple[type[Event], ...]] = ()
    input_upcasters: ClassVar[Sequence[Any]] = ()  # for events of other streams

    @classmethod
    def key(cls, event: Any, context: Input) -> str | None:
        """Return the id of the process that an event is for, or None if it is for none."""
        return context.stream.partition("-")[2]

    def apply_input_taken(self, event: InputTaken) -> None:
        before = self.instance.inputs.get(event.stream, event.place)  # later, if this event was held
        self.instance.inputs[event.stream], self.instance.started = max(before, event.place), True
        self.instance.held = [each for each in self.instance.held if (each.stream, each.place) != _place_of(event)]

    def apply_input_held(self, event: InputHeld) -> None:
        self.instance.inputs[event.stream] = event.place
        self.instance.held.append(event)

    def apply_requested(self, event: CommandRequested | CallRequested) -> None:
        self.instance.asked, self.instance.waited = event.number, 0
        what = f"{event.category}.{event.name} {event.id}" if isinstance(event, CommandRequested) else event.service
        self.instance.pending[str(event.number)] = what

    def apply_outcome(self, event: Done | Refused | Answered) -> None:
        del self.instance.pending[str(event.number)]

    def apply_timer_started(self, event: TimerStarted) -> None:
        self.instance.asked = event.number
        self.instance.timers[event.name] = PendingTimer(event.number, event.due, event.event)

    def apply_timer_cancelled(self, event: TimerCancelled) -> None:
        for timers in (self.instance.timers, self.instance.fired):
            if event.name in timers and timers[event.name].number == event.number:
                del timers[event.name]

    def apply_timer_fired(self, event: TimerFired) -> None:
        self.instance.fired[event.name] = self.instance.timers.pop(event.name)

    def apply_timer_handled(self, event: TimerHandled) -> None:
        self.instance.fired = {k: each for k, each in self.instance.fired.items() if each.number != event.number}

    def apply_waiting(self, event: Waiting) -> None:
        self.instance.waited = event.version

    def apply_ended(self, event: Ended) -> None:
        self.instance.ended, self.instance.waited = True, 0
        self.instance.held = []


def _place_of(event: InputTaken) -> tuple[str, Place]:
    return event.stream, event.place
