"""A reader's position in the feed, and the opaque text that clients keep."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

_VERSION = b"\x01"
_TOKEN = re.compile(r"[\w-]{16}", re.ASCII)  # 12 bytes: version in 1, position in 7, taken in 4


class FeedToken(NamedTuple):
    """A position in the feed: after the commit at `position`, and after the first `taken` events of the next commit."""

    position: int
    taken: int = 0

    @property
    def token(self) -> str:
        """The text for clients. It is opaque, but not secret: it can be decoded to the position."""
        raw = _VERSION + self.position.to_bytes(7, "big") + self.taken.to_bytes(4, "big")
        return urlsafe_b64encode(raw).decode()

    @classmethod
    def parse(cls, token: str) -> FeedToken:
        """Return the position that `token` stands for.

        Raises:
            ValueError: for any text that `FeedToken.token` cannot return. The message does not quote the text.
        """
        if _TOKEN.fullmatch(token):
            raw = urlsafe_b64decode(token)
            if raw.startswith(_VERSION):
                return cls(int.from_bytes(raw[1:8], "big"), int.from_bytes(raw[8:], "big"))
        raise ValueError("this is not an id of this API; send ids exactly as they were received")
