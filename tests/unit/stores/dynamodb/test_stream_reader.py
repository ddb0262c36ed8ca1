"""The reader of a table's stream, on a service in memory that splits and trims shards, refuses requests and lags."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from random import Random
from time import time
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fakestreams import ARN, FakeShard, FakeStreams, refused

from eventsrc import Batch, Commit, FeedTrimmed, MemoryStore, StoreRejected, Usage
from eventsrc.stores.dynamodb.feed import shard_reader, stream_reader
from eventsrc.stores.dynamodb.feed.change_records import read_changes
from eventsrc.stores.dynamodb.feed.checkpoint import Checkpoint, find_earliest, parse_checkpoint
from eventsrc.stores.dynamodb.feed.found import Found, find_commits
from eventsrc.stores.dynamodb.feed.lineage import Cursor
from eventsrc.stores.dynamodb.feed.stream_reader import StreamReader
from eventsrc.stores.dynamodb.feed.table_feed import send_read
from eventsrc.stores.dynamodb.items import Items
from eventsrc.stores.dynamodb.wire.limits import Limits
from eventsrc.stores.dynamodb.wire.sdk import SDKClient
from eventsrc.stores.gate import Gate
from eventsrc.testing.contract.samples import make_commit

Keys = set[tuple[str, int]]
T = TypeVar("T")
HOUR = 3600


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read without pauses, because the service in memory has no limits."""
    for name in ("REQUEST_INTERVAL", "FIRST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(shard_reader, name, 0.0)
    for name in ("SHORTEST_WAIT", "CHILDLESS_WAIT", "LONGEST_WAIT"):
        monkeypatch.setattr(stream_reader, name, 0.001)


def reader(service: FakeStreams, checkpoint: str) -> StreamReader:
    client, items, limits = SDKClient(service), Items("PK", "SK", None), Limits(10.0, 64)

    async def asked(operation: str, request: dict[str, Any], kind: type[T]) -> T:
        return await send_read(client, operation, request, kind, limits, Usage())

    def to_commit(record: dict[str, Any]) -> Commit | None:
        [change] = read_changes([record], items)
        return change.commit

    return StreamReader(asked, parse_checkpoint(checkpoint), lambda records: find_commits(records, to_commit))


def beginning(since: float | None = None, **at: str) -> str:
    return Checkpoint(ARN, int(since or time()), [Cursor(at)]).text()


def batches(service: FakeStreams, after: str = "", *, follow: bool = False) -> AsyncGenerator[Batch]:
    return reader(service, after or beginning()).batches(follow=follow)


async def read_commits(service: FakeStreams, after: str = "") -> list[Commit]:
    return [commit async for batch in batches(service, after) for commit in batch.commits]


async def last(service: FakeStreams, after: str = "") -> str:
    """Return the checkpoint of the end."""
    return [batch.checkpoint async for batch in batches(service, after)][-1]


class Writer:
    """Writes commits of some streams, to a store first and then to the service."""

    def __init__(self, service: FakeStreams, store: MemoryStore | None = None) -> None:
        self._service, self._store = service, store
        self._versions: dict[str, int] = {}
        self.written: list[Commit] = []

    async def write(self, streams: Iterable[str], at: datetime | None = None) -> list[Commit]:
        commits: list[Commit] = []
        for name in streams:
            self._versions[name] = version = self._versions.get(name, 0) + 1
            commits.append(make_commit(name, version))
            if self._store:
                await self._store.append(commits[-1])
        self._service.write(commits, at)
        self.written += commits
        return commits


def keys(commits: Iterable[Commit]) -> Keys:
    return {(commit.stream, commit.version) for commit in commits}


def same(found: Sequence[Commit], expected: Sequence[Commit]) -> bool:
    """Whether each of these commits was delivered once."""
    return sorted((each.stream, each.version) for each in found) == sorted((e.stream, e.version) for e in expected)


STREAMS = [f"s-{each}" for each in range(6)]
DOING = st.sampled_from(["write", "write", "split", "roll", "expire", "drop"])
Run = tuple[list[str], int, tuple[int, int]]
RUNS = st.lists(
    st.tuples(
        st.lists(DOING, max_size=8),  # actions of the service or its writers
        st.integers(0, 12),  # the number of batches after which it is killed
        st.tuples(st.integers(0, 99), st.integers(0, 99)),  # then it resumes from the earlier of two checkpoints
    ),
    max_size=6,
)


def keys_in(shards: Iterable[FakeShard]) -> Keys:
    return {(each["PK"]["S"], int(each["SK"]["N"])) for shard in shards for each in shard.items()}


class Campaign:
    """A service that changes while a processor reads it, is killed, and resumes."""

    def __init__(self, store: MemoryStore, seed: int) -> None:
        self._random = Random(seed)
        self.service = FakeStreams(random=self._random, shards=self._random.randrange(1, 4), empty=0.3)
        self.writer = Writer(self.service, store)
        self._seen: dict[str, int] = {}
        self._gate = Gate(store, self._seen)
        self.handled: list[Commit] = []
        self.after = beginning()
        self.delivered: dict[str, Keys] = {self.after: set()}  # before each checkpoint

    async def do(self, what: str) -> None:
        if what == "write":
            await self.writer.write(self._random.choices(STREAMS, k=self._random.randrange(1, 9)))
        elif what == "expire":
            self.service.expire()
        elif what == "drop":
            self._drop()
        else:
            open = self._random.choice(self.service.open())
            self.service.roll(open, parts=2 if what == "split" else 1, lag=3)

    def _drop(self) -> None:
        """Forget old checkpoints, and drop the shards that no kept checkpoint needs."""
        self.delivered = {each: self.delivered[each] for each in {self.after, *list(self.delivered)[-1:]}}
        needed = {
            id
            for each in self.delivered
            for cursor in parse_checkpoint(each).cursors
            for id in (*cursor.at, *cursor.done)
        }
        for id, shard in list(self.service.shards.items()):
            shard.hidden = 0  # a day has passed
            if (
                shard.closed
                and id not in needed
                and all(keys_in([shard]) <= delivered for delivered in self.delivered.values())
            ):
                del self.service.shards[id]

    async def run(self, actions: list[str], count: int) -> None:
        """Take `count` batches, or all if it is negative, with one action after each of them."""
        delivered = self.delivered[self.after]
        async with aclosing(batches(self.service, self.after)) as feed:
            async for batch in feed:
                for commit in batch.commits:
                    before = self.service.before(self.service.holding(commit))
                    assert keys_in(before) <= delivered, "a child came before its parent's end"
                    for due in await self._gate.due(commit):
                        self.handled.append(due)
                        self._gate.handled(due)
                self.after, delivered = batch.checkpoint, delivered | keys(batch.commits)
                self.delivered[self.after] = self.delivered.get(self.after, delivered) & delivered
                if (count := count - 1) == 0:
                    break
                if actions:
                    await self.do(actions.pop())

    def go_back(self, choice: tuple[int, int]) -> None:
        """Go back to the earlier of two checkpoints."""
        one, other = (list(self.delivered)[each % len(self.delivered)] for each in choice)
        self.after = find_earliest([one, other])
        self.delivered[self.after] = self.delivered[one] & self.delivered[other]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=RUNS, seed=st.integers(0, 2**32))
async def test_each_commit_is_delivered_for_any_changes_of_shards_and_any_resumed_checkpoint(
    runs: list[Run], seed: int
) -> None:
    """After any checkpoint, or the earliest of any two, each commit that was not delivered before it is delivered.

    Commits of parents come before those of children. The gate passes each commit once and in order.
    """
    async with MemoryStore() as store:
        campaign = Campaign(store, seed)
        for doing, count, choice in runs:
            actions = [each for each in doing if each != "drop"]
            await campaign.run(actions, count)
            for each in ("drop" in doing) * ["drop"] + actions:
                await campaign.do(each)
            campaign.go_back(choice)
        for shard in campaign.service.shards.values():
            shard.hidden = 0
        await campaign.run([], -1)
    written = campaign.writer.written
    assert campaign.delivered[campaign.after] == keys(written)
    for name in STREAMS:
        versions = [commit.version for commit in campaign.handled if commit.stream == name]
        assert versions == list(range(1, len(versions) + 1))
    assert same(campaign.handled, written)
    assert len(asyncio.all_tasks()) == 1


async def test_caught_up_is_reported_once_however_often_pages_are_empty() -> None:
    service = FakeStreams(shards=3, empty=0.8)
    writer = Writer(service)
    await writer.write(STREAMS * 5)
    found = [batch async for batch in batches(service)]
    assert [batch.caught_up for batch in found] == [False] * (len(found) - 1) + [True]
    assert same([commit for batch in found for commit in batch.commits], writer.written)
    [batch] = [batch async for batch in batches(service, found[-1].checkpoint)]
    assert (list(batch.commits), batch.caught_up) == ([], True)


async def test_a_follower_gets_each_end_once_and_later_commits() -> None:
    service = FakeStreams()
    writer = Writer(service)
    async with aclosing(batches(service, follow=True)) as feed:
        for _ in range(3):
            assert (await anext(feed)).caught_up
            expected = await writer.write(["s-1"])
            assert list((await anext(feed)).commits) == expected
            service.roll(service.open()[0])
    assert len(asyncio.all_tasks()) == 1


async def test_the_end_is_reported_again_after_a_record_without_a_commit_and_after_a_shard() -> None:
    service = FakeStreams()
    source = reader(service, beginning())
    source._find = lambda _: Found([], (), 0)
    async with aclosing(source.batches(follow=True)) as feed:
        checkpoints = [(await anext(feed)).checkpoint]
        await Writer(service).write(["s-1"])
        checkpoints.append((await anext(feed)).checkpoint)
        service.roll(service.open()[0])
        checkpoints.append((await anext(feed)).checkpoint)
    assert len({str(parse_checkpoint(each).cursors) for each in checkpoints}) == 3


async def test_a_refused_iterator_is_renewed_while_its_records_exist() -> None:
    service = FakeStreams(page=2)
    writer = Writer(service)
    await writer.write(STREAMS)
    found: list[Commit] = []
    async with aclosing(batches(service)) as feed:
        async for batch in feed:
            found += batch.commits
            service.faults["GetRecords"] = [refused("TrimmedDataAccessException")]
    assert same(found, writer.written)


async def test_an_expired_iterator_is_renewed_after_the_last_record() -> None:
    service = FakeStreams(page=2)
    writer = Writer(service)
    await writer.write(STREAMS)
    found: list[Commit] = []
    async with aclosing(batches(service)) as feed:
        async for batch in feed:
            found += batch.commits
            service.expire()
    assert same(found, writer.written)


CALLS = ["DescribeStream", "GetShardIterator", "GetRecords"]


@pytest.mark.parametrize(
    "fault",
    [
        refused("ProvisionedThroughputExceededException"),
        refused("LimitExceededException"),
        refused("ThrottlingException"),
        refused("InternalServerError", 500),
        ConnectionResetError(),
    ],
    ids=lambda fault: str(getattr(fault, "response", {}).get("Error", "reset")),
)
async def test_throttled_and_lost_requests_are_sent_again(fault: Exception) -> None:
    service = FakeStreams()
    writer = Writer(service)
    await writer.write(STREAMS)
    service.faults = {call: [fault] * 2 for call in CALLS}
    assert same(await read_commits(service), writer.written)


@pytest.mark.parametrize("call", CALLS)
async def test_a_refusal_is_raised_where_batches_are_awaited(call: str) -> None:
    service = FakeStreams()
    service.faults[call] = [ConnectionResetError(), refused("AccessDeniedException")]
    with pytest.raises(StoreRejected, match="AccessDenied"):
        await read_commits(service)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("call", CALLS[1:])
async def test_reading_starts_again_if_a_shard_is_trimmed_at_its_beginning(call: str) -> None:
    service = FakeStreams()
    writer = Writer(service)
    trimmed = refused("TrimmedDataAccessException")
    service.faults[call] = [trimmed, ConnectionResetError(), trimmed, trimmed]
    await writer.write(STREAMS)
    assert same(await read_commits(service), writer.written)


async def test_a_checkpoint_whose_next_records_are_gone_is_an_error() -> None:
    service = FakeStreams(page=2)
    writer = Writer(service)
    await writer.write(["s-1"] * 6)
    first = [batch async for batch in batches(service)]
    service.shards[service.open()[0]].trimmed = 5
    with pytest.raises(FeedTrimmed, match="start again"):
        await read_commits(service, first[0].checkpoint)
    assert len(await read_commits(service, beginning())) == 1  # the beginning is the oldest record that exists


async def test_a_closed_shard_that_was_trimmed_completely_does_not_block_its_children() -> None:
    service = FakeStreams()
    writer = Writer(service)
    old = service.open()[0]
    await writer.write(STREAMS)
    service.roll(old)
    expected = await writer.write(STREAMS)
    service.shards[old].trimmed = len(STREAMS)
    assert same(await read_commits(service), expected)


async def test_records_that_are_trimmed_while_a_reader_is_before_them_are_an_error() -> None:
    service = FakeStreams(page=2)
    await Writer(service).write(["s-1"] * 40)
    feed = batches(service)
    assert (await anext(feed)).commits
    service.shards[service.open()[0]].trimmed = 39
    with pytest.raises(FeedTrimmed):
        [_ async for _ in feed]


@pytest.mark.parametrize("begun", [True, False])
async def test_a_shard_that_is_gone_is_an_error(begun: bool) -> None:
    service = FakeStreams()
    if begun:
        await Writer(service).write(["s-1"])
    checkpoint = await last(service)
    service.roll(service.open()[0])
    del service.shards[min(service.shards)]
    with pytest.raises(FeedTrimmed):
        await read_commits(service, checkpoint)


async def test_a_stream_that_is_gone_is_an_error() -> None:
    with pytest.raises(FeedTrimmed):
        await read_commits(FakeStreams(), Checkpoint("arn:of:another", int(time()), [Cursor()]).text())


async def test_a_reader_that_is_a_day_late_gets_feed_trimmed() -> None:
    service = FakeStreams()
    writer = Writer(service)
    await writer.write(["s-1"] * 2, datetime.now(UTC) - timedelta(hours=22))
    assert len(await read_commits(service, beginning(time() - 22.9 * HOUR))) == 2
    with pytest.raises(FeedTrimmed):
        await read_commits(service, beginning(time() - 23.1 * HOUR))


async def test_the_age_of_a_checkpoint_is_that_of_the_next_records() -> None:
    service = FakeStreams(page=1)
    writer = Writer(service)
    long_ago = datetime.now(UTC) - timedelta(hours=9)
    await writer.write(["s-1"], long_ago)
    await writer.write(["s-1"])
    ages = [
        time() - parse_checkpoint(batch.checkpoint).since
        async for batch in batches(service, beginning(time() - 20 * HOUR))
    ]
    hours = [round(age / HOUR) for age in ages]
    assert hours == [9, 0, 0]
    service.roll(service.open()[0])  # first with children, then without
    assert time() - parse_checkpoint(await last(service, beginning(time() - 20 * HOUR))).since < HOUR
    service.shards[service.open()[0]].hidden = 10**6
    assert time() - parse_checkpoint(await last(service, beginning(time() - 20 * HOUR))).since < HOUR


async def test_a_checkpoint_that_gets_old_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_reader, "RENEW_AFTER", 0.0)
    async with aclosing(batches(FakeStreams(), follow=True)) as feed:
        for _ in range(5):
            batch = await anext(feed)
            assert not batch.commits


async def test_a_checkpoint_is_renewed_after_many_records_without_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_reader, "MAX_SKIPPED", 10)
    service = FakeStreams(page=1)
    await Writer(service).write(["s-1"] * 25)
    source = reader(service, beginning())
    source._find = lambda _: Found([], (), 0)
    found = [batch async for batch in source.batches(follow=False)]
    assert [batch.caught_up for batch in found] == [False, False, True]
    assert await read_commits(service, found[-1].checkpoint) == []


async def test_reading_stops_while_no_batches_are_taken() -> None:
    service = FakeStreams(shards=4, page=1)
    writer = Writer(service)
    await writer.write(STREAMS * 50)
    async with aclosing(batches(service)) as feed:
        found = list((await anext(feed)).commits)
        asked = -1
        while asked != len(service.calls):  # until no more requests are sent
            asked = len(service.calls)
            for _ in range(20):
                await asyncio.sleep(0.001)
        assert service.calls.count("GetRecords") <= stream_reader.MAX_PAGES + 2
        async for batch in feed:
            found += batch.commits
    assert same(found, writer.written)


async def test_a_stream_that_was_turned_off_is_read_to_its_end_and_then_an_error() -> None:
    service = FakeStreams()
    writer = Writer(service)
    await writer.write(STREAMS)
    service.status = "DISABLED"
    service.shards[service.open()[0]].closed = True
    found: list[Commit] = []

    async def follow() -> None:
        async for batch in batches(service, follow=True):
            found.extend(batch.commits)

    with pytest.raises(FeedTrimmed, match="turned off"):
        await follow()
    assert same(found, writer.written)


async def test_a_cancelled_follower_leaves_no_tasks() -> None:
    service, begun = FakeStreams(shards=3), asyncio.Event()

    async def follow() -> None:
        async with aclosing(batches(service, follow=True)) as feed:
            async for _ in feed:
                begun.set()

    task = asyncio.create_task(follow())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1


async def test_reading_without_follow_ends_while_writers_continue() -> None:
    service = FakeStreams()
    writer = Writer(service)
    before = await writer.write(STREAMS)
    found: list[Commit] = []
    caught_up = False
    async with asyncio.timeout(20):
        async for batch in batches(service):
            found += batch.commits
            caught_up = batch.caught_up
            # There is always more, and it is later than when the reader started.
            await writer.write(["busy"], datetime.now(UTC) + timedelta(seconds=10))
    assert caught_up
    assert keys(before) <= keys(found)


async def test_records_from_before_the_beginning_are_left_out_also_after_a_restart() -> None:
    """By their time; a record without a time is delivered."""
    service = FakeStreams(page=1)
    writer = Writer(service)
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    for at in (long_ago, None, long_ago, None):
        await writer.write(["s-1"], at)
    [shard] = service.shards.values()
    del shard.records[3]["dynamodb"]["ApproximateCreationDateTime"]
    start = Checkpoint(ARN, int(time()) - 2 * HOUR, [Cursor()], begin=int(time()) - 120).text()
    found = [batch async for batch in batches(service, start)]
    assert [commit.version for batch in found for commit in batch.commits] == [2, 4]
    middle = next(batch.checkpoint for batch in found if batch.commits)
    assert [commit.version for commit in await read_commits(service, middle)] == [4]
    assert [commit.version for commit in await read_commits(service, find_earliest([middle, start]))] == [
        2,
        4,
    ]
