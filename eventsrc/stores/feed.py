"""The interface of a feed: all commits of a store, those stored already and then new ones."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from ..errors import StoredDataError
from ..store import Commit
from ..stream_id import category_of


class Batch(NamedTuple):
    """Commits, oldest first. Keep `checkpoint`, a text, to resume the feed after them."""

    commits: Sequence[Commit]
    checkpoint: str
    caught_up: bool  # no later commits were stored when they were read
    damaged: Sequence[Damaged] = ()  # only from a feed that was asked to report them
    is_scan: bool = False  # the commits are of a scan, which is in no order of time
    newest: int = 0  # time of the last commit that was read, in µs, if some were left out for their category


class Damaged(NamedTuple):
    """A stored row or item that is in the place of a commit, but cannot be read as one."""

    stream: str
    version: int
    error: StoredDataError
    position: int | None = None  # among all commits, in stores that count them


class Head(NamedTuple):
    """A stream, and the version of its last commit."""

    stream: str
    version: int


def select(batch: Batch, categories: Collection[str]) -> Batch:
    """Leave out of a batch what is of other categories. If there are no categories, nothing is left out."""
    if not categories:
        return batch
    if isinstance(categories, str):
        raise TypeError(f"categories is a text; give a tuple, ({categories!r},)")
    return batch._replace(
        commits=[commit for commit in batch.commits if category_of(commit.stream) in categories],
        damaged=[each for each in batch.damaged if category_of(each.stream) in categories],
        newest=batch.commits[-1].time if batch.commits else 0,
    )


@runtime_checkable
class Feed(Protocol):
    """A transport that delivers all commits of a store.

    An `ordered` feed delivers each commit once, and those of each stream in order. Other feeds may repeat and reorder
    commits. Pass their commits through a `Gate`, as processors do.
    """

    ordered: bool

    async def identity(self) -> str:
        """Return a text that names this store for ever: drawn once and kept in the store; with the tenant, if any.

        Raises StoreError.
        """
        ...

    async def clock(self) -> int:
        """Return the time in µs since the epoch by the clock of the service that stores commits. Raises StoreError.

        It may be rounded down to a second, and is never ahead of that clock.
        """
        ...

    def feed(
        self, *, after: str = "", follow: bool = True, report_damaged: bool = False, categories: Collection[str] = ()
    ) -> AsyncGenerator[Batch]:
        """Yield the commits after the checkpoint `after`, or all commits if it is empty. Memory use is constant.

        - At the end of the stored commits it yields a batch with `caught_up`, even if there were no commits. Then it
          waits for new ones.
        - With `follow=False` it ends there. While writers continue, it ends after the commits that were stored when it
          began.
        - A stored row that cannot be read as a commit ends the feed with an error, after the commits before it were
          yielded. With `report_damaged` the feed continues, and names it in the batch.
        - With `categories`, only commits of these categories are yielded, and only their damaged rows are reported.
          The checkpoint advances over the others. Only some feeds save the work of reading them.

        Raises:
            ValueError: `after` is not a checkpoint of this feed.
            FeedTrimmed: commits after the checkpoint are no longer available; or the checkpoint is of another store, or
                of a history that was lost when the store was restored. Nothing was delivered.
            StoreClosed: the store was closed while the feed was read.
            StoreError, CorruptPayload: as from other reads.
        """
        ...

    async def end(self) -> str:
        """Return a checkpoint of now. A feed from it delivers every commit that is stored from now on."""
        ...

    def earliest(self, checkpoints: Iterable[str]) -> str:
        """Return a checkpoint from which no commit is missed that comes after any of these. It is "" if one of them is
        "", or if there are none. Raises ValueError if one is not a checkpoint of this feed.
        """
        ...

    async def remaining(self, after: str) -> int | None:
        """Return how many commits come after a checkpoint, or None if counting them would need a scan."""
        ...

    async def behind(self, after: str) -> float | None:
        """Return the seconds since the oldest commit after a checkpoint was stored, at most; 0 if there is none.

        Return None if the checkpoint is of a scan, which says nothing about time.
        """
        ...

    def heads(self) -> AsyncGenerator[Sequence[Head]]:
        """Yield each stream of the store once, in pages. The versions are current at some moment during the call.

        Only keys are read, so a stream with damaged commits is listed like any other. A name that cannot be a stream's
        is left out, and logged.

        This reads the whole store. On DynamoDB it is billed as a scan.
        """
        ...


@runtime_checkable
class Scannable(Protocol):
    """A store whose commits can be scanned, each stream's in order, for less than its feed costs."""

    def scan(self, *, report_damaged: bool = False) -> AsyncGenerator[Batch]: ...


def read_stored(store: Feed) -> AsyncGenerator[Batch]:
    """Yield the stored commits, each once and after the earlier ones of its stream. Memory use is constant.

    They are in the order of the feed if it is ordered. Commits that are stored in the meantime may be missing. What
    cannot be read is reported in `Batch.damaged`. Raises as `Feed.feed`.
    """
    if isinstance(store, Scannable):
        return store.scan(report_damaged=True)
    return store.feed(follow=False, report_damaged=True)
