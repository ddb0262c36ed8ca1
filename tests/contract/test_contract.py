"""Every store keeps the contract that is shipped for authors of stores."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.tables import fresh_name, store_on

from eventsrc import DynamoDBStore, MemoryStore, SQLiteStore
from eventsrc.testing.contract import CONTRACT, Capability, Check

TABLES: dict[str, dict[str, Any]] = {
    "last": {},
    "first-tenant": {"layout": "snapshot-first", "tenant": "\u00e4cme & co"},
    "interleaved-tenant": {"layout": "interleaved", "tenant": "acme"},
    # A name that expressions do not allow, and a reserved word: both work only because names are aliased.
    "last-tenant-keys": {"tenant": "acme", "partition_key": "stream #1", "sort_key": "total"},
}

WITHOUT_INDEX = "first-tenant"  # its lookups scan the table

every_check = pytest.mark.parametrize("check", CONTRACT, ids=str)


@every_check
async def test_memory(check: Check) -> None:
    await check(MemoryStore, without={Capability.SHARES_DATA})


@every_check
async def test_sqlite(check: Check, tmp_path: Path) -> None:
    await check(lambda: SQLiteStore(tmp_path / "ledger.db"))


@every_check
@pytest.mark.parametrize("kind", TABLES)
async def test_dynamodb(check: Check, kind: str, dynamodb_endpoint: str, table_names: dict[str, str]) -> None:
    def make_store() -> DynamoDBStore:
        return store_on(dynamodb_endpoint, table_names[kind], **TABLES[kind])

    await check(make_store, without={Capability.KNOWS_THE_END, Capability.FEEDS})


@pytest.fixture(scope="session")
def table_names(dynamodb_endpoint: str) -> dict[str, str]:
    """Create a table for each kind, for the whole session."""
    names = {kind: fresh_name() for kind in TABLES}

    async def create() -> None:
        for kind, name in names.items():
            async with store_on(dynamodb_endpoint, name, **TABLES[kind]) as store:
                await store.create_table(traces=kind != WITHOUT_INDEX)

    asyncio.run(create())
    return names
