"""Aggregates that were used lately, frozen: so that `execute` can decide without reading them again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import msgspec


class CachePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How much `execute` remembers: `max_bytes` of states as a snapshot would hold them, the latest used first, and
    each for `max_age` seconds since it was known to be current. `enabled=False` remembers nothing.

    A remembered state may be behind the stream; no decision rests on that (Repository.execute).
    """

    max_bytes: int = 16 * 1024 * 1024
    max_age: float = 300.0
    enabled: bool = True

    def __post_init__(self) -> None:
        if self.max_bytes < 0 or not self.max_age >= 0:
            raise ValueError(f"max_bytes {self.max_bytes} and max_age {self.max_age} must not be negative")


class CacheUse(msgspec.Struct, frozen=True):
    """How the cache did since its repository was made."""

    hits: int
    misses: int
    entries: int
    bytes: int


class Frozen(msgspec.Struct, frozen=True, gc=False):
    """An aggregate without uncommitted events, as bytes: nobody who holds a part of its state can change it."""

    body: bytes  # commit id, command ids and state, as in a snapshot
    version: int
    time: int
    snapshot: int
    tail: int
    threshold: int


class Cache:
    """Frozen aggregates by id, and a turn for each id: within a process one command at a time is decided on it."""

    def __init__(self, policy: CachePolicy) -> None:
        self._policy = policy
        self._entries: dict[str, tuple[Frozen, float]] = {}  # the least lately used first
        self._bytes = self._hits = self._misses = 0
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}

    @property
    def use(self) -> CacheUse:
        return CacheUse(self._hits, self._misses, len(self._entries), self._bytes)

    @asynccontextmanager
    async def turn(self, id: str) -> AsyncIterator[None]:
        """Wait until nobody else in this process decides on this id."""
        lock, waiting = self._turns.get(id) or (asyncio.Lock(), 0)
        self._turns[id] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._turns[id]
            if waiting > 1:
                self._turns[id] = lock, waiting - 1
            else:
                del self._turns[id]

    def take(self, id: str) -> Frozen | None:
        """What is known of an id, which is then no longer known: whoever took it puts back what it became."""
        entry = self._entries.pop(id, None)
        if entry is not None:
            self._bytes -= len(entry[0].body)
            if monotonic() - entry[1] <= self._policy.max_age:
                self._hits += 1
                return entry[0]
        self._misses += 1
        return None

    def put(self, id: str, frozen: Frozen) -> None:
        """Remember what an id has become, and forget the least lately used of others."""
        if not self._policy.enabled or len(frozen.body) > self._policy.max_bytes:
            return
        self._entries[id] = frozen, monotonic()
        self._bytes += len(frozen.body)
        while self._bytes > self._policy.max_bytes:
            oldest, _ = self._entries.pop(next(iter(self._entries)))
            self._bytes -= len(oldest.body)
