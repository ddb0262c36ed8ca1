"""Inbox streams: the events of other services, stored as events of this one."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import datetime
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from ..aggregates.aggregate import Aggregate
from ..aggregates.event import Event
from .order import parse_id
from .received_event import ReceivedEvent

T = TypeVar("T")

_MAX_ID = 1_000  # bytes; a longer name is replaced by its hash


class Received(Event, tag="inbox.received"):
    """An event of another service was received. The fields are those of `ReceivedEvent`."""

    id: str
    source: str
    type: str
    subject: str | None = None
    time: datetime | None = None
    content: bytes = b"null"
    extensions: Mapping[str, str | int | bool] = {}

    @property
    def data(self) -> Any:
        """The data, decoded from JSON as dictionaries, lists, texts and numbers."""
        return msgspec.json.decode(self.content)

    def read(self, kind: builtins.type[T]) -> T:
        """Return the data as an object of this type: anything that msgspec reads. Raises msgspec.ValidationError."""
        return msgspec.json.decode(self.content, type=kind)


def to_received(event: ReceivedEvent) -> Received:
    return Received(
        id=event.id,
        source=event.source,
        type=event.type,
        subject=event.subject,
        time=event.time,
        content=event.content,
        extensions=event.extensions,
    )


Numbers = tuple[int, int, int]
"""Version, index and part of an event in its foreign stream."""


class ForeignPlace(NamedTuple):
    """Where an event belongs: the inbox stream, by its id, and its place among the events there."""

    inbox: str
    numbers: Numbers


def find_place(event: ReceivedEvent, *, ordered: bool) -> ForeignPlace:
    """Return where an event belongs.

    - With `ordered`, the events of a foreign stream share an inbox stream, in the order of their ids. Those of one
      commit of a stream that is hidden share one, too, as the id does not name the stream.
    - Any other event has an inbox stream of its own: nothing is known about the order of its id.
    """
    parsed = parse_id(event.id) if ordered else None
    if parsed is None:
        return ForeignPlace(_name(event.source, "!", event.id), (0, 0, 0))
    if parsed.event is None:
        return ForeignPlace(_name(event.source, "!", event.id.partition(".")[0]), (0, *parsed.numbers))
    return ForeignPlace(_name(event.source, "", parsed.event.stream), (parsed.event.version, *parsed.numbers))


def _name(source: str, mark: str, text: str) -> str:
    """Return an id of an aggregate for any two texts, and no other one for the same mark and texts."""
    return shorten(f"{escape(source)}#{mark}{escape(text)}")


def escape(text: str) -> str:
    """Return a text in letters, digits and `_.-/:%`, another one for each text."""
    return quote(text, safe="/:").replace("~", "%7E")


def shorten(name: str) -> str:
    """Return a name without a "~" at its start, or its hash after one if it is too long."""
    return name if len(name) <= _MAX_ID else f"~{blake2b(name.encode(), digest_size=32).hexdigest()}"


class InboxStream(Aggregate, tag="inbox"):
    """The events received of one foreign stream. Its state is the place of the last one, whatever their number."""

    last: Numbers = (-1, -1, -1)

    def receive(self, event: Received, numbers: Numbers) -> bool:
        """Record an event. Return False if it is here already: it is not after the last one."""
        if numbers <= self.last:
            return False
        self.record(event)
        return True

    def apply_received(self, event: Received) -> None:
        self.last = _numbers_of(event.id)


def _numbers_of(id: str) -> Numbers:
    """Return the place of an event in its inbox stream. Ids without an order are alone in theirs."""
    parsed = parse_id(id)
    if parsed is None:
        return (0, 0, 0)
    return (parsed.event.version if parsed.event else 0, *parsed.numbers)
