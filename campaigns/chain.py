"""The domain of the campaigns: a hash chain. Its state shows which links were applied, and in which order."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from eventsrc import Aggregate, Event

ROOT = b""


class Linked(Event, tag="chain.linked"):
    """A link of the chain. `key` is unique to the operation that issued it; `padding` only adds size."""

    key: str
    padding: bytes = b""


class Refused(Exception):
    """Raised by a command that refuses to record anything."""


class Chain(Aggregate, tag="chain"):
    digest: bytes = ROOT
    links: int = 0

    def link(self, key: str, padding: bytes = b"") -> bytes:
        """Add a link and return the digest of the chain that ends with it."""
        self.record(Linked(key=key, padding=padding))
        return self.digest

    def look(self) -> bytes:
        """Return the digest and record nothing."""
        return self.digest

    def refuse(self) -> bytes:
        raise Refused

    def apply_linked(self, event: Linked) -> None:
        self.digest, self.links = chained(self.digest, [event.key]), self.links + 1


def chained(digest: bytes, keys: Iterable[str]) -> bytes:
    """Return the digest of a chain after more links."""
    for key in keys:
        digest = blake2b(digest + key.encode(), digest_size=12).digest()
    return digest
