"""The promises of an append while others write, and when it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from ...errors import ConflictError
from ...store import Commit, Receipt, Store
from .check import Capability, MakeStore, expect, expect_equal, expect_error, make_checks
from .samples import expect_same, expect_same_commit, expect_stored, fresh_stream, make_commit, read_all

ROUNDS = (2, 2, 2, 2, 2, 2, 2, 2, 20, 20)  # writers in each round
TOO_LATE = 3  # appends that end before they are cancelled; by then, appends were cancelled at every moment


async def one_writer_wins(make_store: MakeStore) -> None:
    """Of several commits appended to one version at once, exactly one is stored; each other writer gets ConflictError
    with the stored commit.
    """
    async with make_store() as store:
        await race([store])


async def one_writer_wins_across_stores(make_store: MakeStore) -> None:
    """Of several commits appended to one version at once through two store objects, exactly one is stored; each other
    writer gets ConflictError with the stored commit.
    """
    async with make_store() as one, make_store() as other:
        await race([one, other])


async def race(stores: Sequence[Store]) -> None:
    stream = fresh_stream()
    winners: list[Commit] = []
    for version, writers in enumerate(ROUNDS, 1):
        rivals = [make_commit(stream, version, payload=b"of writer %d" % writer) for writer in range(writers)]
        outcomes = await asyncio.gather(
            *(stores[(version + writer) % len(stores)].append(rival) for writer, rival in enumerate(rivals)),
            return_exceptions=True,
        )
        won = [rival for rival, outcome in zip(rivals, outcomes, strict=True) if isinstance(outcome, Receipt)]
        expect_equal(len(won), 1, f"winners among {writers} writers")
        winners += won
        for outcome in outcomes:
            if isinstance(outcome, ConflictError):
                expect_same_commit(outcome.winner, won[0], "as the winner in a ConflictError")
            elif not isinstance(outcome, Receipt):
                raise AssertionError(f"one of {writers} writers got {outcome!r}") from outcome
    for store in stores:
        await expect_stored(store, stream, winners)


async def streams_do_not_disturb_one_another(make_store: MakeStore) -> None:
    """Appends to many streams at once all succeed, and each stream has its own commits in order."""
    async with make_store() as store:
        streams = [fresh_stream() for _ in range(40)]

        async def write(stream: str) -> list[Commit]:
            commits = [make_commit(stream, version, payload=stream.encode()) for version in (1, 2, 3, 4)]
            for commit in commits:
                await store.append(commit)
            return commits

        written = await asyncio.gather(*map(write, streams))
        read = await asyncio.gather(*(read_all(store, stream) for stream in streams))
        for commits, found in zip(written, read, strict=True):
            expect_equal([c.payload for c in found], [c.payload for c in commits], "payloads of one of many streams")


async def a_reader_sees_no_gap(make_store: MakeStore) -> None:
    """A reader that reads while a writer appends sees all commits that were acknowledged before, and no version without
    the versions before it.
    """
    async with make_store() as store:
        stream = fresh_stream()
        acknowledged = 0

        async def write() -> None:
            nonlocal acknowledged
            for version in range(1, 61):
                await store.append(make_commit(stream, version))
                acknowledged = version

        writing = asyncio.create_task(write())
        while not writing.done():
            await asyncio.sleep(0)  # a store that answers at once must not starve the writer
            for read in (load_commits, read_all):
                least = acknowledged
                versions = [commit.version for commit in await read(store, stream)]
                expect_equal(versions, list(range(1, len(versions) + 1)), "versions read during appends")
                expect(len(versions) >= least, f"{least} commits were acknowledged, {len(versions)} were read")
        await writing


async def load_commits(store: Store, stream: str) -> Sequence[Commit]:
    return (await store.load(stream)).commits


async def a_cancelled_append_can_be_made_again(make_store: MakeStore) -> None:
    """An append that was cancelled at any moment can be made again with the same commit: it succeeds, and the commit is
    stored once.
    """
    async with make_store() as store:
        stream = fresh_stream()
        commits: list[Commit] = []
        async for commit in cancel_appends(store, stream):
            receipt = await store.append(commit)
            expect_equal(receipt.commit_id, commit.id, "commit id of the receipt")
            commits.append(commit)
        await expect_stored(store, stream, commits)


async def a_cancelled_append_can_be_given_up(make_store: MakeStore) -> None:
    """After an append was cancelled at any moment, an append of another commit to the same version either stores it, or
    raises ConflictError with the cancelled commit. Exactly one of the two is stored.
    """
    async with make_store() as store:
        stream = fresh_stream()
        commits: list[Commit] = []
        async for commit in cancel_appends(store, stream):
            other = make_commit(stream, commit.version)
            try:
                await store.append(other)
            except ConflictError as conflict:
                expect_same_commit(conflict.winner, commit, "as the winner, although it was cancelled")
                other = commit
            commits.append(other)
        await expect_stored(store, stream, commits)


async def cancel_appends(store: Store, stream: str) -> AsyncIterator[Commit]:
    """Yield the commits 1, 2, 3 ... of a stream, each after an append of it was cancelled, each time a bit later, until
    several appends ended before they were cancelled. Delays are steps of the event loop: times differ between stores.
    """
    version = steps = too_late = 0
    while too_late < TOO_LATE:
        version += 1
        commit = make_commit(stream, version)
        appending = asyncio.create_task(store.append(commit))
        for _ in range(steps):
            await asyncio.sleep(0)
            if appending.done():
                break
        too_late += appending.done()
        appending.cancel()
        await asyncio.wait([appending])
        if not appending.cancelled():
            appending.result()
        yield commit
        steps += max(1, steps // 8)


async def cancelled_calls_do_not_disturb_others(make_store: MakeStore) -> None:
    """If some of many calls are cancelled, the others end with their own result, and the store continues to work."""
    async with make_store() as store:
        for steps in range(4):
            commits = [make_commit(fresh_stream()) for _ in range(12)]
            appends = [asyncio.create_task(store.append(commit)) for commit in commits]
            loads = [asyncio.create_task(store.load(commit.stream)) for commit in commits]
            for _ in range(steps):
                await asyncio.sleep(0)
            for call in (*appends[::2], *loads[::2]):
                call.cancel()
            receipts = await asyncio.gather(*appends[1::2])
            await asyncio.gather(*loads[1::2])
            expect_equal([r.commit_id for r in receipts], [c.id for c in commits[1::2]], "commit ids of the receipts")
            await asyncio.wait([*appends, *loads])
            await asyncio.gather(*map(store.append, commits))
            for commit in commits:
                expect_same(await read_all(store, commit.stream), [commit], "read after others were cancelled")


async def every_acknowledged_append_is_seen(make_store: MakeStore) -> None:
    """An acknowledged commit is in the very next read: forward, backward and by load."""
    async with make_store() as store:
        await expect_seen(store, store)


async def every_acknowledged_append_is_seen_by_other_stores(make_store: MakeStore) -> None:
    """A commit that one store object acknowledged is in the very next read through another store object, and an append
    to its version conflicts there.
    """
    async with make_store() as store, make_store() as other:
        await expect_seen(store, other)
        stream = fresh_stream()
        first = make_commit(stream)
        await store.append(first)
        conflict = await expect_error(
            ConflictError, other.append(make_commit(stream)), "an append through the other store"
        )
        expect_same_commit(conflict.winner, first, "as the winner, through the other store")
        await other.append(first)
        await expect_stored(store, stream, [first])


async def expect_seen(store: Store, reader: Store) -> None:
    stream = fresh_stream()
    commits: list[Commit] = []
    for version in range(1, 11):
        commits.append(make_commit(stream, version))
        await store.append(commits[-1])
        await expect_stored(reader, stream, commits)


CHECKS = (
    *make_checks(
        one_writer_wins,
        streams_do_not_disturb_one_another,
        a_reader_sees_no_gap,
        every_acknowledged_append_is_seen,
        a_cancelled_append_can_be_made_again,
        a_cancelled_append_can_be_given_up,
        cancelled_calls_do_not_disturb_others,
    ),
    *make_checks(
        one_writer_wins_across_stores,
        every_acknowledged_append_is_seen_by_other_stores,
        needs=Capability.SHARES_DATA,
    ),
)
