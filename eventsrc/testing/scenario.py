"""Test an aggregate without a store: given past events, when a command, then new events.

```python
given(Account, Opened(owner="ann"), Deposited(amount=80)).when(Account.withdraw, 30).then(Withdrawn(amount=30))
given(Account, Opened(owner="ann")).when(Account.withdraw, 50).then_raises(InsufficientFunds)
when(Account.open, "a-1", owner="ann").then(Opened(owner="ann")).then_state(owner="ann", balance=0)
```

All events pass through the codec, and the state through a snapshot; and the state is what the events alone lead to. So
what a test accepts can be stored and read back.
Failed expectations are AssertionErrors; no test framework is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from ..aggregates.aggregate import Aggregate, journal_of
from ..aggregates.codec import join, pack
from ..aggregates.commands import check_has_run
from ..aggregates.declaration import declaration_of
from ..aggregates.event import Event
from ..errors import UnhandledEvent
from ..repository.snapshots import SnapshotCodec

A = TypeVar("A", bound=Aggregate)
P = ParamSpec("P")
T = TypeVar("T")


def given(aggregate: type[A], *events: Event, id: str = "1") -> Given[A]:
    """An aggregate with this past. Old event classes that have an upcaster may be given too."""
    return Given(aggregate, events, id)


def when(create: Callable[P, A], /, *args: P.args, **kwargs: P.kwargs) -> Outcome[A, A]:
    """Call something that makes a new aggregate, such as a class method that records its first event."""
    return _outcome(None, (), create, args, kwargs)


class Given(Generic[A]):
    """An aggregate with a past, waiting for a command."""

    def __init__(self, aggregate: type[A], events: Sequence[Event], id: str) -> None:
        declaration = declaration_of(aggregate)
        for event in events:
            if type(event) not in declaration.handlers and type(event) not in declaration.upcasters:
                raise UnhandledEvent(aggregate.__qualname__, type(event).__qualname__)
        self._past = events
        self._aggregate = _folded(aggregate, id, self._past)

    def when(self, command: Callable[Concatenate[A, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Outcome[A, T]:
        """Call a command, on an aggregate of its own: what one `when` does, another does not see."""
        aggregate = _folded(type(self._aggregate), self._aggregate.id, self._past)
        return _outcome(aggregate, self._past, command, (aggregate, *args), kwargs)

    def then_state(self, **fields: Any) -> Self:
        """These fields (or properties) have these values."""
        _check_state(self._aggregate, fields)
        return self


class Outcome(Generic[A, T]):
    """What a command did. Say what you expect with any of the `then` methods; they can be chained."""

    def __init__(
        self, aggregate: A | None, past: Sequence[Event], result: T | None, error: Exception | None = None
    ) -> None:
        self._aggregate, self._past, self._result, self._error = aggregate, past, result, error

    @property
    def aggregate(self) -> A:
        """The aggregate after the command. Raises what the command raised."""
        if self._error is not None:
            raise self._error
        assert self._aggregate is not None
        return self._aggregate

    def then(self, *events: Event) -> Self:
        """Exactly these events were recorded, in this order; none means none. Raises what the command raised."""
        aggregate = self.aggregate
        recorded = aggregate.uncommitted
        if recorded != events:
            raise AssertionError(f"recorded:{_lines(recorded)}\nexpected:{_lines(events)}")
        _check_snapshot(aggregate)
        folded = _folded(type(aggregate), aggregate.id, [*self._past, *recorded])
        if folded != aggregate:
            raise AssertionError(f"its events lead to {folded!r}, not {aggregate!r}; only handlers may change state")
        return self

    def then_raises(self, error: type[Exception], match: str = "") -> Self:
        """The command raised `error`, with `match` somewhere in its text, and recorded nothing."""
        if self._error is None:
            raise AssertionError(f"nothing was raised; expected {error.__name__}")
        if not isinstance(self._error, error):
            raise self._error
        if match not in str(self._error):
            raise AssertionError(f"{match!r} is not in {str(self._error)!r}")
        if self._aggregate is not None and self._aggregate.uncommitted:
            raise AssertionError(f"raised, but recorded before:{_lines(self._aggregate.uncommitted)}")
        return self

    def then_returns(self, result: T) -> Self:
        """The command returned this."""
        self.aggregate  # noqa: B018  # raises what the command raised
        if self._result != result:
            raise AssertionError(f"returned {self._result!r}, expected {result!r}")
        return self

    def then_state(self, **fields: Any) -> Self:
        """These fields (or properties) have these values now."""
        _check_state(self.aggregate, fields)
        return self


def _outcome(
    aggregate: A | None,
    past: Sequence[Event],
    command: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Outcome[A, Any]:
    try:
        result = command(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  # whatever the command raises is what the test is about
        return Outcome(aggregate, past, None, error)
    check_has_run(command, result)
    if aggregate is None:
        if not isinstance(result, Aggregate):
            raise AssertionError(f"{result!r} is no aggregate; for a command write given(...).when(command, ...)")
        aggregate = result  # type: ignore[assignment]  # `when` takes callables that return an A
    return Outcome(aggregate, past, result)


def _folded(aggregate: type[A], id: str, events: Sequence[Event]) -> A:
    """What a load of these would give. Each fold decodes its own: two never share a list of an event."""
    declaration = declaration_of(aggregate)
    payload = pack(join([declaration.codec.encode(event)[0] for event in events]), declaration.category, 1)
    fold = aggregate(id=id)
    with journal_of(fold).apply():
        for event in declaration.codec.decode(payload, declaration.category, 1):
            declaration.handlers[type(event)](fold, event)
    return fold


def _check_snapshot(aggregate: Aggregate) -> None:
    snapshots = SnapshotCodec(declaration_of(type(aggregate)).snapshot_type, aggregate.snapshot_version)
    try:
        *_, state = snapshots.decode(snapshots.encode(aggregate))
        restored = type(aggregate).from_snapshot(aggregate.id, state)
    except Exception as error:
        raise AssertionError(f"{aggregate!r} does not pass through a snapshot: {error}") from error
    if restored.uncommitted:
        raise AssertionError(f"from_snapshot recorded:{_lines(restored.uncommitted)}; only commands record")
    if restored != aggregate:
        raise AssertionError(f"a snapshot gives back {restored!r}, not {aggregate!r}")


def _check_state(aggregate: Aggregate, fields: dict[str, Any]) -> None:
    wrong = {name: value for name, value in fields.items() if getattr(aggregate, name) != value}
    if wrong:
        found = ", ".join(f"{name}={getattr(aggregate, name)!r}" for name in wrong)
        expected = ", ".join(f"{name}={value!r}" for name, value in wrong.items())
        raise AssertionError(f"state is {found}; expected {expected}")


def _lines(events: Sequence[Event]) -> str:
    return "".join(f"\n  {event!r}" for event in events) or " nothing"
