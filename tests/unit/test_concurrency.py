"""Waiting for threads: when the event loop gives way to them, and for how long."""

from __future__ import annotations

import asyncio
import time

import pytest

from eventsrc import concurrency
from eventsrc.concurrency import cancel_all, wait_for_thread


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds for which the loop has slept, each time."""
    found: list[float] = []
    monkeypatch.setattr(concurrency, "sleep", found.append)
    return found


async def compute(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:  # noqa: ASYNC110  # a loop that never sleeps
        await asyncio.sleep(0)


async def test_calls_that_are_answered_soon_cause_no_pause(pauses: list[float]) -> None:
    loop = asyncio.get_running_loop()
    end, late = loop.time() + 0.03, 0
    while (begun := loop.time()) < end:
        answer: asyncio.Future[int] = loop.create_future()
        loop.call_soon(answer.set_result, 1)
        assert await wait_for_thread(answer) == 1
        late += loop.time() - begun >= 0.005  # this process was not scheduled
    assert len(pauses) <= late


async def test_all_calls_that_wait_share_pauses_of_a_twentieth_of_the_time(pauses: list[float]) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    waiting = [asyncio.create_task(wait_for_thread(loop.create_future())) for _ in range(50)]
    while not pauses:  # noqa: ASYNC110  # as above
        await asyncio.sleep(0)
    await compute(0.03)
    elapsed = loop.time() - begun
    await cancel_all(waiting)
    assert 0 < sum(pauses) <= elapsed / 20
    assert max(pauses) <= 0.005
    found = len(pauses)
    await compute(0.02)
    assert len(pauses) == found  # no call waits


async def test_a_cancellation_and_an_error_pass_through() -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    call = asyncio.create_task(wait_for_thread(answer))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert answer.cancelled()
    with pytest.raises(ZeroDivisionError):
        await wait_for_thread(asyncio.to_thread(lambda: 1 / 0))
