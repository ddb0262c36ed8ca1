"""What the live page is sent, over lost connections, failing stores, and the end of the studio."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
import pytest
from support.bank import Account
from support.program import serve

from eventsrc import MemoryStore, Repository, StoreUnavailable
from eventsrc.inspection import App
from eventsrc.stores.feed import Batch
from eventsrc.studio import Studio


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


async def open_account(store: MemoryStore, id: str) -> None:
    await Repository(Account, store).save(Account.open(id, owner="ann"))


async def events_of(answer: httpx.Response) -> AsyncGenerator[tuple[str, str, Any]]:
    """Yield the kind, the id and the data of each event."""
    found: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            found[name] = value
        elif found.get("event"):
            yield found["event"], found.get("id", ""), json.loads(found["data"])
            found = {}


async def test_a_browser_that_comes_back_gets_what_was_stored_since(store: MemoryStore) -> None:
    async with serve(Studio(App({"bank": store}))) as address, httpx.AsyncClient(base_url=address) as browser:
        async with browser.stream("GET", "/live/events") as answer:
            events = events_of(answer)
            assert (await anext(events))[0] == "ready"
            await open_account(store, "a-1")
            kind, _, data = await anext(events)
            assert (kind, data["stream"], data["tag"]) == ("commit", "account-a-1", "account.opened")
            kind, place, _ = await anext(events)
            assert kind == "place"
        await open_account(store, "a-2")
        async with browser.stream("GET", "/live/events", headers={"last-event-id": place}) as answer:
            events = events_of(answer)
            assert [(await anext(events))[0] for _ in range(1)] == ["ready"]
            assert (await anext(events))[2]["stream"] == "account-a-2"
        async with browser.stream("GET", "/live/events", headers={"last-event-id": "nonsense"}) as answer:
            events = events_of(answer)
            assert (await anext(events))[0] == "ready"
            await open_account(store, "a-3")
            assert (await anext(events))[2]["stream"] == "account-a-3"


class Shaky:
    """A store whose feed fails once."""

    def __init__(self, store: MemoryStore) -> None:
        self._store, self.failures = store, 1

    async def feed(self, **options: Any) -> AsyncGenerator[Batch]:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("no connection")
        async for batch in self._store.feed(**options):
            yield batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_a_store_that_fails_is_followed_again(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventsrc.studio.live._PAUSE", 0.01)
    shaky: Any = Shaky(store)
    async with (
        serve(Studio(App({"bank": shaky}))) as address,
        httpx.AsyncClient(base_url=address) as browser,
        browser.stream("GET", "/live/events") as answer,
    ):
        events = events_of(answer)
        assert [(await anext(events))[0] for _ in range(2)] == ["ready", "problem"]
        await open_account(store, "a-1")
        assert (await anext(events))[2]["stream"] == "account-a-1"


async def test_at_most_sixteen_pages_follow_and_all_end_with_the_studio(store: MemoryStore) -> None:
    studio = Studio(App({"bank": store}))
    limits = httpx.Limits(max_connections=30)
    async with serve(studio) as address, httpx.AsyncClient(base_url=address, limits=limits) as browser:
        seen: list[str] = []

        async def follow() -> None:
            async with browser.stream("GET", "/live/events") as answer:
                async for kind, _, _ in events_of(answer):
                    seen.append(kind)

        pages = [asyncio.create_task(follow()) for _ in range(20)]
        async with asyncio.timeout(20):
            while len(seen) < 20:  # noqa: ASYNC110  # they are sent to other tasks
                await asyncio.sleep(0.01)
        assert sorted(seen) == ["problem"] * 4 + ["ready"] * 16
        await studio.aclose()
        await asyncio.wait_for(asyncio.gather(*pages), 20)
