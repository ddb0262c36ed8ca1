"""A process whose state cannot be read fails alone: workers continue with the timers of others."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from support.ledger import until

from eventsrc import Aggregate, Event, MemoryStore, Repository
from eventsrc.processes import Asks, Process, ProcessManager, after, end
from eventsrc.processing import MemoryCheckpoints


class Begun(Event, tag="begun"):
    pass


class Item(Aggregate, tag="item"):
    def begin(self) -> None:
        self.record(Begun())

    def apply_begun(self, event: Begun) -> None: ...


class Rang(Event, tag="rang"):
    pass


class Alarm(Event, tag="alarm"):
    pass


class Alarms(Process, tag="alarms"):
    broken = False

    def on_begun(self, event: Begun) -> Asks:
        self.record(Rang())
        yield after(timedelta(seconds=0.3), Alarm())

    def on_alarm(self, event: Alarm) -> Asks:
        yield end()

    def apply_rang(self, event: Rang) -> None:
        if Alarms.broken and self.id == "1":
            raise LookupError("a bug in a handler of state")


async def test_a_timer_of_a_process_that_cannot_be_read_ends_no_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with MemoryStore() as store:
        items: Repository[Any] = Repository(Item, store)
        checkpoints = MemoryCheckpoints()
        now = [0]  # no timer is due yet

        def read_clock() -> int:
            return now[0]

        await ProcessManager(Alarms, store, checkpoints, clock=read_clock).run(until_caught_up=True)
        manager = ProcessManager(Alarms, store, checkpoints, clock=read_clock)
        for id in ("1", "2", "3"):
            await items.executor(create=True).execute(id, Item.begin)
        await ProcessManager(Alarms, store, checkpoints, clock=read_clock).run(until_caught_up=True)
        monkeypatch.setattr(Alarms, "broken", True)
        now[0] = 4_000_000_000_000_000
        monkeypatch.setattr("eventsrc.processes.firing._AGAIN_SECONDS", 0.3)
        running = asyncio.create_task(manager.run())
        try:
            for id in ("2", "3"):

                async def has_ended(id: str = id) -> bool:
                    return (await manager.repository.load(id)).instance.ended

                async with asyncio.timeout(30):
                    while not running.done() and not await has_ended():  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            assert not running.done()
            await until(lambda: "LookupError" in caplog.text)
            assert "a bug" not in caplog.text  # it may quote what is stored
            monkeypatch.setattr(Alarms, "broken", False)
            async with asyncio.timeout(30):
                while not (await manager.repository.load("1")).instance.ended:
                    now[0] += 1_000_000
                    await asyncio.sleep(0.01)
        finally:
            manager.stop()
            await running
