"""The events API on a real server, with real clients that connect, leave and resume."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.bank import Account, Opened
from support.events_api import (
    EVENT_STREAM,
    PUBLISHED,
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
from support.ledger import until

from eventsrc import Aggregate, Commit, Event, MemoryStore, Repository, SQLiteStore
from eventsrc.publishing import PublishedEvent, events_api
from eventsrc.publishing.asgi import Message, Receive, Scope, Send
from eventsrc.publishing.token import NO_COMMIT, FeedToken, Place, mark_commit, mark_store
from eventsrc.stores.feed import Damaged
from eventsrc.stores.ordered import OrderedStore
from eventsrc.testing.contract.samples import make_commit


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OrderedStore]:
    async with MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "ledger.db") as store:
        yield store


async def token_at(store: OrderedStore, position: int, event: int = 0, part: int = 0) -> str:
    """Return the id that clients get at a place of the store."""
    place = Place(position, event, part)
    id = await store.commit_id_at(place.last_commit)
    return FeedToken(place, mark_store(await store.identity()), mark_commit(id) if id else NO_COMMIT).text


# --- streams


async def test_clients_that_reconnect_get_each_event_once_in_order_while_others_write(store: OrderedStore) -> None:
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


async def test_ids_advance_where_nothing_is_published(store: OrderedStore) -> None:
    for version in range(1, 2_501):
        await store.append(make_commit("internal-1", version))
    async with api(store) as client:
        follower = Follower(client)
        await follower.until(lambda follower: follower.blocks >= 3)
        assert FeedToken.parse(follower.last_id).place >= Place(1_900)
        await fill(store, 1)
        assert await follower.take(1) == (await published_ids(store))[:1]


async def test_in_silence_comments_are_sent_and_the_id_advances(store: OrderedStore) -> None:
    await store.append(make_commit("internal-1"))
    async with api(store, heartbeat=0.02, retry=1.5) as client:
        follower = Follower(client)
        await follower.until(lambda follower: follower.comments >= 3)
        assert follower.last_id == await token_at(store, 1)
        assert follower.retry == "1500"


async def test_the_id_advances_while_only_internal_events_arrive(store: OrderedStore) -> None:
    async def write() -> None:
        for version in range(1, 10**9):
            await store.append(make_commit("internal-1", version))
            await asyncio.sleep(0.005)

    writing = asyncio.create_task(write())
    try:
        async with api(store, heartbeat=0.1) as client:
            follower = Follower(client)
            await follower.until(
                lambda follower: bool(follower.last_id) and FeedToken.parse(follower.last_id).place > Place(9)
            )
    finally:
        writing.cancel()
        await asyncio.wait((writing,))


async def test_a_client_may_start_at_the_latest_event_and_resume_from_its_first_id(store: OrderedStore) -> None:
    await fill(store, 5)
    known = len(await published_ids(store))
    async with api(store) as client:
        follower = Follower(client, url="/?after=latest")
        await follower.until(lambda follower: follower.blocks > 0)
        await fill(store, 5, seed=2)
        expected = (await published_ids(store))[known:]
        assert await follower.take(2) == expected[:2], "the header counts, not the address"
        assert await follower.take(1) == expected[2:3]


async def test_a_client_that_disconnects_leaves_no_follower_and_no_task(store: OrderedStore) -> None:
    await fill(store, 5)
    async with api(store) as client:
        await client.get("/")
        before = asyncio.all_tasks()
        async with AsyncExitStack() as open_streams:
            for _ in range(10):
                await open_streams.enter_async_context(client.stream("GET", "/", headers=EVENT_STREAM))
            await eventually(lambda: len(store._followers) == 1)
        await eventually(lambda: not store._followers)
        await eventually(lambda: asyncio.all_tasks() <= before)


class Commits(list[Commit | Damaged]):
    """A list that weak references can refer to."""


async def test_a_waiting_client_keeps_no_commits_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[weakref.ref[Commits]] = []
    commits_after = SQLiteStore.commits_after

    async def watched(store: SQLiteStore, position: int) -> tuple[list[Commit | Damaged], bool]:
        found, all_there_are = await commits_after(store, position)
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
        follower = Follower(client)
        reading = asyncio.create_task(follower.take(10**9))
        await eventually(lambda: follower.blocks > count)
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


async def test_a_client_that_reads_nothing_is_dropped_and_may_resume(store: OrderedStore) -> None:
    for number in range(40):
        note = Note(id=f"n-{number}")
        note.record(Noted(text="".join(random.choices("abcdefghij", k=250_000))))  # 10 MB: more than sockets buffer
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


async def test_an_event_that_cannot_be_published_breaks_the_stream_and_is_not_skipped(store: OrderedStore) -> None:
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


async def test_an_error_of_data_is_answered_with_500_and_logged_with_the_event_id(
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
        await until(lambda: "account-a-2@1.0" in caplog.text)
        caplog.clear()
        follower = Follower(client, await token_at(store, 1))
        with pytest.raises(httpx.RemoteProtocolError):
            await follower.take(1)
        await until(lambda: "account-a-2@1.0" in caplog.text)  # the server logs it after the connection has ended


class Owned(Event, tag="account.owned"):
    owner: str


def into_three(old: Opened) -> list[Owned | Named]:
    return [Owned(owner=old.owner), Named(owner=old.owner), Owned(owner=old.owner)]


class Named(Event, tag="account.named"):
    owner: str


async def test_each_part_of_an_event_is_published_once_wherever_clients_resume(store: OrderedStore) -> None:
    accounts = Repository(Account, store)
    account = Account.open("a-1", owner="ann")
    account.record(Opened(owner="bob"))
    await accounts.save(account)
    await accounts.save(Account.open("a-2", owner="cid"))
    published: list[PublishedEvent[Any]] = [
        PublishedEvent(Owned, type="owned"),
        PublishedEvent(Named, type="named", hide_stream=True),
    ]
    [first, second] = [commit.uuid async for batch in store.feed(follow=False) for commit in batch.commits]
    expected = [
        *("account-a-1@1.0", f"{first}.0.1", "account-a-1@1.0.2"),
        *("account-a-1@1.1", f"{first}.1.1", "account-a-1@1.1.2"),
        *("account-a-2@1.0", f"{second}.0.1", "account-a-2@1.0.2"),
    ]
    app = events_api(store, published, source="/", upcasters=[into_three], max_page_bytes=1)
    async with serving(app) as client:
        assert ids_of(await pages(client)) == expected
        follower = Follower(client)
        assert [id for _ in expected for id in await follower.take(1)] == expected


# --- pages


async def test_pages_have_all_events_once_in_order_and_full_pages_never_change(store: OrderedStore) -> None:
    await fill(store, 95)
    async with api(store, page=10) as client:
        found = await pages(client)
        assert ids_of(found) == await published_ids(store)
        full, last = found[:9], found[9:]
        assert full[0].headers["cache-control"] == "public, no-cache", "its address is the same for another store"
        assert {page.headers["cache-control"] for page in full[1:]} == {"public, max-age=31536000, immutable"}
        assert [page.headers["cache-control"] for page in last] == ["public, no-cache"] * 2
        assert last[-1].json() == []
        await fill(store, 40, seed=2)
        for page in full:
            again = await client.get(page.request.url)
            assert (again.content, again.headers["etag"]) == (page.content, page.headers["etag"])
            assert again.links == page.links
        assert ids_of(await pages(client)) == await published_ids(store)
        assert ids_of([*found, *(await pages(client, str(last[-1].request.url)))]) == await published_ids(store)


async def test_readers_that_start_anywhere_arrive_at_the_same_addresses(store: OrderedStore) -> None:
    await fill(store, 60)
    async with api(store, page=10) as client:
        canonical = [str(page.request.url) for page in await pages(client)]
        for place in (Place(3), Place(14, 1), Place(14, 0, 1), Place(15)):
            token = await token_at(store, *place)
            addresses = [str(page.request.url) for page in await pages(client, f"/?after={token}")]
            assert addresses[1:] == canonical[-len(addresses[1:]) :]
            assert len(addresses) > 4


async def test_the_last_page_is_revalidated_by_its_etag(store: OrderedStore) -> None:
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


async def test_a_page_that_becomes_full_without_a_published_event_has_another_etag(store: OrderedStore) -> None:
    async with api(store, page=2) as client:
        empty = await client.get("/")
        await store.append(make_commit("internal-1"))
        assert (await client.get("/", headers={"if-none-match": empty.headers["etag"]})).status_code == 304
        await store.append(make_commit("internal-1", 2))
        full = await client.get("/", headers={"if-none-match": empty.headers["etag"]})
        assert (full.status_code, full.json()) == (200, [])
        assert full.links["next"]["url"] == f"?after={await token_at(store, 2)}"


async def test_pages_end_at_the_same_positions_after_a_stream_was_deleted(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "ledger.db") as store:
        await fill(store, 9)
        await store.append(make_commit("gone-1"))
        await fill(store, 15, seed=2)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        ledger.execute("DELETE FROM log WHERE stream = 'gone-1'")
    async with SQLiteStore(tmp_path / "ledger.db") as store, api(store, page=10) as client:
        found = await pages(client)
        assert ids_of(found) == await published_ids(store)
        addresses = [str(page.request.url).rpartition("=")[2] for page in found[1:3]]
        assert addresses == [await token_at(store, 10), await token_at(store, 20)]
        assert found[1].headers["cache-control"] == "public, max-age=31536000, immutable"


async def test_pages_may_start_at_the_latest_event(store: OrderedStore) -> None:
    await fill(store, 5)
    known = len(await published_ids(store))
    async with api(store) as client:
        latest = await client.get("/?after=latest")
        assert (latest.json(), latest.headers["cache-control"]) == ([], "public, no-cache")
        await fill(store, 5, seed=2)
        assert ids_of(await pages(client, latest.links["next"]["url"])) == (await published_ids(store))[known:]


async def test_private_pages_are_not_for_shared_caches(store: OrderedStore) -> None:
    await fill(store, 7)
    async with api(store, page=3, private=True) as client:
        controls = [page.headers["cache-control"] for page in await pages(client)]
    assert controls[1] == "private, max-age=31536000, immutable"
    assert controls[-1] == "private, no-cache"


async def test_streams_and_pages_have_the_same_cloud_events(store: OrderedStore) -> None:
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
        assert len(tags) == 2, "with one tag for both, a cache would mix up the media types"
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


@pytest.mark.parametrize(
    "query",
    [
        "after=secret-4711",
        "after=AgAAAAAAAAAAAAAAAAAAAAAAAAA",
        "after=AQAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "after=AQAAAAAAAAAAAAAA",
        "after=%00%ff",
        "after=latest&after=latest",
        "&".join(f"n{number}=1" for number in range(200)),
    ],
)
async def test_an_id_that_is_not_of_this_store_is_refused_without_quoting_it(query: str) -> None:
    async with MemoryStore() as store, api(store) as client:
        for accept in ("text/event-stream", "application/json"):
            response = await client.get(f"/?{query}", headers={"accept": accept})
            problem(response, 400)
            assert "secret" not in response.text


async def test_a_bad_last_event_id_is_refused() -> None:
    async with MemoryStore() as store, api(store) as client:
        problem(await client.get("/?after=latest", headers=EVENT_STREAM | {"last-event-id": "secret-4711"}), 400)


async def test_other_methods_paths_and_media_types_are_refused_and_head_is_answered() -> None:
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


# --- mounting and life cycle


async def test_the_app_can_be_mounted_below_a_path() -> None:
    async with MemoryStore() as store:
        events = events_api(store, PUBLISHED, source="/ledger")

        async def mounted_without_prefix(scope: Scope, receive: Receive, send: Send) -> None:
            await events({**scope, "path": scope["path"].removeprefix("/events") or "/"}, receive, send)

        async def mounted_with_root_path(scope: Scope, receive: Receive, send: Send) -> None:
            await events({**scope, "root_path": "/events"}, receive, send)

        await fill(store, 3)
        for host in (mounted_without_prefix, mounted_with_root_path):
            async with serving(host) as client:
                assert ids_of(await pages(client, "/events")) == await published_ids(store)
                assert ids_of(await pages(client, "/events/")) == await published_ids(store)
                problem(await client.get("/events/other"), 404)


async def test_an_app_that_is_not_mounted_opens_the_store_and_closes_it(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "ledger.db")
    async with serving(events_api(store, PUBLISHED, source="/"), lifespan=True) as client:
        assert (await client.get("/")).json() == []
        await fill(store, 3)
        assert ids_of(await pages(client)) == await published_ids(store)
    async with store:  # this opens it, so it was closed
        async with serving(events_api(store, PUBLISHED, source="/"), lifespan=True) as client:
            assert ids_of(await pages(client)) == await published_ids(store)
        await published_ids(store)  # still open


async def test_a_cancelled_server_leaves_the_store_closed() -> None:
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
        pass  # this opened it, so it was closed
