"""Calls in an event loop that never sleeps, because other tasks compute in short slices with `sleep(0)` in between."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from selectors import DefaultSelector
from typing import Any

import pytest
from support.bank import Account
from support.tables import fresh_name, session, store_on

from eventsrc import CommitOutcomeUnknown, Repository, SQLiteStore, Store
from eventsrc.concurrency import Turn
from eventsrc.processing import SQLiteCheckpoints
from eventsrc.stores.dynamodb import partitions
from eventsrc.stores.dynamodb.export.files import Folder
from eventsrc.testing.contract.samples import fresh_stream, make_commit

SLICE = 0.0005  # seconds that a task computes at once
LIMIT = 20.0  # seconds after which the tasks stop to compute, so that a test fails and does not hang

Work = Callable[[], Awaitable[Any]]


class GreedySelector(DefaultSelector):
    """It keeps the interpreter lock while it polls, as if no thread were ever fast enough to take it then."""

    def select(self, timeout: float | None = None) -> Any:
        return [] if timeout is not None and timeout <= 0 else super().select(timeout)


class Computing:
    """A task that computes while the block runs."""

    def __init__(self) -> None:
        self.slices = 0

    async def __aenter__(self) -> Computing:
        self._task = asyncio.create_task(self._compute())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *error: object) -> None:
        ended_early = self._task.done()
        self._task.cancel()
        assert not ended_early, "the work did not end while the loop was busy"

    async def _compute(self) -> None:
        end = time.monotonic() + LIMIT
        while (now := time.monotonic()) < end:
            while time.monotonic() < now + SLICE:
                pass
            self.slices += 1
            await asyncio.sleep(0)


@contextmanager
def no_forced_switches() -> Iterator[None]:
    """Let threads keep the interpreter lock until they release it."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1_000)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def run_in_greedy_loop(work: Work) -> None:
    """Run `work` in a loop from which threads get the interpreter lock only if it gives way to them."""

    async def main() -> None:
        async with Computing():
            await work()

    with no_forced_switches(), asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(GreedySelector())) as loop:
        loop.run(main())


async def use(store: Store) -> None:
    accounts = Repository(Account, store)
    account = Account.open("a-1", owner="ann")
    for _ in range(20):
        account.deposit(1)
        await accounts.save(account)
    assert await accounts.execute("a-1", Account.deposit, 5) == 25
    assert (await accounts.load("a-1")).balance == 25


def test_calls_of_sqlite_in_a_loop_that_never_sleeps(tmp_path: Path) -> None:
    async def work() -> None:
        async with SQLiteStore(tmp_path / "bank.db") as store:
            await use(store)
            [batch] = [batch async for batch in store.feed(follow=False)]
            assert len(batch.commits) == 21

    run_in_greedy_loop(work)


def test_checkpoints_in_sqlite_in_a_loop_that_never_sleeps(tmp_path: Path) -> None:
    async def work() -> None:
        async with SQLiteCheckpoints(tmp_path / "models.db") as checkpoints:
            await checkpoints.write(lambda db: db.execute("CREATE TABLE seen (id TEXT)"))
            assert await checkpoints.read(lambda db: db.execute("SELECT * FROM seen").fetchall()) == []

    run_in_greedy_loop(work)


def test_files_of_an_export_in_a_loop_that_never_sleeps(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"x")

    async def work() -> None:
        assert await Folder(str(tmp_path)).part("part", 0) == b"x"

    run_in_greedy_loop(work)


async def test_calls_of_dynamodb_in_a_loop_that_never_sleeps(dynamodb_endpoint: str) -> None:
    table = fresh_name()
    async with store_on(dynamodb_endpoint, table) as store:
        await store.create_table()
    async with Computing(), Computing(), store_on(dynamodb_endpoint, table) as store:
        await use(store)


async def test_a_page_of_dynamodb_is_read_in_parts(dynamodb_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = 0

    class Counted(Turn):
        async def end_if_long(self) -> None:
            nonlocal ends
            ends += 1
            await super().end_if_long()

    monkeypatch.setattr(partitions, "Turn", Counted)
    stream = fresh_stream()
    async with store_on(dynamodb_endpoint, table := fresh_name()) as store:
        await store.create_table()
        items = [{"PutRequest": {"Item": store.items.from_commit(make_commit(stream, each))}} for each in range(1, 301)]
        async with session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client:
            for start in range(0, len(items), 25):
                await client.batch_write_item(RequestItems={table: items[start : start + 25]})
        assert len((await store.load(stream)).commits) == 300
    assert ends == 2


async def test_a_deadline_ends_a_call_of_dynamodb_in_a_loop_that_never_sleeps() -> None:
    """It ends in one of the next turns of the loop, however long these are."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with store_on(endpoint, "ledger", deadline=0.2) as store, Computing() as computing:
            slices_at_deadline = 0

            def note() -> None:
                nonlocal slices_at_deadline
                slices_at_deadline = computing.slices

            loop.call_later(store.deadline or 0, note)
            with pytest.raises(CommitOutcomeUnknown):
                await store.append(make_commit(fresh_stream()))
            assert computing.slices - slices_at_deadline <= 5
