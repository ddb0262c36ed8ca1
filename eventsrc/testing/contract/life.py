"""The promises of opening and closing a store."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress

from ...errors import StoreClosed
from ...store import Commit, Store
from .check import MakeStore, expect, expect_equal, expect_error, make_checks
from .samples import expect_same, expect_stored, fill, fresh_stream, make_commit, make_snapshot, read_all


async def a_closed_store_refuses_calls(make_store: MakeStore) -> None:
    """Before the store is opened and after it was closed, every call raises StoreClosed and does nothing."""
    store = make_store()
    stream = fresh_stream()
    await expect_closed(store, stream, "a store not yet opened")
    async with store:
        await expect_stored(store, stream, [])
    await expect_closed(store, stream, "a closed store")
    async with store:
        await expect_stored(store, stream, [])


async def expect_closed(store: Store, stream: str, what: str) -> None:
    await expect_error(StoreClosed, store.append(make_commit(stream)), f"an append to {what}")
    await expect_error(StoreClosed, store.load(stream), f"a load from {what}")
    await expect_error(StoreClosed, read_all(store, stream), f"a read from {what}")
    await expect_error(StoreClosed, store.put_snapshot(make_snapshot(stream, 1)), f"a snapshot to {what}")


async def a_store_is_opened_once(make_store: MakeStore) -> None:
    """A second open raises StoreClosed, and the store continues to work. Closing twice, or closing a store that was
    never opened, does nothing. A closed store can be opened again, with all its data.
    """
    store = make_store()
    commit = make_commit(fresh_stream())
    await store.aclose()
    async with store:
        await expect_error(StoreClosed, store.open(), "a second open")
        await store.append(commit)
        await store.aclose()
    await store.aclose()
    async with store:
        await expect_stored(store, commit.stream, [commit])


async def another_event_loop_is_refused(make_store: MakeStore) -> None:
    """A call from another event loop than the one in which the store was opened raises StoreClosed."""
    async with make_store() as store:
        stream = fresh_stream()
        await asyncio.to_thread(asyncio.run, expect_closed(store, stream, "a store of another event loop"))
        await expect_stored(store, stream, [])


async def closing_waits_for_calls(make_store: MakeStore) -> None:
    """Calls in flight when the store is closed end with their own results; none is cancelled or lost."""
    store = make_store()
    commits: list[Commit] = []
    for one_is_done in (False, True):
        await store.open()
        fresh = [make_commit(fresh_stream()) for _ in range(20)]
        calls: list[asyncio.Task[object]] = [asyncio.create_task(store.append(commit)) for commit in fresh]
        calls += [asyncio.create_task(store.load(commit.stream)) for commit in fresh]
        await asyncio.sleep(0)  # each has started
        if one_is_done:
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        await store.aclose()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        expect_equal(failed, [], "errors of calls in flight")
        commits += fresh
    async with store:
        for commit in commits:
            await expect_stored(store, commit.stream, [commit])


async def closing_waits_for_spawned_work(make_store: MakeStore) -> None:
    """Closing waits for spawned work, which may still put a snapshot; new appends are refused while it waits."""
    store = make_store()
    stream = fresh_stream()
    proceed = asyncio.Event()

    async def work() -> None:
        await proceed.wait()
        await store.put_snapshot(make_snapshot(stream, 1))

    await store.open()
    store.spawn(work())
    closing = asyncio.create_task(store.aclose())
    await asyncio.sleep(0)
    await expect_error(StoreClosed, store.append(make_commit(stream)), "an append to a store that is closing")
    expect(not closing.done(), "the store did not wait for spawned work")
    proceed.set()
    await closing
    async with store:
        loaded = await store.load(stream)
        expect_equal(loaded.snapshot, make_snapshot(stream, 1), "the snapshot put while closing")
        expect_equal(list(loaded.commits), [], "commits stored while closing")


async def a_cancelled_close_can_be_made_again(make_store: MakeStore) -> None:
    """If a close is cancelled while it waits for spawned work, the next close finishes it; the store can be opened
    again, with all its data.
    """
    store = make_store()
    commit = make_commit(fresh_stream())
    proceed = asyncio.Event()

    async def work() -> None:
        await proceed.wait()
        await store.put_snapshot(make_snapshot(commit.stream, 1))

    await store.open()
    await store.append(commit)
    store.spawn(work())
    for steps in range(3):
        closing = asyncio.create_task(store.aclose())
        for _ in range(steps):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        expect(closing.cancelled(), "the store did not wait for spawned work")
    proceed.set()
    await store.aclose()
    await expect_closed(store, commit.stream, "a store closed at the second attempt")
    async with store:
        await expect_stored(store, commit.stream, [commit])
        loaded = await store.load(commit.stream)
        expect_equal(loaded.snapshot, make_snapshot(commit.stream, 1), "the snapshot put while closing")


async def a_store_that_opens_or_closes_refuses_calls(make_store: MakeStore) -> None:
    """While a store opens or closes, calls are refused. A close during an open waits for the open, and leaves the store
    closed.
    """
    store = make_store()
    stream = fresh_stream()
    for steps in range(3):
        opening = asyncio.create_task(store.open())
        for _ in range(steps):
            await asyncio.sleep(0)
        if not opening.done():
            await expect_error(StoreClosed, store.load(stream), "load while opening")
        await store.aclose()
        await asyncio.wait([opening])
        await store.aclose()
        await expect_closed(store, stream, "a store closed while it opened")


async def closing_does_not_wait_for_readers(make_store: MakeStore) -> None:
    """A read that was started and is not finished does not delay closing. If it is continued after the close, it yields
    what it had fetched and then raises StoreClosed; it never ends as if the stream ended there.
    """
    store = make_store()
    await store.open()
    stream = fresh_stream()
    commits = await fill(store, stream, 5, size=300_000)
    async with aclosing(store.read(stream)) as reading:
        read = [await anext(reading)]
        await store.aclose()
        with suppress(StoreClosed):
            async for commit in reading:
                read.append(commit)  # noqa: PERF401  # a comprehension loses what it has when the read raises
            expect_equal(len(read), len(commits), "commits of a read that ended after the store was closed")
    expect_same(read, commits[: len(read)], "read while the store was closed")


async def failed_spawned_work_is_not_raised(make_store: MakeStore) -> None:
    """If spawned work raises, neither calls nor the close fail."""
    store = make_store()
    commit = make_commit(fresh_stream())

    async def work() -> None:
        raise RuntimeError("raised on purpose by the contract's checks")

    async with store:
        store.spawn(work())
        receipt = await store.append(commit)
        expect_equal(receipt[:4], (commit.stream, 1, commit.id, 1), "the receipt")
    async with store:
        await expect_stored(store, commit.stream, [commit])


CHECKS = make_checks(
    a_closed_store_refuses_calls,
    a_store_is_opened_once,
    another_event_loop_is_refused,
    closing_waits_for_calls,
    closing_waits_for_spawned_work,
    a_cancelled_close_can_be_made_again,
    a_store_that_opens_or_closes_refuses_calls,
    closing_does_not_wait_for_readers,
    failed_spawned_work_is_not_raised,
)
