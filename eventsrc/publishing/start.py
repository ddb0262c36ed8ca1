"""Where a client starts: at the beginning, at the latest event, or where it stopped."""

from __future__ import annotations

from ..stores.ordered import OrderedStore
from .token import NO_COMMIT, FeedToken, Place, mark_commit, mark_store

LATEST = "latest"
_AGAIN = "start again from the beginning, without an id, and expect events that you have already received"


class TokenGone(Exception):
    """A token of another store, or of a history that a restore has replaced. The message is made for clients."""


async def find_start(store: OrderedStore, after: str) -> FeedToken:
    """Return the token from which a client starts that has sent `after`.

    Raises:
        ValueError: `after` is not an id of this API.
        TokenGone: `after` is of another store, or of a history that was lost.
        StoreError: the store cannot be read.
    """
    if after in ("", LATEST):
        return await find_latest(store) if after else FeedToken(Place(0), mark_store(await store.identity()))
    token = FeedToken.parse(after)
    if token.store != mark_store(await store.identity()):
        raise TokenGone(f"this id comes from another store, which was served here before; {_AGAIN}")
    last = token.place.last_commit
    if last > await store.last_position():
        raise TokenGone(f"this id is ahead of all events: the store was restored from a backup; {_AGAIN}")
    if await _mark_at(store, last) not in (token.commit, NO_COMMIT):  # the stream may have been deleted
        raise TokenGone(f"the event before this id was lost when the store was restored from a backup; {_AGAIN}")
    return token


async def find_latest(store: OrderedStore) -> FeedToken:
    """Return the token after the last commit. Raises StoreError."""
    last = await store.last_position()
    return FeedToken(Place(last), mark_store(await store.identity()), await _mark_at(store, last))


async def _mark_at(store: OrderedStore, position: int) -> bytes:
    """Return the mark of the commit at a position; NO_COMMIT if there is none."""
    id = await store.commit_id_at(position) if position else None
    return NO_COMMIT if id is None else mark_commit(id)
