"""The usage that stores report, and upper limits for the cost of calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.bank import Account
from support.proxy import ANSWER_LOST, PASS, Proxy, error, proxy_to
from support.tables import fresh_name, store_on

from eventsrc import ConflictError, DynamoDBStore, MemoryStore, Repository, SnapshotPolicy, SQLiteStore, Store, Usage
from eventsrc.stores.dynamodb.layouts import LAYOUTS
from eventsrc.stores.dynamodb.layouts.snapshot_first import SnapshotFirst
from eventsrc.testing.contract.samples import fill, fresh_stream, make_commit, make_snapshot

NONE = SnapshotPolicy(enabled=False)


@pytest.fixture
async def proxy(dynamodb_endpoint: str) -> AsyncIterator[Proxy]:
    async with proxy_to(dynamodb_endpoint) as proxy:
        yield proxy


@pytest.fixture(params=list(LAYOUTS))
async def store(proxy: Proxy, request: pytest.FixtureRequest) -> AsyncIterator[DynamoDBStore]:
    options: dict[str, Any] = {"layout": request.param}
    async with store_on(proxy.url, fresh_name(), **options) as store:
        await store.create_table()
        store.usage = Usage()
        yield store


def since(store: Store, before: Usage) -> Usage:
    """Return what was consumed since `before`, a copy."""
    names = Usage.__struct_fields__
    return Usage(**{name: getattr(store.usage, name) - getattr(before, name) for name in names})


def copied(usage: Usage) -> Usage:
    copy = Usage()
    copy.add(usage)
    return copy


async def test_a_save_costs_the_units_of_its_size(store: DynamoDBStore) -> None:
    for size, units in ((10, 1.0), (900, 1.0), (1_100, 2.0), (10_000, 10.0)):
        commit = make_commit(fresh_stream(), payload=bytes(range(250)) * (size // 250 + 1))
        receipt = await store.append(commit)
        assert receipt.usage is not None
        assert (receipt.usage.requests, receipt.usage.retries, receipt.usage.read_units) == (1, 0, 0.0)
        assert units <= receipt.usage.write_units <= units + 1
        assert receipt.usage.bytes_written == commit.size


async def test_the_usage_of_calls_adds_up(store: DynamoDBStore) -> None:
    receipts = [await store.append(make_commit("a-1", version)) for version in (1, 2, 3)]
    total = Usage()
    for receipt in receipts:
        assert receipt.usage is not None
        total.add(receipt.usage)
    assert store.usage == total
    assert (total.calls, total.requests, total.write_units) == (3, 3, 3.0)


async def test_retries_and_conflicts_are_counted(store: DynamoDBStore, proxy: Proxy) -> None:
    proxy.faults = [error("ThrottlingException"), ANSWER_LOST, PASS]
    receipt = await store.append(make_commit("a-1"))
    assert receipt.usage is not None
    assert (receipt.usage.requests, receipt.usage.retries, receipt.usage.conflicts) == (3, 2, 0)
    with pytest.raises(ConflictError):
        await store.append(make_commit("a-1"))
    assert (store.usage.requests, store.usage.retries, store.usage.conflicts) == (4, 2, 1)


async def test_a_load_costs_no_more_than_its_snapshot_and_tail(store: DynamoDBStore) -> None:
    stream = fresh_stream()
    commits = await fill(store, stream, 12, size=500)
    snapshot = make_snapshot(stream, 10, payload=bytes(6_000))
    await store.put_snapshot(snapshot)
    before = copied(store.usage)
    loaded = await store.load(stream)
    used = since(store, before)
    assert used.requests == (2 if isinstance(store._layout, SnapshotFirst) else 1)
    assert used.read_units <= 4.0  # 6 KB and 3 commits; what is read beyond them is not 4 KB
    assert used.bytes_read == snapshot.size + sum(commit.size for commit in commits[9:])
    assert len(loaded.commits) == 3


async def test_commands_stay_below_their_limits(store: DynamoDBStore) -> None:
    accounts = Repository(Account, store, snapshots=NONE)
    await accounts.save(Account.open("a-1", owner="ann"))
    await accounts.execute("a-1", Account.deposit, 5)
    for command, ceiling in (
        (lambda: accounts.execute("a-1", Account.deposit, 5), (1, 0.0, 1.0)),
        (lambda: accounts.execute("a-1", lambda account: account.balance), (1, 1.0, 0.0)),
        (lambda: accounts.load("a-1"), (2, 2.0, 0.0)),
    ):
        before = copied(store.usage)
        await command()
        used = since(store, before)
        assert used.requests <= ceiling[0]
        assert used.read_units <= ceiling[1]
        assert used.write_units <= ceiling[2]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_embedded_stores_count_too(kind: str, tmp_path: Path) -> None:
    store: Store = MemoryStore() if kind == "memory" else SQLiteStore(tmp_path / "events.db")
    async with store:
        commit = make_commit("a-1")
        receipt = await store.append(commit)
        assert receipt.usage == Usage(calls=1, bytes_written=commit.size)
        with pytest.raises(ConflictError):
            await store.append(make_commit("a-1"))
        with pytest.raises(ConflictError):
            await store.append(make_commit("a-1", 9))
        await store.load("a-1")
        assert store.usage == Usage(calls=4, conflicts=2, bytes_written=commit.size)
