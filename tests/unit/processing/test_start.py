"""Where a processor starts, and that its checkpoint does not expire."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from support.bank import Account
from support.ledger import InMemory, InSQLite, Outside, commits_of, deposit, fill, ids_of, running

from eventsrc import Batch, FeedTrimmed, MemoryStore, Repository, SQLiteStore, StoreChanged
from eventsrc.processing import MemoryCheckpoints, Processor, Runner, SQLiteCheckpoints, verify

HOUR = 3_600_000_000  # µs


class Hints(MemoryStore):
    """A store whose feed is not ordered, as on DynamoDB."""

    ordered = False


@pytest.fixture
async def store() -> AsyncIterator[Hints]:
    async with Hints() as store:
        yield store


async def age(store: MemoryStore, hours: int = 4) -> None:
    """Make all stored commits this much older."""
    for commits in (*store._streams.values(), store._all):
        commits[:] = [structs.replace(commit, time=commit.time - hours * HOUR) for commit in commits]


@pytest.mark.parametrize("at_once", [1, 2, 100])
async def test_start_now_does_not_handle_older_commits_in_any_batches(store: Hints, at_once: int) -> None:
    """The feed of a table delivers commits of some hours before, too."""
    await fill(store, accounts=2)
    await age(store)
    processor = Processor(InMemory(), store, start="now")
    await processor.pipeline.prepare()
    await processor.pipeline.assignment.take_all()
    await deposit(store, "a-1", 7)
    await deposit(store, "a-1", 8)
    commits = await commits_of(store)
    for start in range(0, len(commits), at_once):
        await processor.pipeline.handle(commits[start : start + at_once])
    await processor.pipeline.wait_until_idle()
    assert await processor.projection.read_handled() == {"account-a-1": ["account-a-1@5.0", "account-a-1@6.0"]}


@pytest.fixture(params=["ordered", "unordered", "sqlite"])
async def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    if request.param == "sqlite":
        async with SQLiteStore(tmp_path / "ledger.db") as sqlite:
            yield sqlite
    else:
        async with Hints() as hints:
            hints.ordered = request.param == "ordered"
            yield hints


async def fill_history(store: Any) -> None:
    await fill(store, accounts=3)
    if not store.ordered:
        await age(store)  # what an unordered feed delivers of the last 15 minutes may be handled


async def test_start_now_beside_a_processor_that_reads_from_the_beginning(any_store: Any) -> None:
    """Its first run, a later run with another processor, and `resume_from` never handle older commits."""
    await fill_history(any_store)
    checkpoints, outside = MemoryCheckpoints(), Outside()

    def from_now() -> Processor[Outside]:
        return Processor(outside, any_store, checkpoints, start="now")

    first = Processor(InMemory(), any_store)
    await Runner(from_now(), first).run(until_caught_up=True)
    assert await first.projection.read_handled() == await ids_of(any_store)
    assert outside.seen == {}
    await Runner(from_now(), Processor(InMemory(), any_store)).run(until_caught_up=True)
    assert outside.seen == {}
    await from_now().resume_from("")
    await from_now().run(until_caught_up=True)
    assert outside.seen == {}
    await deposit(any_store, "a-1", 7)
    await fill_one(any_store, "new")
    await from_now().resume_from("")
    await Runner(from_now(), Processor(InMemory(), any_store)).run(until_caught_up=True)
    assert outside.seen == {"account-a-1": ["account-a-1@5.0"], "account-new": ["account-new@1.0"]}


async def fill_one(store: Any, id: str) -> None:
    await Repository(Account, store).save(Account.open(id, owner="ann"))


async def test_start_now_that_was_forgotten_begins_with_the_next_run(any_store: Any) -> None:
    await fill_history(any_store)
    checkpoints, outside = MemoryCheckpoints(), Outside()
    await Processor(outside, any_store, checkpoints, start="now").run(until_caught_up=True)
    await deposit(any_store, "a-1", 7)
    if not any_store.ordered:
        await age(any_store)
    processor = Processor(outside, any_store, checkpoints, start="now")
    await processor.forget()
    await processor.run(until_caught_up=True)
    assert outside.seen == {}
    await deposit(any_store, "a-1", 8)
    await processor.run(until_caught_up=True)
    assert outside.seen == {"account-a-1": ["account-a-1@6.0"]}


@pytest.mark.parametrize("minutes", [-10, 10, 600])
async def test_start_now_loses_nothing_of_a_writer_whose_clock_is_wrong(any_store: Any, minutes: int) -> None:
    """Its clock is up to 15 minutes slow, or any time fast."""
    await fill_history(any_store)
    checkpoints, outside = MemoryCheckpoints(), Outside()
    await Processor(outside, any_store, checkpoints, start="now").run(until_caught_up=True)
    async with MemoryStore() as other:
        await fill_one(other, "new")
        [commit] = await commits_of(other)
    await any_store.append(structs.replace(commit, time=commit.time + minutes * 60_000_000, position=None))
    await Processor(outside, any_store, checkpoints, start="now").run(until_caught_up=True)
    assert outside.seen == {"account-new": ["account-new@1.0"]}


async def test_with_start_now_a_stream_that_begins_is_handled_to_its_end(store: Hints) -> None:
    """The feed delivers an early commit late, when it had delivered those after it before the start."""
    await fill(store, accounts=2, deposits=4)
    processor = Processor(InMemory(), store, start="now")
    await processor.pipeline.prepare()
    await processor.pipeline.assignment.take_all()
    late = next(commit for commit in await commits_of(store) if (commit.stream, commit.version) == ("account-a-1", 2))
    await processor.pipeline.handle([late])
    await processor.pipeline.wait_until_idle()
    assert await processor.projection.read_handled() == {"account-a-1": (await ids_of(store))["account-a-1"]}


@pytest.mark.parametrize("ordered", [True, False])
async def test_with_start_now_verify_handles_every_commit_since_the_start(
    store: Hints, ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only the last commit of the stream, whose version it compares."""
    monkeypatch.setattr(Hints, "ordered", ordered)
    await fill(store, accounts=2)
    await age(store)
    checkpoints = MemoryCheckpoints()
    async with running(Processor(Outside(), store, checkpoints, start="now")):
        pass
    for amount in range(3):
        await deposit(store, "a-1", amount + 7)
    found = await verify(processor := Processor(Outside(), store, checkpoints, start="now"))
    assert (found.missing, found.handled) == (3, 3)
    assert await processor.projection.read_handled() == {"account-a-1": [f"account-a-1@{v}.0" for v in (5, 6, 7)]}


async def test_the_checkpoint_is_renewed_while_there_are_no_commits(store: MemoryStore) -> None:
    """A checkpoint of a DynamoDB feed is valid for 23 hours."""
    checkpoints = MemoryCheckpoints()
    processor = Processor(Outside(), store, checkpoints)
    await processor.pipeline.prepare()
    await processor.pipeline.assignment.take_all()
    for hour in range(3):
        processor.pipeline.batch_done(Batch([], str(hour), caught_up=True))
        await processor.pipeline.checkpointer.save()
    [slot] = await checkpoints.slots(processor.name)
    assert slot.checkpoint == "2"


@pytest.mark.parametrize("written", [0, 1, 5], ids="{} commits since".format)
async def test_after_a_restore_nothing_is_handled_and_the_error_says_what_to_do(tmp_path: Path, written: int) -> None:
    """Whether the restored store ends before the checkpoint, has a commit at it, or was written past it."""
    backup = tmp_path / "backup.db"
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        async with SQLiteStore(tmp_path / "ledger.db") as store:
            await fill(store, accounts=1, deposits=2)
            with closing(sqlite3.connect(tmp_path / "ledger.db")) as db, closing(sqlite3.connect(backup)) as copy:
                db.backup(copy)
            await deposit(store, "a-0", 3)
            await Processor(InSQLite(), store, checkpoints).run(until_caught_up=True)
        async with SQLiteStore(backup) as restored:
            for amount in range(written):
                await deposit(restored, "a-0", 10 + amount)
            processor = Processor(InSQLite(), restored, checkpoints)
            before = await processor.projection.read_handled()
            with pytest.raises((FeedTrimmed, StoreChanged), match=r"`await processor.forget\(\)` and run again"):
                await processor.run(until_caught_up=True)
            assert await processor.projection.read_handled() == before

            await processor.forget()
            await processor.run(until_caught_up=True)
            assert await processor.projection.read_handled() == await ids_of(restored)


async def test_checkpoints_of_another_store_are_refused(store: Hints, tmp_path: Path) -> None:
    """Also if the other store is a copy of the commits, and is ahead."""
    await fill(store, accounts=1, deposits=3)
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints, MemoryStore() as other:
        await Processor(InSQLite(), store, checkpoints).run(until_caught_up=True)
        for commit in await commits_of(store):
            await other.append(commit)
        await deposit(other, "a-0", 7)
        with pytest.raises(StoreChanged, match="belong to another store or tenant"):
            await Processor(InSQLite(), other, checkpoints).run(until_caught_up=True)
        assert await Processor(InSQLite(), store, checkpoints).projection.read_handled() == await ids_of(store)


def test_the_error_for_a_feed_that_is_too_old_has_another_remedy_after_a_restore() -> None:
    message = str(FeedTrimmed("it is too old"))
    assert message.startswith("it is too old; start again from an empty checkpoint or an export")
    assert message.endswith("if the store was restored, call `await processor.forget()` instead")


@pytest.mark.parametrize("wrong", [3, b"3"])
async def test_a_checkpoint_that_is_not_a_text_is_refused(store: Hints, wrong: Any) -> None:
    with pytest.raises(TypeError, match=rf"a checkpoint is a str, not {type(wrong).__name__}; use one of a batch"):
        await anext(store.feed(after=wrong))
    with pytest.raises(TypeError, match="a checkpoint is a str"):
        await Processor(Outside(), store, MemoryCheckpoints()).resume_from(wrong)
