"""Measure projections of one of ten categories, with and without leaving out the others in the feed of SQLite.

Run it with `PYTHONPATH=tests python -m benchmarks.categories`.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from time import process_time
from typing import Any

from support.bank import Account, Deposited

from eventsrc import Batch, Repository, SQLiteStore
from eventsrc.processing import (
    Context,
    Database,
    MemoryProjection,
    Processor,
    SQLiteCheckpoints,
    SQLiteContext,
    SQLiteProjection,
)
from eventsrc.testing.contract.samples import make_commit

CATEGORIES, STREAMS, COMMITS = 10, 1_000, 20  # 200,000 commits
ROUNDS = 5


class Few(MemoryProjection, tag="few"):
    categories = ("account3",)

    def __init__(self) -> None:
        self.sum = 0

    def handle_deposited(self, event: Deposited, context: Context) -> None:
        self.sum += event.amount


class FewInSQLite(SQLiteProjection, tag="few"):
    categories = ("account3",)

    def create(self, db: Database) -> None:
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} (stream TEXT PRIMARY KEY, sum INTEGER) WITHOUT ROWID")

    def handle_deposited(self, event: Deposited, context: SQLiteContext) -> None:
        put = f"INSERT INTO {self.table} VALUES (?, ?) ON CONFLICT DO UPDATE SET sum = sum + excluded.sum"
        context.db.execute(put, (context.stream, event.amount))


class Everything:
    """The feed of a store, which leaves nothing out."""

    def __init__(self, store: SQLiteStore) -> None:
        self._store, self.ordered = store, True

    def feed(self, **options: Any) -> AsyncGenerator[Batch]:
        del options["categories"]
        return self._store.feed(**options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with SQLiteStore(Path(folder) / "ledger.db") as store:
            await _fill(store)
            for name, feed in (("left out by the feed", store), ("delivered", Everything(store))):
                in_memory = min([await _in_memory(store, feed) for _ in range(ROUNDS)])
                in_sqlite = min([await _in_sqlite(store, feed, folder) for _ in range(ROUNDS)])
                print(f"other categories {name}: in memory {in_memory:.2f} s, in SQLite {in_sqlite:.2f} s of CPU")


async def _fill(store: SQLiteStore) -> None:
    account = Account(id="1")
    account.deposit(1)
    await Repository(Account, store).save(account)
    [sample] = (await store.load("account-1")).commits
    fields = {"tags": sample.tags, "payload": sample.payload}
    for version in range(1, COMMITS + 1):
        for stream in range(STREAMS):
            names = [f"account{category}-{stream}" for category in range(CATEGORIES)]
            await asyncio.gather(*(store.append(make_commit(name, version, **fields)) for name in names))


async def _in_memory(store: SQLiteStore, feed: Any) -> float:
    processor = Processor(Few(), store, feed=feed)
    seconds = await _catch_up(processor)
    assert processor.projection.sum == STREAMS * COMMITS
    return seconds


async def _in_sqlite(store: SQLiteStore, feed: Any, folder: str) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        async with SQLiteCheckpoints(Path(inner) / "few.db") as checkpoints:
            return await _catch_up(Processor(FewInSQLite(), store, checkpoints, feed=feed))


async def _catch_up(processor: Processor[Any]) -> float:
    began = process_time()
    await processor.run(until_caught_up=True)
    return process_time() - began


if __name__ == "__main__":
    asyncio.run(main())
