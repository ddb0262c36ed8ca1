"""A mirror copies a store into another store, and a processor keeps the copy up to date."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import aclosing

from ...concurrency import load_all
from ...errors import CommitOutcomeUnknown, ConflictError, StoreUnavailable
from ...store import MAX_VERSION, Commit, Store
from ...stores.feed import Feed
from ..slice import Fence, HandlerFailed, Position, Slice
from .projection import Failure, Guarantee, Projection, catch


class Mirror(Projection, tag="mirror"):
    """Copy each commit unchanged (bytes, id, time and all) into the store `target`, which must be open:

    ```python
    async with DynamoDBStore("ledger") as store, SQLiteStore("mirror.db") as target:
        async with SQLiteCheckpoints("mirror-checkpoints.db") as checkpoints:
            await Processor(Mirror(target), store, checkpoints).run()
    ```

    Use it to give a table an ordered feed, to move a store or to back it up.

    - Nothing is decoded. Snapshots are not copied: the first saves on the target write new ones.
    - The position of a stream is its version in the target. So each commit is copied exactly once, even if several
      processes copy at the same time or are killed. Checkpoints only say where to resume the feed; with
      MemoryCheckpoints that is the beginning.
    - Streams are copied concurrently, `concurrency` at a time, so the order between streams is the target's own.
    - Nothing else may write to the target while it is a mirror. A stream is parked if its commit in the target differs
      from the one in the store, or if the target cannot hold it. Such a commit cannot be skipped, as streams have no
      gaps.
    - Several mirrors with the same checkpoints need tags: `class Backup(Mirror, tag="backup")`.
    """

    guarantee = Guarantee.ROW
    skips = False
    has_handlers = False
    one_by_one = True

    def __init__(self, target: Store) -> None:
        self.target = target

    async def discard(self) -> None:
        """Raise TypeError: stores do not delete commits."""
        raise TypeError(
            f"{type(self).__qualname__} cannot delete the commits of its target; delete that store and mirror to an "
            "empty one"
        )

    async def reset(self, stream: str, fence: Fence) -> None:
        """Raise TypeError: stores do not delete commits."""
        raise TypeError(
            f"{type(self).__qualname__} cannot delete the commits of a stream from its target; mirror to an empty store"
        )

    async def target_identity(self) -> str:
        return await self.target.identity() if isinstance(self.target, Feed) else ""

    async def positions(self, streams: Collection[str]) -> dict[str, Position]:
        """Return the last commit of each stream that the target has, too.

        On DynamoDB this reads up to 1 MB of each stream, once per process.
        """
        found = await load_all(self._copied, streams, self.concurrency)
        return {stream: position for stream, position in found.items() if position is not None}

    async def _copied(self, stream: str) -> Position | None:
        """Return the commit copied last, or the version before if the target differs there: the next copy conflicts."""
        if (theirs := await _newest(self.target, stream)) is None:
            return None
        ours = await _newest(self._store, stream, theirs.version - 1, theirs.version)
        if ours is None:  # the target has more commits than the store
            if (ours := await _newest(self._store, stream, 0, theirs.version)) is None:
                return Position(0)
            theirs = await _newest(self.target, stream, ours.version - 1, ours.version)
        if theirs is not None and theirs.id == ours.id:
            return Position(ours.version, ours.id, ours.time)
        return Position(ours.version - 1)

    async def positions_of(self, name: str, streams: Collection[str]) -> dict[str, Position]:
        """Return the same for any version of the mirror, as all have the same target."""
        return await self.positions(streams)

    async def advance(self, run: Slice) -> None:
        """Do nothing: the position is in the target."""

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        [run] = runs
        return await catch(run, self._copy(run))

    async def _copy(self, run: Slice) -> None:
        for commit in run.commits:
            try:
                await self.target.append(commit)
            except CommitOutcomeUnknown as error:  # appending the same commit again settles it
                raise StoreUnavailable(str(error)) from None
            except (ConflictError, ValueError) as error:  # CommitTooLarge and InvalidStreamId are ValueErrors
                raise HandlerFailed(error) from error


async def _newest(store: Store, stream: str, after: int = 0, until: int = MAX_VERSION) -> Commit | None:
    async with aclosing(store.read(stream, after=after, until=until, backward=True)) as newest:
        return await anext(newest, None)
