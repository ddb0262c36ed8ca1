"""Events as text of an event stream."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..store import Commit
from .catalogue import Catalogue
from .token import FeedToken, Place, mark_commit

CHUNK = 64 * 1024  # bytes; a chunk ends with the event that makes it as long


class Chunk(NamedTuple):
    """The events from `before` to `after`, of which none is left out, as text. It is empty if none is published."""

    before: Place
    after: FeedToken
    text: bytes
    events: Sequence[tuple[Place, int]]  # of each event: the place before it, and where it starts in the text

    def text_after(self, place: Place) -> bytes:
        """Return the text of the events that come after a place."""
        if place <= self.before:
            return self.text
        first = bisect_left(self.events, place, key=lambda event: event[0])
        return self.text[self.events[first][1] :] if first < len(self.events) else b""

    @property
    def last_id(self) -> Place:
        """The place that the last id in the text stands for. The text is not empty."""
        (position, event, part), _ = self.events[-1]
        return Place(position, event, part + 1)


def make_chunks(catalogue: Catalogue, commits: Sequence[Commit], start: FeedToken) -> Iterator[Chunk]:
    """Yield the commits after the position of `start` as chunks. The id of an event is the token from which a client
    resumes after it. At an event that cannot be published, the events before it are yielded first.

    Raises:
        StoredDataError: a commit cannot be decoded, or an upcaster fails.
        Exception: anything that `PublishedEvent.data` raises.
    """
    text, events, before, after = bytearray(), list[tuple[Place, int]](), Place(start.place.position), start
    for commit in commits:
        assert commit.position is not None
        mark = mark_commit(commit.id)
        try:
            for id, type, body in catalogue.encode(commit):
                events.append((Place(commit.position - 1, id.index, id.part), len(text)))
                after = FeedToken(Place(commit.position - 1, id.index, id.part + 1), start.store, mark)
                text += f"id: {after.text}\nevent: {type}\ndata: ".encode() + body + b"\n\n"
                if len(text) >= CHUNK:
                    yield Chunk(before, after, bytes(text), events)
                    text, events, before = bytearray(), [], after.place
        except Exception:
            yield Chunk(before, after, bytes(text), events)
            raise
        after = FeedToken(Place(commit.position), start.store, mark)
    yield Chunk(before, after, bytes(text), events)
