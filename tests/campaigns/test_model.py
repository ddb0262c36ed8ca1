"""All stores and layouts against a dictionary, in the short form, and that a store that is wrong would be noticed."""

from __future__ import annotations

import asyncio

import pytest

from campaigns.model import campaign
from eventsrc import MemoryStore, Snapshot


async def test_all_stores_do_as_the_model_does(dynamodb_endpoint: str) -> None:
    layer = await asyncio.to_thread(campaign, 12, 1, dynamodb_endpoint)
    assert not layer.violations, layer.violations[0]
    assert layer.operations > 500


async def test_a_wrong_store_is_noticed(dynamodb_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def put_snapshot(self: MemoryStore, snapshot: Snapshot) -> bool:
        self._snapshots[snapshot.stream] = snapshot
        return True

    monkeypatch.setattr(MemoryStore, "put_snapshot", put_snapshot)
    layer = await asyncio.to_thread(campaign, 30, 1, dynamodb_endpoint, shrink=False)
    assert "memory answered True, not False" in layer.violations[0]
