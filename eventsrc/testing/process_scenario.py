"""Test a process without a store: given past inputs, when an event comes or time passes, then it asks for this.

```python
reserve = command(Stock, "pen", Stock.reserve, "1")
given_process(Fulfilment, Placed(sku="pen")).when(Paid()).then(command(Order, "1", Order.ship), cancel(PaymentMissing))
given_process(Fulfilment, Placed(sku="pen")).when(timedelta(minutes=15)).then(command(Order, "1", Order.cancel), end())
given_process(Fulfilment, Placed(sku="pen")).when(refused(reserve, OutOfStock())).then(end())
```

Time is virtual: it starts at `start`, and passes only by a timedelta. A timer fires when its time has passed, so a past
of two timedeltas of a minute fires what is due after one minute, and then what is due after two.

The events that the process records pass through the codec and through snapshots, as `given` does it for aggregates.
A failed expectation raises AssertionError.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, NamedTuple, Self, TypeVar

from ..aggregates.event import Event
from ..processes.asks import Ask, Command
from ..processes.deciding import Known, Taken, codec_of, fire_timer, take_event, take_held, take_outcome, take_timer
from ..processes.events import Answered, Done, Refused, TimerFired
from ..processes.handlers import handlers_of
from ..processes.process import Input, Process
from .scenario import Given

PR = TypeVar("PR", bound=Process)

_START = datetime(2026, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class CommandOutcome(NamedTuple):
    """What became of a command or a call that the process has asked for."""

    what: str  # as the process knows it
    error: Exception | None = None
    answer: Event | None = None
    command: Command | None = None


def refused(command: Command, error: Exception) -> CommandOutcome:
    """The target has refused a command with this error."""
    return CommandOutcome(_describe(command), error, command=command)


def done(command: Command) -> CommandOutcome:
    """The target has applied a command."""
    return CommandOutcome(_describe(command), command=command)


def answered(service: str, answer: Event | None = None, *, error: Exception | None = None) -> CommandOutcome:
    """A service has answered a call, or has refused it."""
    return CommandOutcome(service, error, answer)


def given_process(
    process: type[PR], *past: Event | timedelta | CommandOutcome, id: str = "1", start: datetime = _START
) -> GivenProcess[PR]:
    """Return a process with this past: events that came, times that passed, outcomes of what it asked for.

    The past begins at `start`, a time with a zone.

    Raises AssertionError if an event is for another process, or was not to be expected.
    """
    return GivenProcess(process, id, past, start)


class _Any(dict[tuple[str, str], int]):
    """Versions of all aggregates."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: tuple[str, str]) -> int:
        return 0


class GivenProcess(Generic[PR]):
    """A process with a past, and what it has asked for in the last `when`."""

    def __init__(
        self, process: type[PR], id: str, past: Sequence[Event | timedelta | CommandOutcome], start: datetime
    ) -> None:
        handlers_of(process)
        self._class, self._id, self._events = process, id, list[Event]()
        self._now, self._count = (start - _EPOCH) // _MICROSECOND, 0
        self._asked: list[Ask] = []
        self._recorded: list[Event] = []
        for each in past:
            self.when(each)

    @property
    def process(self) -> PR:
        """The process as it is now."""
        found: PR = Given(self._class, self._events, self._id).aggregate
        return found

    def when(self, what: Event | timedelta | CommandOutcome) -> Self:
        """Let an event come, a time pass, or a command be refused, done or answered."""
        self._asked, self._recorded = [], []
        if isinstance(what, timedelta):
            self._pass(what)
        elif isinstance(what, Event):
            self._take(what)
        else:
            self._take_outcome(what)
        return self

    def then(self, *asks: Ask) -> Self:
        """Check that exactly this was asked for, in this order; without arguments, nothing."""
        if self._asked != list(asks):
            raise AssertionError(f"asked for:{_format(self._asked)}\nexpected:{_format(asks)}")
        return self

    def then_recorded(self, *events: Event) -> Self:
        """Check that exactly these events of its own were recorded, in this order."""
        own = [each for each in self._recorded if not type(each).__module__.startswith("eventsrc.processes.")]
        if own != list(events):
            raise AssertionError(f"recorded:{_format(own)}\nexpected:{_format(events)}")
        return self

    def then_state(self, **fields: Any) -> Self:
        """Check that these fields (or properties) have these values."""
        Given(self._class, self._events, self._id).then_state(**fields)
        return self

    def then_ended(self) -> Self:
        """Check that the process has ended."""
        if not self.process.instance.ended:
            raise AssertionError(f"it has not ended; it waits for {self._describe_pending()}")
        return self

    def then_waits(self) -> Self:
        """Check that the process has not ended, and that a command, a call or a timer is pending: it is not stuck."""
        instance = self.process.instance
        if instance.ended or instance.is_waiting:
            raise AssertionError("it has ended" if instance.ended else "nothing is pending, and it has not ended")
        return self

    def _take(self, event: Event) -> None:
        if type(event) not in handlers_of(self._class).by_type:
            raise AssertionError(f"{self._class.__qualname__} has no on_* handler for {type(event).__qualname__}")
        self._count += 1
        stream = f"given-{self._id}"
        taken = Input(f"{stream}@{self._count}.0", stream, (self._count, 0, 0), self._now)
        if (key := self._class.key(event, taken)) != self._id:
            raise AssertionError(f"{type(event).__qualname__} is for the process {key!r}, and this is {self._id!r}")
        while self._decide(take_event, event, taken):
            while self._decide(take_held):
                pass

    def _take_outcome(self, outcome: CommandOutcome) -> None:
        pending = self.process.instance.pending
        number = next((int(number) for number, what in pending.items() if what == outcome.what), None)
        if number is None:
            raise AssertionError(f"{outcome.what} is not pending; pending is {self._describe_pending()}")
        command, error = outcome.command, outcome.error
        category, id, name = (command.category, command.id, command.name) if command else (outcome.what, "", "")
        event: Done | Refused | Answered
        if error is not None:
            kind, reason = type(error).__name__, str(error)
            event = Refused(number=number, category=category, id=id, name=name, error=kind, reason=reason)
        elif command is not None:
            event = Done(number=number, category=category, id=id, name=name, version=1)
        else:
            body = codec_of(self._class).encode(outcome.answer)[0] if outcome.answer is not None else None
            event = Answered(number=number, service=category, answer=body)
        self._decide(take_outcome, event, self._input("outcome"))

    def _pass(self, time: timedelta) -> None:
        end = self._now + time // _MICROSECOND
        while due := sorted((each.due, name) for name, each in self.process.instance.timers.items() if each.due <= end):
            at, name = due[0]
            timer = self.process.instance.timers[name]
            self._now = max(self._now, at)
            self._decide(fire_timer, name, timer.number, self._now)
            fired = TimerFired(number=timer.number, name=name, due=timer.due, at=self._now)
            self._decide(take_timer, fired, self._input(name))
        self._now = end

    def _input(self, what: str) -> Input:
        return Input(what, f"{what}-{self._id}", (1, 0, 0), self._now)

    def _decide(self, decide: Any, *args: Any) -> int:
        """Let the process decide. Return how many events are held that come first."""
        known = () if decide is fire_timer else (Known(versions=_Any()),)
        outcome = Given(self._class, self._events, self._id).when(decide, *args, *known)
        recorded = outcome.aggregate.uncommitted
        outcome.then(*recorded)  # a store takes them, and a snapshot changes nothing
        self._events += recorded
        self._recorded += recorded
        taken = outcome.result if isinstance(outcome.result, Taken) else Taken()
        self._asked += taken.asks
        return taken.held

    def _describe_pending(self) -> str:
        instance = self.process.instance
        return ", ".join([*instance.pending.values(), *instance.timers]) or "nothing"


def _describe(command: Command) -> str:
    return f"{command.category}.{command.name} {command.id}"


def _format(items: Sequence[object]) -> str:
    return "".join(f"\n  {item!r}" for item in items) or " nothing"
