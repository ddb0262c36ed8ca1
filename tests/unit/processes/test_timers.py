"""Timers are kept in order, in memory and in SQLite; and fired once each, not before their time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from eventsrc import StoreUnavailable
from eventsrc.errors import StreamCorrupt
from eventsrc.processes import Due, Timers, firing
from eventsrc.processes.firing import Firing
from eventsrc.processes.timers import timers_in
from eventsrc.processing import Checkpoints, MemoryCheckpoints, SQLiteCheckpoints
from eventsrc.processing.assignment import slot_number


@pytest.fixture(params=["memory", "sqlite"])
async def timers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Timers]:
    made: Checkpoints = MemoryCheckpoints() if request.param == "memory" else SQLiteCheckpoints(tmp_path / "model.db")
    async with made:
        found = timers_in(made)
        await found.prepare()
        await found.prepare()
        yield found


def due(at: int, stream: str = "process-1", number: int = 1) -> Due:
    return Due(at, stream, number, "name", f"{stream}@1.0", "trace")


async def test_timers_are_kept_in_their_order(timers: Timers) -> None:
    given = [due(30), due(10, "process-2"), due(20), due(10), due(10, number=2)]
    for each in [*given, *given]:  # twice, as after a kill
        await timers.put("a@1", each)
    await timers.put("b@1", due(5))
    assert await timers.count("a@1") == 5
    found = [each for part in range(timers.parts) for each in await timers.first("a@1", part, 10)]
    assert sorted(found) == sorted(given)
    assert [each.due for each in found] == [10, 10, 10, 20, 30]
    assert [each.due for each in await timers.first("a@1", 0, 2)] == [10, 10]
    for _ in range(2):
        await timers.remove("a@1", Due(10, "process-1", 1))
    assert await timers.count("a@1") == 4
    await timers.remove("a@1", Due(10, "process-3", 1))
    assert await timers.count("a@1") == 4


async def test_timers_are_read_in_pages(timers: Timers) -> None:
    given = sorted(due(at, f"process-{number % 2}", number) for at in (10, 20) for number in range(10))
    for each in given:
        await timers.put("a@1", each)
    found = list(await timers.first("a@1", 0, 7))
    while page := await timers.first("a@1", 0, 7, found[-1]):
        await timers.remove("a@1", found[-1])
        found += page
    assert found == given


async def test_timers_survive_the_end_of_a_program(tmp_path: Path) -> None:
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        await timers_in(checkpoints).prepare()
        await timers_in(checkpoints).put("a@1", due(10))
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        assert await timers_in(checkpoints).first("a@1", 0, 10) == [due(10)]


class Fired:
    """Notes what is fired, and when."""

    def __init__(self) -> None:
        self.now = 0
        self.fired: list[tuple[int, int]] = []
        self.fails: Callable[[Due], Exception | None] = lambda timer: None

    def clock(self) -> int:
        return self.now

    async def __call__(self, timer: Due, now: int) -> None:
        await asyncio.sleep(0)
        if (error := self.fails(timer)) is not None:
            raise error
        self.fired.append((timer.due, now))


def everything(stream: str) -> bool:
    return True


async def test_each_timer_fires_once_and_not_before_its_time(timers: Timers) -> None:
    noted = Fired()
    firing = Firing(timers, "a@1", noted, noted.clock)
    for number in range(250):
        await firing.put(due(10 + number % 3, number=number))
    for now in (9, 10, 11, 100, 5, 200):
        noted.now = now
        while await firing.fire_due(everything):
            pass
    assert sorted(noted.fired) == sorted((10 + number % 3, (10, 11, 100)[number % 3]) for number in range(250))
    assert await timers.count("a@1") == 0


async def test_a_timer_that_is_put_while_others_wait_fires_at_its_time(timers: Timers) -> None:
    noted = Fired()
    made = Firing(timers, "a@1", noted, noted.clock)
    await made.put(due(1_000))
    assert await made.fire_due(everything) == 0
    await made.put(due(5, number=2))
    noted.now = 5
    assert await made.fire_due(everything) == 1


async def test_timers_of_other_workers_are_left_to_them(timers: Timers) -> None:
    """Also if many of them are due before one of ours."""
    noted = Fired()
    noted.now = 1_000
    made = Firing(timers, "a@1", noted, noted.clock)
    for number in range(450):
        await timers.put("a@1", due(10, "process-other", number))
    await timers.put("a@1", due(20, "process-mine"))
    assert await made.fire_due(lambda stream: stream == "process-mine") == 1
    assert noted.fired == [(20, 1_000)]
    assert await timers.count("a@1") == 450
    assert await Firing(timers, "a@1", noted, noted.clock).fire_due(everything) == 100


async def test_any_number_of_timers_of_other_workers_holds_up_none() -> None:
    noted, timers = Fired(), timers_in(MemoryCheckpoints())
    noted.now = 10_000
    for number in range(6_500):
        await timers.put("a@1", due(number, "process-other", number))
    await timers.put("a@1", due(noted.now, "process-mine"))
    assert await Firing(timers, "a@1", noted, noted.clock).fire_due(lambda stream: stream == "process-mine") == 1


async def test_timers_that_may_not_be_fired_are_read_ever_less_often(
    timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a paused processor, for instance. A timer of ours is not late by it."""
    noted, reads, read = Fired(), list[int](), timers.first

    async def first(*args: Any) -> Sequence[Due]:
        reads.append(noted.now)
        return await read(*args)

    monkeypatch.setattr(timers, "first", first)
    made = Firing(timers, "a@1", noted, noted.clock)
    await made.put(due(0, "process-other"))
    await made.put(due(30_000_000, "process-mine"))
    for now in range(0, 60_000_000, 100_000):
        noted.now = now
        while await made.fire_due(lambda stream: stream == "process-mine"):
            pass
    assert noted.fired == [(30_000_000, 30_000_000)]
    looks = sorted(set(reads))
    assert [each / 1e6 for each in looks[:7]] == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 23.5]
    assert [each / 1e6 for each in looks[7:]] == [30, 30.5, 31.5, 33.5, 37.5, 45.5, 53.5]


async def test_timers_of_a_slot_that_was_taken_over_fire_at_once(
    timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its former holder has stored them, so this one does not know of them."""
    monkeypatch.setattr(firing, "TICK_SECONDS", 0.01)
    noted, held = Fired(), {1}
    noted.now = 1_000
    made = Firing(timers, "a@1", noted, noted.clock)
    streams = [next(name for name in names() if slot_number(name, 16) == slot) for slot in (1, 2, 3)]
    await made.put(due(0, streams[0]))
    task = asyncio.create_task(made.run(lambda stream: slot_number(stream, 16) in held, held.copy))
    async with asyncio.timeout(20):
        while len(noted.fired) < 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for stream in streams[1:]:
            await timers.put("a@1", due(1, stream))
        held |= {2, 3}
        while len(noted.fired) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])


def names() -> Iterator[str]:
    return (f"process-{number}" for number in count())


async def test_one_process_that_cannot_be_read_holds_up_no_other(
    timers: Timers, caplog: pytest.LogCaptureFixture
) -> None:
    noted = Fired()
    noted.now = 1_000
    noted.fails = lambda timer: StreamCorrupt(timer.stream, 1) if timer.stream == "process-1" else None
    made = Firing(timers, "a@1", noted, noted.clock)
    for stream in ("process-1", "process-2"):
        await timers.put("a@1", due(10, stream))
    assert await made.fire_due(everything) == 1
    assert "timer name of process-1" in caplog.text
    assert await timers.count("a@1") == 1


async def test_any_number_of_timers_that_cannot_be_fired_holds_up_none(timers: Timers) -> None:
    noted = Fired()
    noted.now = 1_000
    noted.fails = lambda timer: StreamCorrupt(timer.stream, 1) if timer.stream == "process-1" else None
    made = Firing(timers, "a@1", noted, noted.clock)
    for number in range(250):
        await timers.put("a@1", due(number, number=number))
    await timers.put("a@1", due(300, "process-2"))
    assert await made.fire_due(everything) == 1
    assert noted.fired == [(300, 1_000)]


async def test_timers_wait_for_a_store_that_does_not_answer(timers: Timers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firing, "OUTAGE_SECONDS", 0.01)
    noted, failures = Fired(), [StoreUnavailable("no answer")] * 3
    noted.now = 1_000
    noted.fails = lambda timer: failures.pop() if failures else None
    made = Firing(timers, "a@1", noted, noted.clock)
    await made.put(due(10))
    task = asyncio.create_task(made.run(everything, set))
    async with asyncio.timeout(20):
        while not noted.fired:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert noted.fired == [(10, 1_000)]


async def test_a_read_that_fails_once_makes_no_timer_late(timers: Timers, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Fired()
    made = Firing(timers, "a@1", noted, noted.clock)
    await timers.put("a@1", due(10))
    read, noted.now = timers.first, 10

    async def first(*_: object) -> Sequence[Due]:
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(timers, "first", first)
    with pytest.raises(StoreUnavailable):
        await made.fire_due(everything)
    monkeypatch.setattr(timers, "first", read)
    assert await made.fire_due(everything) == 1


async def test_checkpoints_of_other_kinds_need_timers_of_their_own() -> None:
    with pytest.raises(TypeError, match="has no timers of its own"):
        timers_in(object())  # type: ignore[arg-type]


async def test_a_timer_counts_as_fired_also_if_its_removal_is_cancelled(
    timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone then, so a run to the end would not know otherwise that its event is still to be handled."""
    noted, remove = Fired(), timers.remove
    noted.now = 1_000
    made = Firing(timers, "a@1", noted, noted.clock)
    await made.put(due(10))

    async def cut_off(processor: str, timer: Due) -> None:
        await remove(processor, timer)
        raise asyncio.CancelledError

    monkeypatch.setattr(timers, "remove", cut_off)
    with pytest.raises(asyncio.CancelledError):
        await made.fire_due(everything)
    assert (made.fired, await timers.count("a@1")) == (1, 0)
