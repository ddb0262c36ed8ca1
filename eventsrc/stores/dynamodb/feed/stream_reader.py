"""Reading a table's stream: all shards concurrently, parents before children, as fast as batches are taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from time import time
from typing import Any

import msgspec

from ....errors import FeedTrimmed
from ....store import Commit
from ...feed import Batch, Damaged
from .checkpoint import Checkpoint, check_age
from .found import Found
from .lineage import Lineage
from .shard_reader import Listing, Page, Send, list_shards, read_shard, stored_at

MAX_PAGES = 16  # pages of all shards that are requested or wait to be handled
CHILDLESS_LISTINGS = 3  # listings without children of a closed shard, after which it counts as one without children
SHORTEST_WAIT = 0.1  # seconds to the next listing of the shards after one of them ended; each further wait is doubled
CHILDLESS_WAIT = 5.0  # seconds, the longest wait while a closed shard has no children
LONGEST_WAIT = 60.0  # seconds, the longest wait otherwise
RENEW_AFTER = 3_600  # seconds after which a batch without commits renews the checkpoint before it is too old
MAX_SKIPPED = 10_000  # records that are not commits, after which a batch without commits renews the checkpoint
_CLOCK_DIFFERENCE = 5.0  # seconds by which the service's clock may be slow


class StreamReader:
    """Reads one stream from a checkpoint on. `find` returns the commits in records.

    Each shard has a task that reads pages while there is room. Only `batches` takes these pages, so a checkpoint covers
    exactly the commits that were delivered.
    """

    def __init__(self, send: Send, checkpoint: Checkpoint, find: Callable[[list[dict[str, Any]]], Found]) -> None:
        self._send, self._initial, self._find = send, checkpoint, find
        self._received: asyncio.Queue[Page | Listing | Exception] = asyncio.Queue()
        self._room = asyncio.Semaphore(MAX_PAGES)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()  # a shard has ended, so it may have children
        self._lineage = Lineage([], [])
        self._since: dict[str, float] = {}  # by shard: its next records, or its children's, were stored after this
        self._closed: set[str] = set()
        self._quiet: set[str] = set()
        self._listings: dict[str, int] | None = None  # by shard that ended without children; None before the first
        self._is_enabled = True

    def fail(self, error: Exception) -> None:
        """Make `batches` raise this error."""
        self._received.put_nowait(error)

    async def batches(self, *, follow: bool, report_damaged: bool = False) -> AsyncGenerator[Batch]:
        """Iterate over the commits. A batch has none at the end, or if it only renews the checkpoint.

        Raises CorruptPayload for an item that cannot be read, after the commits before it, unless they are reported.
        """
        end_reported, skipped, renewed, began = False, 0, float(self._initial.since), time()
        try:
            self._spawn(self._list_repeatedly)
            while True:
                received = await self._received.get()
                if isinstance(received, Exception):
                    raise received
                self._room.release()
                commits: list[Commit] = []
                damaged: Sequence[Damaged] = ()
                if isinstance(received, Listing):
                    self._update_shards(received)
                else:
                    end_reported = end_reported and not received.records and not received.is_last
                    skipped += len(received.records)
                    commits, damaged, _ = found = self._find(self._without_older(received.records))
                    if damaged and not report_damaged:
                        if found.commits_before:
                            yield Batch(found.commits_before, self._checkpoint().text(), caught_up=False)
                        raise damaged[0].error
                    self._advance(received)
                since, caught_up = self._oldest(), self._is_caught_up()
                check_age(since)
                if caught_up and not self._is_enabled:
                    raise FeedTrimmed("the table's stream was turned off, so later changes are not recorded")
                if (
                    not follow and since > max(began, self._initial.since) + _CLOCK_DIFFERENCE
                ):  # writers may never pause
                    caught_up = True
                is_due = since - renewed >= RENEW_AFTER or skipped >= MAX_SKIPPED
                if commits or damaged or is_due or (caught_up and not end_reported):
                    end_reported, skipped, renewed = caught_up, 0, since
                    yield Batch(commits, self._checkpoint().text(), caught_up, damaged)
                if caught_up and not follow:
                    return
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _checkpoint(self) -> Checkpoint:
        """Return the checkpoint after all pages that were handled."""
        return msgspec.structs.replace(self._initial, since=int(self._oldest()), cursors=[self._lineage.cursor()])

    def _oldest(self) -> float:
        """Return a time, in seconds since the epoch, after which all records were stored that were not read yet."""
        return min(self._since.values(), default=self._initial.since)

    def _without_older(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Leave out the records that were stored before the checkpoint's beginning. A record without a time stays."""
        begin = self._initial.begin
        return [each for each in records if (stored_at(each) or begin) >= begin] if begin else records

    def _update_shards(self, listing: Listing) -> None:
        self._closed = {shard.ShardId for shard in listing.shards if shard.is_closed}
        if self._listings is None:
            self._lineage = Lineage(self._initial.cursors, listing.shards)
            for shard, sequence in self._lineage.at.items():
                self._start_shard(shard, sequence, self._initial.since)
        else:
            self._lineage.update(listing.shards)
        self._is_enabled = listing.is_enabled
        self._start_ready()
        done = self._lineage.done
        # Their children did not exist at that time, so the children's records were stored later.
        self._since.update(dict.fromkeys(done, listing.requested_at))
        self._listings = {shard: (self._listings or {}).get(shard, 0) + 1 for shard in done}

    def _advance(self, page: Page) -> None:
        self._since[page.shard] = max(self._since[page.shard], page.since)
        self._lineage.at[page.shard] = page.sequence
        self._quiet.discard(page.shard)
        if page.is_last:
            self._lineage.finish(page.shard)
            self._start_ready()
            self._ended.set()
        elif page.is_quiet:
            self._quiet.add(page.shard)

    def _start_ready(self) -> None:
        """Start to read the shards that may be read now."""
        floor = min(self._since.values(), default=self._initial.since)
        for shard in self._lineage.start_ready():
            self._start_shard(shard, "", floor)
        self._since = {shard: self._since.get(shard, floor) for shard in (*self._lineage.at, *self._lineage.done)}

    def _start_shard(self, shard: str, sequence: str, since: float) -> None:
        async def read() -> None:
            stream, is_closed = self._initial.stream, lambda: shard in self._closed
            async with aclosing(read_shard(self._send, stream, shard, sequence, self._room, is_closed)) as pages:
                async for page in pages:
                    self._received.put_nowait(page)

        self._since[shard] = since
        self._spawn(read)

    def _spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001  # `batches` raises it
                self.fail(error)

        self._tasks.add(task := asyncio.create_task(run()))
        task.add_done_callback(self._tasks.discard)

    def _is_caught_up(self) -> bool:
        listings, lineage = self._listings or {}, self._lineage
        all_quiet = self._quiet >= lineage.at.keys() and not lineage.has_waiting
        return all_quiet and all(listings.get(shard, 0) >= CHILDLESS_LISTINGS for shard in lineage.done)

    async def _list_repeatedly(self) -> None:
        """List the shards again and again: soon after a shard ended, less often while nothing changes."""
        wait = SHORTEST_WAIT
        while True:
            await self._room.acquire()
            self._received.put_nowait(await list_shards(self._send, self._initial.stream))
            try:
                async with asyncio.timeout(wait):
                    await self._ended.wait()
                wait = SHORTEST_WAIT
            except TimeoutError:
                wait = min(wait * 2, CHILDLESS_WAIT if self._listings else LONGEST_WAIT)
            self._ended.clear()
