"""What leaves: which events are published, under which names, and what of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

from ..aggregates.codec import Codec
from ..aggregates.declaration import check_event, check_tags, collect_upcasters
from ..aggregates.event import Event, tag_of
from ..errors import DeclarationError
from ..store import Commit

E = TypeVar("E", bound=Event)


class PublishedEvent(Generic[E]):
    """An event class that leaves, and its name outside: `type`, the consumers' for ever, as a tag is one's own.

    `data` makes what is told of an event, any JSON; without it that is all its fields. With `hide_stream` there is no
    `subject`, and the `id` is made of the commit's id instead of the stream's: for streams whose ids tell of people.
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
        self.data: Callable[[E], object] = data or _all_fields(event)


class Catalogue:
    """All that is published. Raises DeclarationError for what cannot work, and names the culprit."""

    def __init__(
        self, published: Iterable[PublishedEvent[Any]], upcasters: object, source: str, *, tracing: bool
    ) -> None:
        self._by_event: dict[type[Event], PublishedEvent[Any]] = {}
        types: set[str] = set()
        for each in published:
            given: object = each
            if not isinstance(given, PublishedEvent):
                raise DeclarationError(
                    "events_api", f"{given!r} is no PublishedEvent; write PublishedEvent({given!r}, type=...)"
                )
            if each.type in types:
                raise DeclarationError("events_api", f"two events are published as {each.type!r}")
            types.add(each.type)
            if self._by_event.setdefault(each.event, each) is not each:
                raise DeclarationError("events_api", f"{each.event.__qualname__} is published twice")
        if not self._by_event:
            raise DeclarationError("events_api", "nothing is published")
        if not source or " " in source or not (source.isascii() and source.isprintable()):
            raise DeclarationError("events_api", f"source is {source!r}, not a URI; it may be relative, as /ledger")
        upcast = collect_upcasters(upcasters, "events_api")
        if both := self._by_event.keys() & upcast.keys():
            raise DeclarationError("events_api", f"publishes {both.pop().__qualname__}, which an upcaster takes")
        check_tags([*self._by_event, *upcast], "events_api")
        self._codec = Codec(self._by_event, upcast)
        self._source, self._tracing = source, tracing

    def tell(self, commit: Commit) -> Iterator[tuple[int, str, bytes]]:
        """Of each published event of a commit, in order: its index, its type outside, and the CloudEvent, JSON on one
        line. Raises StoredDataError, and what an upcaster or a `data` raises.
        """
        for index, event in self._codec.decode_known(commit):
            if each := self._by_event.get(type(event)):  # an upcaster may make others
                try:
                    body = _encode(self._cloud_event(each, event, commit, index))
                except Exception as error:
                    error.add_note(f"{commit.event_id(index)} cannot be told as {each.type}")
                    raise
                yield index, each.type, b" ".join(body.splitlines())  # msgspec.Raw may have brought some

    def _cloud_event(self, each: PublishedEvent[Any], event: Event, commit: Commit, index: int) -> dict[str, object]:
        id = f"{commit.uuid}.{index}" if each.hide_stream else str(commit.event_id(index))
        told: dict[str, object] = {"specversion": "1.0", "id": id, "source": self._source, "type": each.type}
        if not each.hide_stream:
            told["subject"] = commit.stream
        told["time"] = commit.at
        if self._tracing and commit.correlation_id:
            told["correlationid"] = commit.correlation_id
        if self._tracing and commit.causation_ids:
            told["causationid"] = " ".join(id.replace("%", "%25").replace(" ", "%20") for id in commit.causation_ids)
        told["datacontenttype"] = "application/json"
        told["data"] = each.data(event)
        return told


def _all_fields(event: type[Event]) -> Callable[[Event], dict[str, object]]:
    """Without the tag, which is internal."""
    struct: Any = event
    fields = [(field.encode_name, field.name) for field in msgspec.structs.fields(struct)]
    return lambda event: {outside: getattr(event, name) for outside, name in fields}


_encode = msgspec.json.Encoder().encode
