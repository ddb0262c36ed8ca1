"""A place in the feed, and the opaque text with which clients resume from it."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import NamedTuple

NO_COMMIT = bytes(5)
_VERSION = b"\x02"
_TOKEN = re.compile(
    r"[\w-]{28}", re.ASCII
)  # 21 bytes: version in 1, position in 7, taken in 4, store in 4, commit in 5


class Place(NamedTuple):
    """A place in the feed: after the commit at `position`, and after the first `taken` events of the next commit."""

    position: int
    taken: int = 0

    @property
    def last_commit(self) -> int:
        """The position of the last commit of which an event may lie before this place."""
        return self.position + (self.taken > 0)


class FeedToken(NamedTuple):
    """A place in the feed of one store, and the commit that was there: `place.last_commit`.

    `store` and `commit` are short marks, by which a token of another store or of a lost history is recognised.
    """

    place: Place
    store: bytes
    commit: bytes = NO_COMMIT

    @property
    def text(self) -> str:
        """The text for clients. It is opaque, but not secret: it can be decoded to the place."""
        position, taken = self.place
        raw = _VERSION + position.to_bytes(7, "big") + taken.to_bytes(4, "big") + self.store + self.commit
        return urlsafe_b64encode(raw).decode()

    @classmethod
    def parse(cls, text: str) -> FeedToken:
        """Return the token with this text.

        Raises:
            ValueError: for any text that `FeedToken.text` cannot return. The message does not quote it.
        """
        if _TOKEN.fullmatch(text):
            raw = urlsafe_b64decode(text)
            if raw.startswith(_VERSION):
                place = Place(int.from_bytes(raw[1:8], "big"), int.from_bytes(raw[8:12], "big"))
                return cls(place, raw[12:16], raw[16:])
        raise ValueError("this is not an id of this API; send ids exactly as they were received")


def mark_store(identity: str) -> bytes:
    """Return the mark of a store: a short hash of its identity."""
    return blake2b(identity.encode(), digest_size=4).digest()


def mark_commit(id: bytes) -> bytes:
    """Return the mark of the commit with this id: its last bytes, which are random."""
    return id[-len(NO_COMMIT) :]
