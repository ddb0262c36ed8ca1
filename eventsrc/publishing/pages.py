"""Stored events in pages that never change.

A page ends at a fixed position of the store, a multiple of the page size, wherever it starts. So readers that start
at different events request the same addresses from their second page on. Once the store has grown past its end, a page
never changes, and any cache may keep it.

Where the events up to that position would be more than `max_bytes`, a page ends earlier: after the position in its
range that the highest power of two divides, counted from the multiple before. Of two readers, the one ahead mostly ends
there too, so that they still meet soon, and at the next multiple at the latest. The range of a page depends only on
where it starts and on what is stored after that, so such a page is full, too. A commit that is larger by itself is
divided between its events, and an event that is larger has a page of its own.
"""

from __future__ import annotations

from contextlib import aclosing
from hashlib import blake2b
from typing import NamedTuple

from ..errors import StoreError
from ..store import Commit
from ..stores.ordered import OrderedStore
from .catalogue import Catalogue
from .token import NO_COMMIT, FeedToken, Place, mark_commit


class Page(NamedTuple):
    """Published events, oldest first, as a JSON array. `next` is where the next page starts; None if there is none."""

    body: bytes
    next: FeedToken | None
    full: bool  # nothing will ever be added to it

    def make_etag(self, media_type: str) -> str:
        digest = blake2b(self.body, digest_size=12)
        digest.update(media_type.encode())
        digest.update(self.next.text.encode() if self.next else b"")
        return f'"{digest.hexdigest()}"'


async def read_page(store: OrderedStore, catalogue: Catalogue, start: FeedToken, size: int, max_bytes: int) -> Page:
    """Return the events published after `start`, up to the next multiple of `size`, or up to `max_bytes`.

    The page ends before an event that cannot be published.

    Raises:
        StoreError: the store cannot be read.
        Exception: the first event of the page cannot be published; anything that `Catalogue.encode` raises.
    """
    first = start.place.position
    draft = _Draft(catalogue, start, size, max_bytes)
    try:
        async with aclosing(store.feed(after=str(first), follow=False)) as batches:
            async for batch in batches:
                for commit in batch.commits:
                    if full := draft.add(commit):
                        return full
    except StoreError:
        raise
    except Exception:
        if not draft.events:
            raise
    return draft.finish()


class _Draft:
    """A page while it is read."""

    def __init__(self, catalogue: Catalogue, start: FeedToken, size: int, max_bytes: int) -> None:
        self._catalogue, self._start, self._max_bytes = catalogue, start, max_bytes
        self._origin = start.place.position - start.place.position % size  # the multiple before
        self._end = self._origin + size
        self.events: list[tuple[FeedToken, bytes]] = []  # each with the token after it
        self._size = 0
        self._at = start  # the last commit that was read
        self._marks: dict[int, bytes] = {}

    def add(self, commit: Commit) -> Page | None:
        """Add the events of the next commit. Return the page if it is full."""
        position = commit.position
        assert position is not None
        if position > self._end:  # deleted streams leave gaps
            return self._make_full(self._end)
        mark = mark_commit(commit.id)
        for id, _, body in self._catalogue.encode(commit):
            if Place(position - 1, id.index, id.part) < self._start.place:
                continue
            if self.events and self._size + len(body) > self._max_bytes:
                return self._make_shorter(position - 1)
            self.events.append((FeedToken(Place(position - 1, id.index, id.part + 1), self._start.store, mark), body))
            self._size += len(body) + 2  # with a comma and a line end
        self._at = FeedToken(Place(position), self._start.store, mark)
        self._marks[position] = mark
        return self._make_full(position) if position == self._end else None

    def finish(self) -> Page:
        """Return the page that ends where nothing more can be read."""
        if not self.events:
            return Page(_to_json([]), None, full=False)
        return self._make(max(self._at, self.events[-1][0]), full=False)

    def _make_full(self, position: int) -> Page:
        following = FeedToken(Place(position), self._start.store, self._marks.get(position, NO_COMMIT))
        return self._make(following, full=True)

    def _make_shorter(self, last: int) -> Page:
        """Return the page if only the commits up to the position `last` fit into it."""
        first = self._start.place.position
        if last == first:  # not even one whole commit fits
            return self._make(self.events[-1][0], full=True)
        low, high = first - self._origin, last - self._origin
        while (rounder := high & (high - 1)) > low:
            high = rounder
        return self._make_full(self._origin + high)

    def _make(self, following: FeedToken, full: bool) -> Page:
        bodies = [body for after, body in self.events if after.place <= following.place]
        return Page(_to_json(bodies), following, full)


def _to_json(bodies: list[bytes]) -> bytes:
    return b"[" + b",\n".join(bodies) + b"]\n"
