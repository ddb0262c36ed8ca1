"""Effects: where handlers run, how long they may take, and what precedes each call."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import pytest
from support.bank import Deposited, Opened
from support.ledger import commits_of, fill
from support.slices import FENCE, slices

from eventsrc import Fenced, MemoryStore
from eventsrc.processing import Context, Effects, MemoryCheckpoints
from eventsrc.processing.projections import calling
from eventsrc.processing.slice import HandlerFailed, Slice

request_id: ContextVar[str] = ContextVar("request_id")


class Acting(Effects, tag="acting"):
    """Does what it is given, for each deposit."""

    def __init__(self, act: Callable[[Context], Any]) -> None:
        self.act = act

    def handle_deposited(self, event: Deposited, context: Context) -> None:
        self.act(context)


class ActingLater(Effects, tag="acting-later"):
    def __init__(self, act: Callable[[Context], Any]) -> None:
        self.act = act

    async def handle_deposited(self, event: Deposited, context: Context) -> None:
        await self.act(context)


@pytest.fixture
async def run() -> AsyncIterator[Slice]:
    """A slice of one commit: an account is opened, and has a deposit."""
    async with MemoryStore() as store:
        await fill(store, accounts=1, deposits=1)
        [only] = slices(await commits_of(store))
        yield only


def bound(projection: Effects, timeout: float = 5.0) -> MemoryCheckpoints:
    checkpoints = MemoryCheckpoints()
    projection.bind(checkpoints, MemoryStore(), handler_timeout=timeout)
    return checkpoints


async def error_of(projection: Effects, run: Slice) -> Exception:
    """Return what the handler is said to have raised."""
    [failure] = await projection.apply([run])
    assert isinstance(failure.error, HandlerFailed)
    assert not await projection.positions([run.stream])
    return failure.error.error


async def test_a_plain_handler_that_blocks_does_not_block_the_loop(run: Slice) -> None:
    release, entered, loop = threading.Event(), asyncio.Event(), asyncio.get_running_loop()
    main = threading.get_ident()
    where: list[int] = []

    def act(context: Context) -> None:
        where.append(threading.get_ident())
        loop.call_soon_threadsafe(entered.set)
        assert release.wait(20)

    projection = Acting(act)
    bound(projection)
    applying = asyncio.create_task(projection.apply([run]))
    await entered.wait()  # so the loop turns while the handler blocks
    assert not applying.done()
    release.set()
    assert not await applying
    assert where != [main]
    assert (await projection.positions([run.stream]))[run.stream] == run.position


async def test_a_plain_handler_sees_the_context_variables_of_its_caller(run: Slice) -> None:
    seen: list[str] = []
    projection = Acting(lambda context: seen.append(request_id.get()))
    bound(projection)
    request_id.set("r-9")
    assert not await projection.apply([run])
    assert seen == ["r-9"]


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration(), asyncio.CancelledError(), TimeoutError("mine")])
async def test_what_a_plain_handler_raises_is_its_failure(run: Slice, error: BaseException) -> None:
    def act(context: Context) -> None:
        raise error

    projection = Acting(act)
    bound(projection)
    raised = await asyncio.wait_for(error_of(projection, run), 10)
    if isinstance(error, ValueError | TimeoutError):
        assert raised is error


async def test_a_plain_handler_that_hangs_fails_at_its_limit(run: Slice) -> None:
    release = threading.Event()
    projection = Acting(lambda context: release.wait(60))
    bound(projection, timeout=0.2)
    error = await asyncio.wait_for(error_of(projection, run), 10)
    assert isinstance(error, TimeoutError)
    assert "Acting.handle_deposited took longer than the handler_timeout of 0.2 seconds" in str(error)
    assert "thread still runs" in str(error)
    release.set()


def test_a_plain_handler_that_hangs_does_not_hold_up_the_end_of_the_process() -> None:
    program = """
        import asyncio, sys, time
        sys.path.insert(0, "tests")
        from support.ledger import commits_of, fill
        from support.slices import slices
        from support.bank import Deposited
        from eventsrc import MemoryStore
        from eventsrc.processing import Effects, MemoryCheckpoints

        class Hanging(Effects, tag="hanging"):
            def handle_deposited(self, event: Deposited) -> None:
                time.sleep(600)

        async def main():
            async with MemoryStore() as store:
                await fill(store, accounts=1, deposits=1)
                projection = Hanging()
                projection.bind(MemoryCheckpoints(), store, handler_timeout=0.1)
                print(len(await projection.apply(slices(await commits_of(store)))))

        asyncio.run(main())
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], timeout=60, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "1\n"


async def test_a_coroutine_that_hangs_is_cancelled_at_its_limit(run: Slice) -> None:
    cancelled: list[bool] = []

    async def act(context: Context) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    projection = ActingLater(act)
    bound(projection, timeout=0.1)
    error = await asyncio.wait_for(error_of(projection, run), 10)
    assert isinstance(error, TimeoutError)
    assert "ActingLater.handle_deposited took longer" in str(error)
    assert cancelled == [True]


async def test_a_coroutine_that_ignores_its_cancellation_is_left_alone(
    run: Slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "GRACE", 0.1)
    release = asyncio.Event()

    async def act(context: Context) -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    projection = ActingLater(act)
    bound(projection, timeout=0.1)
    error = await asyncio.wait_for(error_of(projection, run), 10)
    assert "still runs" in str(error)
    release.set()


async def test_a_task_that_is_cancelled_within_a_handler_is_its_failure(run: Slice) -> None:
    async def act(context: Context) -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    projection = ActingLater(act)
    bound(projection)
    error = await error_of(projection, run)
    assert "a task that ActingLater.handle_deposited awaited was cancelled" in str(error)


async def test_a_caller_that_is_cancelled_cancels_the_handler(run: Slice) -> None:
    entered, ended = asyncio.Event(), asyncio.Event()

    async def act(context: Context) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    projection = ActingLater(act)
    bound(projection)
    applying = asyncio.create_task(projection.apply([run]))
    await entered.wait()
    applying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await applying
    assert ended.is_set()
    assert not await projection.positions([run.stream])


async def test_the_slot_is_confirmed_before_each_call(run: Slice) -> None:
    log: list[str] = []

    class Both(Effects, tag="both"):
        def handle_opened(self, event: Opened) -> None:
            log.append("opened")

        async def handle_deposited(self, event: Deposited) -> None:
            log.append("deposited")

    async def confirm() -> None:
        log.append("confirm")
        if log.count("confirm") > 2:
            raise Fenced("both@1", 0)

    projection = Both()
    bound(projection)
    assert not await projection.apply([run._replace(confirm=confirm)])
    assert log == ["confirm", "opened", "confirm", "deposited"]
    [failure] = await projection.apply([run._replace(confirm=confirm)])
    assert isinstance(failure.error, Fenced)
    assert log[4:] == ["confirm"]


async def test_muted_commits_have_no_effect(run: Slice) -> None:
    acted: list[str] = []
    projection = Acting(lambda context: acted.append(context.id))
    bound(projection)
    assert not await projection.apply([run._replace(muted=True)])
    assert not acted
    assert (await projection.positions([run.stream]))[run.stream].version == 1


async def test_effects_cannot_be_replayed_and_forget_drops_positions(run: Slice) -> None:
    projection = Acting(lambda context: None)
    bound(projection)
    await projection.apply([run])
    with pytest.raises(TypeError, match="would happen again"):
        await projection.reset(run.stream, FENCE)
    await projection.discard()
    assert not await projection.positions([run.stream])


async def test_plain_handlers_of_several_streams_run_at_the_same_time() -> None:
    async with MemoryStore() as store:
        await fill(store, accounts=8, deposits=1)
        runs = slices(await commits_of(store))
    barrier = threading.Barrier(8, timeout=20)
    projection = Acting(lambda context: barrier.wait())
    bound(projection, timeout=20)
    started = time.monotonic()
    results = await asyncio.gather(*(projection.apply([run]) for run in runs))
    assert not any(results)
    assert time.monotonic() - started < 20
