"""A place in the feed, and the opaque text with which clients resume from it."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import NamedTuple

NO_COMMIT = bytes(5)
_VERSION = b"\x03"
_TOKEN = re.compile(
    r"[\w-]{32}", re.ASCII
)  # 24 bytes: version in 1, position in 7, event in 4, part in 3, store in 4, commit in 5


class Place(NamedTuple):
    """A place in the feed: after the commit at `position`, and in the next commit before part `part` of event `event`.

    That part need not exist: the place is then before the event that follows.
    """

    position: int
    event: int = 0
    part: int = 0

    @property
    def last_commit(self) -> int:
        """The position of the last commit of which an event may lie before this place."""
        return self.position + ((self.event, self.part) > (0, 0))


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
        position, event, part = self.place
        place = position.to_bytes(7, "big") + event.to_bytes(4, "big") + part.to_bytes(3, "big")
        raw = _VERSION + place + self.store + self.commit
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
                place = Place(*(int.from_bytes(raw[start:end], "big") for start, end in ((1, 8), (8, 12), (12, 15))))
                return cls(place, raw[15:19], raw[19:])
        raise ValueError("this is not an id of this API; send ids exactly as they were received")


def mark_store(identity: str) -> bytes:
    """Return the mark of a store: a short hash of its identity."""
    return blake2b(identity.encode(), digest_size=4).digest()


def mark_commit(id: bytes) -> bytes:
    """Return the mark of the commit with this id: its last bytes, which are random."""
    return id[-len(NO_COMMIT) :]
