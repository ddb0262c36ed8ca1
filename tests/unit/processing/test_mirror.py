"""A mirror: another store that holds the same commits, despite restarts, races and foreign commits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.ledger import running, until
from support.slices import FENCE, slices
from support.tables import fresh_name, store_on

from eventsrc import (
    Commit,
    ConflictError,
    MemoryStore,
    Receipt,
    SQLiteStore,
    Store,
    StoreChanged,
    StreamParked,
    StreamsParked,
)
from eventsrc.errors import CommitOutcomeUnknown
from eventsrc.processing import MemoryCheckpoints, Processor, SQLiteCheckpoints
from eventsrc.processing.projections.mirror import Mirror
from eventsrc.processing.slice import Position
from eventsrc.testing.contract.samples import expect_stored, fill, make_commit, make_snapshot

PAIRS = [("memory", "sqlite"), ("sqlite", "memory"), ("sqlite", "dynamodb"), ("dynamodb", "sqlite")]


@pytest.fixture
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    kinds: Sequence[str] = getattr(request, "param", PAIRS[0])
    async with AsyncExitStack() as stack:
        made: list[Store] = []
        for kind in kinds:
            if kind == "dynamodb":
                dynamodb = store_on(request.getfixturevalue("dynamodb_endpoint"), fresh_name(), tenant="acme")
                await stack.enter_async_context(dynamodb)
                await dynamodb.create_table(stream=True)
                made.append(dynamodb)
            else:
                store = MemoryStore() if kind == "memory" else SQLiteStore(tmp_path / "mirror.db")
                made.append(await stack.enter_async_context(store))
        yield made[0], made[1]


def full(stream: str, version: int) -> Commit:
    """Return a commit with every field set."""
    return make_commit(
        stream,
        version,
        events=3,
        tags=("b", "a", "c"),
        payload=os.urandom(2_000),
        correlation_id="request-9",
        causation_ids=("account-a-1@7.0", "account-a-2@1.1"),
        command_id="command-1",
        command_digest=os.urandom(16),
        metadata={"z": "1", "a": "\U0001f600"},
    )


async def filled(store: Store, streams: int = 3, size: int = 5) -> dict[str, list[Commit]]:
    return {f"account-a-{number}": await fill(store, f"account-a-{number}", size) for number in range(streams)}


async def expect_copied(target: Store, expected: dict[str, list[Commit]]) -> None:
    for stream, commits in expected.items():
        await expect_stored(target, stream, commits)


@pytest.mark.parametrize("stores", PAIRS, indirect=True, ids="-".join)
async def test_a_mirror_copies_commits_unchanged(stores: tuple[Store, Store]) -> None:
    store, target = stores
    expected = await filled(store)
    await store.append(commit := full("full", 1))
    await store.put_snapshot(make_snapshot("full", 1))
    processor = Processor(Mirror(target), store, MemoryCheckpoints())
    await processor.run(until_caught_up=True)
    await expect_copied(target, expected | {"full": [commit]})
    assert (await target.load("full")).snapshot is None
    assert await processor.positions(["full", "account-a-0", "none"]) == {"full": 1, "account-a-0": 5}


async def test_a_mirror_copies_while_writers_continue(stores: tuple[Store, Store]) -> None:
    """With restarts in between, each without checkpoints."""
    store, target = stores
    expected: dict[str, list[Commit]] = {}

    async def write(stream: str) -> None:
        expected[stream] = await fill(store, stream, 40)

    writing = asyncio.gather(*(write(f"account-b-{number}") for number in range(8)))
    for _ in range(3):
        processor = Processor(Mirror(target), store, MemoryCheckpoints())
        async with running(processor):
            await until(lambda processor=processor: processor.pipeline.progress.commits > 20 or writing.done())
    await writing
    await Processor(Mirror(target), store, MemoryCheckpoints()).run(until_caught_up=True)
    await expect_copied(target, expected)


async def test_several_mirrors_at_once_copy_each_commit_once(stores: tuple[Store, Store]) -> None:
    store, target = stores
    expected = await filled(store, 6, 30)
    mirrors = [Processor(Mirror(target), store, MemoryCheckpoints()) for _ in range(3)]
    await asyncio.gather(*(each.run(until_caught_up=True) for each in mirrors))
    await expect_copied(target, expected)


async def test_a_mirror_resumes_at_the_versions_of_the_target(stores: tuple[Store, Store], tmp_path: Path) -> None:
    """With new checkpoints. Those of another target are refused."""
    store, target = stores
    expected = await filled(store, 2, 3)
    async with SQLiteCheckpoints(tmp_path / "checkpoints.db") as checkpoints:
        await Processor(Mirror(target), store, checkpoints).run(until_caught_up=True)
        async with SQLiteStore(tmp_path / "restored.db") as restored:
            for commit in expected["account-a-0"][:1]:
                await restored.append(commit)
            for stream in expected:
                expected[stream].append(commit := make_commit(stream, 4))
                await store.append(commit)
            with pytest.raises(
                StoreChanged
            ):  # with these checkpoints, commits that only the old target has would be missing
                await Processor(Mirror(restored), store, checkpoints).run(until_caught_up=True)
            async with SQLiteCheckpoints(tmp_path / "new-checkpoints.db") as new:
                await Processor(Mirror(restored), store, new).run(until_caught_up=True)
            await expect_copied(restored, expected)


@pytest.mark.parametrize("strangers", [1, 3, 4, 7])
async def test_a_target_with_foreign_commits_parks_the_stream(stores: tuple[Store, Store], strangers: int) -> None:
    """Whether it has fewer commits than the store, as many, or more. Other streams continue."""
    store, target = stores
    expected = await filled(store, 2, 4)
    foreign = await fill(target, "account-a-0", strangers)
    processor = Processor(Mirror(target), store, MemoryCheckpoints(), attempts=1)
    with pytest.raises(StreamsParked):
        await processor.run(until_caught_up=True)
    assert [(each.stream, each.attempts) for each in await processor.parked()] == [("account-a-0", 1)]
    await expect_copied(target, {"account-a-0": foreign, "account-a-1": expected["account-a-1"]})
    with pytest.raises(StreamParked) as error:
        await processor.retry("account-a-0")
    assert isinstance(error.value.__cause__, ConflictError)
    with pytest.raises(ValueError, match="cannot skip commits"):
        await processor.skip("account-a-0", "never mind")
    await expect_copied(target, {"account-a-0": foreign})


async def test_a_target_ahead_of_the_store_conflicts_at_the_next_commit(stores: tuple[Store, Store]) -> None:
    """As after the store was restored from a backup."""
    store, target = stores
    commits = await fill(target, "account-a-0", 5)
    for commit in commits[:3]:
        await store.append(commit)
    processor = Processor(Mirror(target), store, MemoryCheckpoints(), attempts=1)
    async with running(processor):
        await asyncio.wait_for(processor.caught_up.wait(), 20)
        assert not await processor.parked()
        assert await processor.positions(["account-a-0"]) == {"account-a-0": 3}
        await store.append(make_commit("account-a-0", 4))
        await until(lambda: processor.pipeline.parking.parked)
    await expect_copied(target, {"account-a-0": commits})


async def test_a_commit_that_the_target_cannot_hold_parks_its_stream(tmp_path: Path) -> None:
    async with MemoryStore() as store, SQLiteStore(tmp_path / "small.db", max_commit_bytes=1_000) as target:
        expected = await filled(store, 1)
        await store.append(full("full", 1))
        processor = Processor(Mirror(target), store, MemoryCheckpoints(), attempts=1)
        with pytest.raises(StreamsParked):
            await processor.run(until_caught_up=True)
        assert [(each.stream, each.version) for each in await processor.parked()] == [("full", 1)]
        await expect_copied(target, expected)


class Unsure(SQLiteStore):
    """Every second reply is lost, after the commit was stored."""

    lost = 0

    async def append(self, commit: Commit) -> Receipt:
        receipt = await super().append(commit)
        self.lost += 1
        if self.lost % 2:
            raise CommitOutcomeUnknown(commit)
        return receipt


async def test_an_unknown_outcome_is_settled(tmp_path: Path) -> None:
    async with MemoryStore() as store, Unsure(tmp_path / "unsure.db") as target:
        expected = await filled(store, 2, 3)
        await Processor(Mirror(target), store, MemoryCheckpoints()).run(until_caught_up=True)
        await expect_copied(target, expected)


async def test_a_mirror_refuses_to_delete_commits(tmp_path: Path) -> None:
    async with MemoryStore() as store, SQLiteStore(tmp_path / "mirror.db") as target:
        expected = await filled(store)
        mirror = Mirror(target)
        mirror.bind(MemoryCheckpoints(), store)
        for run in slices([commit for commits in expected.values() for commit in commits]):
            assert not await mirror.apply([run])
        with pytest.raises(TypeError, match="mirror to an empty one"):
            await mirror.discard()
        with pytest.raises(TypeError, match="mirror to an empty store"):
            await mirror.reset("account-a-0", FENCE)
        await expect_copied(target, expected)


async def test_the_position_of_a_mirror_is_the_last_commit_that_both_stores_have(tmp_path: Path) -> None:
    async with MemoryStore() as store, SQLiteStore(tmp_path / "mirror.db") as target:
        expected = await filled(store, streams=2)
        mirror = Mirror(target)
        mirror.bind(MemoryCheckpoints(), store)
        for commit in expected["account-a-0"][:3]:
            await target.append(commit)
        await fill(target, "account-a-1", 3)  # other commits
        positions = await mirror.positions(["account-a-0", "account-a-1", "account-a-9"])
        last = expected["account-a-0"][2]
        assert positions == {"account-a-0": Position(3, last.id, last.time), "account-a-1": Position(2)}
