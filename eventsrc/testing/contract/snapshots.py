"""The promises about snapshots, and about loads of streams that have one."""

from __future__ import annotations

import asyncio
import os
import random

from ...store import Commit, Snapshot, Store
from .check import MakeStore, expect, expect_equal, make_checks
from .samples import ALL_BYTES, ALL_SORTS, expect_same, fill, fresh_stream, make_commit, make_snapshot, read_all


async def a_snapshot_is_kept(make_store: MakeStore) -> None:
    """A snapshot is loaded as it was put, byte for byte; also after a restart, and for a stream without commits."""
    store = make_store()
    full = Snapshot(stream=fresh_stream(), version=2**40, shape=ALL_SORTS, payload=ALL_BYTES * 3)
    empty = Snapshot(stream=fresh_stream(), version=1, shape="", payload=b"")
    async with store:
        for snapshot in (full, empty):
            expect(await store.put_snapshot(snapshot) is True, "the first snapshot of a stream was not stored")
            await expect_loaded(store, snapshot, [])
    async with store:
        for snapshot in (full, empty):
            await expect_loaded(store, snapshot, [])


async def a_load_starts_at_the_snapshot(make_store: MakeStore) -> None:
    """A load returns the newest snapshot and the commits from its version on, that one included. If the snapshot is
    ahead of the stream, it returns no commits.
    """
    async with make_store() as store:
        stream = fresh_stream()
        commits = await fill(store, stream, 6)
        for version in (1, 2, 5, 6, 7, 1000):
            snapshot = make_snapshot(stream, version, payload=b"state at %d" % version)
            await store.put_snapshot(snapshot)
            await expect_loaded(store, snapshot, commits[version - 1 :])
        expect_same(await read_all(store, stream), commits, "read forward over snapshots")
        expect_same(await read_all(store, stream, backward=True), commits[::-1], "read backward over snapshots")


async def a_load_spans_pages(make_store: MakeStore) -> None:
    """Snapshot and later commits are loaded completely, also beyond a megabyte, and if there are many commits."""
    async with make_store() as store:
        stream = fresh_stream()
        commits = await fill(store, stream, 8, size=300_000)
        snapshot = make_snapshot(stream, 3, payload=os.urandom(300_000))
        await store.put_snapshot(snapshot)
        await expect_loaded(store, snapshot, commits[2:])
        stream = fresh_stream()
        commits = await fill(store, stream, 100)
        snapshot = make_snapshot(stream, 10)
        await store.put_snapshot(snapshot)
        for _ in range(3):  # a store may learn from one load for the next
            await expect_loaded(store, snapshot, commits[9:])


async def a_snapshot_is_never_replaced_by_an_older_one(make_store: MakeStore) -> None:
    """A snapshot is stored (True) only if it is newer than the stored one; otherwise nothing changes (False)."""
    async with make_store() as store:
        stream = fresh_stream()
        for version, newest in ((5, 5), (4, 5), (5, 5), (1, 5), (6, 6), (5, 6), (100, 100), (20, 100), (100, 100)):
            known = (await store.load(stream)).snapshot
            snapshot = make_snapshot(stream, version, payload=os.urandom(8))
            taken = await store.put_snapshot(snapshot)
            newer = known is None or version > known.version
            expect(taken is newer, f"put_snapshot at {version} returned {taken}, the newest was {known!r}")
            found = (await store.load(stream)).snapshot
            expect_equal(found, snapshot if newer else known, f"the snapshot after one at {version} was put")
            expect_equal(found and found.version, newest, "its version")


async def racing_snapshots_end_with_the_newest(make_store: MakeStore) -> None:
    """Of several snapshots put at the same time, the newest one stays, in whatever order they arrive."""
    async with make_store() as store:
        for seed in range(4):
            stream = fresh_stream()
            snapshots = [make_snapshot(stream, version, payload=b"%d" % version) for version in range(1, 17)]
            order = random.Random(seed).sample(snapshots, len(snapshots))  # noqa: S311  # not for secrets
            taken = await asyncio.gather(*map(store.put_snapshot, order))
            newest = max(order, key=lambda snapshot: snapshot.version)
            expect(taken[order.index(newest)] is True, "the newest of racing snapshots was not stored")
            expect_equal((await store.load(stream)).snapshot, newest, "the snapshot after the race")


async def snapshots_and_appends_do_not_disturb_each_other(make_store: MakeStore) -> None:
    """A snapshot that is put during appends disturbs neither the appends nor a load."""
    async with make_store() as store:
        stream = fresh_stream()
        commits = await fill(store, stream, 1)
        for version in range(2, 21):
            commits.append(make_commit(stream, version))
            writing = asyncio.gather(store.append(commits[-1]), store.put_snapshot(make_snapshot(stream, version - 1)))
            snapshot, found = await store.load(stream)
            await writing
            first = snapshot.version if snapshot else 1
            last = version if len(found) == version - first + 1 else version - 1
            expect_same(
                found, commits[first - 1 : last], f"loaded with a snapshot at {first} while {version} was appended"
            )
        await expect_loaded(store, make_snapshot(stream, 19), commits[18:])


async def expect_loaded(store: Store, snapshot: Snapshot, commits: list[Commit]) -> None:
    loaded = await store.load(snapshot.stream)
    expect_equal(loaded.snapshot, snapshot, "the snapshot loaded")
    expect_same(loaded.commits, commits, f"loaded with a snapshot at {snapshot.version}")


CHECKS = make_checks(
    a_snapshot_is_kept,
    a_load_starts_at_the_snapshot,
    a_load_spans_pages,
    a_snapshot_is_never_replaced_by_an_older_one,
    racing_snapshots_end_with_the_newest,
    snapshots_and_appends_do_not_disturb_each_other,
)
