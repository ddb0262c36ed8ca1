"""Read the events that a reader knows, out of commits that may hold others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from ..errors import StoredDataError
from ..store import Commit, EventIndex
from .codec import Codec, unpack
from .event import Event, tag_of
from .event_values import explain_mismatch, read_tags
from .upcasting import Upcasting

_LIST_OF_ONE = b"\x91"  # in MessagePack, before its item
_TOGETHER = 64  # commits that are decoded at once; each may be as large as a commit can be


class EventReader:
    """Decodes the events of these classes, of which a commit may hold some, and upcasts them."""

    def __init__(self, events: Iterable[type[Event]], upcasters: Mapping[type[Event], Upcasting]) -> None:
        self._codec = Codec(events, upcasters)
        self._tags = self._codec.tags
        self._old_tags = {tag_of(event) for event in upcasters}

    def read(self, commit: Commit) -> Iterable[tuple[EventIndex, Event]]:
        """Return the events for which this reader has a class, upcast, each with its index in the commit.

        - Of several events that upcasters make of one stored event, each but the first has an index and a part.
        - Upcasters may return an event of a class that this reader does not have; it is among the events.
        - Other events are skipped. The payload is not read if the commit's tags name none of these classes.

        Raises CorruptPayload, PayloadTooLarge, SchemaMismatch or UpcasterFailed; UnknownEventType only if the tags do
        not name all events.
        """
        payload, stream, version = commit.payload, commit.stream, commit.version
        if self._tags.issuperset(commit.tags) and not (self._old_tags and self._old_tags.intersection(commit.tags)):
            return enumerate(self._codec.decode(payload, stream, version))
        if self._tags.isdisjoint(commit.tags):
            return ()
        body = culprit = unpack(payload, stream, version)
        known: list[tuple[EventIndex, Event]] = []
        try:
            for index, (tag, event) in enumerate(zip(read_tags(body), _split(body), strict=True)):
                if tag in self._tags:
                    culprit = _LIST_OF_ONE + event
                    known.append((index, self._codec.decode_event(event)))
        except Exception as error:  # noqa: BLE001  # a check in __post_init__ may raise anything
            failure = explain_mismatch(culprit, self._tags, stream, version, error)
        else:
            return self._upcast(known, stream, version)
        raise failure  # outside the except block: its cause may quote the event

    def read_each(self, commits: Sequence[Commit]) -> Iterator[Iterable[tuple[EventIndex, Event]]]:
        """Yield for each commit what `read` returns, for half the CPU if this reader has classes for all events.

        Raises as `read`, when it is the turn of that commit.
        """
        start = 0
        while part := commits[start : start + _TOGETHER]:
            tags = {commit.tags for commit in part}
            if all(map(self._tags.issuperset, tags)) and all(map(self._old_tags.isdisjoint, tags)):
                try:
                    decoded, _ = self._codec.decode_run(part)
                except StoredDataError:
                    pass  # those before that commit are read
                else:
                    yield from map(enumerate, decoded)
                    start += len(decoded)
                    continue
            yield from map(self.read, part)
            start += len(part)

    def _upcast(
        self, known: list[tuple[EventIndex, Event]], stream: str, version: int
    ) -> Iterable[tuple[EventIndex, Event]]:
        if (upcasters := self._codec.upcasters) is None:
            return known
        return [
            ((index, part) if part else index, new)  # type: ignore[misc]  # mypy does not see that index is an int
            for index, event in known
            for part, new in enumerate(upcasters.upcast(event, stream, version))
        ]


_split = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
