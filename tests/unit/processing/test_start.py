"""Where a processor starts, and that its checkpoint does not expire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from support.ledger import InMemory, InSQLite, Outside, commits_of, deposit, fill, ids_of, running

from eventsrc import Batch, FeedTrimmed, MemoryStore
from eventsrc.processing import MemoryCheckpoints, Processor, SQLiteCheckpoints, verify

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


async def test_after_a_restore_the_error_says_how_to_get_a_correct_read_model(store: Hints, tmp_path: Path) -> None:
    await fill(store, accounts=1, deposits=3)
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints, MemoryStore() as restored:
        await Processor(InSQLite(), store, checkpoints).run(until_caught_up=True)
        [first, *_] = await commits_of(store)
        await restored.append(first)
        processor = Processor(InSQLite(), restored, checkpoints)
        with pytest.raises(
            FeedTrimmed, match="checkpoint 3 is ahead of the last commit, 1: the store was restored"
        ) as raised:
            await processor.run(until_caught_up=True)
        assert "call `await processor.forget()` and run again; do not resume with an empty" in str(raised.value)

        await processor.forget()
        await processor.run(until_caught_up=True)
        await deposit(restored, "a-0", 7)  # it takes the version of a lost commit
        await processor.run(until_caught_up=True)
        assert await processor.projection.read_handled() == await ids_of(restored)


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
