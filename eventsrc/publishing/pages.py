"""Stored events in pages that never change.

A page ends at a fixed position of the store, a multiple of the page size, wherever it starts. So readers that start
at different events request the same addresses from their second page on. Once the store has grown past its end, a page
never changes, and any cache may keep it.
"""

from __future__ import annotations

from contextlib import aclosing
from hashlib import blake2b
from typing import NamedTuple

from ..stores.ordered import OrderedStore
from .catalogue import Catalogue
from .token import FeedToken


class Page(NamedTuple):
    """Published events, oldest first, as a JSON array. `next` is where the next page starts; None if there is none."""

    body: bytes
    next: FeedToken | None
    full: bool  # nothing will ever be added to it

    def make_etag(self, media_type: str) -> str:
        digest = blake2b(self.body, digest_size=12)
        digest.update(media_type.encode())
        digest.update(self.next.token.encode() if self.next else b"")
        return f'"{digest.hexdigest()}"'


async def read_page(store: OrderedStore, catalogue: Catalogue, start: FeedToken, size: int) -> Page:
    """Return the events published after `start`, up to the next multiple of `size`.

    The page ends earlier before an event that cannot be published.

    Raises:
        StoreError: the store cannot be read.
        Exception: the first event of the page cannot be published; anything that `Catalogue.encode` raises.
    """
    end = start.position - start.position % size + size
    bodies: list[bytes] = []
    at = start
    async with aclosing(store.feed(after=str(start.position), follow=False)) as batches:
        async for batch in batches:
            for commit in batch.commits:
                assert commit.position is not None
                if commit.position > end:  # deleted streams leave gaps
                    return _make_page(bodies, FeedToken(end), full=True)
                before = commit.position - 1
                try:
                    bodies += [body for index, _, body in catalogue.encode(commit) if FeedToken(before, index) >= start]
                except Exception:
                    if bodies:
                        return _make_page(bodies, at, full=False)
                    raise
                at = FeedToken(commit.position)
                if at.position == end:
                    return _make_page(bodies, at, full=True)
    return _make_page(bodies, at if bodies else None, full=False)


def _make_page(bodies: list[bytes], following: FeedToken | None, full: bool) -> Page:
    return Page(b"[" + b",\n".join(bodies) + b"]\n", following, full)
