"""Lookups of causes: by the index of a table or a file, and by a search where there is none."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.tables import fresh_name, session, store_on

from eventsrc import Commit, CorruptPayload, MemoryStore, SQLiteStore, Store, StoreRejected
from eventsrc.store import Loaded, Receipt, Snapshot
from eventsrc.stores import Lookup, OrderedStore
from eventsrc.stores.dynamodb.items import Items
from eventsrc.stores.feed import Damaged, Head
from eventsrc.stores.sqlite.rows import CORRELATED, EFFECTS_OF_COMMIT, EFFECTS_OF_EVENT
from eventsrc.testing.contract.samples import make_commit
from eventsrc.tracing import find_trace


async def ids(commits: AsyncGenerator[Commit]) -> list[str]:
    return [f"{commit.stream}@{commit.version}" async for commit in commits]


async def collect(commits: AsyncGenerator[Commit], into: list[str]) -> None:
    async for commit in commits:
        into.append(f"{commit.stream}@{commit.version}")  # noqa: PERF401  # what came before an error is kept


async def fill(store: Store, traces: int = 2) -> None:
    """Store traces of three commits: a root, and two others in a stream of their own that it has caused."""
    for number in range(traces):
        root, other = f"a-{number}", f"b-{number}"
        await store.append(make_commit(root))
        for version in (1, 2):
            caused: dict[str, Any] = {"correlation_id": f"{root}@1", "causation_ids": (f"{root}@1.0",)}
            await store.append(make_commit(other, version, **caused))


async def test_a_lookup_in_sqlite_reads_only_what_it_returns(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "events.db") as store:
        await fill(store)
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection:
        for selection, arguments in (
            (CORRELATED, ("a-1@1", 0)),
            (EFFECTS_OF_EVENT, ("a-1@1.0", 0)),
            (EFFECTS_OF_COMMIT, ("a-1@1", "a-1@1.", "a-1@1/", 0)),
        ):
            plan = [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {selection.rows}", (*arguments, 10))]
            assert [step for step in plan if step.startswith("SCAN") and "CONSTANT" not in step] == [], plan


async def test_more_than_a_page_is_found_in_sqlite(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "events.db") as store:
        caused: dict[str, Any] = {"correlation_id": "x", "causation_ids": ("y@1.0", "y@1.1")}
        await asyncio.gather(*(store.append(make_commit(f"s-{number}", **caused)) for number in range(2_500)))
        found = [commit.position async for commit in store.correlated("x")]
        assert found == list(range(1, 2_501))
        assert [commit.position async for commit in store.effects_of("y@1")] == found


async def test_what_is_deleted_or_damaged_in_sqlite(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "events.db") as store:
        await fill(store)
        with closing(sqlite3.connect(tmp_path / "events.db")) as other:
            other.execute("DELETE FROM log WHERE stream = 'b-0'")
            other.execute("UPDATE log SET record = x'00' WHERE stream = 'b-1' AND version = 1")
            other.commit()
            assert other.execute("SELECT count(*) FROM effects").fetchone() == (2,)
        assert await ids(store.effects_of("a-0@1.0")) == []
        assert await ids(store.correlated("a-0@1")) == ["a-0@1"]
        for lookup in (store.correlated("a-1@1"), store.effects_of("a-1@1.0")):
            found: list[str] = []
            with pytest.raises(CorruptPayload, match="b-1@1"):
                await collect(lookup, found)
            assert found[-1:] == ["b-1@2"]  # all others come first


async def test_the_effects_of_a_deleted_commit_are_not_those_of_another_one(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "events.db") as store:
        await store.append(make_commit("x-3", causation_ids=("a\0b", "c")))
        with closing(sqlite3.connect(tmp_path / "events.db")) as other:
            other.execute("UPDATE log SET fields = '{'")
            other.execute("DELETE FROM log")
            other.commit()
        await store.append(make_commit("x-3", causation_ids=("other",)))
        assert await ids(store.effects_of("a\0b")) == await ids(store.effects_of("c")) == []
        assert await ids(store.effects_of("other")) == ["x-3@1"]


async def test_a_commit_that_starts_a_trace_and_is_damaged_hides_no_others(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "events.db") as store:
        await fill(store)
        with closing(sqlite3.connect(tmp_path / "events.db")) as other:
            other.execute("UPDATE log SET record = x'c1' WHERE stream = 'a-1'")
            other.commit()
        found: list[str] = []
        with pytest.raises(CorruptPayload, match="a-1@1"):
            await collect(store.correlated("a-1@1"), found)
        assert found == ["b-1@1", "b-1@2"]
        trace = await find_trace("a-1@1", store)
        assert [step.id for step in trace.steps] == found
        assert len(trace.failures) == 1


async def test_a_table_without_the_index_is_scanned_until_it_has_one(
    dynamodb_endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "eventsrc")
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table()
        await fill(store)
        assert await ids(store.correlated("a-1@1")) == ["a-1@1", "b-1@1", "b-1@2"]
        assert await ids(store.effects_of("a-1@1.0")) == ["b-1@1", "b-1@2"]
        assert caplog.text.count("reads the whole table, which costs") == 2
        assert "create_table(traces=True) makes an index" in caplog.text
        caplog.clear()
        assert await asyncio.gather(*(store.create_table(traces=True) for _ in range(3))) == [False] * 3
        while await ids(store.correlated("a-1@1")) != ["a-1@1", "b-1@1", "b-1@2"]:  # noqa: ASYNC110  # nothing reports it
            await asyncio.sleep(0.05)  # DynamoDB fills the index
        before = store.usage.requests
        caplog.clear()
        assert await ids(store.effects_of("a-1@1.0")) == ["b-1@1", "b-1@2"]
        assert store.usage.requests - before == 3  # the cause, the index, and the start of the trace
        assert await ids(store.effects_of("a-1@1.0", correlation_id="a-1@1")) == ["b-1@1", "b-1@2"]
        assert caplog.text == ""


async def test_each_commit_of_a_trace_takes_its_write_units_twice(dynamodb_endpoint: str) -> None:
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table(traces=True)
        for commit, units in ((make_commit("a-1"), 1), (make_commit("a-2", correlation_id="x"), 2)):
            receipt = await store.append(commit)
            assert receipt.usage is not None
            assert receipt.usage.write_units == units


async def test_another_index_of_that_name_is_refused(dynamodb_endpoint: str) -> None:
    name = fresh_name()
    async with session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client:
        await client.create_table(
            TableName=name,
            KeySchema=[{"AttributeName": "PK", "KeyType": "HASH"}, {"AttributeName": "SK", "KeyType": "RANGE"}],
            AttributeDefinitions=[{"AttributeName": n, "AttributeType": t} for n, t in (("PK", "S"), ("SK", "N"))],
            GlobalSecondaryIndexes=[
                {
                    "IndexName": "traces",
                    "KeySchema": [{"AttributeName": "PK", "KeyType": "HASH"}],
                    "Projection": {"ProjectionType": "KEYS_ONLY"},
                }
            ],
            BillingMode="PAY_PER_REQUEST",
        )
    async with store_on(dynamodb_endpoint, name) as store:
        with pytest.raises(StoreRejected, match=f"table {name} has another index of the name traces"):
            await store.create_table(traces=True)


async def test_tenants_of_one_table_see_their_own_traces(dynamodb_endpoint: str) -> None:
    name = fresh_name()
    async with (
        store_on(dynamodb_endpoint, name, tenant="one") as one,
        store_on(dynamodb_endpoint, name, tenant="two") as two,
    ):
        await one.create_table(traces=True)
        for store in (one, two):
            await fill(store, 1)
        await two.append(make_commit("c-1", correlation_id="a-0@1"))
        assert await ids(one.correlated("a-0@1")) == ["a-0@1", "b-0@1", "b-0@2"]
        assert (await ids(two.correlated("a-0@1")))[-1] == "c-1@1"
        assert await ids(one.effects_of("a-0@1")) == ["b-0@1", "b-0@2"]


async def test_a_damaged_item_is_reported_after_the_others(dynamodb_endpoint: str) -> None:
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table(traces=True)
        await fill(store, 1)
        async with session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client:
            await client.update_item(
                TableName=store.table.name,
                Key={"PK": {"S": "b-0"}, "SK": {"N": "1"}},
                UpdateExpression="SET p = :p",
                ExpressionAttributeValues={":p": {"S": "text"}},
            )
        found: list[str] = []
        with pytest.raises(CorruptPayload, match="b-0@1"):
            await collect(store.correlated("a-0@1"), found)
        assert found == ["a-0@1", "b-0@2"]


class Log(OrderedStore):
    """A store of a user's own, without an index."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__()
        self.inner = inner

    async def append(self, commit: Commit) -> Receipt:
        return await self.inner.append(commit)

    async def load(self, stream: str) -> Loaded:
        return await self.inner.load(stream)

    def read(self, stream: str, **options: Any) -> AsyncGenerator[Commit]:
        return self.inner.read(stream, **options)

    async def put_snapshot(self, snapshot: Snapshot) -> bool:
        return await self.inner.put_snapshot(snapshot)

    async def identity(self) -> str:
        return await self.inner.identity()

    async def commits_after(self, position: int) -> tuple[list[Commit | Damaged], bool]:
        rows, complete = await self.inner.commits_after(position)
        return [*rows], complete

    async def last_position(self) -> int:
        return await self.inner.last_position()

    async def heads_after(self, after: str) -> list[Head]:
        return await self.inner.heads_after(after)

    async def on_open(self) -> None: ...
    async def on_close(self) -> None: ...


async def test_an_ordered_store_without_an_index_is_read_from_the_first_commit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with MemoryStore() as inner, Log(inner) as store:
        await fill(store)
        assert isinstance(store, Lookup)
        assert await ids(store.correlated("a-0@1")) == ["a-0@1", "b-0@1", "b-0@2"]
        assert await ids(store.effects_of("a-1@1")) == ["b-1@1", "b-1@2"]
    assert "reads all 6 commits of the store, which has no index for it" in caplog.text


def test_a_stamped_commit_of_an_event_of_80_bytes_has_at_most_220_bytes() -> None:
    commit = make_commit(
        "account-a-1",
        7,
        payload=bytes(80),
        tags=("account.deposited",),
        correlation_id="order-20417@3",
        causation_ids=("order-20417@3.0",),
    )
    assert size_of(Items("PK", "SK", None).from_commit(commit)) <= 220


def size_of(item: dict[str, Any]) -> int:
    """Return the bytes of an item. Source: "DynamoDB item sizes and formats" in the Amazon DynamoDB Developer Guide."""
    return sum(len(name.encode()) + size_of_value(value) for name, value in item.items())


def size_of_value(value: dict[str, Any]) -> int:
    [(kind, content)] = value.items()
    if kind == "L":
        return 3 + sum(1 + size_of_value(each) for each in content)
    if kind == "N":
        return (len(content.strip("0")) + 1) // 2 + 1
    return len(content if kind == "B" else content.encode())
