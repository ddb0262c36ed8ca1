"""The events API on a real server, and clients that read it as the standards prescribe."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import msgspec
import uvicorn

from eventsrc import Repository
from eventsrc.aggregates.codec import unpack
from eventsrc.publishing import PublishedEvent, events_api
from eventsrc.publishing.asgi import Receive, Scope, Send
from eventsrc.stores.ordered import OrderedStore

from .bank import Account, Deposited, Opened, Withdrawn

PUBLISHED: list[PublishedEvent[Any]] = [
    PublishedEvent(Deposited, type="deposited.v1"),
    PublishedEvent(Opened, type="opened.v1", data=lambda event: {"initial": event.owner[:1]}),
]  # and not Withdrawn
EVENT_STREAM = {"accept": "text/event-stream"}

App = Callable[[Scope, Receive, Send], Any]


@asynccontextmanager
async def serving(app: App, lifespan: bool = False) -> AsyncIterator[httpx.AsyncClient]:
    """Serve this app on a free port, and yield a client. On exit, wait until all requests have ended."""
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
    """A client that reads a stream as the standard prescribes for browsers, and keeps what an EventSource keeps."""

    def __init__(self, client: httpx.AsyncClient, last_id: str = "", url: str = "/") -> None:
        self._client, self._url = client, url
        self.last_id = last_id
        self.blocks = 0
        self.comments = 0
        self.retry = ""

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        """Yield events until the server ends the stream. Ids and comments without an event change the attributes."""
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
        """Return the ids of the next events, and disconnect."""
        taken: list[str] = []
        if count:
            async with aclosing(self.events()) as events:
                async for event in events:
                    taken.append(event["id"])
                    if len(taken) == count:
                        break
        return taken

    async def until(self, condition: Callable[[Follower], bool]) -> None:
        """Read in the background until the condition holds, and disconnect."""
        reading = asyncio.create_task(self.take(10**9))
        await eventually(lambda: condition(self) or reading.done())
        reading.cancel()
        await asyncio.wait((reading,))


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # these conditions have no event to wait for
            await asyncio.sleep(0.001)


async def fill(store: OrderedStore, commits: int, seed: int = 1) -> None:
    """Append commits of several accounts, each with one to six events, some of them not published."""
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
    """Return the ids of all published events, without using the API."""
    ids: list[str] = []
    async for batch in store.feed(follow=False):
        for commit in batch.commits:
            if commit.stream.startswith("account-"):
                events = msgspec.msgpack.decode(unpack(commit.payload, commit.stream, commit.version))
                event_ids = (
                    commit.event_id(index) for index, event in enumerate(events) if event["$"] != "account.withdrawn"
                )
                ids += map(str, event_ids)
    return ids


async def pages(client: httpx.AsyncClient, url: str = "/") -> list[httpx.Response]:
    """Get all pages from `url` to the end."""
    found = [await client.get(url)]
    while following := found[-1].links.get("next"):
        found.append(await client.get(following["url"]))
    assert all(page.status_code == 200 for page in found)
    return found


def ids_of(responses: Sequence[httpx.Response]) -> list[str]:
    return [event["id"] for response in responses for event in response.json()]


def problem(response: httpx.Response, status: int) -> None:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    body = response.json()
    assert body.keys() == {"type", "title", "status", "detail"}
    assert body["status"] == status
