"""The feed: all commits of a store, each once, each stream's in order, as far as they go and then as they come."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from .store import Commit, Store

if TYPE_CHECKING:
    import asyncio

PAGE = 1_000  # commits


class Batch(NamedTuple):
    """Commits, oldest first. `checkpoint` is where to go on behind them: a text to keep."""

    commits: Sequence[Commit]
    checkpoint: str
    caught_up: bool  # nothing was behind them when they were read


@runtime_checkable
class Feed(Protocol):
    """What tells all commits. A store that knows their order is one."""

    def feed(self, *, after: str = "", follow: bool = True) -> AsyncGenerator[Batch]:
        """All commits behind the checkpoint `after`, from the first one on if it is empty.

        Each comes once, each stream's in order; memory stays flat however many there are. At the end there is a batch
        with `caught_up`, also if there was nothing at all; then it ends or, with `follow`, waits for more. Raises
        ValueError for what is no checkpoint, StoreClosed when the store is closed meanwhile, and StoreError and
        CorruptPayload as other reads do.
        """
        ...


class OrderedStore(Store):
    """A store that counts its commits in the order in which they become visible.

    Followers are woken by what this object stores. With `_poll`, in seconds, they also look by themselves for what
    others have stored.
    """

    _poll: float | None = None

    def __init__(self) -> None:
        super().__init__()
        self._followers: set[asyncio.Event] = set()

    @abstractmethod
    async def _behind(self, position: int) -> Sequence[Commit]:
        """Up to PAGE commits of all streams behind a position, in order."""

    async def feed(self, *, after: str = "", follow: bool = True) -> AsyncGenerator[Batch]:
        """As `Feed.feed`. Checkpoints are positions, so they hold for this store's data only."""
        import asyncio

        if after and not (after.isascii() and after.isdecimal()):
            raise ValueError(f"{after!r} is no checkpoint of this store; keep what its batches say, or begin with ''")
        position, caught_up = int(after or 0), False
        self._followers.add(grown := asyncio.Event())
        try:
            while True:
                grown.clear()
                commits = await self._behind(position)
                position = commits[-1].position or position if commits else position
                if commits or not caught_up:
                    caught_up = len(commits) < PAGE
                    yield Batch(commits, str(position), caught_up)
                if caught_up and not follow:
                    return
                if caught_up:
                    await _until(grown, self._poll)
        finally:
            self._followers.discard(grown)

    def _wake(self) -> None:
        """Have followers look for more."""
        for grown in self._followers:
            grown.set()

    async def aclose(self) -> None:
        self._closing = True
        self._wake()  # they then find the store closed
        await super().aclose()


async def _until(event: asyncio.Event, seconds: float | None) -> None:
    """Wait for the event, or as long."""
    import asyncio

    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
