"""The promises of commits to several streams that are stored together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from ...errors import CommitTooLarge, ConflictError, InvalidStreamId, StoreClosed, TransactionTooLarge
from ...store import Commit, Receipt, Store
from ...stores.feed import Feed
from ...stores.limits import MAX_COMMIT_BYTES
from ...stores.transacting import MAX_STREAMS, Guard, Transacting
from .appends import FULL
from .check import Capability, MakeStore, expect, expect_equal, expect_error, make_checks
from .samples import expect_same_commit, expect_stored, fill, fresh_stream, make_commit, read_all

ROUNDS = (2, 2, 2, 2, 2, 2, 6, 6)  # transactions in each round of a race
TOO_LATE = 3  # transactions that end before they are cancelled


async def commits_are_stored_together(make_store: MakeStore) -> None:
    """Commits to several streams, new and old ones, are stored together: each is read back in every field, there is a
    receipt for each in their order, and the feed of an ordered store has all of them.
    """
    async with make_store() as store:
        old, new, other = (fresh_stream() for _ in range(3))
        before = await fill(store, old, 2)
        commits = [make_commit(old, 3, **FULL), make_commit(new, events=7), make_commit(other)]
        receipts = await _of(store).append_all(commits)
        for commit, receipt in zip(commits, receipts, strict=True):
            [read] = await read_all(store, commit.stream, after=commit.version - 1)
            expected = Receipt(commit.stream, commit.version, commit.id, commit.events, read.position)
            expect_equal(receipt._replace(usage=None), expected, f"the receipt of {commit.stream}")
        await expect_stored(store, old, [*before, commits[0]])
        await expect_stored(store, new, commits[1:2])
        await expect_stored(store, other, commits[2:])
        if isinstance(store, Feed) and store.ordered:
            async with aclosing(store.feed(follow=False)) as batches:
                found = [commit.id async for batch in batches for commit in batch.commits]
            expect_equal([id for id in found if id in {c.id for c in commits}], [c.id for c in commits], "in the feed")


async def one_conflict_stores_nothing(make_store: MakeStore) -> None:
    """If one commit has a version that is taken, ConflictError names its stream and has the commit that has the
    version, and nothing of the transaction is stored, wherever in it that commit is.
    """
    async with make_store() as store:
        taken = fresh_stream()
        standing = await fill(store, taken, 2)
        for place in range(3):
            streams = [fresh_stream(), fresh_stream()]
            commits = [make_commit(stream) for stream in streams]
            commits.insert(place, make_commit(taken, 2))
            conflict = await expect_error(ConflictError, _of(store).append_all(commits), "a version that is taken")
            found = (conflict.stream, conflict.expected, conflict.actual)
            expect_equal(found, (taken, 1, 2), "stream, expected and actual version")
            expect_same_commit(conflict.winner, standing[1], "as the winner")
            for stream in streams:
                await expect_stored(store, stream, [])
        await expect_stored(store, taken, standing)


async def a_guard_holds_or_stores_nothing(make_store: MakeStore) -> None:
    """A guard whose stream is still at its version, or still does not exist, lets the commits be stored and changes
    nothing itself. If the stream has moved, ConflictError names it and has the next commit, and nothing is stored.
    """
    async with make_store() as store:
        absent, read = fresh_stream(), fresh_stream()
        standing = await fill(store, read, 3)
        commits = [make_commit(fresh_stream()), make_commit(fresh_stream())]
        await _of(store).append_all(commits, [Guard(absent, 0), Guard(read, 3)])
        for commit in commits:
            await expect_stored(store, commit.stream, [commit])
        await expect_stored(store, absent, [])
        await expect_stored(store, read, standing)
        for guard, winner in ((Guard(read, 2), standing[2]), (Guard(read, 0), standing[0])):
            for guards in ([guard, Guard(absent, 0)], [Guard(absent, 0), guard]):
                late = [make_commit(fresh_stream()), make_commit(commits[0].stream, 2)]
                call = _of(store).append_all(late, guards)
                conflict = await expect_error(ConflictError, call, f"a guard at {guard.version} of 3")
                found = (conflict.stream, conflict.expected, conflict.actual)
                expect_equal(found, (read, guard.version, guard.version + 1), "stream, expected and actual version")
                expect_same_commit(conflict.winner, winner, "as the winner")
                await expect_stored(store, late[0].stream, [])
        await expect_stored(store, commits[0].stream, commits[:1])


async def a_guard_protects_a_single_commit(make_store: MakeStore) -> None:
    """A single commit with a guard is stored only if the guard holds."""
    async with make_store() as store:
        read, written = fresh_stream(), fresh_stream()
        standing = await fill(store, read, 1)
        first = make_commit(written)
        await _of(store).append_all([first], [Guard(read, 1)])
        late = make_commit(written, 2)
        conflict = await expect_error(ConflictError, _of(store).append_all([late], [Guard(read, 0)]), "a moved guard")
        expect_same_commit(conflict.winner, standing[0], "as the winner")
        await expect_stored(store, written, [first])


async def guards_alone_are_checked_each_time(make_store: MakeStore) -> None:
    """Guards without commits are checked all at one moment, each time again; no commits and no guards are refused."""
    async with make_store() as store:
        one, other = fresh_stream(), fresh_stream()
        await fill(store, one, 1)
        guards = [Guard(one, 1), Guard(other, 0)]
        for _ in range(2):
            expect_equal(list(await _of(store).append_all((), guards)), [], "receipts of guards")
        await fill(store, other, 1)
        conflict = await expect_error(ConflictError, _of(store).append_all((), guards), "a guard that has moved")
        expect_equal((conflict.stream, conflict.expected), (other, 0), "stream and expected version")
        await expect_error(ValueError, _of(store).append_all(()), "nothing")


async def a_stored_transaction_can_be_sent_again(make_store: MakeStore) -> None:
    """A transaction that is stored already succeeds with the same receipts and stores nothing; also after its streams
    and its guarded streams have moved, and after the store was closed and opened again.
    """
    store = make_store()
    streams, read = [fresh_stream() for _ in range(3)], fresh_stream()
    commits = [make_commit(stream) for stream in streams]
    guards = [Guard(read, 0)]
    async with store:
        receipts = await _of(store).append_all(commits, guards)
        await _expect_again(store, commits, guards, receipts, "at once")
        moved = await fill(store, read, 1)
        await _expect_again(store, commits, guards, receipts, "after the guarded stream moved")
        later = [make_commit(stream, 2) for stream in streams[:2]]
        for commit in later:
            await store.append(commit)
        await _expect_again(store, commits, guards, receipts, "after later commits")
    async with store:
        await _expect_again(store, commits, guards, receipts, "after a restart")
        for number, stream in enumerate(streams):
            await expect_stored(store, stream, [commits[number], *later[number : number + 1]])
        await expect_stored(store, read, moved)


async def _expect_again(
    store: Store, commits: Sequence[Commit], guards: Sequence[Guard], receipts: Sequence[Receipt], when: str
) -> None:
    again = await _of(store).append_all(commits, guards)
    expect_equal([each[:6] for each in again], [each[:6] for each in receipts], f"receipts when sent again {when}")


async def one_transaction_wins(make_store: MakeStore) -> None:
    """Of several transactions on the same streams at once, in any order of the streams, exactly one is stored, all of
    it; each other one gets ConflictError.
    """
    async with make_store() as store:
        streams = [fresh_stream() for _ in range(3)]
        stored: list[list[Commit]] = []
        for version, writers in enumerate(ROUNDS, 1):
            rivals = [[make_commit(stream, version) for stream in streams] for _ in range(writers)]
            calls = (_of(store).append_all(each[::-1] if turn % 2 else each) for turn, each in enumerate(rivals))
            won = await _find_winners(rivals, await asyncio.gather(*calls, return_exceptions=True))
            expect_equal(len(won), 1, f"winners among {writers} transactions")
            stored += won
        for number, stream in enumerate(streams):
            await expect_stored(store, stream, [each[number] for each in stored])


async def guards_exclude_one_another(make_store: MakeStore) -> None:
    """Of two transactions at once, each of which writes the stream that the other one guards, exactly one is stored."""
    async with make_store() as store:
        for _ in ROUNDS:
            one, other = fresh_stream(), fresh_stream()
            rivals = [[make_commit(one)], [make_commit(other)]]
            calls = (
                _of(store).append_all(rivals[0], [Guard(other, 0)]),
                _of(store).append_all(rivals[1], [Guard(one, 0)]),
            )
            won = await _find_winners(rivals, await asyncio.gather(*calls, return_exceptions=True))
            expect_equal(len(won), 1, "winners of two transactions that guard each other's stream")
            found = [*await read_all(store, one), *await read_all(store, other)]
            expect_equal([commit.id for commit in found], [won[0][0].id], "ids of the commits stored")


async def a_transaction_races_with_appends(make_store: MakeStore) -> None:
    """Of a transaction and appends to its streams or to the stream that it guards, at once, the first one wins: the
    transaction is stored whole or not at all, and each append is stored or gets ConflictError.
    """
    async with make_store() as store:
        for turn in range(12):
            streams, read = [fresh_stream(), fresh_stream()], fresh_stream()
            commits = [make_commit(stream) for stream in streams]
            rival = make_commit(read if turn % 3 == 0 else streams[turn % 2])
            calls = [_of(store).append_all(commits, [Guard(read, 0)]), store.append(rival)]
            outcomes: list[object] = []
            for outcome in await asyncio.gather(*(calls if turn % 2 else calls[::-1]), return_exceptions=True):
                expect(isinstance(outcome, (list, tuple, ConflictError)), f"a race ended with {outcome!r}")
                outcomes.append(outcome)
            single = next((each for each in outcomes if isinstance(each, Receipt)), None)
            both = [each for each in outcomes if isinstance(each, (list, tuple)) and not isinstance(each, Receipt)]
            found = [len(await read_all(store, stream)) for stream in streams]
            if both:
                expect_equal(found, [1, 1], "commits of the streams of a stored transaction")
                for commit in commits:
                    await expect_stored(store, commit.stream, [commit])
            else:
                expect(single is not None, "neither the transaction nor the append is stored")
                expect(sum(found) <= 1, "a part of a refused transaction is stored")


async def _find_winners(rivals: Sequence[list[Commit]], outcomes: Sequence[object]) -> list[list[Commit]]:
    won = []
    for commits, outcome in zip(rivals, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            expect(isinstance(outcome, ConflictError), f"one of {len(rivals)} transactions got {outcome!r}")
        else:
            won.append(commits)
    return won


async def a_cancelled_transaction_can_be_sent_again(make_store: MakeStore) -> None:
    """A transaction that was cancelled at any moment can be sent again, and then all of it is stored once."""
    async with make_store() as store:
        streams = [fresh_stream(), fresh_stream()]
        stored: list[list[Commit]] = []
        async for commits, guard in _cancel_transactions(store, streams):
            await _of(store).append_all(commits, [guard])
            stored.append(commits)
        for number, stream in enumerate(streams):
            await expect_stored(store, stream, [each[number] for each in stored])


async def a_cancelled_transaction_can_be_given_up(make_store: MakeStore) -> None:
    """After a transaction was cancelled at any moment, an append to one of its streams either is stored, and then the
    transaction never is; or gets ConflictError with the commit of the transaction, and then all of it is stored.
    """
    async with make_store() as store:
        streams = [fresh_stream(), fresh_stream()]
        ended: list[list[Commit]] = [[], []]
        async for commits, guard in _cancel_transactions(store, streams):
            other = make_commit(streams[0], commits[0].version)
            try:
                await store.append(other)
            except ConflictError as conflict:
                expect_same_commit(conflict.winner, commits[0], "as the winner, although it was cancelled")
                for kept, commit in zip(ended, commits, strict=True):
                    kept.append(commit)
                continue
            call = _of(store).append_all(commits, [guard])
            await expect_error(ConflictError, call, "a transaction that was given up")
            second = make_commit(streams[1], commits[1].version)
            await store.append(second)
            ended[0].append(other)
            ended[1].append(second)
        for stream, commits in zip(streams, ended, strict=True):
            await expect_stored(store, stream, commits)


async def _cancel_transactions(store: Store, streams: Sequence[str]) -> AsyncIterator[tuple[list[Commit], Guard]]:
    """Yield transactions of versions 1, 2, 3 ..., each cancelled a bit later, as `races.cancel_appends` does."""
    version = steps = too_late = 0
    guard = Guard(fresh_stream(), 0)
    while too_late < TOO_LATE:
        version += 1
        commits = [make_commit(stream, version) for stream in streams]
        sending = asyncio.ensure_future(_of(store).append_all(commits, [guard]))
        for _ in range(steps):
            await asyncio.sleep(0)
            if sending.done():
                break
        too_late += sending.done()
        sending.cancel()
        await asyncio.wait([sending])
        if not sending.cancelled():
            sending.result()
        yield commits, guard
        steps += max(1, steps // 8)


async def a_failed_transaction_does_not_disturb_others(make_store: MakeStore) -> None:
    """Transactions that conflict, among appends and transactions to other streams at the same time, fail alone."""
    async with make_store() as store:
        send_all, taken = _of(store).append_all, fresh_stream()
        await fill(store, taken, 1)
        singles = [make_commit(fresh_stream()) for _ in range(12)]
        pairs = [[make_commit(fresh_stream()), make_commit(fresh_stream())] for _ in range(6)]
        late = [[make_commit(fresh_stream()), make_commit(taken)] for _ in range(6)]
        calls = [*map(store.append, singles), *map(send_all, [*pairs, *late])]
        outcomes: Sequence[object] = await asyncio.gather(*calls, return_exceptions=True)
        failed = [isinstance(each, BaseException) for each in outcomes]
        expect_equal(failed, [False] * 18 + [True] * 6, "which of the calls failed")
        for outcome in outcomes[18:]:
            expect(isinstance(outcome, ConflictError), f"a late transaction got {outcome!r}")
        for commit in [*singles, *(commit for pair in pairs for commit in pair)]:
            await expect_stored(store, commit.stream, [commit])
        for pair in late:
            await expect_stored(store, pair[0].stream, [])


async def a_transaction_fits_or_is_refused(make_store: MakeStore) -> None:
    """100 streams fit into a transaction, written or guarded. With one more, or with more than 4 MiB together, it
    raises TransactionTooLarge, and CommitTooLarge if one commit is too large, before any I/O.
    """
    unopened = make_store()  # it cannot do any I/O
    commits = [make_commit(fresh_stream()) for _ in range(MAX_STREAMS - 2)]
    guards = [Guard(fresh_stream(), 0) for _ in range(3)]
    error = await expect_error(TransactionTooLarge, _of(unopened).append_all(commits, guards), "101 streams")
    expect_equal((error.size, error.limit, error.unit), (101, 100, "streams"), "size, limit and unit")
    heavy = [make_commit(fresh_stream(), payload=os.urandom(300_000)) for _ in range(14)]
    error = await expect_error(TransactionTooLarge, _of(unopened).append_all(heavy), "4.2 million bytes")
    expect(error.size > error.limit and error.unit == "bytes", f"the sizes are wrong: {error}")
    huge = [make_commit(fresh_stream()), make_commit(fresh_stream(), payload=bytes(MAX_COMMIT_BYTES * 40))]
    large = await expect_error(CommitTooLarge, _of(unopened).append_all(huge), "a commit that is too large")
    expect_equal(large.stream, huge[1].stream, "the stream of CommitTooLarge")
    async with make_store() as store:
        await _of(store).append_all(commits, guards[:2])
        await _of(store).append_all(heavy[:-1])
        for commit in (*commits, *heavy[:-1]):
            await expect_stored(store, commit.stream, [commit])


async def a_bad_transaction_is_refused(make_store: MakeStore) -> None:
    """A stream that is given twice, as commits, as guards, or as both, raises ValueError; so do a bad version of a
    commit or a guard. A bad stream raises InvalidStreamId. Nothing is stored.
    """
    async with make_store() as store:
        one, other = fresh_stream(), fresh_stream()
        commits = [make_commit(one), make_commit(other)]
        for twice in (
            ([*commits, make_commit(one, 2)], []),
            (commits, [Guard(other, 0)]),
            (commits, [Guard(f"{one}-read", 0), Guard(f"{one}-read", 0)]),
            (commits, [Guard(f"{one}-read", -1)]),
            (commits, [Guard(f"{one}-read", 2**53)]),
            ([*commits, make_commit(f"{one}-more", 0)], []),
        ):
            await expect_error(ValueError, _of(store).append_all(*twice), "a bad transaction")
        await expect_error(InvalidStreamId, _of(store).append_all(commits, [Guard("a|b", 0)]), "a bad guard")
        await expect_error(InvalidStreamId, _of(store).append_all([*commits, make_commit("a|b")]), "a bad stream")
        for stream in (one, other):
            await expect_stored(store, stream, [])


async def a_closed_store_refuses_transactions(make_store: MakeStore) -> None:
    """Before the store is opened and after it was closed, a transaction raises StoreClosed and stores nothing."""
    store = make_store()
    commits = [make_commit(fresh_stream()), make_commit(fresh_stream())]
    await expect_error(StoreClosed, _of(store).append_all(commits), "a store not yet opened")
    async with store:
        pass
    await expect_error(StoreClosed, _of(store).append_all(commits), "a closed store")
    async with store:
        for commit in commits:
            await expect_stored(store, commit.stream, [])


def _of(store: Store) -> Transacting[None]:
    expect(isinstance(store, Transacting), "the store has no transactions: append_all")
    assert isinstance(store, Transacting)
    return store


CHECKS = make_checks(
    commits_are_stored_together,
    one_conflict_stores_nothing,
    a_guard_holds_or_stores_nothing,
    a_guard_protects_a_single_commit,
    guards_alone_are_checked_each_time,
    a_stored_transaction_can_be_sent_again,
    one_transaction_wins,
    guards_exclude_one_another,
    a_transaction_races_with_appends,
    a_cancelled_transaction_can_be_sent_again,
    a_cancelled_transaction_can_be_given_up,
    a_failed_transaction_does_not_disturb_others,
    a_transaction_fits_or_is_refused,
    a_bad_transaction_is_refused,
    a_closed_store_refuses_transactions,
    needs=Capability.TRANSACTIONS,
)
