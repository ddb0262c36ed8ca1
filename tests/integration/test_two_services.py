"""Two services: what one publishes becomes a command of the other one exactly once, over cut connections and kills."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from support.bank import Account
from support.cutting import Cutter, cutting
from support.events_api import api, fill, published_ids
from support.inbox_worker import Member, open_store, work

from campaigns import PYTHONPATH
from eventsrc import MemoryStore, Repository, SourceTokenGone, SQLiteStore, trace
from eventsrc.aggregates.codec import unpack
from eventsrc.messaging import Inbox, events_client
from eventsrc.processing import MemoryCheckpoints
from eventsrc.stores.ordered import OrderedStore
from eventsrc.trace_context import TRACEPARENT
from eventsrc.tracing import draw_tree, find_trace

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@asynccontextmanager
async def cut_api(store: OrderedStore, seed: int, most: int | None = 6000) -> AsyncIterator[Cutter]:
    async with api(store, tracing=True, page=20, retry=0.0, max_page_bytes=2000) as http:
        assert http.base_url.port
        async with cutting(http.base_url.port, seed, most) as proxy:
            yield proxy


async def deposits(store: OrderedStore) -> list[str]:
    """Return the ids of all deposits in a bank, in order."""
    found = []
    async for batch in store.feed(follow=False):
        for commit in batch.commits:
            events = msgspec.msgpack.decode(unpack(commit.payload, commit.stream, commit.version))
            found += [
                str(commit.event_id(index)) for index, each in enumerate(events) if each["$"] == "account.deposited"
            ]
    return found


async def contents(store: OrderedStore) -> tuple[list[str], list[str]]:
    """Return the ids of the events in the inbox, and those that commands of the loyalty service name, in order."""
    received, applied = [], []
    async for batch in store.feed(follow=False):
        for commit in batch.commits:
            for event in msgspec.msgpack.decode(unpack(commit.payload, commit.stream, commit.version)):
                if commit.stream.startswith("inbox-"):
                    received.append(event["id"])
                elif event["$"] == "member.points":
                    applied.append(event["cause"])
    return received, applied


def by_stream(ids: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for id in ids:
        found.setdefault(id.rpartition("@")[0], []).append(id)
    return found


async def check(bank: OrderedStore, folder: Path) -> None:
    """Check that each published event is in the inbox once, and each deposit is applied once, in order."""
    async with open_store(folder) as store:
        received, applied = await contents(store)
    assert sorted(received) == sorted(await published_ids(bank))
    assert by_stream(received) == by_stream(await published_ids(bank))
    assert sorted(applied) == sorted(await deposits(bank))
    assert by_stream(applied) == by_stream(await deposits(bank))


async def test_the_trace_of_the_other_service_shows_the_cause(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "bank.db") as bank:
        with trace("request-9", metadata={"traceparent": PARENT}):
            account = Account(id="a-1")
            account.deposit(5)
            await Repository(Account, bank).save(account)
        async with cut_api(bank, 1, most=None) as proxy:
            await work(f"http://127.0.0.1:{proxy.port}/", tmp_path, follow=False)
        async with open_store(tmp_path) as loyalty:
            found = await find_trace("request-9", {"bank": bank, "loyalty": loyalty})
            tree = draw_tree(found)
            received = [commit async for commit in loyalty.effects_of("account-a-1@1.0")]
            member = await Repository(Member, loyalty).load("account-a-1")
    assert [(step.store, step.parents) for step in found.steps] == [
        ("bank", ()),
        ("loyalty", (0,)),
        ("loyalty", (1,)),
    ]
    assert [each.stream for each in received] == ["inbox-/ledger#account-a-1"]
    assert received[0].metadata["traceparent"] == PARENT
    assert TRACEPARENT.fullmatch(PARENT)
    assert received[0].metadata["source"] == "/ledger"
    assert "member.points" in tree
    assert member.points == 5


@pytest.mark.parametrize("seed", range(3))
async def test_with_connections_cut_at_random_each_command_is_applied_once(seed: int, tmp_path: Path) -> None:
    async with MemoryStore() as bank, cut_api(bank, seed) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/"
        async with running(work(url, tmp_path)) as working:
            for round in range(4):
                await fill(bank, 15, seed=round)
                await until_received(bank, tmp_path, working)
        assert working.cancelled()
        await work(url, tmp_path, follow=False)
        await check(bank, tmp_path)
        assert proxy.cuts > 5


async def test_workers_that_are_killed_at_random_store_and_apply_each_event_once(tmp_path: Path) -> None:
    chance = random.Random(7)
    async with MemoryStore() as bank, cut_api(bank, 7) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/"
        killed = 0
        for round in range(3):
            filling = asyncio.create_task(fill(bank, 60, seed=round))
            async with AsyncExitStack() as stack:
                workers = [await stack.enter_async_context(worker(url, tmp_path, role)) for role in ("all", "inbox")]
                at_least = await count(tmp_path) + chance.randint(1, 40)
                await until_received(bank, tmp_path, filling, at_least)
                for process in workers:
                    process.send_signal(signal.SIGKILL)
                    killed += await process.wait() == -signal.SIGKILL
            await filling
        assert killed == 6
        await work(url, tmp_path, follow=False)
        await check(bank, tmp_path)


@asynccontextmanager
async def worker(url: str, folder: Path, role: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "support.inbox_worker", url, str(folder), role), env={"PYTHONPATH": PYTHONPATH}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def count(folder: Path) -> int:
    async with open_store(folder) as store:
        return len((await contents(store))[0])


async def until_received(
    bank: OrderedStore, folder: Path, task: asyncio.Task[None], at_least: int | None = None
) -> None:
    """Wait until so many events are in the inbox, or all of those that are published when the task has ended."""
    async with asyncio.timeout(60):
        while True:
            is_last = task.done()
            received = await count(folder)
            if at_least is not None and received >= at_least:
                return
            if (is_last or at_least is None) and received >= len(await published_ids(bank)):
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(work: Coroutine[None, None, None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_after_a_mirror_was_built_again_the_inbox_starts_again_and_repeats_nothing(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "one.db") as one, SQLiteStore(tmp_path / "two.db") as two:
        for bank in (one, two):
            await fill(bank, 20)
        async with MemoryStore() as store, MemoryCheckpoints() as checkpoints:
            inbox = Inbox("/ledger", store, checkpoints)
            async with api(one) as http, events_client(str(http.base_url), follow=False) as events:
                await inbox.run(events)
            async with api(two) as http:
                async with events_client(str(http.base_url), follow=False) as events:
                    with pytest.raises(SourceTokenGone):
                        await inbox.run(events)
                await inbox.restart()
                async with events_client(str(http.base_url), follow=False) as events:
                    await inbox.run(events)
            received, _ = await contents(store)
            assert sorted(received) == sorted(await published_ids(one))
