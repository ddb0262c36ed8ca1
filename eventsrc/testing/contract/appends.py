"""The promises of an append while there are no other writers."""

from __future__ import annotations

import asyncio
from typing import Any

from ...errors import ConflictError
from ...store import Receipt
from .check import Capability, MakeStore, expect, expect_equal, expect_error, make_checks
from .samples import ALL_BYTES, ALL_SORTS, expect_same_commit, expect_stored, fill, fresh_stream, make_commit, read_all

FULL: dict[str, Any] = {
    "id": ALL_BYTES[-16:],
    "time": 2**53 - 1,
    "events": 1_000_000,
    "tags": ("zebra", "apple", ALL_SORTS, "Apple"),  # an order that neither a set nor sorting restores
    "payload": ALL_BYTES * 3,
    "correlation_id": ALL_SORTS,
    "causation_ids": ("order-9@2.0", "order-1@7.3", ALL_SORTS, "order-9@2.0"),
    "command_id": f"command {ALL_SORTS}",
    "command_digest": ALL_BYTES[:8],
    "metadata": {"zebra": "1", "apple": ALL_SORTS, ALL_SORTS: "", "Apple": "null"},
}
ABSENT: dict[str, Any] = {
    "correlation_id": None,
    "causation_ids": (),
    "command_id": None,
    "command_digest": None,
    "metadata": {},
}
EMPTY: dict[str, Any] = {
    "time": 0,
    "events": 0,
    "tags": (),
    "payload": b"",
    "correlation_id": "",
    "causation_ids": ("",),
    "command_id": "",
    "command_digest": b"",
    "metadata": {"empty": ""},
}


async def every_field_is_kept(make_store: MakeStore) -> None:
    """A commit is read back as it was appended, in every field and byte for byte; empty and absent fields differ."""
    async with make_store() as store:
        stream = fresh_stream()
        commits = [make_commit(stream, version, **fields) for version, fields in enumerate((FULL, ABSENT, EMPTY), 1)]
        for commit in commits:
            await store.append(commit)
        await expect_stored(store, stream, commits)


async def a_receipt_has_the_place_of_the_commit(make_store: MakeStore) -> None:
    """An append returns stream, version, commit id and number of events; positions, if the store has them, increase."""
    async with make_store() as store:
        stream = fresh_stream()
        commits = [make_commit(stream, version, events=version * 7) for version in (1, 2, 3)]
        receipts = [await store.append(commit) for commit in commits]
        for commit, receipt, read in zip(commits, receipts, await read_all(store, stream), strict=True):
            expected = Receipt(stream, commit.version, commit.id, commit.events, read.position, usage=receipt.usage)
            expect_equal(receipt, expected, f"the receipt of version {commit.version}")
        positions = [receipt.position for receipt in receipts if receipt.position is not None]
        expect(len(positions) in (0, 3), f"some receipts have a position and others do not: {receipts!r}")
        expect_equal(positions, sorted(set(positions)), "positions of consecutive commits")


async def a_taken_version_is_a_conflict(make_store: MakeStore) -> None:
    """An append to a version that is taken, the last or an older one, raises ConflictError with the commit that has
    the version, and stores nothing.
    """
    async with make_store() as store:
        stream = fresh_stream()
        commits = [make_commit(stream, 1, **FULL), *(make_commit(stream, version) for version in (2, 3))]
        for commit in commits:
            await store.append(commit)
        for standing in commits:
            late = make_commit(stream, standing.version, payload=b"late")
            conflict = await expect_error(ConflictError, store.append(late), f"a second append at {standing.version}")
            expect_same_commit(conflict.winner, standing, "as the winner of a conflict")
            expect_equal(
                (conflict.stream, conflict.expected, conflict.actual),
                (stream, standing.version - 1, standing.version),
                "stream, expected and actual version of the conflict",
            )
        await expect_stored(store, stream, commits)


async def commits_are_compared_by_id(make_store: MakeStore) -> None:
    """A commit with the same content and another id is another commit: appending it raises ConflictError."""
    async with make_store() as store:
        first, twin = (make_commit(stream, time=1) for stream in [fresh_stream()] * 2)
        await store.append(first)
        conflict = await expect_error(ConflictError, store.append(twin), "the same content under another id")
        expect_same_commit(conflict.winner, first, "as the winner of a conflict")


async def a_stored_commit_can_be_sent_again(make_store: MakeStore) -> None:
    """An append of a commit that is stored already succeeds with the same receipt, and stores nothing; also after other
    commits were appended, and after the store was closed and opened again.
    """
    store = make_store()
    stream = fresh_stream()
    async with store:
        first = make_commit(stream, 1, **FULL)
        receipt = await store.append(first)
        expect_equal((await store.append(first))[:6], receipt[:6], "the receipt when sent again")
        others = [make_commit(stream, version) for version in (2, 3)]
        for commit in others:
            await store.append(commit)
        expect_equal((await store.append(first))[:6], receipt[:6], "the receipt when sent again after two others")
    async with store:
        expect_equal((await store.append(first))[:6], receipt[:6], "the receipt when sent again after a restart")
        await expect_stored(store, stream, [first, *others])


async def a_commit_sent_twice_at_once_is_stored_once(make_store: MakeStore) -> None:
    """Several appends of one commit at the same time all succeed with the same receipt, and store it once."""
    async with make_store() as store:
        stream = fresh_stream()
        commits = [make_commit(stream, version) for version in (1, 2, 3)]
        for commit in commits:
            receipts = await asyncio.gather(*(store.append(commit) for _ in range(4)))
            expect_equal([each[:6] for each in receipts], [receipts[0][:6]] * 4, "receipts of the same commit")
        await expect_stored(store, stream, commits)


async def an_append_beyond_the_end_is_a_conflict(make_store: MakeStore) -> None:
    """An append that leaves a gap raises ConflictError with the stream's last version, and stores nothing."""
    async with make_store() as store:
        for count in (0, 3):
            stream = fresh_stream()
            commits = await fill(store, stream, count)
            for version in (count + 2, count + 100):
                late = make_commit(stream, version)
                conflict = await expect_error(ConflictError, store.append(late), f"version {version} after {count}")
                found = (conflict.expected, conflict.actual, conflict.winner)
                expect_equal(found, (version - 1, count, None), "expected and actual version, and winner")
            await expect_stored(store, stream, commits)
            await store.append(make_commit(stream, count + 1))


CHECKS = (
    *make_checks(
        every_field_is_kept,
        a_receipt_has_the_place_of_the_commit,
        a_taken_version_is_a_conflict,
        commits_are_compared_by_id,
        a_stored_commit_can_be_sent_again,
        a_commit_sent_twice_at_once_is_stored_once,
    ),
    *make_checks(an_append_beyond_the_end_is_a_conflict, needs=Capability.KNOWS_THE_END),
)
