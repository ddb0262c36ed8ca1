"""The inbox: each event of another service is stored once, in order, whatever is repeated, cut short or raced."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventsrc import (
    Commit,
    CommitOutcomeUnknown,
    CommitTooLarge,
    ConflictError,
    MemoryStore,
    Receipt,
    SQLiteStore,
    StoreRejected,
    StoreUnavailable,
    WrongSource,
)
from eventsrc.aggregates.codec import unpack
from eventsrc.messaging import Inbox, Received, ReceivedEvent
from eventsrc.messaging.inbox_stream import InboxStream, find_place
from eventsrc.messaging.resume_token import ResumeToken
from eventsrc.processing import MemoryCheckpoints
from eventsrc.processing.checkpoints.checkpoints import Slot
from eventsrc.publishing.token import FeedToken, Place
from eventsrc.stream_id import check_stream, stream_id

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def event(id: str, source: str = "/ledger", **options: Any) -> ReceivedEvent:
    return ReceivedEvent(id=id, source=source, type="t", content=b'{"id": 1}', **options)


def events_of(stream: str, count: int) -> list[ReceivedEvent]:
    """Return events of a stream, some of which share a commit or are parts."""
    ids = (f"{version}.{index}" for version in range(1, count + 1) for index in ("0", "1", "1.1"))
    return [event(f"{stream}@{id}") for id in ids][:count]


def token(position: int, store: bytes = b"here") -> str:
    return FeedToken(Place(position), store).text


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


@pytest.fixture
async def checkpoints() -> AsyncIterator[MemoryCheckpoints]:
    async with MemoryCheckpoints() as checkpoints:
        yield checkpoints


async def stored(store: MemoryStore | SQLiteStore) -> list[Commit]:
    return [commit async for batch in store.feed(follow=False) for commit in batch.commits]


def read(commit: Commit) -> Received:
    body = unpack(commit.payload, commit.stream, commit.version)
    [found] = msgspec.msgpack.decode(body, type=list[Received])
    return found


async def ids(store: MemoryStore | SQLiteStore) -> list[str]:
    return [read(commit).id for commit in await stored(store)]


async def test_an_event_is_stored_with_its_attributes_and_its_trace(
    store: MemoryStore, checkpoints: MemoryCheckpoints
) -> None:
    given = event(
        "order-7@3.1", subject="order-7", extensions={"correlationid": "request-9", "traceparent": TRACEPARENT, "n": 1}
    )
    receipt = await Inbox("/ledger", store, checkpoints).receive(given)
    [commit] = await stored(store)
    assert (receipt.stream, receipt.version, receipt.duplicate) == ("inbox-/ledger#order-7", 1, False)
    assert (commit.stream, commit.version, commit.tags) == ("inbox-/ledger#order-7", 1, ("inbox.received",))
    assert (commit.correlation_id, commit.causation_ids) == ("request-9", ("order-7@3.1",))
    assert commit.metadata == {"traceparent": TRACEPARENT, "source": "/ledger"}
    found = read(commit)
    assert (found.id, found.subject, found.data) == ("order-7@3.1", "order-7", {"id": 1})
    assert found.read(dict[str, int]) == {"id": 1}
    assert found.extensions == given.extensions


async def test_an_event_without_a_correlation_id_is_of_the_trace_that_it_starts(
    store: MemoryStore, checkpoints: MemoryCheckpoints
) -> None:
    await Inbox("/ledger", store, checkpoints).receive(event("order-7@3.1"))
    [commit] = await stored(store)
    assert commit.correlation_id == "order-7@3"


async def test_what_comes_again_is_a_duplicate(store: MemoryStore, checkpoints: MemoryCheckpoints) -> None:
    inbox = Inbox("/ledger", store, checkpoints)
    given = events_of("a-1", 6)
    for each in given:
        assert not (await inbox.receive(each)).duplicate
    for each in given:
        receipt = await inbox.receive(each)
        assert receipt == Receipt("inbox-/ledger#a-1", 6, None, duplicate=True)
    assert await ids(store) == [each.id for each in given]


def test_the_state_of_an_inbox_stream_does_not_grow() -> None:
    stream = InboxStream(id="x")
    sizes = set()
    for each in events_of("a-1", 30):
        stream.receive(Received(id=each.id, source=each.source, type=each.type), find_place(each, ordered=True).numbers)
        sizes.add(len(msgspec.msgpack.encode(stream.last)))
    assert sizes == {4}
    assert set(stream.__struct_fields__) == {"id", "last"}


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_workers_that_start_anywhere_store_each_event_once_and_in_order(seed: int, workers: int) -> None:
    """Each worker receives the feed from a place before which all is stored, as a token says, in parts of any size."""

    async def run() -> None:
        chance = random.Random(seed)
        feeds = {name: events_of(name, chance.randint(1, 12)) for name in ("a-1", "b@2.0", "c")}
        feed: list[ReceivedEvent] = []
        rest = {name: list(each) for name, each in feeds.items()}
        while any(rest.values()):
            feed.append(rest[chance.choice([name for name in rest if rest[name]])].pop(0))
        token = 0  # the events before it are stored
        async with MemoryStore() as store, MemoryCheckpoints() as checkpoints:

            async def work() -> None:
                nonlocal token
                inbox, at = Inbox("/ledger", store, checkpoints, concurrency=2), token
                while at < len(feed):
                    if chance.random() < 0.2:
                        inbox, at = Inbox("/ledger", store, checkpoints), chance.randint(0, token)  # killed, resumed
                    part = feed[at : at + chance.randint(1, 5)]
                    task = asyncio.create_task(inbox.receive_all(part))
                    if chance.random() < 0.2:
                        await asyncio.sleep(0)
                        task.cancel()
                        await asyncio.wait((task,))
                        continue
                    await task
                    at += len(part)
                    token = max(token, at)

            await asyncio.gather(*(work() for _ in range(workers)))
            found = await stored(store)
            for given in feeds.values():
                stream = stream_id("inbox", find_place(given[0], ordered=True).inbox)
                assert [read(commit).id for commit in found if commit.stream == stream] == [each.id for each in given]
            assert len(found) == len(feed)

    asyncio.run(run())


class Unreliable(MemoryStore):
    """Appends have any outcome, and the answer often says nothing about it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.chance = random.Random(seed)
        self.late: list[Commit] = []

    async def append(self, commit: Commit) -> Receipt:
        outcome = self.chance.random()
        if outcome < 0.2:
            raise StoreUnavailable("scripted")
        if outcome < 0.4:
            await super().append(commit)
            raise CommitOutcomeUnknown(commit, "scripted")
        if outcome < 0.5:
            self.late.append(commit)
            raise CommitOutcomeUnknown(commit, "scripted")
        if self.late and outcome < 0.8:
            with suppress(ConflictError):
                await super().append(self.late.pop())
        return await super().append(commit)


@pytest.mark.parametrize("seed", range(8))
async def test_a_store_whose_answers_are_lost_stores_each_event_once(seed: int, checkpoints: MemoryCheckpoints) -> None:
    given = [each for pair in zip(events_of("a-1", 12), events_of("b-1", 12), strict=True) for each in pair]
    async with Unreliable(seed) as store:
        await Inbox("/ledger", store, checkpoints).receive_all(given)
        await Inbox("/ledger", store, checkpoints).receive_all(given)
        found = await ids(store)
        assert sorted(found) == sorted(each.id for each in given)
        for stream in ("a-1", "b-1"):
            assert [id for id in found if id.startswith(stream)] == [e.id for e in given if e.id.startswith(stream)]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text(min_size=700, max_size=800)


@settings(deadline=None)
@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_any_two_texts_name_a_stream_of_their_own(source: str, id: str, other_source: str, other_id: str) -> None:
    pairs = {(source, id), (other_source, other_id), (source, other_id), (source + "#", id), (source, "#" + id)}
    for mark in ("@1.0", ""):
        names = {find_place(event(text + mark, each), ordered=True).inbox for each, text in pairs}
        assert len(names) == len(pairs)
        for name in names:
            check_stream(stream_id("inbox", name))
            assert len(name) <= 1000


def test_the_kinds_of_ids_do_not_share_streams() -> None:
    uuid = "018f3c1e-7a4b-7c3d-8e2f-0123456789ab"
    names = [
        find_place(event("order-7@1.0"), ordered=True).inbox,
        find_place(event("order-7"), ordered=True).inbox,
        find_place(event("order-7@1.0"), ordered=False).inbox,
        find_place(event(f"{uuid}.0"), ordered=True).inbox,
        find_place(event(f"{uuid}@1.0"), ordered=True).inbox,
        find_place(event("!order-7@1.0"), ordered=True).inbox,
    ]
    assert names == [
        "/ledger#order-7",
        "/ledger#!order-7",
        "/ledger#!order-7%401.0",
        f"/ledger#!{uuid}",
        f"/ledger#{uuid}",
        "/ledger#%21order-7",
    ]


async def test_events_of_hidden_streams_are_stored_once(store: MemoryStore, checkpoints: MemoryCheckpoints) -> None:
    inbox = Inbox("/ledger", store, checkpoints)
    first, second = "018f3c1e-7a4b-7c3d-8e2f-0123456789ab", "018f3c1e-0000-7c3d-8e2f-0123456789ab"
    given = [event(id) for id in (f"{first}.0", f"{first}.1", f"{first}.1.1", f"{second}.0")]
    for _ in range(2):
        await inbox.receive_all(given)
    assert sorted(await ids(store)) == sorted(each.id for each in given)


async def test_without_an_order_each_event_is_stored_once(store: MemoryStore, checkpoints: MemoryCheckpoints) -> None:
    inbox = Inbox("/ledger", store, checkpoints, ordered=False)
    given = [event(id) for id in ("left-pad@1.10.0", "left-pad@1.9.0", "7", "left-pad@1.9.0.1")]
    for _ in range(2):
        await inbox.receive_all(given)
    assert sorted(await ids(store)) == sorted(each.id for each in given)


async def test_an_event_of_another_source_is_refused(store: MemoryStore, checkpoints: MemoryCheckpoints) -> None:
    inbox = Inbox("/ledger", store, checkpoints)
    with pytest.raises(WrongSource, match="'/other'"):
        await inbox.receive_all([event("a-1@1.0"), event("a-1@2.0", "/other")])
    assert await stored(store) == []


async def test_an_event_that_is_too_large_ends_it_and_nothing_after_it_is_stored(
    store: MemoryStore, checkpoints: MemoryCheckpoints
) -> None:
    large = msgspec.structs.replace(event("a-1@2.0"), content=random.Random(1).randbytes(500_000).hex().encode())
    inbox = Inbox("/ledger", store, checkpoints)
    with pytest.raises(CommitTooLarge):
        await inbox.receive_all([event("a-1@1.0"), large, event("a-1@3.0")])
    assert await ids(store) == ["a-1@1.0"]


class Feed:
    """What an inbox uses of a client: parts of a feed, each with the token after it."""

    def __init__(self, parts: Sequence[Sequence[ReceivedEvent]]) -> None:
        self.parts, self.token, self.started_at = parts, "", "unset"

    @property
    def has_ended(self) -> bool:
        return self._number == len(self.parts)

    @property
    def _number(self) -> int:
        return FeedToken.parse(self.token).place.position if self.token else 0

    def resume_from(self, token: str) -> None:
        self.token = self.started_at = token

    async def find_latest(self) -> str:
        return token(len(self.parts))

    async def read(self) -> Sequence[ReceivedEvent]:
        events = self.parts[self._number]
        self.token = token(self._number + 1)
        return events


def feed_of(*parts: Sequence[ReceivedEvent]) -> Any:
    return Feed(parts)


async def test_a_run_resumes_where_the_last_one_ended(store: MemoryStore, checkpoints: MemoryCheckpoints) -> None:
    given = events_of("a-1", 4)
    for length in (2, 4):
        feed = feed_of(*([each] for each in given[:length]))
        await Inbox("/ledger", store, checkpoints).run(feed)
        assert feed.started_at == (token(2) if length == 4 else "")
    assert await ids(store) == [each.id for each in given]
    other = feed_of()
    await Inbox("/other", store, checkpoints).run(other)
    assert other.started_at == ""


class Refusing(MemoryStore):
    """Refuses the event with one id."""

    refused = ""

    async def append(self, commit: Commit) -> Receipt:
        if self.refused and read(commit).id == self.refused:
            raise StoreRejected("Refused", "scripted")
        return await super().append(commit)


@pytest.mark.parametrize("save_every", [0.0, 1000.0])
async def test_the_token_is_never_ahead_of_what_is_stored(save_every: float, checkpoints: MemoryCheckpoints) -> None:
    given = events_of("a-1", 6)
    parts = [given[:2], given[2:4], given[4:]]
    async with Refusing() as store:
        for number, refused in enumerate(given):
            store.refused = refused.id
            feed = feed_of(*parts)
            with pytest.raises(StoreRejected):
                await Inbox("/ledger", store, checkpoints, save_every=save_every).run(feed)
            saved = await token_in(ResumeToken(checkpoints, "inbox:/ledger")) or ""
            place = FeedToken.parse(saved).place.position if saved else 0
            assert place == number // 2, "of each part, as few as are stored, and as many as are"
        store.refused = ""
        await Inbox("/ledger", store, checkpoints).run(feed_of(*parts))
        assert await ids(store) == [each.id for each in given]


async def test_latest_is_the_same_place_for_all_workers(store: MemoryStore, checkpoints: MemoryCheckpoints) -> None:
    given = events_of("a-1", 6)
    early, late = feed_of(given[:2]), feed_of(given[:2], given[2:4])
    await Inbox("/ledger", store, checkpoints, start="latest").run(early)
    assert early.started_at == token(1)
    await Inbox("/ledger", store, checkpoints, start="latest").run(late)
    assert late.started_at == token(1)
    assert await ids(store) == [each.id for each in given[2:4]]


@pytest.mark.parametrize("start", ["beginning", "latest"])
async def test_a_replaced_store_is_noticed(
    store: MemoryStore, checkpoints: MemoryCheckpoints, caplog: pytest.LogCaptureFixture, start: Any
) -> None:
    """An inbox that began at the latest event begins there again."""
    given = events_of("a-1", 6)
    parts = [[each] for each in given]
    await Inbox("/ledger", store, checkpoints, start=start).run(feed_of(*parts[:2]))
    await Inbox("/ledger", store, checkpoints).run(feed_of(*parts[:4]))
    expected = [each.id for each in (given if start == "beginning" else given[2:])]
    async with MemoryStore() as new:
        for length in (4, 6):
            await Inbox("/ledger", new, checkpoints).run(feed_of(*parts[:length]))
        assert await ids(new) == expected
    assert caplog.text.count("restored or replaced") == 1


@pytest.mark.parametrize("written", [0, 2, 3])
async def test_a_restored_store_is_noticed(tmp_path: Path, checkpoints: MemoryCheckpoints, written: int) -> None:
    """Also if it was written again, up to the version that was lost or past it."""
    given = [event(f"a-{number}@{version}.0") for version in (1, 2, 3, 4, 5) for number in range(3)]
    parts = [given[:5], given[5:11]]
    file, restored = tmp_path / "store.db", tmp_path / "restored.db"
    async with SQLiteStore(file) as store:
        await Inbox("/ledger", store, checkpoints).run(feed_of(parts[0]))
    shutil.copyfile(file, restored)
    async with SQLiteStore(file) as store:
        await Inbox("/ledger", store, checkpoints).run(feed_of(*parts))
    async with SQLiteStore(restored) as store:
        inbox = Inbox("/ledger", store, checkpoints)
        for each in given[5 : 5 + 3 * written]:  # as from another transport
            if each.id.startswith("a-1"):
                await inbox.receive(each)
        await inbox.run(feed_of(*parts))
        assert set(await ids(store)) >= {each.id for each in given[:11]}


async def test_the_event_that_a_token_needs_is_stored_after_all_others(checkpoints: MemoryCheckpoints) -> None:
    """So any store that is restored to an earlier time, and has it, has the others, too."""
    given = [event(f"a-{number}@1.0") for number in range(20)]

    class Slow(MemoryStore):
        async def append(self, commit: Commit) -> Receipt:
            for _ in range(20 - int(read(commit).id[2:-4])):  # later events overtake earlier ones
                await asyncio.sleep(0)
            return await super().append(commit)

    async with Slow() as store:
        await Inbox("/ledger", store, checkpoints).run(feed_of(given))
        assert (await ids(store))[-1] == given[-1].id
        found = await ResumeToken(checkpoints, "inbox:/ledger").load()
        assert found is not None
        assert found.mark is not None
        assert found.mark.commit_id == (await stored(store))[-1].id


async def test_a_token_is_not_stored_for_events_of_an_unknown_time(
    store: MemoryStore, checkpoints: MemoryCheckpoints
) -> None:
    """Another worker has stored them, perhaps after all that this one has."""
    given = events_of("a-1", 3)
    inbox = Inbox("/ledger", store, checkpoints, save_every=0)
    await inbox.run(feed_of(given[:1]))
    await inbox.receive(given[1])
    await inbox.run(feed_of(given[:1], given[1:2], []))
    saved = ResumeToken(checkpoints, "inbox:/ledger")
    assert await token_in(saved) == token(1)
    await inbox.run(feed_of(given[:1], given[1:2], [], given[2:], []))
    assert await token_in(saved) == token(5)


async def test_a_token_without_a_mark_is_used(store: MemoryStore, checkpoints: MemoryCheckpoints) -> None:
    """As it was stored before there were marks."""
    await checkpoints.claim("inbox:/ledger", Slot(number=0, of=1, epoch=3, checkpoint=token(1)))
    given = events_of("a-1", 2)
    await Inbox("/ledger", store, checkpoints).run(feed_of(given[:1], given[1:]))
    assert await ids(store) == [given[1].id]


async def token_in(saved: ResumeToken) -> str | None:
    found = await saved.load()
    return found.token if found is not None else None


async def test_of_two_workers_that_start_at_latest_the_first_one_decides(checkpoints: MemoryCheckpoints) -> None:
    tokens = [ResumeToken(checkpoints, "inbox:x") for _ in range(2)]
    await tokens[0].save_first(token(5))
    await tokens[1].save_first(token(9))
    assert await token_in(tokens[1]) == token(5)


async def test_a_token_never_goes_back_unless_it_is_replaced(checkpoints: MemoryCheckpoints) -> None:
    tokens = [ResumeToken(checkpoints, "inbox:x") for _ in range(2)]
    assert await token_in(tokens[0]) is None
    await tokens[0].save(token(5))
    await tokens[1].save(token(4))
    assert await token_in(tokens[0]) == token(5)
    await asyncio.gather(*(each.save(token(place)) for place in range(6, 12) for each in tokens[:1]))
    assert await token_in(tokens[1]) == token(11)
    await tokens[1].save(token(1, store=b"else"))
    assert await token_in(tokens[0]) == token(1, store=b"else")
    inbox = Inbox("x", MemoryStore(), checkpoints)
    await inbox.restart()
    assert await token_in(tokens[0]) == ""
    with pytest.raises(ValueError, match="not an id"):
        await inbox.restart("mine")


@pytest.mark.parametrize("options", [{"source": ""}, {"start": "now"}, {"concurrency": 0}, {"save_every": -1}], ids=str)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give"):
        Inbox(**{"source": "/ledger", "store": MemoryStore(), "checkpoints": MemoryCheckpoints(), **options})
