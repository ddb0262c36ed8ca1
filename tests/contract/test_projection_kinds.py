"""Every kind of projections keeps the contract that is shipped for authors of kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.logs import effects_bench, items_bench, memory_bench, rows_bench, sqlite_bench

from eventsrc.testing.contract.projections import CONTRACT, Capability, Check

every_check = pytest.mark.parametrize("check", CONTRACT, ids=str)

IN_MEMORY = {Capability.UNDOES, Capability.SHARES, Capability.FENCES, Capability.DROPS}
OUTSIDE = {Capability.ATOMIC, Capability.UNDOES, Capability.DROPS, Capability.RESETS}


@every_check
async def test_memory(check: Check) -> None:
    await check(memory_bench, without=IN_MEMORY)


@every_check
async def test_sqlite(check: Check, tmp_path: Path) -> None:
    await check(lambda: sqlite_bench(tmp_path / "read.db"))


@every_check
async def test_effects(check: Check) -> None:
    await check(effects_bench, without=OUTSIDE)


@every_check
async def test_dynamodb(check: Check, dynamodb_endpoint: str) -> None:
    await check(lambda: items_bench(dynamodb_endpoint))


@every_check
async def test_dynamodb_rows(check: Check, dynamodb_endpoint: str) -> None:
    await check(lambda: rows_bench(dynamodb_endpoint))
