"""Stores that number all their commits in one order, and therefore have a feed."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, Iterable, Sequence

from ..errors import FeedTrimmed
from ..store import Commit
from .feed import Batch, Head
from .lifecycle import ManagedStore

PAGE = 1_000  # commits
MAX_POSITION = 2**63 - 1


class OrderedStore(ManagedStore):
    """A store that numbers its commits in the order in which they become visible.

    A commit stored through this object wakes the feeds that follow it. With `poll`, in seconds, the feeds also look for
    commits that other processes have stored.
    """

    ordered = True
    poll: float | None = None

    def __init__(self) -> None:
        super().__init__()
        self._followers: set[asyncio.Event] = set()

    @abstractmethod
    async def commits_after(self, position: int) -> tuple[Sequence[Commit], bool]:
        """Return up to PAGE commits of all streams after a position, in order, and whether there are no more."""

    @abstractmethod
    async def last_position(self) -> int:
        """Return the last position in use. Positions have no gaps unless streams were deleted."""

    @abstractmethod
    async def heads_after(self, after: str) -> Sequence[Head]:
        """Return up to PAGE streams after this one, in the order of their UTF-8 bytes."""

    async def feed(self, *, after: str = "", follow: bool = True) -> AsyncGenerator[Batch]:
        """Yield commits as `Feed.feed` does. Checkpoints are positions, so they are valid only for the same data."""
        position, caught_up = _parse_position(after), False
        if position and position > (last := await self.last_position()):
            raise FeedTrimmed(
                f"checkpoint {position} is ahead of the last commit, {last}: the store was restored, or is another one",
                "call `await processor.forget()` and run again; do not resume with an empty checkpoint",
            )
        end = MAX_POSITION if follow else await self.last_position()  # writers may never stop
        self._followers.add(grown := asyncio.Event())
        try:
            while True:
                grown.clear()
                commits, complete = await self.commits_after(position)
                position = commits[-1].position or position if commits else position
                if commits or not caught_up:
                    caught_up = complete or position >= end
                    yield Batch(commits, str(position), caught_up)
                if caught_up and not follow:
                    return
                if caught_up:
                    await _wait_for(grown, self.poll)
        finally:
            self._followers.discard(grown)

    async def end(self) -> str:
        return str(await self.last_position())

    def earliest(self, checkpoints: Iterable[str]) -> str:
        return str(min((_parse_position(each) for each in checkpoints), default=0) or "")

    async def remaining(self, after: str) -> int:
        return max(0, await self.last_position() - _parse_position(after))

    async def heads(self) -> AsyncGenerator[Sequence[Head]]:
        after = ""
        while heads := await self.heads_after(after):
            yield heads
            after = heads[-1].stream

    def notify(self) -> None:
        """Wake the feeds that follow this store."""
        for grown in self._followers:
            grown.set()

    async def aclose(self) -> None:
        self._closing = True
        self.notify()  # they raise StoreClosed
        await super().aclose()


async def _wait_for(event: asyncio.Event, seconds: float | None) -> None:
    """Wait for the event, at most `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _parse_position(checkpoint: str) -> int:
    given: object = checkpoint
    if given and not isinstance(given, str):
        raise TypeError(f"a checkpoint is a str, not {type(given).__name__}; use one of a batch, or '' for the start")
    if checkpoint and not (checkpoint.isascii() and checkpoint.isdecimal() and int(checkpoint) <= MAX_POSITION):
        raise ValueError(f"{checkpoint!r} is not a checkpoint of this store; use one of a batch, or '' for the start")
    return int(checkpoint or 0)
