"""The events API over a real server, with real clients that come and go."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sqlite3
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from support.bank import Account, Deposited, Opened, Withdrawn

from eventsrc import Aggregate, Commit, Event, MemoryStore, Repository, SQLiteStore
from eventsrc.aggregates.codec import unpack
from eventsrc.publishing import PublishedEvent, events_api
from eventsrc.publishing.asgi import Message, Receive, Scope, Send
from eventsrc.publishing.token import FeedToken
from eventsrc.stores.ordered import OrderedStore
from eventsrc.testing.contract.samples import make_commit

PUBLISHED: list[PublishedEvent[Any]] = [
    PublishedEvent(Deposited, type="deposited.v1"),
    PublishedEvent(Opened, type="opened.v1", data=lambda event: {"initial": event.owner[:1]}),
]  # and not Withdrawn
EVENT_STREAM = {"accept": "text/event-stream"}

App = Callable[[Scope, Receive, Send], Any]


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OrderedStore]:
    async with MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "ledger.db") as store:
        yield store


@asynccontextmanager
async def serving(app: App, lifespan: bool = False) -> AsyncIterator[httpx.AsyncClient]:
    """A server of this app on a free port, and a client of it. Leaving waits until all requests have ended."""
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # asyncio sets TCP_NODELAY where TCP is named
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        config = uvicorn.Config(app, log_config=None, lifespan="on" if lifespan else "off", ws="none")
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
                yield client
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def api(store: OrderedStore, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(events_api(store, PUBLISHED, source="/ledger", **options)) as client:
        yield client


class Follower:
    """Reads a stream as the standard says browsers do, and keeps what an EventSource would."""

    def __init__(self, client: httpx.AsyncClient, last_id: str = "", url: str = "/") -> None:
        self._client, self._url = client, url
        self.last_id = last_id
        self.blocks = 0
        self.comments = 0
        self.retry = ""

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        """Events until the server ends the stream. Also what comes without one is seen: wait on the attributes."""
        headers = EVENT_STREAM | ({"last-event-id": self.last_id} if self.last_id else {})
        async with self._client.stream("GET", self._url, headers=headers, timeout=30) as response:
            assert response.status_code == 200
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            text = b""
            async for more in response.aiter_bytes():
                *blocks, text = (text + more).split(b"\n\n")
                for block in blocks:
                    if (event := self._read(block)) is not None:
                        yield event
            assert text == b"", "a block is left unfinished"

    def _read(self, block: bytes) -> dict[str, Any] | None:
        self.blocks += 1
        fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if line != ":")
        assert fields.keys() <= {"id", "event", "data", "retry"}
        self.comments += not fields
        self.last_id = fields.get("id", self.last_id)
        self.retry = fields.get("retry", self.retry)
        if "data" not in fields:
            return None
        event: dict[str, Any] = json.loads(fields["data"])
        assert event["type"] == fields["event"]
        return event

    async def take(self, count: int) -> list[str]:
        """The ids of the next events; then the client is gone."""
        taken: list[str] = []
        if count:
            async with aclosing(self.events()) as events:
                async for event in events:
                    taken.append(event["id"])
                    if len(taken) == count:
                        break
        return taken

    async def until(self, condition: Callable[[Follower], bool]) -> None:
        """Read in the background until that is so; then the client is gone."""
        reading = asyncio.create_task(self.take(10**9))
        await eventually(lambda: condition(self) or reading.done())
        reading.cancel()
        await asyncio.wait((reading,))


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # conditions of the library's insides, which tell nobody
            await asyncio.sleep(0.001)


async def fill(store: OrderedStore, commits: int, seed: int = 1) -> None:
    """Commits of several accounts, of one to six events each, published and not."""
    chance = random.Random(seed)
    accounts = Repository(Account, store)
    for number in range(commits):
        account = Account.open(f"{seed}-{number}", owner="ann") if chance.random() < 0.5 else None
        if account is None:
            account = Account(id=f"{seed}-{number}")
        for _ in range(chance.randint(1, 5)):
            account.record(chance.choice([Deposited(amount=5), Withdrawn(amount=1)]))
        await accounts.save(account)


async def published_ids(store: OrderedStore) -> list[str]:
    """What the API has to tell, worked out by other means."""
    ids: list[str] = []
    async for batch in store.feed(follow=False):
        for commit in batch.commits:
            if commit.stream.startswith("account-"):
                events = msgspec.msgpack.decode(unpack(commit.payload, commit.stream, commit.version))
                places = (
                    commit.event_id(index) for index, event in enumerate(events) if event["$"] != "account.withdrawn"
                )
                ids += map(str, places)
    return ids


async def pages(client: httpx.AsyncClient, url: str = "/") -> list[httpx.Response]:
    """All pages from there on to the end."""
    found = [await client.get(url)]
    while following := found[-1].links.get("next"):
        found.append(await client.get(following["url"]))
    assert all(page.status_code == 200 for page in found)
    return found


def ids_of(responses: Sequence[httpx.Response]) -> list[str]:
    return [event["id"] for response in responses for event in response.json()]


# --- streams


async def test_clients_that_come_and_go_get_each_event_once_in_order_while_writers_go_on(store: OrderedStore) -> None:
    async def follow(client: httpx.AsyncClient, seed: int) -> list[str]:
        chance, follower, got = random.Random(seed), Follower(client), list[str]()
        while len(got) < 300:
            got += await follower.take(min(chance.choice([1, 1, 2, 3, 20]), 300 - len(got)))
        return got

    async with api(store) as client, asyncio.TaskGroup() as group:
        followers = [group.create_task(follow(client, seed)) for seed in range(5)]
        for seed in range(3):
            group.create_task(fill(store, 80, seed))
    expected = (await published_ids(store))[:300]
    assert len(expected) == 300
    for follower in followers:
        assert follower.result() == expected


async def test_each_id_resumes_at_the_very_next_event(store: OrderedStore) -> None:
    await fill(store, 25)
    expected = await published_ids(store)
    async with api(store) as client:
        follower, tokens = Follower(client), list[str]()
        async with aclosing(follower.events()) as events:
            async for _ in events:
                tokens.append(follower.last_id)
                if len(tokens) == len(expected):
                    break
        assert len(set(tokens)) == len(expected)
        for seen, token in enumerate(tokens[:-1], 1):
            assert await Follower(client, token).take(1) == expected[seen : seen + 1]
            assert ids_of(await pages(client, f"/?after={token}")) == expected[seen:]
        assert ids_of(await pages(client, f"/?after={tokens[-1]}")) == []


async def test_a_client_is_told_how_far_it_is_where_nothing_is_published(store: OrderedStore) -> None:
    for version in range(1, 2_501):
        await store.append(make_commit("internal-1", version))
    async with api(store) as client:
        follower = Follower(client)
        await follower.until(lambda follower: follower.blocks >= 3)
        assert FeedToken.parse(follower.last_id) >= FeedToken(2_000)
        await fill(store, 1)
        assert await follower.take(1) == (await published_ids(store))[:1]


async def test_in_silence_comments_keep_the_stream_open_and_tell_the_place(store: OrderedStore) -> None:
    await store.append(make_commit("internal-1"))
    async with api(store, heartbeat=0.02, retry=1.5) as client:
        follower = Follower(client)
        await follower.until(lambda follower: follower.comments >= 3)
        assert follower.last_id == FeedToken(1).token
        assert follower.retry == "1500"


async def test_comments_come_also_while_internal_events_do(store: OrderedStore) -> None:
    async def go_on() -> None:
        for version in range(1, 10**9):
            await store.append(make_commit("internal-1", version))
            await asyncio.sleep(0.005)

    writing = asyncio.create_task(go_on())
    try:
        async with api(store, heartbeat=0.1) as client:
            follower = Follower(client)
            await follower.until(
                lambda follower: FeedToken.parse(follower.last_id or FeedToken(0).token) > FeedToken(9)
            )
    finally:
        writing.cancel()
        await asyncio.wait((writing,))


async def test_a_client_may_begin_with_what_comes_next_and_its_first_id_keeps_that_place(store: OrderedStore) -> None:
    await fill(store, 5)
    known = len(await published_ids(store))
    async with api(store) as client:
        follower = Follower(client, url="/?after=latest")
        await follower.until(lambda follower: follower.blocks > 0)
        await fill(store, 5, seed=2)
        expected = (await published_ids(store))[known:]
        assert await follower.take(2) == expected[:2], "the id it has counts, not the address"
        assert await follower.take(1) == expected[2:3]


async def test_a_client_that_goes_leaves_nothing_behind(store: OrderedStore) -> None:
    await fill(store, 5)
    async with api(store) as client:
        await client.get("/")
        before = asyncio.all_tasks()
        async with AsyncExitStack() as open_streams:
            for _ in range(10):
                await open_streams.enter_async_context(client.stream("GET", "/", headers=EVENT_STREAM))
            await eventually(lambda: len(store._followers) == 10)
        await eventually(lambda: not store._followers)
        await eventually(lambda: asyncio.all_tasks() <= before)


class Commits(list[Commit]):
    """A list that can be watched."""


async def test_a_client_that_waits_holds_no_commits_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[weakref.ref[Commits]] = []
    behind = SQLiteStore.commits_after

    async def watched(store: SQLiteStore, position: int) -> tuple[list[Commit], bool]:
        found, all_there_are = await behind(store, position)
        commits = Commits(found)
        read.extend([weakref.ref(commits)] if commits else [])
        return commits, all_there_are

    monkeypatch.setattr(SQLiteStore, "commits_after", watched)
    async with SQLiteStore(tmp_path / "ledger.db") as store, api(store) as client:
        await fill(store, 5)
        reading = asyncio.create_task(Follower(client).take(10**9))
        await eventually(lambda: bool(read) and all(commits() is None for commits in read))
        reading.cancel()
        await asyncio.wait((reading,))


async def test_closing_the_store_ends_streams_and_refuses_new_ones(store: OrderedStore) -> None:
    await fill(store, 5)
    count = len(await published_ids(store))
    async with api(store) as client:
        reading = asyncio.create_task(Follower(client).take(10**9))
        await eventually(lambda: bool(store._followers))
        await store.aclose()
        assert len(await reading) == count  # which also checks that the response is whole
        for accept in ("text/event-stream", "application/json"):
            response = await client.get("/", headers={"accept": accept})
            problem(response, 503)
            assert response.headers["retry-after"] == "5"


class Noted(Event, tag="noted"):
    text: str


class Note(Aggregate, tag="note"):
    def apply_noted(self, event: Noted) -> None: ...


async def test_a_client_that_takes_nothing_is_let_go_and_may_resume(store: OrderedStore) -> None:
    for number in range(40):
        note = Note(id=f"n-{number}")
        note.record(Noted(text="".join(random.choices("abcdefghij", k=250_000))))  # 10 MB: no socket takes that many
        await Repository(Note, store).save(note)
    app = events_api(store, [PublishedEvent(Noted, type="noted")], source="/", heartbeat=0.05)
    async with serving(app) as client:
        address = (client.base_url.host, client.base_url.port or 0)
        reader, writer = await asyncio.open_connection(*address, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n")
        await eventually(lambda: bool(store._followers))
        await eventually(lambda: not store._followers)
        writer.transport.abort()
        del reader
        assert await Follower(client).take(40) == [f"note-n-{number}@1.0" for number in range(40)]


async def test_an_event_that_cannot_be_told_breaks_the_stream_and_is_not_passed_over(store: OrderedStore) -> None:
    await fill(store, 3)
    count = len(await published_ids(store))
    await store.append(make_commit("account-damaged", tags=("account.deposited",)))
    await fill(store, 3, seed=2)
    async with api(store) as client:
        follower = Follower(client)
        assert len(await follower.take(count)) == count
        with pytest.raises(httpx.RemoteProtocolError):
            await follower.take(1)
        last_id = follower.last_id
        with pytest.raises(httpx.RemoteProtocolError):
            await follower.take(1)
        assert follower.last_id == last_id
        before = await client.get("/")
        assert (len(before.json()), before.headers["cache-control"]) == (count, "public, no-cache")
        response = await client.get(before.links["next"]["url"])
        problem(response, 500)
        assert "damaged" not in response.text


async def test_a_mapping_that_fails_is_answered_and_logged_with_the_event(
    store: OrderedStore, caplog: pytest.LogCaptureFixture
) -> None:
    accounts = Repository(Account, store)
    for id in ("a-1", "a-2"):
        await accounts.save(Account.open(id, owner=id))
    opened = PublishedEvent(Opened, type="opened.v1", data=lambda event: {"a-1": 1}[event.owner])
    async with serving(events_api(store, [opened], source="/")) as client:
        first = await client.get("/")
        assert ids_of([first]) == ["account-a-1@1.0"]
        problem(await client.get(first.links["next"]["url"]), 500)
        assert "account-a-2@1.0" in caplog.text
        caplog.clear()
        follower = Follower(client, FeedToken(1).token)
        with pytest.raises(httpx.RemoteProtocolError):
            await follower.take(1)
        assert "account-a-2@1.0" in caplog.text


# --- pages


async def test_pages_tell_all_events_once_in_order_and_full_ones_are_for_ever(store: OrderedStore) -> None:
    await fill(store, 95)
    async with api(store, page=10) as client:
        found = await pages(client)
        assert ids_of(found) == await published_ids(store)
        full, last = found[:9], found[9:]
        assert {page.headers["cache-control"] for page in full} == {"public, max-age=31536000, immutable"}
        assert [page.headers["cache-control"] for page in last] == ["public, no-cache"] * 2
        assert last[-1].json() == []
        await fill(store, 40, seed=2)
        for page in full:
            again = await client.get(page.request.url)
            assert (again.content, again.headers["etag"]) == (page.content, page.headers["etag"])
            assert again.links == page.links
        assert ids_of(await pages(client)) == await published_ids(store)
        assert ids_of([*found, *(await pages(client, str(last[-1].request.url)))]) == await published_ids(store)


async def test_readers_who_begin_anywhere_meet_at_the_same_addresses(store: OrderedStore) -> None:
    await fill(store, 60)
    async with api(store, page=10) as client:
        canonical = [str(page.request.url) for page in await pages(client)]
        for token in (FeedToken(3).token, FeedToken(14, 1).token, FeedToken(15).token):
            addresses = [str(page.request.url) for page in await pages(client, f"/?after={token}")]
            assert addresses[1:] == canonical[-len(addresses[1:]) :]
            assert len(addresses) > 4


async def test_the_last_page_is_asked_for_again_by_its_etag(store: OrderedStore) -> None:
    await fill(store, 5)
    async with api(store) as client:
        [_, last] = await pages(client)
        assert "next" not in last.links
        for tag in (last.headers["etag"], f'"x", W/{last.headers["etag"]}', "*"):
            unchanged = await client.get(last.request.url, headers={"if-none-match": tag})
            assert (unchanged.status_code, unchanged.content) == (304, b"")
            assert unchanged.headers["etag"] == last.headers["etag"]
            assert unchanged.headers["cache-control"] == "public, no-cache"
        await fill(store, 5, seed=2)
        changed = await client.get(last.request.url, headers={"if-none-match": last.headers["etag"]})
        assert (changed.status_code, "next" in changed.links) == (200, True)


async def test_a_page_that_got_full_without_a_published_event_is_another(store: OrderedStore) -> None:
    async with api(store, page=2) as client:
        empty = await client.get("/")
        await store.append(make_commit("internal-1"))
        assert (await client.get("/", headers={"if-none-match": empty.headers["etag"]})).status_code == 304
        await store.append(make_commit("internal-1", 2))
        full = await client.get("/", headers={"if-none-match": empty.headers["etag"]})
        assert (full.status_code, full.json()) == (200, [])
        assert full.links["next"]["url"] == f"?after={FeedToken(2).token}"


async def test_pages_end_where_they_do_though_a_stream_was_deleted(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "ledger.db") as store:
        await fill(store, 9)
        await store.append(make_commit("gone-1"))
        await fill(store, 15, seed=2)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        ledger.execute("DELETE FROM commits WHERE stream = 'gone-1'")
    async with SQLiteStore(tmp_path / "ledger.db") as store, api(store, page=10) as client:
        found = await pages(client)
        assert ids_of(found) == await published_ids(store)
        addresses = [str(page.request.url).rpartition("=")[2] for page in found[1:3]]
        assert addresses == [FeedToken(10).token, FeedToken(20).token]
        assert found[0].headers["cache-control"] == "public, max-age=31536000, immutable"


async def test_pages_may_begin_at_the_end(store: OrderedStore) -> None:
    await fill(store, 5)
    known = len(await published_ids(store))
    async with api(store) as client:
        latest = await client.get("/?after=latest")
        assert (latest.json(), latest.headers["cache-control"]) == ([], "public, no-cache")
        await fill(store, 5, seed=2)
        assert ids_of(await pages(client, latest.links["next"]["url"])) == (await published_ids(store))[known:]


async def test_private_pages_are_for_no_shared_cache(store: OrderedStore) -> None:
    await fill(store, 5)
    async with api(store, page=3, private=True) as client:
        controls = [page.headers["cache-control"] for page in await pages(client)]
    assert controls[0] == "private, max-age=31536000, immutable"
    assert controls[-1] == "private, no-cache"


async def test_streams_and_pages_tell_the_same_cloud_events(store: OrderedStore) -> None:
    await Repository(Account, store).save(Account.open("a-1", owner="ann\u2028\r\n\n"))
    async with api(store) as client:
        async with aclosing(Follower(client).events()) as events:
            streamed = await anext(events)
        tags = set[str]()
        for accept in ("application/json", "application/cloudevents-batch+json"):
            response = await client.get("/", headers={"accept": accept})
            tags.add(response.headers["etag"])
            assert response.headers["content-type"] == accept
            assert response.headers["vary"] == "accept"
            assert response.json() == [streamed]
        assert len(tags) == 2, "by one tag a cache would take one type for the other"
    assert streamed.pop("time").endswith("Z")
    assert streamed == {
        "specversion": "1.0",
        "id": "account-a-1@1.0",
        "source": "/ledger",
        "type": "opened.v1",
        "subject": "account-a-1",
        "datacontenttype": "application/json",
        "data": {"initial": "a"},
    }


# --- refusals


def problem(response: httpx.Response, status: int) -> None:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    told = response.json()
    assert told.keys() == {"type", "title", "status", "detail"}
    assert told["status"] == status


@pytest.mark.parametrize(
    "query",
    [
        "after=secret-4711",
        "after=AQAAAAAAAAAAAAA",
        "after=AgAAAAAAAAAAAAAA",
        "after=%00%ff",
        f"after={FeedToken(1).token}",
        f"after={FeedToken(0, 1).token}",
        f"after={FeedToken(2**56 - 1, 2**32 - 1).token}",
        f"after={FeedToken(0).token}&after=latest",
        "&".join(f"n{number}=1" for number in range(200)),
    ],
)
async def test_what_is_no_id_of_this_store_is_refused_without_quoting_it(query: str) -> None:
    async with MemoryStore() as store, api(store) as client:
        for accept in ("text/event-stream", "application/json"):
            response = await client.get(f"/?{query}", headers={"accept": accept})
            problem(response, 400)
            assert "secret" not in response.text


async def test_a_bad_last_event_id_is_refused() -> None:
    async with MemoryStore() as store, api(store) as client:
        problem(await client.get("/?after=latest", headers=EVENT_STREAM | {"last-event-id": "secret-4711"}), 400)


async def test_other_methods_paths_and_types_are_refused_but_head_is_answered() -> None:
    async with MemoryStore() as store, api(store) as client:
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            response = await client.request(method, "/")
            problem(response, 405)
            assert response.headers["allow"] == "GET, HEAD"
        head = await client.head("/")
        got = await client.get("/")
        assert (head.status_code, head.content) == (200, b"")
        assert {**head.headers, "date": ""} == {**got.headers, "date": ""}
        head = await client.head("/", headers=EVENT_STREAM)
        assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        problem(await client.get("/account-a-1"), 404)
        problem(await client.get("/", headers={"accept": "text/html"}), 406)


# --- where it lives


async def test_it_is_mounted_below_a_path() -> None:
    async with MemoryStore() as store:
        events = events_api(store, PUBLISHED, source="/ledger")

        async def cuts(scope: Scope, receive: Receive, send: Send) -> None:
            await events({**scope, "path": scope["path"].removeprefix("/events") or "/"}, receive, send)

        async def keeps(scope: Scope, receive: Receive, send: Send) -> None:
            await events({**scope, "root_path": "/events"}, receive, send)

        await fill(store, 3)
        for host in (cuts, keeps):
            async with serving(host) as client:
                assert ids_of(await pages(client, "/events")) == await published_ids(store)
                assert ids_of(await pages(client, "/events/")) == await published_ids(store)
                problem(await client.get("/events/other"), 404)


async def test_served_by_itself_it_opens_the_store_and_closes_it(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "ledger.db")
    async with serving(events_api(store, PUBLISHED, source="/"), lifespan=True) as client:
        assert (await client.get("/")).json() == []
        await fill(store, 3)
        assert ids_of(await pages(client)) == await published_ids(store)
    async with store:  # it is closed, so it can be opened
        async with serving(events_api(store, PUBLISHED, source="/"), lifespan=True) as client:
            assert ids_of(await pages(client)) == await published_ids(store)
        await published_ids(store)  # it is open still, as it was before


async def test_a_server_that_is_cancelled_leaves_the_store_closed() -> None:
    store = MemoryStore()
    started = asyncio.Event()
    messages = [{"type": "lifespan.startup"}]

    async def receive() -> Message:
        return messages.pop() if messages else await asyncio.Future()

    async def send(message: Message) -> None:
        started.set()

    living = asyncio.ensure_future(events_api(store, PUBLISHED, source="/")({"type": "lifespan"}, receive, send))
    await started.wait()
    living.cancel()
    await asyncio.wait((living,))
    async with store:
        pass  # it can be opened, so it was closed
