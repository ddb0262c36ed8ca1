"""The order that an events API promises, checked on what is received."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import NamedTuple
from uuid import UUID

from ..errors import NotAnEventsApi, SourceGap, SourceOutOfOrder
from ..publishing.token import FeedToken, Place
from ..store import EventId

REMEMBERED = 10_000
"""Streams whose last event is remembered. The place in the feed, of which there is one, covers all others."""


class Order:
    """Checks what one service sends, over all its pages and streams.

    - Places in the feed never go back, and an event is after the place before it.
    - The ids of one stream's events never go back.
    - A stream continues where it was asked to.

    The memory that it takes is constant. `url` is for messages.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._last: FeedToken | None = None
        self._streams: OrderedDict[str, EventId] = OrderedDict()

    def resume(self, text: str) -> None:
        """Note the token from which is resumed. Raises ValueError if it is not one of an events API."""
        self._last = FeedToken.parse(text) if text else None

    def begin_stream(self, text: str) -> None:
        """Check the first id of a stream of events: it must be the token that was asked for.

        Raises:
            SourceGap: it is after that.
            SourceOutOfOrder: it is before that, or of another store.
            NotAnEventsApi: it is not an id of an events API.
        """
        first, last = self._parse(text), self._last
        expected = last.place if last else Place(0)
        if first.place > expected:
            raise SourceGap(self._url, "the stream starts after the place that was asked for, so events are missing")
        if first.place < expected:
            raise SourceOutOfOrder(self._url, "the stream starts before the place that was asked for")
        self._check_store(first)
        self._last = first

    def advance(self, text: str, *, page: bool = False) -> None:
        """Check a place without an event; with `page`, the one where the next page starts.

        Raises:
            SourceOutOfOrder: it is before the last one; with `page`, also if it is the same.
            NotAnEventsApi: it is not an id of an events API.
        """
        token = self._parse(text)
        self._check_store(token)
        if self._last and (token.place < self._last.place or (page and token.place == self._last.place)):
            raise SourceOutOfOrder(self._url, "a place in the feed is not after the one before it")
        self._last = token

    def add(self, id: str, text: str) -> None:
        """Check an event of a stream of events, and the token after it. Raises as `advance`."""
        token, event = self._parse(text), self._parse_id(id)
        if token.place.part < 1:
            raise NotAnEventsApi(self._url, "the token of an event does not stand after an event")
        self._check_store(token)
        if self._last and token.place <= self._last.place:
            raise SourceOutOfOrder(self._url, f"the event {id} is not after the one before it")
        if event.numbers != (token.place.event, token.place.part - 1):
            raise SourceOutOfOrder(self._url, f"the event {id} and the token after it are not at the same place")
        self.add_to_page(id)
        self._last = token

    def add_to_page(self, id: str) -> None:
        """Check an event of a page, which has no token of its own. Raises SourceOutOfOrder and NotAnEventsApi."""
        if (event := self._parse_id(id).event) is None:
            return
        last = self._streams.pop(event.stream, None)
        if last is not None and last >= event:
            raise SourceOutOfOrder(self._url, f"the event {event} came after {last}")
        self._streams[event.stream] = event
        if len(self._streams) > REMEMBERED:
            self._streams.popitem(last=False)

    def _check_store(self, token: FeedToken) -> None:
        if self._last and token.store != self._last.store:
            raise SourceOutOfOrder(self._url, "the events are of another store than those before; start again")

    def _parse(self, text: str) -> FeedToken:
        try:
            return FeedToken.parse(text)
        except ValueError:
            raise NotAnEventsApi(self._url, "an id is not one that this version of the library reads") from None

    def _parse_id(self, id: str) -> ParsedId:
        if (parsed := parse_id(id)) is None:
            raise NotAnEventsApi(self._url, "the id of an event is not one that an events API makes")
        return parsed


class ParsedId(NamedTuple):
    """The id of an event. `event` is None if it does not name its stream."""

    numbers: tuple[int, int]  # index and part
    event: EventId | None


def parse_id(id: str) -> ParsedId | None:
    """Return what the id of an event says; None if it is not one that an events API makes."""
    with suppress(ValueError):
        event = EventId.parse(id)
        return ParsedId((event.index, event.part), event)
    with suppress(ValueError):  # of a stream that is hidden: the commit's id comes before the index
        commit, _, numbers = id.partition(".")
        event = EventId.parse(f"{UUID(commit)}@1.{numbers}")
        return ParsedId((event.index, event.part), None)
    return None
