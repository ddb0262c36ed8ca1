"""Test an aggregate without a store: given past events, when a command is called, then new events are recorded.

```python
given(Account, Opened(owner="ann"), Deposited(amount=80)).when(Account.withdraw, 30).then(Withdrawn(amount=30))
given(Account, Opened(owner="ann")).when(Account.withdraw, 50).then_raises(InsufficientFunds)
when(Account.open, "a-1", owner="ann").then(Opened(owner="ann")).then_state(owner="ann", balance=0)
```

All events pass through the codec, and each state through a snapshot: between all events, the state that a snapshot
restores must be the same, in types as well as values. `then` also checks that the events alone lead to the state, and
that they are not too large for a commit. So everything that it accepts can be stored and read back.

A failed expectation raises AssertionError. No test framework is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from ..aggregates.aggregate import Aggregate, journal_of
from ..aggregates.codec import join, pack
from ..aggregates.commands import check_command, check_has_run
from ..aggregates.declaration import declaration_of, explain_unhandled
from ..aggregates.differences import find_difference
from ..aggregates.event import Event
from ..aggregates.event_values import read_tags
from ..repository.snapshots import SnapshotCodec
from ..store import Commit
from ..stores.limits import check_commit
from ..uuid7 import uuid7

A = TypeVar("A", bound=Aggregate)
P = ParamSpec("P")
T = TypeVar("T")


def given(aggregate: type[A], *events: Event, id: str = "1") -> Given[A]:
    """Return an aggregate with these past events, each in a commit of its own: its version is their number.

    Old event classes that have an upcaster are allowed.

    Raises:
        UnhandledEvent: the aggregate has neither a handler nor an upcaster for an event.
        CommitTooLarge: no store would take an event.
        AssertionError: a snapshot would change the state.
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
        self.aggregate = _fold(aggregate, id, self._past)

    def when(self, command: Callable[Concatenate[A, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Outcome[A, T]:
        """Call a command on a fresh aggregate with these past events: calls of `when` do not affect each other."""
        check_command(command, type(self.aggregate))
        aggregate = _fold(type(self.aggregate), self.aggregate.id, self._past)
        return _call(aggregate, self._past, command, (aggregate, *args), kwargs)

    def then_state(self, **fields: Any) -> Self:
        """Check that these fields (or properties) have these values."""
        _check_state(self.aggregate, fields)
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

    @property
    def result(self) -> T | None:
        """What the command returned. If it raised an error, reading this raises it."""
        self.aggregate  # noqa: B018  # raises what the command raised
        return self._result

    def then(self, *events: Event) -> Self:
        """Check that exactly these events were recorded, in this order; without arguments, none.

        Also check that the events alone lead to the state, that snapshots would not change it, and that a store takes
        the events. If the command raised an error, it is raised here.
        """
        aggregate = self.aggregate
        recorded = aggregate.uncommitted
        if recorded != events:
            raise AssertionError(f"recorded:{_format(recorded)}\nexpected:{_format(events)}")
        if recorded:
            _commit_of(aggregate, journal_of(aggregate).uncommitted)
        _restore(aggregate)
        folded = _fold(type(aggregate), aggregate.id, [*self._past, *recorded])
        if find_difference(folded, aggregate) is not None:
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
        if self.result != result:
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
    """Return the aggregate that a load of these events would return, each of them stored as a commit.

    A second aggregate passes through a snapshot between the events. Both must have the same state after each. Each
    aggregate has decoded events of its own, so that two of them never share a list of an event.
    """
    folded, restored = aggregate(id=id), aggregate(id=id)
    for version, event in enumerate(events, 1):
        commit = _commit_of(folded, [declaration_of(aggregate).codec.encode(event)[0]])
        _apply(folded, commit)
        try:
            _apply(restored, commit)
        except Exception as error:
            reason = f"{type(error).__name__} is raised by a handler of {type(event).__qualname__}"
            raise AssertionError(f"{reason} when the state before was restored from a snapshot: {error}") from error
        if (place := find_difference(folded, restored)) is not None:
            reason = f"{aggregate.__qualname__}{place} is another one if a snapshot was used before event {version}"
            raise AssertionError(f"{reason}: {restored!r}, not {folded!r}")
        restored = _restore(restored)
    return folded


def _apply(aggregate: Aggregate, commit: Commit) -> None:
    declaration, journal = declaration_of(type(aggregate)), journal_of(aggregate)
    with journal.handlers_running():
        for event in declaration.codec.decode(commit.payload, commit.stream, commit.version):
            declaration.handlers[type(event)](aggregate, event)
    journal.advance_to(commit)


def _commit_of(aggregate: Aggregate, events: list[bytes]) -> Commit:
    """Return the commit that a save of these events would append. Raises CommitTooLarge and PayloadTooLarge."""
    body, version = join(events), aggregate.version + 1
    tags, payload = tuple(dict.fromkeys(read_tags(body))), pack(body, aggregate.stream, version)
    commit = Commit(
        stream=aggregate.stream, version=version, id=uuid7(), time=0, events=len(events), tags=tags, payload=payload
    )
    check_commit(commit)
    return commit


def _restore(aggregate: A) -> A:
    """Return the aggregate that a snapshot of this one restores. Raises AssertionError if it has another state."""
    snapshots: SnapshotCodec[A] = SnapshotCodec(type(aggregate))
    try:
        commit_id, commands, state = snapshots.decode_state(snapshots.encode_state(aggregate))
        restored = snapshots.restore(aggregate.id, state)
    except Exception as error:
        raise AssertionError(f"a snapshot does not restore {aggregate!r}: {error}") from error
    journal = journal_of(restored)
    journal.version, journal.commit_id, journal.commands = aggregate.version, commit_id, commands
    return restored


def _check_state(aggregate: Aggregate, fields: dict[str, Any]) -> None:
    wrong = {name: value for name, value in fields.items() if getattr(aggregate, name) != value}
    if wrong:
        found = ", ".join(f"{name}={getattr(aggregate, name)!r}" for name in wrong)
        expected = ", ".join(f"{name}={value!r}" for name, value in wrong.items())
        raise AssertionError(f"state is {found}; expected {expected}")


def _format(events: Sequence[Event]) -> str:
    return "".join(f"\n  {event!r}" for event in events) or " nothing"
