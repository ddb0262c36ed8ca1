"""A mirror copies a store into another store, and a processor keeps the copy up to date."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import aclosing

from ...concurrency import load_all
from ...errors import CommitOutcomeUnknown, ConflictError, StoreUnavailable
from ...store import MAX_VERSION, Commit, Store
from ..checkpoints.checkpoints import Checkpoints
from ..slice import HandlerFailed, Slice
from .projection import Failure, Guarantee, Projection, side_by_side


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

    def __init__(self, target: Store) -> None:
        self.target = target

    def bind(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints  # a mirror has no handlers

    async def positions(self, streams: Collection[str]) -> dict[str, int]:
        """Return the version up to which the target has the same commits, for each stream that it has.

        On DynamoDB this reads up to 1 MB of each stream, once per process.
        """
        found = await load_all(self._copied_version, streams, self.concurrency)
        return {stream: version for stream, version in found.items() if version is not None}

    async def _copied_version(self, stream: str) -> int | None:
        """Return the version copied last, or one less if the target differs there: the next copy then conflicts."""
        if (theirs := await _newest(self.target, stream)) is None:
            return None
        ours = await _newest(self._store, stream, theirs.version - 1, theirs.version)
        if ours is None:  # the target has more commits than the store
            if (ours := await _newest(self._store, stream, 0, theirs.version)) is None:
                return 0
            theirs = await _newest(self.target, stream, ours.version - 1, ours.version)
        return ours.version if theirs is not None and theirs.id == ours.id else ours.version - 1

    async def positions_of(self, name: str, streams: Collection[str]) -> dict[str, int]:
        """Return the same for any version of the mirror, as all have the same target."""
        return await self.positions(streams)

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        return await side_by_side(runs, self._copy, self._semaphore)

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
