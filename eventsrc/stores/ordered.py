"""Stores that count their commits in one order, and so have a feed of their own."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, Iterable, Sequence

from ..errors import FeedTrimmed
from ..store import Commit
from .feed import Batch, Head
from .opening import ManagedStore

PAGE = 1_000  # commits
MAX_POSITION = 2**63 - 1


class OrderedStore(ManagedStore):
    """A store that counts its commits in the order in which they become visible.

    Followers are woken by what this object stores. With `poll`, in seconds, they also look by themselves for what
    others have stored.
    """

    ordered = True
    poll: float | None = None

    def __init__(self) -> None:
        super().__init__()
        self._followers: set[asyncio.Event] = set()

    @abstractmethod
    async def commits_after(self, position: int) -> tuple[Sequence[Commit], bool]:
        """Some commits of all streams behind a position, in order, up to PAGE; and whether they are all there are."""

    @abstractmethod
    async def last_position(self) -> int:
        """The last position that was given; there are no gaps, unless streams were deleted."""

    @abstractmethod
    async def heads_after(self, after: str) -> Sequence[Head]:
        """Up to PAGE streams behind that one, in the order of their UTF-8."""

    async def feed(self, *, after: str = "", follow: bool = True) -> AsyncGenerator[Batch]:
        """As `Feed.feed`. Checkpoints are positions, so they hold for this store's data only."""
        position, caught_up = _position(after), False
        if position and position > (last := await self.last_position()):
            raise FeedTrimmed(f"checkpoint {position} is ahead of all commits, up to {last}: these are other data")
        end = MAX_POSITION if follow else await self.last_position()  # writers may go on for ever
        self._followers.add(grown := asyncio.Event())
        try:
            while True:
                grown.clear()
                commits, all_there_are = await self.commits_after(position)
                position = commits[-1].position or position if commits else position
                if commits or not caught_up:
                    caught_up = all_there_are or position >= end
                    yield Batch(commits, str(position), caught_up)
                if caught_up and not follow:
                    return
                if caught_up:
                    await _until(grown, self.poll)
        finally:
            self._followers.discard(grown)

    async def end(self) -> str:
        return str(await self.last_position())

    def earliest(self, checkpoints: Iterable[str]) -> str:
        return str(min((_position(each) for each in checkpoints), default=0) or "")

    async def remaining(self, after: str) -> int:
        return max(0, await self.last_position() - _position(after))

    async def heads(self) -> AsyncGenerator[Sequence[Head]]:
        after = ""
        while heads := await self.heads_after(after):
            yield heads
            after = heads[-1].stream

    def notify(self) -> None:
        """Have followers look for more."""
        for grown in self._followers:
            grown.set()

    async def aclose(self) -> None:
        self._closing = True
        self.notify()  # they then find the store closed
        await super().aclose()


async def _until(event: asyncio.Event, seconds: float | None) -> None:
    """Wait for the event, or as long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _position(checkpoint: str) -> int:
    if checkpoint and not (checkpoint.isascii() and checkpoint.isdecimal() and int(checkpoint) <= MAX_POSITION):
        raise ValueError(f"{checkpoint!r} is no checkpoint of this store; keep what its batches say, or begin with ''")
    return int(checkpoint or 0)
