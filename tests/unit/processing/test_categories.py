"""Projections of some categories: the feed is asked for no others, and leaving commits out changes nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.bank import Account, Deposited
from support.ledger import commits_of, running, until

from eventsrc import Batch, Repository, SQLiteStore
from eventsrc.processing import Context, Effects, MemoryCheckpoints, MemoryProjection, Processor, Runner, rebuild


class Purse(Account, tag="purse"):
    pass


class Safe(Account, tag="safe"):
    pass


class Sums(MemoryProjection, tag="sums"):
    def __init__(self) -> None:
        self.sums: dict[str, int] = {}

    def handle_deposited(self, event: Deposited, context: Context) -> None:
        self.sums[context.stream] = self.sums.get(context.stream, 0) + event.amount


class OfPurses(Sums, tag="of-purses"):
    categories = ("purse",)


class OfPursesAndSafes(Sums, tag="of-purses-and-safes"):
    categories = ("purse", "safe")


class Mails(Effects, tag="mails"):
    def __init__(self) -> None:
        self.seen: list[str] = []

    async def handle_deposited(self, event: Deposited, context: Context) -> None:
        self.seen.append(context.stream)


class Asked:
    """A feed that notes the categories that it is asked for, and the commits that it delivers."""

    def __init__(self, store: SQLiteStore) -> None:
        self._store, self.ordered = store, True
        self.categories: list[set[str]] = []
        self.delivered = 0

    async def feed(self, *, categories: Collection[str] = (), **options: Any) -> AsyncGenerator[Batch]:
        self.categories.append(set(categories))
        async for batch in self._store.feed(categories=categories, **options):
            self.delivered += len(batch.commits)
            yield batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    """With an account, a purse and a safe, of three commits each."""
    async with SQLiteStore(tmp_path / "ledger.db") as store:
        for kind in (Account, Purse, Safe):
            repository: Repository[Any] = Repository(kind, store)
            await repository.save(kind.open("1", owner="ann"))
            for amount in (1, 2):
                await repository.execute("1", kind.deposit, amount)
        yield store


@pytest.mark.parametrize(
    ("kinds", "asked", "delivered"),
    [
        ((OfPurses,), {"purse"}, 3),
        ((OfPurses, OfPursesAndSafes), {"purse", "safe"}, 6),
        ((OfPurses, Sums), set(), 9),
    ],
)
async def test_a_feed_is_asked_for_the_categories_of_all_that_share_it(
    store: SQLiteStore, kinds: tuple[type[Sums], ...], asked: set[str], delivered: int
) -> None:
    feed: Any = Asked(store)
    processors = [Processor(kind(), store, feed=feed) for kind in kinds]
    await Runner(*processors).run(until_caught_up=True)
    assert (feed.categories, feed.delivered) == ([asked], delivered)
    for processor in processors:
        categories = processor.projection.categories or ("account", "purse", "safe")
        assert processor.projection.sums == {f"{each}-1": 3 for each in categories}


async def test_commits_of_other_categories_leave_a_processor_caught_up(store: SQLiteStore) -> None:
    processor = Processor(OfPurses(), store)
    async with running(processor):
        await until(processor.caught_up.is_set)
        for amount in range(5):
            await Repository(Account, store).execute("1", Account.deposit, amount)
        receipt = (await Repository(Purse, store).execute_with_receipt("1", Purse.deposit, 7)).receipt
        await processor.wait_for(receipt)
        await until(processor.caught_up.is_set)
        assert processor.lag == 0
    assert processor.projection.sums == {"purse-1": 10}


class Busy(Asked):
    """A feed that is never at its end: an account changes all the time, and a purse changed long ago."""

    async def feed(self, *, categories: Collection[str] = (), **options: Any) -> AsyncGenerator[Batch]:
        old = 1_000_000_000_000_000
        [purse, *_] = [each for each in await commits_of(self._store) if each.stream == "purse-1"]
        yield Batch([msgspec.structs.replace(purse, time=old)], "1", caught_up=False)
        while True:
            yield Batch([], "1", caught_up=False, newest=time.time_ns() // 1000)
            await asyncio.sleep(0.01)


async def test_commits_that_are_left_out_count_for_the_lag(store: SQLiteStore) -> None:
    busy: Any = Busy(store)
    processor = Processor(OfPurses(), store, feed=busy)
    async with running(processor):
        await until(lambda: processor.lag < 5)
        assert processor.state == "live"


@pytest.mark.parametrize(
    ("before", "after", "added"),
    [
        (("purse",), ("safe", "purse"), "categories (safe)"),
        (("purse",), (), "all other categories"),
        (("safe", "purse"), ("purse", "safe"), None),
        (("safe", "purse"), ("purse",), None),
        ((), ("purse",), None),
    ],
)
async def test_categories_added_without_raising_the_version_are_logged(
    store: SQLiteStore,
    caplog: pytest.LogCaptureFixture,
    before: tuple[str, ...],
    after: tuple[str, ...],
    added: str | None,
) -> None:
    checkpoints = MemoryCheckpoints()
    for categories in (before, after, after):  # said once
        mails: Any = Mails()
        mails.categories = categories
        await Processor(mails, store, checkpoints).run(until_caught_up=True)
    text = f"mails@1: {added} were added without raising its version: events of the past are not handled"
    assert [record.getMessage() for record in caplog.records] == ([text] if added else [])


async def test_a_rebuild_counts_commits_of_categories_that_the_old_version_ignores_as_handled(
    store: SQLiteStore,
) -> None:
    """They are muted, as those that no handler of the old version takes: nothing is done outside for the past."""
    checkpoints = MemoryCheckpoints()
    old: Any = Mails()
    old.categories = ("purse",)
    await Processor(old, store, checkpoints).run(until_caught_up=True)
    new: Any = Mails()
    new.version = 2
    processor = Processor(new, store, checkpoints)
    await rebuild(processor)
    assert new.seen == []
    await Repository(Safe, store).execute("1", Safe.deposit, 3)
    await processor.run(until_caught_up=True)
    assert new.seen == ["safe-1"]


async def test_the_progress_of_a_rebuild_counts_only_what_the_new_version_takes(store: SQLiteStore) -> None:
    checkpoints = MemoryCheckpoints()
    for version, categories, total in ((1, ("purse",), 3), (2, (), 9), (3, ("purse", "safe"), 6)):
        mails: Any = Mails()
        mails.version, mails.categories = version, categories
        steps: list[tuple[int, int]] = []
        await rebuild(Processor(mails, store, checkpoints), progress=lambda *step, to=steps: to.append(step))
        assert steps[-1] == (total, total)
        assert max(each for _, each in steps) == total
