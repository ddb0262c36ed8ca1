"""`events_client` against the real events API on a real server, with connections that are cut at random."""

from __future__ import annotations

import asyncio
import gzip
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.bank import Account
from support.cutting import Cutter, cutting
from support.events_api import App, api, eventually, fill, published_ids, serving
from support.tls import encrypted

from eventsrc import (
    EventsrcError,
    MemoryStore,
    NotAnEventsApi,
    Repository,
    SourceError,
    SourceGap,
    SourceOutOfOrder,
    SourceRejected,
    SourceTokenGone,
    SourceUnavailable,
    SQLiteStore,
)
from eventsrc.messaging import EventsClient, events_client
from eventsrc.publishing.asgi import Receive, Scope, Send, get_header, respond, start_response
from eventsrc.publishing.token import FeedToken, Place

EVENT_STREAM = "text/event-stream"


def token(position: int, event: int = 0, part: int = 0) -> str:
    return FeedToken(Place(position, event, part), b"here").text


def is_stream(scope: Scope) -> bool:
    return get_header(scope, b"accept") == EVENT_STREAM


async def take(events: EventsClient, count: int) -> list[str]:
    return [(await anext(events)).id for _ in range(count)]


def following(proxy: Cutter, **options: Any) -> EventsClient:
    return events_client(f"http://127.0.0.1:{proxy.port}/", **options)


async def deposit(store: Any, id: str) -> None:
    account = Account(id=id)
    account.deposit(1)
    await Repository(Account, store).save(account)


async def test_stored_events_come_in_pages_and_then_live_ones() -> None:
    async with MemoryStore() as store:
        await fill(store, 300)
        stored = await published_ids(store)
        async with api(store, page=50) as http, events_client(str(http.base_url)) as events:
            assert await take(events, len(stored)) == stored
            waiting = asyncio.create_task(anext(events))
            await deposit(store, "new")
            event = await waiting
            assert (event.id, event.type, event.subject) == ("account-new@1.0", "deposited.v1", "account-new")
            assert event.data == {"amount": 1}
            assert event.source == "/ledger"


async def test_without_following_it_ends_with_what_is_stored() -> None:
    async with MemoryStore() as store, api(store, page=7) as http:
        async with events_client(str(http.base_url), follow=False) as events:
            assert [event.id async for event in events] == []
        await fill(store, 50)
        async with events_client(str(http.base_url), follow=False) as events:
            assert [event.id async for event in events] == await published_ids(store)
            assert events.has_ended
            last = events.token
        async with events_client(str(http.base_url), follow=False, after=last) as events:
            assert [event.id async for event in events] == []


async def test_latest_starts_with_the_next_event() -> None:
    async with MemoryStore() as store, api(store) as http:
        await fill(store, 20)
        async with events_client(str(http.base_url), after="latest") as events:
            assert await events.read() == []
            assert events.token not in ("", "latest")
            await deposit(store, "new")
            assert await take(events, 1) == ["account-new@1.0"]


@pytest.mark.parametrize("in_pages", [True, False], ids=["pages", "stream"])
async def test_from_the_token_of_any_event_nothing_is_left_out(in_pages: bool) -> None:
    async with MemoryStore() as store, api(store, page=10) as http:
        url = str(http.base_url)
        events = events_client(url, follow=in_pages)
        if not in_pages:
            while not events.has_ended:  # nothing is stored yet, so all come from the stream
                await events.read()
            await events.aclose()
            events = events_client(url)
            await events.read()
        await fill(store, 12)
        stored = await published_ids(store)
        for count, _ in enumerate(stored, 1):
            event = await anext(events)
            assert event.token == events.token
            async with events_client(url, after=event.token, follow=False) as resumed:
                rest = [each.id async for each in resumed]
            assert rest[len(rest) - len(stored[count:]) :] == stored[count:]
            assert in_pages or rest == stored[count:], "a stream has a token for each event"
        await events.aclose()


@pytest.mark.parametrize("seed", range(4))
async def test_connections_that_are_cut_at_random_lose_and_repeat_nothing(seed: int) -> None:
    async with MemoryStore() as store, api(store, page=20, retry=0.0, max_page_bytes=3000) as http:
        assert http.base_url.port
        async with cutting(http.base_url.port, seed, most=8000) as proxy:
            await fill(store, 60, seed=1)
            async with following(proxy) as events:
                received = await take(events, len(await published_ids(store)))
                for more in range(2, 8):
                    await fill(store, 10, seed=more)
                    received += await take(events, len(await published_ids(store)) - len(received))
        assert received == await published_ids(store)
        assert proxy.cuts > 5


async def test_a_server_that_is_away_is_waited_for() -> None:
    async with MemoryStore() as store:
        await fill(store, 5)
        async with api(store, retry=0.0) as http:
            assert http.base_url.port
            async with cutting(http.base_url.port, most=1) as proxy, following(proxy) as events:
                waiting = asyncio.create_task(anext(events))
                await eventually(lambda: proxy.cuts > 1)
                proxy.most = None
                assert [(await waiting).id] == (await published_ids(store))[:1]


async def test_the_end_of_patience_is_an_error_after_which_it_can_continue() -> None:
    async with MemoryStore() as store, api(store) as http:
        await fill(store, 5)
        assert http.base_url.port
        async with cutting(http.base_url.port, most=1) as proxy, following(proxy, patience=0.2) as events:
            with pytest.raises(SourceUnavailable, match="no usable answer"):
                await anext(events)
            proxy.most = None
            assert await take(events, 3) == (await published_ids(store))[:3]


async def test_a_silent_stream_is_opened_again() -> None:
    opened = 0
    never = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal opened
        if not is_stream(scope):
            await respond(send, 200, {"content-type": "application/json"}, b"[]")
            return
        opened += 1
        await start_response(send, 200, {"content-type": EVENT_STREAM})
        await send({"type": "http.response.body", "body": f"id: {token(0)}\n\n".encode(), "more_body": True})
        waiting = [asyncio.create_task(never.wait()), asyncio.create_task(_gone(receive))]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    async with serving(app) as http, events_client(str(http.base_url), silence=0.1) as events:
        waiting = asyncio.create_task(anext(events))
        await eventually(lambda: opened >= 3)
        waiting.cancel()
        await asyncio.wait((waiting,))
        assert waiting.cancelled()
    never.set()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def test_a_cancelled_call_delivers_nothing_and_may_be_repeated() -> None:
    async with (
        MemoryStore() as store,
        api(store, heartbeat=0.05) as http,
        events_client(str(http.base_url)) as events,
    ):
        received: list[str] = []
        filling = asyncio.create_task(fill(store, 40))
        patience = 0.001
        while not filling.done() or len(received) < len(await published_ids(store)):
            try:
                async with asyncio.timeout(patience):
                    received.append((await anext(events)).id)
            except TimeoutError:
                patience *= 1.1  # until it is enough to connect
        assert received == await published_ids(store)


async def test_tokens_that_are_not_of_this_history_are_typed_errors(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "one.db") as one, SQLiteStore(tmp_path / "two.db") as two:
        await fill(one, 5)
        await fill(two, 5)
        async with api(one) as http, events_client(str(http.base_url)) as events:
            last = (await anext(events)).token or token(0)
            while not events.token:
                await anext(events)
            last = events.token
        async with api(two) as http, events_client(str(http.base_url), after=last) as events:
            for _ in range(2):
                with pytest.raises(SourceTokenGone, match=r"another store.*start again without a token"):
                    await anext(events)
    with pytest.raises(ValueError, match="not an id of this API"):
        events_client("http://ledger/", after="mine")


Answer = tuple[int, dict[str, str], bytes]
JSON = {"content-type": "application/json"}
PROBLEM = {"content-type": "application/problem+json"}
LINK = JSON | {"link": f'<?after={token(1)}>; rel="next"'}
EVENT = b'{"specversion":"1.0","id":"a-1@1.0","source":"/","type":"t","data":"secret"}'

ANSWERS: dict[str, tuple[type[SourceError], str, Answer]] = {
    "not found": (SourceRejected, "404", (404, PROBLEM, b'{"detail": "nothing is\\nhere"}')),
    "unauthorized": (SourceRejected, "401", (401, {"content-type": "text/html"}, b"<h1>secret</h1>")),
    "a redirect": (SourceRejected, "another address", (307, {"location": "http://elsewhere/"}, b"")),
    "no content": (NotAnEventsApi, "204", (204, {}, b"")),
    "a web page": (NotAnEventsApi, "text/html", (200, {"content-type": "text/html"}, b"<h1>secret</h1>")),
    "an object": (NotAnEventsApi, "not a list", (200, JSON, b'{"secret": 1}')),
    "half a page": (NotAnEventsApi, "not a list", (200, JSON, b'[{"secret": 1}')),
    "other events": (NotAnEventsApi, "CloudEvent", (200, LINK, b'[{"secret": 1}]')),
    "a last page with events": (NotAnEventsApi, "no next page", (200, JSON, b"[" + EVENT + b"]")),
    "a link elsewhere": (NotAnEventsApi, "names no place", (200, JSON | {"link": '<http://x/>; rel="next"'}, b"[]")),
    "a link to no place": (NotAnEventsApi, "not one that", (200, JSON | {"link": '<?after=1>; rel="next"'}, b"[]")),
    "too much": (NotAnEventsApi, "more than 10,000", (200, JSON, b"[" + b" " * 10_000 + b"]")),
    "too much, compressed": (
        NotAnEventsApi,
        "more than 10,000",
        (200, JSON | {"content-encoding": "gzip"}, gzip.compress(b" " * 10_000_000)),
    ),
    "the same event twice": (SourceOutOfOrder, "a-1@1.0", (200, LINK, b"[" + EVENT + b"," + EVENT + b"]")),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_another_answer_is_a_typed_error_without_its_content(name: str) -> None:
    error, text, (status, headers, body) = ANSWERS[name]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, status, headers, body)

    async with serving(app) as http:
        url = f"http://user:secret@127.0.0.1:{http.base_url.port}/?key=secret"
        async with events_client(url, max_bytes=10_000) as events:
            with pytest.raises(error, match=text) as caught:
                await anext(events)
            assert "secret" not in str(caught.value)
            assert caught.value.url == f"http://127.0.0.1:{http.base_url.port}/"
            with pytest.raises(error):
                await events.read()


def block(position: int, id: str, index: int = 0, type: str = "t") -> bytes:
    body = EVENT.replace(b"a-1@1.0", id.encode())
    return f"id: {token(position - 1, index, 1)}\nevent: {type}\n".encode() + b"data: " + body + b"\n\n"


START = f"retry: 1\nid: {token(0)}\n\n".encode()

STREAMS: dict[str, tuple[type[SourceError], Sequence[str], bytes]] = {
    "an event that comes again": (SourceOutOfOrder, ["a-1@1.0"], START + block(1, "a-1@1.0") + block(1, "a-1@1.0")),
    "an older event": (SourceOutOfOrder, ["a-1@2.0"], START + block(4, "a-1@2.0") + block(3, "a-1@1.0")),
    "an older event of a stream": (SourceOutOfOrder, ["a-1@2.0"], START + block(1, "a-1@2.0") + block(2, "a-1@1.0")),
    "a stream that starts later": (SourceGap, [], f"id: {token(3)}\n\n".encode() + block(4, "a-1@2.0")),
    "an event without an id": (NotAnEventsApi, ["a-1@1.0"], START + block(1, "a-1@1.0") + b"data: {}\n\n"),
    "an event of another type": (NotAnEventsApi, [], START + block(1, "a-1@1.0", type="other")),
    "what is not an event": (NotAnEventsApi, [], START + f"id: {token(0, 0, 1)}\nevent: t\ndata: x\n\n".encode()),
    "what is not text": (NotAnEventsApi, [], START + b"event: \xff\n\n"),
    "too much": (NotAnEventsApi, [], START + b"data: " + b"x" * 20_000),
}


def serve_stream(body: bytes) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if is_stream(scope):
            await respond(send, 200, {"content-type": EVENT_STREAM}, body)
        else:
            await respond(send, 200, JSON, b"[]")

    return app


@pytest.mark.parametrize("name", STREAMS)
async def test_events_before_one_that_is_wrong_are_delivered(name: str) -> None:
    error, good, body = STREAMS[name]
    async with serving(serve_stream(body)) as http, events_client(str(http.base_url), max_bytes=10_000) as events:
        assert await take(events, len(good)) == good
        with pytest.raises(error):
            await anext(events)
        with pytest.raises(error):
            await anext(events)


async def test_headers_and_the_query_are_sent_with_each_request() -> None:
    seen: set[tuple[str, bytes, bytes]] = set()

    async with MemoryStore() as store, api(store, page=5) as http:
        await fill(store, 12)
        inner = http.base_url.port

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            dict_of = dict(scope["headers"])
            seen.add((scope["path"], dict_of[b"authorization"], scope["query_string"].split(b"&")[0]))
            assert inner
            found = await http.get("/", params=scope["query_string"].decode(), headers={"accept": "application/json"})
            headers = {name: found.headers[name] for name in ("content-type", "link") if name in found.headers}
            await respond(send, found.status_code, headers, found.content)

        async with serving(app) as proxy:
            url = f"{proxy.base_url}/events/?tenant=acme"
            async with events_client(url, headers={"authorization": "Bearer x"}, follow=False) as events:
                assert [event.id async for event in events] == await published_ids(store)
    assert seen == {("/events/", b"Bearer x", b"tenant=acme")}


async def test_a_certificate_that_is_not_trusted_is_not_tried_again() -> None:
    certificate = trustme.CA().issue_cert("localhost")
    async with (
        MemoryStore() as store,
        api(store) as http,
        encrypted(str(http.base_url), certificate) as server,
        events_client(server.url) as events,
    ):
        with pytest.raises(SourceRejected, match=r"not trusted.*certificate"):
            await anext(events)
        assert len(server.connections) == 1


@pytest.mark.parametrize("url", ["ledger", "ftp://ledger/", "http://", "/events"])
def test_an_address_that_is_not_one_of_http_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="address of HTTP"):
        events_client(url)


@pytest.mark.parametrize("option", ["timeout", "silence", "patience", "max_bytes"])
def test_limits_are_positive(option: str) -> None:
    with pytest.raises(ValueError, match="above 0"):
        events_client("http://ledger/", **{option: 0})  # type: ignore[arg-type]


def test_without_httpx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"eventsrc\[client\]\""):
        events_client("http://ledger/")


async def test_it_starts_elsewhere_only_before_the_first_event() -> None:
    async with MemoryStore() as store, api(store) as http, events_client(str(http.base_url)) as events:
        events.resume_from("latest")
        await events.read()
        with pytest.raises(RuntimeError, match="another client"):
            events.resume_from("")


def test_all_errors_are_of_the_tree() -> None:
    assert all(issubclass(error, EventsrcError) for error, *_ in (*ANSWERS.values(), *STREAMS.values()))
