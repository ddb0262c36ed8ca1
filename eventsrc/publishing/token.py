"""Where a reader stands, and the opaque text that says so."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

_VERSION = b"\x01"
_TOKEN = re.compile(r"[\w-]{16}", re.ASCII)  # 12 bytes: version, position in 7, taken in 4


class FeedToken(NamedTuple):
    """Behind the commit at `position` of the store, and behind the first `taken` events of the one after it."""

    position: int
    taken: int = 0

    @property
    def token(self) -> str:
        """The place as clients keep it. It hides nothing: who looks into it learns the position."""
        raw = _VERSION + self.position.to_bytes(7, "big") + self.taken.to_bytes(4, "big")
        return urlsafe_b64encode(raw).decode()

    @classmethod
    def parse(cls, token: str) -> FeedToken:
        """The inverse. Raises ValueError, which does not quote it, for all that `token` does not make."""
        if _TOKEN.fullmatch(token):
            raw = urlsafe_b64decode(token)
            if raw.startswith(_VERSION):
                return cls(int.from_bytes(raw[1:8], "big"), int.from_bytes(raw[8:], "big"))
        raise ValueError("that is no id of this API's; keep the ids as they come")
