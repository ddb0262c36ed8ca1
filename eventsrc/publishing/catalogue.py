"""Which events are published, under which types, and with which data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

from ..aggregates.custom_types import publish_custom
from ..aggregates.declaration import check_event, check_tags, collect_upcasters
from ..aggregates.event import Event, tag_of
from ..aggregates.event_reader import EventReader
from ..errors import DeclarationError, kind_of
from ..store import Commit, EventId
from ..trace_context import TRACEPARENT

E = TypeVar("E", bound=Event)


class PublishedEvent(Generic[E]):
    """An event class that is published under a public `type`. Clients depend on the type, so it must never change.

    - `data` returns the data of the CloudEvent: anything that msgspec encodes as JSON. The default is all fields of
      the event.
    - `hide_stream` is for streams whose ids identify people. It leaves out `subject`, and makes `id` from the commit's
      id instead of the stream's.

    Raises:
        DeclarationError: `event` is not a valid event class with a tag, or `type` is empty or not printable.
    """

    def __init__(
        self, event: type[E], *, type: str, data: Callable[[E], object] | None = None, hide_stream: bool = False
    ) -> None:
        tag_of(event)
        check_event(event)
        if not type or not type.isprintable():
            raise DeclarationError(
                f"PublishedEvent({event.__qualname__})", f"its type is {type!r}, not a printable text"
            )
        self.event, self.type, self.hide_stream = event, type, hide_stream
        self.data: Callable[[E], object] = data or _make_reader(event)


class Catalogue:
    """All published events of an API.

    Raises:
        DeclarationError: the list cannot be published. The message names the part that is wrong.
    """

    def __init__(
        self, published: Iterable[PublishedEvent[Any]], upcasters: object, source: str, *, tracing: bool
    ) -> None:
        self._by_event: dict[type[Event], PublishedEvent[Any]] = {}
        types: set[str] = set()
        for each in published:
            given: object = each
            if not isinstance(given, PublishedEvent):
                kind = given if isinstance(given, type) else type(given)
                name = kind.__qualname__ if issubclass(kind, Event) else "X"
                raise DeclarationError(
                    "events_api",
                    f'{kind_of(given)} is not a PublishedEvent; write PublishedEvent({name}, type="...")',
                )
            if each.type in types:
                raise DeclarationError("events_api", f"two events are published as {each.type!r}")
            types.add(each.type)
            if self._by_event.setdefault(each.event, each) is not each:
                raise DeclarationError("events_api", f"{each.event.__qualname__} is published twice")
        if not self._by_event:
            raise DeclarationError("events_api", "nothing is published")
        if not source or " " in source or not (source.isascii() and source.isprintable()):
            raise DeclarationError("events_api", f"source is {source!r}, not a URI; it may be relative, as in /ledger")
        upcast = collect_upcasters(upcasters, "events_api")
        if both := self._by_event.keys() & upcast.keys():
            raise DeclarationError("events_api", f"publishes {both.pop().__qualname__}, which an upcaster takes")
        check_tags([*self._by_event, *upcast], "events_api")
        self._reader = EventReader(self._by_event, upcast)
        self._source, self._tracing = source, tracing

    def encode(self, commit: Commit) -> Iterator[tuple[EventId, str, bytes]]:
        """Yield each published event of a commit, in order: its id, its public type, and the CloudEvent as JSON on one
        line.

        Raises:
            StoredDataError: the commit cannot be decoded, or an upcaster fails.
            Exception: anything that `PublishedEvent.data` raises.
        """
        for index, event in self._reader.read(commit):
            if each := self._by_event.get(type(event)):  # an upcaster may return a class that is not published
                id = commit.event_id(index)
                try:
                    body = _to_json(self._make_cloud_event(each, event, commit, id))
                except Exception as error:
                    error.add_note(f"{id} cannot be published as {each.type}")
                    raise
                yield id, each.type, b" ".join(body.splitlines())  # a msgspec.Raw may contain line ends

    def _make_cloud_event(
        self, each: PublishedEvent[Any], event: Event, commit: Commit, event_id: EventId
    ) -> dict[str, object]:
        id = str(event_id)
        if each.hide_stream:
            id = str(commit.uuid) + id.removeprefix(f"{commit.stream}@{commit.version}")
        made: dict[str, object] = {"specversion": "1.0", "id": id, "source": self._source, "type": each.type}
        if not each.hide_stream:
            made["subject"] = commit.stream
        made["time"] = commit.at
        if self._tracing and commit.correlation_id:
            made["correlationid"] = commit.correlation_id
        if self._tracing and commit.causation_ids:
            made["causationid"] = " ".join(id.replace("%", "%25").replace(" ", "%20") for id in commit.causation_ids)
        if self._tracing and TRACEPARENT.fullmatch(parent := commit.metadata.get("traceparent", "")):
            made["traceparent"] = parent
        made["datacontenttype"] = "application/json"
        made["data"] = each.data(event)
        return made


def _make_reader(event: type[Event]) -> Callable[[Event], dict[str, object]]:
    """Return a function that reads all fields of an event, under their encoded names and without the internal tag."""
    struct: Any = event
    fields = [(field.encode_name, field.name) for field in msgspec.structs.fields(struct)]
    return lambda event: {encode_name: getattr(event, name) for encode_name, name in fields}


_to_json = msgspec.json.Encoder(enc_hook=publish_custom).encode
