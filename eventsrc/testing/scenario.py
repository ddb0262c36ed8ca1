"""Test an aggregate without a store: given past events, when a command is called, then new events are recorded.

```python
given(Account, Opened(owner="ann"), Deposited(amount=80)).when(Account.withdraw, 30).then(Withdrawn(amount=30))
given(Account, Opened(owner="ann")).when(Account.withdraw, 50).then_raises(InsufficientFunds)
when(Account.open, "a-1", owner="ann").then(Opened(owner="ann")).then_state(owner="ann", balance=0)
```

All events pass through the codec. `then` also checks that the events alone lead to the state, and that a snapshot
restores the state. So everything that it accepts can be stored and read back.

A failed expectation raises AssertionError. No test framework is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from ..aggregates.aggregate import Aggregate, journal_of
from ..aggregates.codec import join, pack
from ..aggregates.commands import check_command, check_has_run
from ..aggregates.declaration import declaration_of, explain_unhandled
from ..aggregates.event import Event
from ..repository.snapshots import SnapshotCodec

A = TypeVar("A", bound=Aggregate)
P = ParamSpec("P")
T = TypeVar("T")


def given(aggregate: type[A], *events: Event, id: str = "1") -> Given[A]:
    """Return an aggregate with these past events. Old event classes that have an upcaster are allowed.

    Raises:
        UnhandledEvent: the aggregate has neither a handler nor an upcaster for an event.
    """
    return Given(aggregate, events, id)


def when(create: Callable[P, A], /, *args: P.args, **kwargs: P.kwargs) -> Outcome[A, A]:
    """Call a function that returns a new aggregate, such as a class method that records its first event."""
    return _call(None, (), create, args, kwargs)


class Given(Generic[A]):
    """An aggregate with past events, on which commands can be called."""

    def __init__(self, aggregate: type[A], events: Sequence[Event], id: str) -> None:
        declaration = declaration_of(aggregate)
        for event in events:
            if type(event) not in declaration.handlers and type(event) not in declaration.upcasters:
                raise explain_unhandled(aggregate, event)
        self._past = events
        self._aggregate = _fold(aggregate, id, self._past)

    def when(self, command: Callable[Concatenate[A, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Outcome[A, T]:
        """Call a command on a fresh aggregate with these past events: calls of `when` do not affect each other."""
        check_command(command, type(self._aggregate))
        aggregate = _fold(type(self._aggregate), self._aggregate.id, self._past)
        return _call(aggregate, self._past, command, (aggregate, *args), kwargs)

    def then_state(self, **fields: Any) -> Self:
        """Check that these fields (or properties) have these values."""
        _check_state(self._aggregate, fields)
        return self


class Outcome(Generic[A, T]):
    """The outcome of a command. The `then` methods check expectations, and can be chained."""

    def __init__(
        self, aggregate: A | None, past: Sequence[Event], result: T | None, error: Exception | None = None
    ) -> None:
        self._aggregate, self._past, self._result, self._error = aggregate, past, result, error

    @property
    def aggregate(self) -> A:
        """The aggregate after the command. If the command raised an error, reading this raises it."""
        if self._error is not None:
            raise self._error
        assert self._aggregate is not None
        return self._aggregate

    def then(self, *events: Event) -> Self:
        """Check that exactly these events were recorded, in this order; without arguments, none.

        Also check that the events alone lead to the state, and that a snapshot restores it. If the command raised an
        error, it is raised here.
        """
        aggregate = self.aggregate
        recorded = aggregate.uncommitted
        if recorded != events:
            raise AssertionError(f"recorded:{_format(recorded)}\nexpected:{_format(events)}")
        _check_snapshot(aggregate)
        folded = _fold(type(aggregate), aggregate.id, [*self._past, *recorded])
        if folded != aggregate:
            raise AssertionError(f"its events lead to {folded!r}, not to {aggregate!r}; change state only in handlers")
        return self

    def then_raises(self, error: type[Exception], match: str = "") -> Self:
        """Check that the command raised `error` with `match` in its text, and recorded nothing."""
        if self._error is None:
            raise AssertionError(f"nothing was raised; expected {error.__name__}")
        if not isinstance(self._error, error):
            raise self._error
        if match not in str(self._error):
            raise AssertionError(f"{match!r} is not in {str(self._error)!r}")
        if self._aggregate is not None and self._aggregate.uncommitted:
            raise AssertionError(f"the command raised, but recorded before:{_format(self._aggregate.uncommitted)}")
        return self

    def then_returns(self, result: T) -> Self:
        """Check that the command returned this value."""
        self.aggregate  # noqa: B018  # raises what the command raised
        if self._result != result:
            raise AssertionError(f"returned {self._result!r}, expected {result!r}")
        return self

    def then_state(self, **fields: Any) -> Self:
        """Check that these fields (or properties) have these values after the command."""
        _check_state(self.aggregate, fields)
        return self


def _call(
    aggregate: A | None,
    past: Sequence[Event],
    command: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Outcome[A, Any]:
    try:
        result = command(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  # the test is about the error that the command raises
        return Outcome(aggregate, past, None, error)
    check_has_run(command, result)
    if aggregate is None:
        if not isinstance(result, Aggregate):
            raise AssertionError(f"{result!r} is not an aggregate; for a command write given(...).when(command, ...)")
        aggregate = result  # type: ignore[assignment]  # `when` takes callables that return an A
    return Outcome(aggregate, past, result)


def _fold(aggregate: type[A], id: str, events: Sequence[Event]) -> A:
    """Return the aggregate that a load of these events would return.

    The events are encoded and decoded each time, so that two aggregates never share a list of an event.
    """
    declaration = declaration_of(aggregate)
    payload = pack(join([declaration.codec.encode(event)[0] for event in events]), declaration.category, 1)
    folded = aggregate(id=id)
    with journal_of(folded).handlers_running():
        for event in declaration.codec.decode(payload, declaration.category, 1):
            declaration.handlers[type(event)](folded, event)
    return folded


def _check_snapshot(aggregate: Aggregate) -> None:
    snapshots = SnapshotCodec(declaration_of(type(aggregate)).snapshot_type, aggregate.snapshot_version)
    try:
        *_, state = snapshots.decode(snapshots.encode(aggregate))
        restored = type(aggregate).from_snapshot(aggregate.id, state)
    except Exception as error:
        raise AssertionError(f"{aggregate!r} does not pass through a snapshot: {error}") from error
    if restored.uncommitted:
        raise AssertionError(f"from_snapshot recorded:{_format(restored.uncommitted)}; record events only in commands")
    if restored != aggregate:
        raise AssertionError(f"a snapshot restores {restored!r}, not {aggregate!r}")


def _check_state(aggregate: Aggregate, fields: dict[str, Any]) -> None:
    wrong = {name: value for name, value in fields.items() if getattr(aggregate, name) != value}
    if wrong:
        found = ", ".join(f"{name}={getattr(aggregate, name)!r}" for name in wrong)
        expected = ", ".join(f"{name}={value!r}" for name, value in wrong.items())
        raise AssertionError(f"state is {found}; expected {expected}")


def _format(events: Sequence[Event]) -> str:
    return "".join(f"\n  {event!r}" for event in events) or " nothing"
