"""The contract suite: what it reports about a store that breaks a promise."""

from __future__ import annotations

import asyncio

import pytest

from eventsrc import MemoryStore
from eventsrc.testing.contract import CONTRACT, Check, check, feeds


class Silent(MemoryStore):
    """Does not wake its feeds after an append."""

    def notify(self) -> None:
        if self._closing:
            super().notify()


class Stuck(MemoryStore):
    async def on_open(self) -> None:
        await asyncio.Event().wait()


def find_check(name: str) -> Check:
    return next(each for each in CONTRACT if each.name == name)


async def test_a_forgotten_notify_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LONGEST_SILENCE", 0.2)
    with pytest.raises(
        AssertionError, match=r"saw only \d+ of 240 commits; call notify\(\) after an append, or set poll"
    ):
        await find_check("a_follower_gets_new_commits")(Silent)


async def test_a_store_that_hangs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "PATIENCE", 0.2)
    with pytest.raises(AssertionError, match=r"but it did not end within 0.2 seconds$"):
        await find_check("a_follower_gets_new_commits")(Stuck)
