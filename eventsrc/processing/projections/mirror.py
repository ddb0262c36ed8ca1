"""A copy of a store in another one, kept up to date by a processor."""

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
    """Copies each commit as it is, bytes, id, time and all, into the store `target`, which must be open:

    ```python
    async with DynamoDBStore("ledger") as store, SQLiteStore("mirror.db") as target:
        async with SQLiteCheckpoints("mirror-checkpoints.db") as checkpoints:
            await Processor(Mirror(target), store, checkpoints).run()
    ```

    A table thus gets a feed in order; stores are moved and backed up. Nothing is decoded. How far a stream is copied is
    told by the target itself, so each commit is there once, however many copy at the same time and whatever is killed
    when. Checkpoints only say from where to read on; with MemoryCheckpoints that is the beginning.

    Streams are copied side by side, `concurrency` at a time, so the order between them is the target's own. Snapshots
    are not copied: they come again with the first saves. Until then nobody else may write to the target: a stream that
    has another commit there than in the store is parked, and so is one that the target cannot hold. Neither can be
    skipped, for a stream has no gaps.

    Several mirrors with the same checkpoints need names: `class Backup(Mirror, tag="backup")`.
    """

    guarantee = Guarantee.ROW
    skips = False

    def __init__(self, target: Store) -> None:
        self.target = target

    def bind(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints  # no handlers, so nothing to look for

    async def positions(self, streams: Collection[str]) -> dict[str, int]:
        """Up to where the target has the same. Of DynamoDB that reads up to a megabyte of each stream, once in a
        process.
        """
        found = await load_all(self._copied_version, streams, self.concurrency)
        return {stream: version for stream, version in found.items() if version is not None}

    async def _copied_version(self, stream: str) -> int | None:
        """If somebody else has written to the target, such that what is copied next collides with that."""
        if (theirs := await _newest(self.target, stream)) is None:
            return None
        ours = await _newest(self._store, stream, theirs.version - 1, theirs.version)
        if ours is None:  # the target goes further
            if (ours := await _newest(self._store, stream, 0, theirs.version)) is None:
                return 0
            theirs = await _newest(self.target, stream, ours.version - 1, ours.version)
        return ours.version if theirs is not None and theirs.id == ours.id else ours.version - 1

    async def positions_of(self, name: str, streams: Collection[str]) -> dict[str, int]:
        """Of any version: they have the same target."""
        return await self.positions(streams)

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        return await side_by_side(runs, self._copy, self._semaphore)

    async def _copy(self, run: Slice) -> None:
        for commit in run.commits:
            try:
                await self.target.append(commit)
            except CommitOutcomeUnknown as error:  # the same commit again will tell
                raise StoreUnavailable(str(error)) from None
            except (ConflictError, ValueError) as error:  # CommitTooLarge and InvalidStreamId are ValueErrors
                raise HandlerFailed(error) from error


async def _newest(store: Store, stream: str, after: int = 0, until: int = MAX_VERSION) -> Commit | None:
    async with aclosing(store.read(stream, after=after, until=until, backward=True)) as newest:
        return await anext(newest, None)
