"""Many clients of the events API at once, slow ones, large pages, damaged rows, and ids of other stores."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import shutil
import sqlite3
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.bank import Deposited
from support.events_api import (
    EVENT_STREAM,
    App,
    Follower,
    api,
    eventually,
    fill,
    ids_of,
    pages,
    problem,
    published_ids,
    serving,
)

from eventsrc import Aggregate, Event, MemoryStore, Repository, SQLiteStore
from eventsrc.publishing import PublishedEvent, events_api
from eventsrc.publishing.asgi import Message
from eventsrc.publishing.history import History
from eventsrc.publishing.token import FeedToken
from eventsrc.store import Commit
from eventsrc.stores.ordered import OrderedStore
from eventsrc.testing.contract.samples import make_commit

IMMUTABLE = "public, max-age=31536000, immutable"


class Noted(Event, tag="noted"):
    text: str


class Note(Aggregate, tag="note"):
    def apply_noted(self, event: Noted) -> None: ...


NOTED: list[PublishedEvent[Any]] = [PublishedEvent(Noted, type="noted")]


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OrderedStore]:
    async with MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "ledger.db") as store:
        store.poll = None  # look for new commits only when this object has stored one
        yield store


async def note(store: OrderedStore, first: int, *sizes: Sequence[int]) -> None:
    """Append a commit for each list of sizes, with an event of about that many bytes for each size."""
    for number, each in enumerate(sizes, first):
        document = Note(id=f"n-{number}")
        for size in each:
            document.record(Noted(text=os.urandom(size // 2).hex()))
        await Repository(Note, store).save(document)


class Client:
    """A client without a server: it takes what the app sends, and may take it slowly."""

    def __init__(self, app: App, query: bytes = b"", *, stalls_at: bytes = b"data: ", delay: float = 0.0) -> None:
        self.text = b""
        self._ids: list[str] = []
        self._parsed = 0  # bytes of the text
        self._stalls_at, self._delay = stalls_at, delay
        self.stalled = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "root_path": "", "query_string": query}
        scope["headers"] = [(b"accept", b"text/event-stream")]
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        return await asyncio.Future[Message]()

    async def _send(self, message: Message) -> None:
        if self._delay:
            await asyncio.sleep(self._delay)
        if not self.go_on.is_set() and self._stalls_at in message.get("body", b""):
            self.stalled.set()
            await self.go_on.wait()
        self.text += message.get("body", b"")

    @property
    def ids(self) -> list[str]:
        """The ids of the events that have arrived. Each event is parsed once, as some tests ask all the time."""
        start, self._parsed = self._parsed, self.text.rfind(b"\n") + 1
        lines = self.text[start : self._parsed].splitlines()
        self._ids += [json.loads(line.removeprefix(b"data: "))["id"] for line in lines if line.startswith(b"data: ")]
        return self._ids


@asynccontextmanager
async def clients(app: App, count: int, query: bytes = b"") -> AsyncGenerator[list[Client]]:
    """Connect clients, and wait until all are idle."""
    connected = [Client(app, query) for _ in range(count)]
    try:
        await eventually(lambda: all(b"id: " in client.text for client in connected))
        await asyncio.sleep(0.05)
        yield connected
    finally:
        for client in connected:
            client.task.cancel()
        await asyncio.wait([client.task for client in connected])


# --- many clients


async def test_a_new_event_is_read_once_for_all_clients(store: OrderedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    commits_after = type(store).commits_after

    async def counted(store: Any, position: int) -> Any:
        nonlocal reads
        reads += 1
        return await commits_after(store, position)

    await note(store, 100, [10])
    app = events_api(store, NOTED, source="/")

    async def count_reads(count: int) -> int:
        nonlocal reads
        async with clients(app, count) as connected:
            before = len(connected[0].ids)
            reads = 0
            await note(store, count, [10])
            await eventually(lambda: all(len(client.ids) > before for client in connected))
            return reads

    monkeypatch.setattr(type(store), "commits_after", counted)
    assert await count_reads(30) <= await count_reads(1)


async def test_nothing_is_read_while_nothing_is_stored_also_after_the_last_commits_were_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SQLiteStore(tmp_path / "ledger.db") as store:
        await note(store, 0, [10], [10])
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        assert ledger.execute("DELETE FROM log WHERE stream = 'note-n-1'").rowcount == 1
    reads = 0
    commits_after = SQLiteStore.commits_after

    async def counted(store: Any, position: int) -> Any:
        nonlocal reads
        reads += 1
        return await commits_after(store, position)

    monkeypatch.setattr(SQLiteStore, "commits_after", counted)
    async with SQLiteStore(tmp_path / "ledger.db") as store:
        store.poll = 3600
        async with clients(events_api(store, NOTED, source="/"), 5) as connected:
            await eventually(lambda: all(client.ids == ["note-n-0@1.0"] for client in connected))
            await asyncio.sleep(0.1)
            await note(store, 2, [10])
            await eventually(lambda: all(client.ids[1:] == ["note-n-2@1.0"] for client in connected))
            assert reads <= 2 * 5 + 2


async def test_comments_for_many_clients_are_spread_over_time(store: OrderedStore) -> None:
    commented: dict[Client, float] = {}
    clock = asyncio.get_running_loop().time
    async with clients(events_api(store, NOTED, source="/", heartbeat=1), 30) as connected:
        await note(store, 0, [10])
        await eventually(lambda: all(client.ids for client in connected))
        sent = clock()

        def look() -> bool:
            for client in connected:
                if client.text.endswith(b"\n\n:\n\n") or client.text.count(b"id: ") > 2:
                    commented.setdefault(client, clock())
            return len(commented) == 30

        await eventually(look)
    assert max(commented.values()) - min(commented.values()) > 0.05
    assert min(commented.values()) - sent > 0.5, "only in silence"


async def test_an_event_is_encoded_once_for_all_clients_that_have_caught_up(store: OrderedStore) -> None:
    encoded: list[str] = []

    def data(event: Noted) -> str:
        encoded.append(event.text)
        return event.text

    app = events_api(store, [PublishedEvent(Noted, type="noted", data=data)], source="/")
    async with clients(app, 20) as connected:
        await note(store, 0, *[[10, 10]] * 5)
        await eventually(lambda: all(len(client.ids) == 10 for client in connected))
    assert len(encoded) == 10


async def test_clients_that_fall_behind_and_catch_up_get_each_event_once_in_order(
    store: OrderedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsrc.publishing.live.KEPT", 2_000)
    monkeypatch.setattr("eventsrc.publishing.chunk.CHUNK", 500)
    app = events_api(store, NOTED, source="/")
    chance = random.Random(1)
    async with clients(app, 12) as connected:

        async def hinder(client: Client) -> None:
            while True:
                client.go_on.clear()
                await asyncio.sleep(chance.random() * 0.02)
                client.go_on.set()
                await asyncio.sleep(chance.random() * 0.02)

        hindering = [asyncio.create_task(hinder(client)) for client in connected[:8]]
        for number in range(150):
            await note(store, number, [50] * chance.randint(1, 6))
            if number % 30 == 0:
                connected.append(Client(app))
        expected = [
            str(commit.event_id(index))
            async for batch in store.feed(follow=False)
            for commit in batch.commits
            for index in range(commit.events)
        ]
        await eventually(lambda: all(len(client.ids) >= len(expected) for client in connected))
        for task in hindering:
            task.cancel()
        assert all(client.ids == expected for client in connected)


async def test_a_client_that_takes_nothing_needs_at_most_256_kb(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "ledger.db") as store:
        await note(store, 0, *[[3_000]] * 800)
        app = events_api(store, NOTED, source="/")
        tracemalloc.start()
        try:
            async with clients(app, 1) as first:
                await eventually(lambda: len(first[0].ids) == 800)  # whatever is loaded lazily is loaded now
                first[0].text = b""
                gc.collect()
                before, _ = tracemalloc.get_traced_memory()
                stalled = [Client(app) for _ in range(40)]
                for client in stalled:
                    client.go_on.clear()
                await eventually(lambda: all(client.stalled.is_set() for client in stalled))
                await asyncio.sleep(0.5)  # a client keeps its page of commits for a moment
                gc.collect()
                held = tracemalloc.get_traced_memory()[0] - before
                for client in stalled:
                    client.task.cancel()
                await asyncio.wait([client.task for client in stalled])
        finally:
            tracemalloc.stop()
    assert held / 40 < 256 * 1024


async def test_clients_that_take_nothing_do_not_keep_others_from_reading(store: OrderedStore) -> None:
    await note(store, 0, *[[3_000]] * 100)
    app = events_api(store, NOTED, source="/")
    stalled = [Client(app) for _ in range(20)]
    for client in stalled:
        client.go_on.clear()
    await eventually(lambda: all(client.stalled.is_set() for client in stalled))
    async with clients(app, 1) as connected:
        await eventually(lambda: len(connected[0].ids) == 100)
    for client in stalled:
        client.go_on.set()
    await eventually(lambda: all(len(client.ids) == 100 for client in stalled))
    for client in stalled:
        client.task.cancel()
    await asyncio.wait([client.task for client in stalled])


async def test_pages_and_other_clients_do_not_wait_for_many_clients_that_take_nothing(
    store: OrderedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsrc.publishing.sse.TURN", 60.0)  # a client that kept its turn would be noticed
    await note(store, 0, *[[3_000]] * 100)
    app = events_api(store, NOTED, source="/")
    stalled = [Client(app) for _ in range(100)]
    for client in stalled:
        client.go_on.clear()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as reader:
        page = await asyncio.wait_for(reader.get("/"), 20)
    assert len(page.json()) == 100
    async with clients(app, 1) as connected:
        await eventually(lambda: len(connected[0].ids) == 100)
    assert not any(b"data: " in client.text for client in stalled)
    for client in stalled:
        client.task.cancel()
    await asyncio.wait([client.task for client in stalled])


async def test_a_page_does_not_wait_for_streams_that_read(store: OrderedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await note(store, 0, [100])
    reading, go_on = asyncio.Event(), asyncio.Event()
    read = History.read

    async def slow(history: History, after: FeedToken) -> tuple[Sequence[Commit], bool]:
        reading.set()
        await go_on.wait()
        return await read(history, after)

    monkeypatch.setattr(History, "read", slow)
    app = events_api(store, NOTED, source="/")
    async with clients(app, 10) as connected:
        await reading.wait()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as reader:
            page = await asyncio.wait_for(reader.get("/"), 20)
        assert len(page.json()) == 1
        go_on.set()
        await eventually(lambda: all(len(client.ids) == 1 for client in connected))


async def test_a_client_that_does_not_take_a_comment_keeps_no_turn(
    store: OrderedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsrc.publishing.history.AT_ONCE", 1)
    await note(store, 0, [100])
    reading, go_on = asyncio.Event(), asyncio.Event()
    read = History.read

    async def slow(history: History, after: FeedToken) -> tuple[Sequence[Commit], bool]:
        reading.set()
        await go_on.wait()
        return await read(history, after)

    monkeypatch.setattr(History, "read", slow)
    app = events_api(store, NOTED, source="/", heartbeat=5.0)
    first = Client(app)
    await reading.wait()
    waiting = Client(app, stalls_at=b":\n\n")  # a comment, as there is nothing else to send before its turn
    waiting.go_on.clear()
    await eventually(lambda: b"retry" in waiting.text)
    last = Client(app)
    await asyncio.wait_for(waiting.stalled.wait(), 20)
    go_on.set()
    async with asyncio.timeout(10):  # the comment is waited for four heartbeats: 20 s
        await eventually(lambda: len(first.ids) == len(last.ids) == 1)
    assert not waiting.ids
    waiting.go_on.set()
    await eventually(lambda: len(waiting.ids) == 1)
    for client in (first, waiting, last):
        client.task.cancel()
    await asyncio.wait([client.task for client in (first, waiting, last)])


async def test_clients_that_read_history_side_by_side_advance_alike(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "ledger.db") as store:
        await note(store, 0, *[[30_000]] * 100)
        app = events_api(store, NOTED, source="/")
        stalled = [Client(app) for _ in range(40)]
        for client in stalled:
            client.go_on.clear()
        slow = [Client(app, delay=0.02) for _ in range(20)]  # longer than a client that takes all at once
        spread = 0
        while not all(len(client.ids) == 100 for client in slow):
            assert not any(client.task.done() for client in slow)
            spread = max(spread, max(len(client.ids) for client in slow) - min(len(client.ids) for client in slow))
            await asyncio.sleep(0.01)
        assert spread <= 20, "one is far ahead of the others"
        for client in (*stalled, *slow):
            client.task.cancel()
        await asyncio.wait([client.task for client in (*stalled, *slow)])


async def test_more_streams_than_allowed_are_refused_until_one_ends(store: OrderedStore) -> None:
    await fill(store, 3)
    async with api(store, max_clients=2) as client:
        async with AsyncExitStack() as streams:
            for _ in range(2):
                await streams.enter_async_context(client.stream("GET", "/", headers=EVENT_STREAM))
            refused = await client.get("/", headers=EVENT_STREAM)
            problem(refused, 503)
            assert int(refused.headers["retry-after"]) > 0
            assert (await client.get("/")).status_code == 200, "pages are not streams"
        expected = await published_ids(store)

        async def take() -> list[str]:
            async with asyncio.timeout(30):
                while (await client.head("/", headers=EVENT_STREAM)).status_code == 503:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            return await Follower(client).take(len(expected))

        assert await take() == expected


async def test_a_live_event_that_cannot_be_published_ends_streams_behind_the_event_before_it(
    store: OrderedStore,
) -> None:
    app = events_api(store, NOTED, source="/")
    async with clients(app, 5) as connected:
        slow, *others = connected
        slow.go_on.clear()
        await note(store, 0, [10], [10])
        await store.append(make_commit("note-damaged", tags=("noted",)))
        await eventually(lambda: all(client.task.done() for client in others))
        async with clients(app, 1, b"after=latest") as later:
            await note(store, 5, [10])
            await eventually(lambda: later[0].ids == ["note-n-5@1.0"])
        slow.go_on.set()
        await eventually(lambda: slow.task.done())
        assert all(client.ids == ["note-n-0@1.0", "note-n-1@1.0"] for client in connected)
        assert all(client.task.exception() for client in connected)


# --- large pages


async def test_a_page_has_at_most_so_many_bytes_and_stays_the_same(store: OrderedStore) -> None:
    chance = random.Random(3)
    await note(store, 0, *[[chance.choice([100, 2_000, 9_000])] * chance.randint(1, 3) for _ in range(90)])
    async with serving(events_api(store, NOTED, source="/", page=40, max_page_bytes=30_000)) as client:
        found = await pages(client)
        assert max(len(page.content) for page in found) <= 30_000 + 10
        expected = [
            str(commit.event_id(index))
            async for batch in store.feed(follow=False)
            for commit in batch.commits
            for index in range(commit.events)
        ]
        assert ids_of(found) == expected
        assert {page.headers["cache-control"] for page in found[1:-2]} == {IMMUTABLE}
        await note(store, 90, *[[5_000]] * 40)
        for page in found[1:-2]:
            again = await client.get(page.request.url)
            assert (again.content, again.links) == (page.content, page.links)


async def test_readers_of_large_pages_meet_soon_and_at_the_next_multiple_at_the_latest(store: OrderedStore) -> None:
    chance = random.Random(3)
    await note(store, 0, *[[chance.choice([100, 2_000, 9_000])] * chance.randint(1, 3) for _ in range(256)])
    async with serving(events_api(store, NOTED, source="/", page=128, max_page_bytes=50_000)) as client:
        canonical = {page.url.params.get("after") for page in await pages(client)}
        follower, starts = Follower(client), list[str]()
        async with aclosing(follower.events()) as events:
            async for _ in events:
                starts.append(follower.last_id)
                if len(starts) == 200:
                    break
        needed: list[int] = []
        for start in starts[::20]:
            found = await pages(client, f"/?after={start}")
            addresses = [page.url.params["after"] for page in found]
            needed.append(next(number for number, address in enumerate(addresses) if address in canonical))
            assert canonical.issuperset(addresses[needed[-1] :])
        assert max(needed) <= 4
        assert sum(needed) / len(needed) < 1.5, "most meet on their second page"


async def test_a_commit_larger_than_a_page_is_divided_and_a_larger_event_is_served_alone(store: OrderedStore) -> None:
    await note(store, 0, [100], [4_000] * 10, [25_000], [100])
    async with serving(events_api(store, NOTED, source="/", max_page_bytes=10_000)) as client:
        found = await pages(client)
        sizes = [len(page.json()) for page in found]
        assert ids_of(found) == [
            "note-n-0@1.0",
            *(f"note-n-1@1.{index}" for index in range(10)),
            "note-n-2@1.0",
            "note-n-3@1.0",
        ]
        assert sizes == [1, 2, 2, 2, 2, 2, 1, 1, 0]


# --- damaged rows


async def test_events_before_a_damaged_row_are_served_and_nothing_after_it(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "ledger.db") as store:
        await fill(store, 20)
        expected = await published_ids(store)
        await note(store, 0, [10])
        await fill(store, 20, seed=2)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        assert ledger.execute("UPDATE log SET record = x'90' WHERE stream = 'note-n-0'").rowcount == 1
    async with SQLiteStore(tmp_path / "ledger.db") as store, api(store) as client:
        follower = Follower(client)
        assert await follower.take(len(expected)) == expected
        for _ in range(2):
            with pytest.raises(httpx.RemoteProtocolError):
                await follower.take(1)
        page = await client.get("/")
        assert ids_of([page]) == expected
        problem(await client.get(page.links["next"]["url"]), 500)
        reading = asyncio.create_task(Follower(client, url="/?after=latest").take(1))
        await eventually(lambda: bool(store._followers))
        await fill(store, 5, seed=3)
        assert (await reading)[0].startswith("account-3-")


# --- ids of other stores and lost histories


async def last_id(client: httpx.AsyncClient, events: int) -> str:
    follower = Follower(client)
    await follower.take(events)
    return follower.last_id


async def assert_gone(store: OrderedStore, token: str, reason: str) -> None:
    async with api(store) as client:
        for response in (
            await client.get(f"/?after={token}"),
            await client.get(f"/?after={token}", headers=EVENT_STREAM),
            await client.get("/", headers=EVENT_STREAM | {"last-event-id": token}),
        ):
            problem(response, 410)
            assert reason in response.json()["detail"]
            assert "start again from the beginning" in response.json()["detail"]


async def test_an_id_of_another_store_is_gone_even_if_it_has_the_same_commits(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "old.db") as old, SQLiteStore(tmp_path / "new.db") as new:
        await fill(old, 10)
        async for batch in old.feed(follow=False):
            for commit in batch.commits:
                await new.append(commit)
        async with api(old) as client:
            token = await last_id(client, 5)
            [*_, page] = await pages(client)
        await assert_gone(new, token, "another store")
        await assert_gone(new, page.url.params["after"], "another store")


async def test_an_id_of_a_history_that_a_restore_has_replaced_is_gone(tmp_path: Path) -> None:
    path, backup = tmp_path / "ledger.db", tmp_path / "backup.db"
    async with SQLiteStore(path) as store:
        await fill(store, 10)
        kept = await published_ids(store)
    shutil.copy(path, backup)
    async with SQLiteStore(path) as store:
        await fill(store, 10, seed=2)
        async with api(store) as client:
            before = await last_id(client, len(kept) - 1)
            within = await last_id(client, len(kept) + 3)
            end = await last_id(client, len(await published_ids(store)))
    for name in os.listdir(tmp_path):
        if name.startswith("ledger.db"):
            (tmp_path / name).unlink()
    shutil.copy(backup, path)
    async with SQLiteStore(path) as store:
        await assert_gone(store, within, "ahead of all events")
        await fill(store, 30, seed=3)
        await assert_gone(store, within, "was lost")
        await assert_gone(store, end, "was lost")
        async with api(store) as client:  # what was before the backup is the same
            assert await Follower(client, before).take(1) == kept[-1:]


async def test_an_id_after_a_stream_that_was_deleted_is_still_good(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "ledger.db") as store:
        await note(store, 0, [10])
        await fill(store, 5)
        app = events_api(store, [*NOTED, PublishedEvent(Deposited, type="deposited")], source="/")
        async with serving(app) as client:
            token = await last_id(client, 1)
            expected = ids_of(await pages(client, f"/?after={token}"))
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        assert ledger.execute("DELETE FROM log WHERE stream = 'note-n-0'").rowcount == 1
    async with SQLiteStore(tmp_path / "ledger.db") as store:
        app = events_api(store, [*NOTED, PublishedEvent(Deposited, type="deposited")], source="/")
        async with serving(app) as client:
            assert await Follower(client, token).take(len(expected)) == expected
            assert ids_of(await pages(client, f"/?after={token}")) == expected
