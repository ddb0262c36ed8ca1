"""Find processes that wait for nothing that will happen by itself."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from ..aggregates.declaration import declaration_of
from ..repository.repository import Repository
from ..store import Store
from ..stores.feed import Feed
from ..stream_id import category_of
from .process import Process

PR = TypeVar("PR", bound=Process)


class Stuck(NamedTuple):
    """A process that only another input can move: no command, call or timer is pending, and it has not ended."""

    id: str
    version: int
    since: datetime  # its last commit, in UTC
    held: int  # events that came before the one that starts it, if that has not come


async def find_stuck(
    process: type[PR], store: Store, *, idle: timedelta = timedelta(hours=1), feed: Feed | None = None
) -> AsyncGenerator[Stuck]:
    """Yield the processes of a class that have been stuck for at least this time.

    It reads the whole feed, of `store` itself or a copy, and the state of each process that has not changed since: ask
    for it as a job, not for each request. A process that may wait for long starts a timer.

    Raises:
        TypeError: the store has no feed; give one.
        StoreError, StoredDataError: it cannot be read.
    """
    used: Any = feed if feed is not None else store
    if not isinstance(used, Feed):
        raise TypeError(f"{type(store).__name__} has no feed; give one as feed=")
    category, latest = declaration_of(process).category, dict[str, int]()
    async with aclosing(used.feed(follow=False, categories=(category,))) as batches:
        async for batch in batches:
            for commit in batch.commits:
                if category_of(commit.stream) == category:
                    latest[commit.stream] = max(latest.get(commit.stream, 0), commit.time)
    repository, before = Repository(process, store), time.time_ns() // 1000 - idle // timedelta(microseconds=1)
    for stream, changed in latest.items():
        if changed > before:
            continue
        found = await repository.load(stream.removeprefix(f"{category}-"))
        if found.instance.is_waiting:
            since = datetime.fromtimestamp(changed / 1e6, UTC)
            yield Stuck(found.id, found.version, since, len(found.instance.held))
