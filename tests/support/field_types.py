"""An aggregate and an event with one field of a type, and what becomes of a value in it."""

from __future__ import annotations

from itertools import count
from types import new_class
from typing import Any

from eventsrc import Aggregate, Event
from eventsrc.testing import given

_numbers = count(1)


def declare(kind: Any) -> Any:
    """Return an aggregate class whose state, and whose event, has a field `value` of this type or None."""
    number, optional = next(_numbers), kind | None
    event: Any = new_class(
        "Put",
        (Event,),
        {"tag": f"put.{number}"},
        lambda body: body.update(__module__=__name__, __annotations__={"value": optional}, value=None),
    )

    def put(self: Any, value: Any) -> None:
        self.record(event(value=value))

    def apply_put(self: Any, event: Any) -> None:
        self.value = event.value

    apply_put.__annotations__ = {"event": event}
    return new_class(
        "Holder",
        (Aggregate,),
        {"tag": f"holder{number}"},
        lambda body: body.update(
            __module__=__name__,
            __annotations__={"value": optional},
            value=None,
            Put=event,
            put=put,
            apply_put=apply_put,
        ),
    )


def store(kind: Any, value: Any) -> Any:
    """Return the value as the aggregate has it that recorded it, after it has passed an event and a snapshot.

    Raises DeclarationError, InvalidEvent, or AssertionError if a snapshot would change the state.
    """
    holder = declare(kind)
    aggregate = given(holder).when(holder.put, value).aggregate
    event = aggregate.uncommitted[0]
    given(holder, event, event).when(lambda holder: None).then()
    return aggregate.value
