"""What opening and closing a store promise."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress

from ...errors import StoreClosed
from ...store import Commit, Store
from .check import MakeStore, checks, expect, expect_equal, refused
from .samples import expect_same, expect_stored, fill, fresh_stream, make_commit, make_snapshot, stored


async def a_closed_store_says_so(make_store: MakeStore) -> None:
    """Every call raises StoreClosed before the store is opened and after it was closed, and does nothing."""
    store = make_store()
    stream = fresh_stream()
    await expect_closed(store, stream, "a store not yet opened")
    async with store:
        await expect_stored(store, stream, [])
    await expect_closed(store, stream, "a closed store")
    async with store:
        await expect_stored(store, stream, [])


async def expect_closed(store: Store, stream: str, what: str) -> None:
    await refused(StoreClosed, store.append(make_commit(stream)), f"an append to {what}")
    await refused(StoreClosed, store.load(stream), f"a load from {what}")
    await refused(StoreClosed, stored(store, stream), f"a read from {what}")
    await refused(StoreClosed, store.put_snapshot(make_snapshot(stream, 1)), f"a snapshot to {what}")


async def a_store_is_opened_once(make_store: MakeStore) -> None:
    """A second open raises StoreClosed and leaves the store working. Closing twice is no error, nor is closing a store
    never opened; once closed it can be opened again, with all it held.
    """
    store = make_store()
    commit = make_commit(fresh_stream())
    await store.aclose()
    async with store:
        await refused(StoreClosed, store.open(), "a second open")
        await store.append(commit)
        await store.aclose()
    await store.aclose()
    async with store:
        await expect_stored(store, commit.stream, [commit])


async def another_event_loop_is_refused(make_store: MakeStore) -> None:
    """A call from an event loop that the store was not opened in raises StoreClosed."""
    async with make_store() as store:
        stream = fresh_stream()
        await asyncio.to_thread(asyncio.run, expect_closed(store, stream, "a store of another event loop"))
        await expect_stored(store, stream, [])


async def closing_waits_for_calls(make_store: MakeStore) -> None:
    """Calls in flight when the store is closed end with their own result; none is cancelled or lost."""
    store = make_store()
    commits: list[Commit] = []
    for one_is_done in (False, True):
        await store.open()
        fresh = [make_commit(fresh_stream()) for _ in range(20)]
        calls: list[asyncio.Task[object]] = [asyncio.create_task(store.append(commit)) for commit in fresh]
        calls += [asyncio.create_task(store.load(commit.stream)) for commit in fresh]
        await asyncio.sleep(0)  # each has begun
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


async def closing_waits_for_work_behind_saves(make_store: MakeStore) -> None:
    """Closing awaits what was spawned, which may still put its snapshot; new appends are refused meanwhile."""
    store = make_store()
    stream = fresh_stream()
    go_on = asyncio.Event()

    async def work() -> None:
        await go_on.wait()
        await store.put_snapshot(make_snapshot(stream, 1))

    await store.open()
    store.spawn(work())
    closing = asyncio.create_task(store.aclose())
    await asyncio.sleep(0)
    await refused(StoreClosed, store.append(make_commit(stream)), "an append to a store that is closing")
    expect(not closing.done(), "the store did not wait for spawned work")
    go_on.set()
    await closing
    async with store:
        loaded = await store.load(stream)
        expect_equal(loaded.snapshot, make_snapshot(stream, 1), "the snapshot put while closing")
        expect_equal(list(loaded.commits), [], "what was stored while closing")


async def a_cancelled_close_can_be_made_again(make_store: MakeStore) -> None:
    """A close that was cancelled while it waited for work behind saves is finished by the next close; the store can be
    opened again, with all it held.
    """
    store = make_store()
    commit = make_commit(fresh_stream())
    go_on = asyncio.Event()

    async def work() -> None:
        await go_on.wait()
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
    go_on.set()
    await store.aclose()
    await expect_closed(store, commit.stream, "a store closed at the second try")
    async with store:
        await expect_stored(store, commit.stream, [commit])
        loaded = await store.load(commit.stream)
        expect_equal(loaded.snapshot, make_snapshot(commit.stream, 1), "the snapshot put while closing")


async def a_store_is_closed_while_it_opens_and_closes(make_store: MakeStore) -> None:
    """Calls while a store opens or closes are refused; closing one that opens waits, and leaves it closed."""
    store = make_store()
    stream = fresh_stream()
    for steps in range(3):
        opening = asyncio.create_task(store.open())
        for _ in range(steps):
            await asyncio.sleep(0)
        if not opening.done():
            await refused(StoreClosed, store.load(stream), "load while opening")
        await store.aclose()
        await asyncio.wait([opening])
        await store.aclose()
        await expect_closed(store, stream, "a store closed while it opened")


async def closing_does_not_wait_for_readers(make_store: MakeStore) -> None:
    """A read left half-way and not closed does not hold up closing. Continued after it, the read raises StoreClosed
    once it has given what it had fetched; it never ends as if that were all.
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
                read.append(commit)  # noqa: PERF401  # a comprehension loses what it has when the read is refused
            expect_equal(len(read), len(commits), "commits of a read that ended after the store was closed")
    expect_same(read, commits[: len(read)], "read while the store was closed")


async def failed_work_stops_nothing(make_store: MakeStore) -> None:
    """Work behind a save that raises fails neither a call nor the close."""
    store = make_store()
    commit = make_commit(fresh_stream())

    async def work() -> None:
        raise RuntimeError("made to fail by the contract's checks")

    async with store:
        store.spawn(work())
        receipt = await store.append(commit)
        expect_equal(receipt[:4], (commit.stream, 1, commit.id, 1), "the receipt")
    async with store:
        await expect_stored(store, commit.stream, [commit])


CHECKS = checks(
    a_closed_store_says_so,
    a_store_is_opened_once,
    another_event_loop_is_refused,
    closing_waits_for_calls,
    closing_waits_for_work_behind_saves,
    a_cancelled_close_can_be_made_again,
    a_store_is_closed_while_it_opens_and_closes,
    closing_does_not_wait_for_readers,
    failed_work_stops_nothing,
)
