"""The past in pages that never change.

A page ends at a fixed position of the store, a multiple of the page size, wherever it begins. So readers who begin
anywhere meet at the same addresses after their first page, and a page that the store has grown past says the same
for ever: any cache may keep it.
"""

from __future__ import annotations

from contextlib import aclosing
from hashlib import blake2b
from typing import NamedTuple

from ..stores.ordered import OrderedStore
from .catalogue import Catalogue
from .token import FeedToken


class Page(NamedTuple):
    """Published events, oldest first, as a JSON array. `next` is where to go on now; None at the end of the store."""

    body: bytes
    next: FeedToken | None
    full: bool  # nothing will ever be added

    def etag(self, media_type: str) -> str:
        digest = blake2b(self.body, digest_size=12)
        digest.update(media_type.encode())
        digest.update(self.next.token.encode() if self.next else b"")
        return f'"{digest.hexdigest()}"'


async def read_page(store: OrderedStore, catalogue: Catalogue, start: FeedToken, size: int) -> Page:
    """What is published behind `start`, up to the next multiple of `size`, or to an event that cannot be told.

    Raises what the feed does, and what `tell` does if that event is the first.
    """
    end = start.position - start.position % size + size
    told: list[bytes] = []
    at = start
    async with aclosing(store.feed(after=str(start.position), follow=False)) as batches:
        async for batch in batches:
            for commit in batch.commits:
                assert commit.position is not None
                if commit.position > end:  # deleted streams leave gaps
                    return _page(told, FeedToken(end), full=True)
                before = commit.position - 1
                try:
                    told += [body for index, _, body in catalogue.tell(commit) if FeedToken(before, index) >= start]
                except Exception:
                    if told:
                        return _page(told, at, full=False)
                    raise
                at = FeedToken(commit.position)
                if at.position == end:
                    return _page(told, at, full=True)
    return _page(told, at if told else None, full=False)


def _page(told: list[bytes], following: FeedToken | None, full: bool) -> Page:
    return Page(b"[" + b",\n".join(told) + b"]\n", following, full)
