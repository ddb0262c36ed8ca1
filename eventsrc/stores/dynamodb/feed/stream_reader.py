"""Reading a table's stream: all of its shards at once, parents before children, as fast as the reader takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from time import time
from typing import Any

from ....errors import FeedTrimmed
from ....store import Commit
from ...feed import Batch
from .checkpoint import Checkpoint, check_age
from .lineage import Lineage
from .shard_reader import Listing, Page, Send, list_shards, read_shard

ROOM = 16  # pages that are asked for or wait to be handled, all shards together
LOOKS = 3  # at the list of shards, after which a closed shard counts as one without children
SOON, OFTEN, SELDOM = 0.1, 5.0, 60.0  # seconds between looks; often while a closed shard has no children
REFRESH = 3_600  # seconds after which a checkpoint is told again though nothing has come: the old one wears out
_APART = 5.0  # seconds that the service's clock may be behind ours
SKIPPED = 10_000  # records that are no commits, after which one is told too


class StreamReader:
    """Reads one stream from a checkpoint on; `commits` finds them in records.

    Each shard has a task, which reads while there is room. What they find is taken by `batches` alone, so that
    checkpoints are those of what has been told.
    """

    def __init__(
        self, send: Send, checkpoint: Checkpoint, commits: Callable[[list[dict[str, Any]]], list[Commit]]
    ) -> None:
        self._send, self._begin, self._commits = send, checkpoint, commits
        self._news: asyncio.Queue[Page | Listing | Exception] = asyncio.Queue()
        self._room = asyncio.Semaphore(ROOM)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()  # a shard has: there may be children
        self._lineage = Lineage([], [])
        self._since: dict[str, float] = {}  # of each shard whose records or children are to come
        self._closed: set[str] = set()
        self._quiet: set[str] = set()
        self._looks: dict[str, int] | None = None  # at the list, for children of these; none before the first
        self._on = True

    def fail(self, error: Exception) -> None:
        """Have `batches` raise this."""
        self._news.put_nowait(error)

    async def batches(self, *, follow: bool) -> AsyncGenerator[Batch]:
        """Commits as they come, and a batch without any where they end or a checkpoint has worn out."""
        told, skipped, refreshed, began = False, 0, float(self._begin.since), time()
        try:
            self._spawn(self._look)
            while True:
                news = await self._news.get()
                if isinstance(news, Exception):
                    raise news
                self._room.release()
                commits: list[Commit] = []
                if isinstance(news, Listing):
                    self._list(news)
                else:
                    told = told and not news.records and not news.ended
                    skipped += len(news.records)
                    commits = self._commits(news.records)
                    self._advance(news)
                since, caught_up = min(self._since.values(), default=self._begin.since), self._caught_up()
                check_age(since)
                if caught_up and not self._on:
                    raise FeedTrimmed("the table's stream was turned off: what is stored meanwhile is in none")
                if not follow and since > max(began, self._begin.since) + _APART:  # writers may go on for ever
                    caught_up = True
                worn = since - refreshed >= REFRESH or skipped >= SKIPPED
                if commits or worn or (caught_up and not told):
                    told, skipped, refreshed = caught_up, 0, since
                    checkpoint = Checkpoint(self._begin.stream, int(since), [self._lineage.cursor()])
                    yield Batch(commits, checkpoint.text(), caught_up)
                if caught_up and not follow:
                    return
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _list(self, listing: Listing) -> None:
        self._closed = {shard.ShardId for shard in listing.shards if shard.closed}
        if self._looks is None:
            self._lineage = Lineage(self._begin.cursors, listing.shards)
            for shard, sequence in self._lineage.at.items():
                self._start(shard, sequence, self._begin.since)
        else:
            self._lineage.listed(listing.shards)
        self._on = listing.on
        self._begin_more()
        done = self._lineage.done
        # What is behind these is in children that are not there yet, so it is still to be stored.
        self._since.update(dict.fromkeys(done, listing.asked))
        self._looks = {shard: (self._looks or {}).get(shard, 0) + 1 for shard in done}

    def _advance(self, page: Page) -> None:
        self._since[page.shard] = max(self._since[page.shard], page.since)
        self._lineage.at[page.shard] = page.sequence
        self._quiet.discard(page.shard)
        if page.ended:
            self._lineage.ended(page.shard)
            self._begin_more()
            self._ended.set()
        elif page.quiet:
            self._quiet.add(page.shard)

    def _begin_more(self) -> None:
        """Those shards that may be read now."""
        floor = min(self._since.values(), default=self._begin.since)
        for shard in self._lineage.begin():
            self._start(shard, "", floor)
        self._since = {shard: self._since.get(shard, floor) for shard in (*self._lineage.at, *self._lineage.done)}

    def _start(self, shard: str, sequence: str, since: float) -> None:
        async def read() -> None:
            stream, closed = self._begin.stream, lambda: shard in self._closed
            async with aclosing(read_shard(self._send, stream, shard, sequence, self._room, closed)) as pages:
                async for page in pages:
                    self._news.put_nowait(page)

        self._since[shard] = since
        self._spawn(read)

    def _spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        async def reading() -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001  # whoever takes the batches gets it
                self.fail(error)

        self._tasks.add(task := asyncio.create_task(reading()))
        task.add_done_callback(self._tasks.discard)

    def _caught_up(self) -> bool:
        looks, lineage = self._looks or {}, self._lineage
        all_quiet = self._quiet >= lineage.at.keys() and not lineage.waiting
        return all_quiet and all(looks.get(shard, 0) >= LOOKS for shard in lineage.done)

    async def _look(self) -> None:
        """Look at the list of shards again and again: soon after one has ended, seldom when all is settled."""
        pause = SOON
        while True:
            await self._room.acquire()
            self._news.put_nowait(await list_shards(self._send, self._begin.stream))
            try:
                async with asyncio.timeout(pause):
                    await self._ended.wait()
                pause = SOON
            except TimeoutError:
                pause = min(pause * 2, OFTEN if self._looks else SELDOM)
            self._ended.clear()
