"""The cache of `execute`: recently used aggregates as bytes, so that a decision needs no read."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import msgspec

from ..errors import Throttled

_ENTRY = 440
"""Bytes that an entry takes besides its id and its state: three objects, their numbers, and its slots in a dict."""


class CachePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How much `execute` remembers.

    - `max_bytes`: the memory for all states, encoded as in a snapshot, with their ids and about 0.4 KB for each. The
      least recently used are removed first.
    - `max_age`: seconds for which a state is used after it was known to be current.
    - `enabled=False` remembers nothing.

    A remembered state may be older than the stream. No outcome of `Repository.execute` depends on that.
    """

    max_bytes: int = 16 * 1024 * 1024
    max_age: float = 300.0
    enabled: bool = True

    def __post_init__(self) -> None:
        if self.max_bytes < 0 or not self.max_age >= 0:
            raise ValueError(f"max_bytes is {self.max_bytes} and max_age is {self.max_age}; they must not be negative")


class CacheUse(msgspec.Struct, frozen=True):
    """Use of the cache: hits and misses since its repository was created, and the entries in it now, with the bytes of
    memory that they take.
    """

    hits: int
    misses: int
    entries: int
    bytes: int


class Frozen(msgspec.Struct, frozen=True, gc=False):
    """An aggregate without uncommitted events. As bytes, it cannot be changed through a reference to its state."""

    body: bytes  # commit id, command ids and state, as in a snapshot
    version: int
    time: int
    snapshot: int
    tail: int
    threshold: int


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What the cache holds for an id."""

    frozen: Frozen
    reads: int  # as many of the next executions read before they decide, because others write this id too
    since: float  # when the state was known to be current
    size: int  # the bytes of memory that it takes


class Cache:
    """Frozen aggregates by id, and a lock for each id, so that commands on it run one at a time within the process."""

    def __init__(self, policy: CachePolicy, deadline: float | None) -> None:
        self._policy, self._deadline = policy, deadline
        self._entries: dict[str, Entry] = {}  # the least recently used first
        self._bytes = self._hits = self._misses = 0
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @property
    def use(self) -> CacheUse:
        return CacheUse(self._hits, self._misses, len(self._entries), self._bytes)

    @asynccontextmanager
    async def turn(self, id: str) -> AsyncIterator[None]:
        """Guard a block in which this id is used: one block at a time in this process.

        Raises Throttled if the blocks before it take longer than the deadline.
        """
        lock, waiting = self._locks.get(id) or (asyncio.Lock(), 0)
        self._locks[id] = lock, waiting + 1
        try:
            if waiting:
                await self._wait_for(lock)
            else:
                await lock.acquire()
            try:
                yield
            finally:
                lock.release()
        finally:
            lock, waiting = self._locks[id]
            if waiting > 1:
                self._locks[id] = lock, waiting - 1
            else:
                del self._locks[id]

    async def _wait_for(self, lock: asyncio.Lock) -> None:
        try:
            async with asyncio.timeout(self._deadline):
                await lock.acquire()
        except TimeoutError:
            reason = "other commands on this id took the whole deadline; nothing was read or written"
        else:
            return
        raise Throttled(f"{reason}; send fewer commands to one id at once")

    def take(self, id: str) -> Entry | None:
        """Remove and return the entry of an id, or None. The caller puts the new state back."""
        entry = self._entries.pop(id, None)
        if entry is not None:
            self._bytes -= entry.size
            if monotonic() - entry.since <= self._policy.max_age:
                self._hits += 1
                return entry
        self._misses += 1
        return None

    def put(self, id: str, frozen: Frozen, reads: int = 0) -> None:
        """Store the state of an id and `Entry.reads`. Remove the least recently used entries beyond `max_bytes`."""
        size = _ENTRY + len(frozen.body) + sys.getsizeof(id)
        if not self._policy.enabled or size > self._policy.max_bytes:
            return
        self._entries[id] = Entry(frozen, reads, monotonic(), size)
        self._bytes += size
        while self._bytes > self._policy.max_bytes:
            self._bytes -= self._entries.pop(next(iter(self._entries))).size
