"""The feed: all commits of a store, as far as they go and then as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from ..store import Commit

if TYPE_CHECKING:
    pass


class Batch(NamedTuple):
    """Commits, oldest first. `checkpoint` is where to go on behind them: a text to keep."""

    commits: Sequence[Commit]
    checkpoint: str
    caught_up: bool  # nothing was behind them when they were read


class Head(NamedTuple):
    """A stream, and the version of its last commit."""

    stream: str
    version: int


@runtime_checkable
class Feed(Protocol):
    """What tells all commits: a transport.

    An ordered one tells each commit once, each stream's in order. Any other repeats and reorders: what it tells is a
    hint that something happened, to be taken through a `Gate`, as processors do.
    """

    ordered: bool

    def feed(self, *, after: str = "", follow: bool = True) -> AsyncGenerator[Batch]:
        """All commits behind the checkpoint `after`, from the first one on if it is empty.

        Memory stays flat however many there are. At the end there is a batch with `caught_up`, also if there was
        nothing at all; then it waits for more. Without `follow` it ends there, or once all is told that was there when
        it began, though writers go on. Raises ValueError for what is no checkpoint, FeedTrimmed for one behind which
        something would be missed, StoreClosed when the store is closed meanwhile, and StoreError and CorruptPayload as
        other reads do.
        """
        ...

    async def end(self) -> str:
        """A checkpoint to begin at now: nothing that is stored from here on is missed."""
        ...

    def earliest(self, checkpoints: Iterable[str]) -> str:
        """A checkpoint from which nothing is missed that is behind any of these; "" if one of them is, or if there are
        none. Raises ValueError for what is no checkpoint.
        """
        ...

    async def remaining(self, after: str) -> int | None:
        """How many commits are behind a checkpoint; None where that would take a scan."""
        ...

    def heads(self) -> AsyncGenerator[Sequence[Head]]:
        """Each stream of the store once, a page at a time, with a version that its last commit has or had meanwhile.

        This reads through the whole store; on DynamoDB that is billed as a scan.
        """
        ...
