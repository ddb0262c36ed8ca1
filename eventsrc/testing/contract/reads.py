"""The promises of reads."""

from __future__ import annotations

import unicodedata
from contextlib import aclosing

from ...store import MAX_VERSION, Commit
from .check import MakeStore, expect_equal, make_checks
from .samples import expect_same, expect_stored, fill, fresh_stream, make_commit, make_snapshot, read_all

RANGES: tuple[tuple[int, int, list[int]], ...] = (  # after, until, the versions read from a stream of five
    (0, MAX_VERSION, [1, 2, 3, 4, 5]),
    (2, MAX_VERSION, [3, 4, 5]),
    (0, 3, [1, 2, 3]),
    (1, 4, [2, 3, 4]),
    (4, 5, [5]),
    (0, 1, [1]),
    (-3, 99, [1, 2, 3, 4, 5]),
    (-(2**80), 2**80, [1, 2, 3, 4, 5]),
    (2**80, 2**80, []),
    (-(2**80), -(2**80), []),
    (3, 3, []),
    (4, 2, []),
    (5, MAX_VERSION, []),
    (99, MAX_VERSION, []),
    (MAX_VERSION, MAX_VERSION, []),
    (0, 0, []),
    (0, -1, []),
)


async def a_range_is_read_exactly(make_store: MakeStore) -> None:
    """A read returns the versions from `after` (exclusive) to `until` (inclusive), in order; backward in reverse."""
    async with make_store() as store:
        stream = fresh_stream()
        await fill(store, stream, 5)
        await store.put_snapshot(make_snapshot(stream, 3))  # a read must leave it out
        for after, until, expected in RANGES:
            forward = await read_all(store, stream, after=after, until=until)
            backward = await read_all(store, stream, after=after, until=until, backward=True)
            expect_equal([commit.version for commit in forward], expected, f"{after=} {until=}")
            expect_equal([commit.version for commit in backward], expected[::-1], f"{after=} {until=}, backward")


async def an_unknown_stream_is_empty(make_store: MakeStore) -> None:
    """A stream that does not exist has no commits and no snapshot; reading it does not raise an error."""
    async with make_store() as store:
        stream = fresh_stream()
        loaded = await store.load(stream)
        expect_equal((loaded.snapshot, list(loaded.commits)), (None, []), "a load of an unknown stream")
        await expect_stored(store, stream, [])


async def pages_beyond_a_megabyte_are_read(make_store: MakeStore) -> None:
    """A stream of several megabytes is read completely: forward, backward, by load, and in any range."""
    async with make_store() as store:
        stream = fresh_stream()
        commits = await fill(store, stream, 9, size=300_000)
        await expect_stored(store, stream, commits)
        expect_same(await read_all(store, stream, after=2, until=8), commits[2:8], "read from 3 to 8")
        backward = await read_all(store, stream, after=2, until=8, backward=True)
        expect_same(backward, commits[7:1:-1], "read backward from 8 to 3")


async def many_commits_are_read(make_store: MakeStore) -> None:
    """A stream of hundreds of commits is read completely: forward, backward and by load."""
    async with make_store() as store:
        stream = fresh_stream()
        await expect_stored(store, stream, await fill(store, stream, 300))


async def a_read_can_be_stopped(make_store: MakeStore) -> None:
    """A read may be stopped at any commit, and appends work while it is under way; it returns each version once."""
    async with make_store() as store:
        stream = fresh_stream()
        commits = await fill(store, stream, 4, size=300_000)
        for wanted in (1, 3):
            async with aclosing(store.read(stream)) as reading:
                read = [await anext(reading) for _ in range(wanted)]
            expect_same(read, commits[:wanted], "read before it was stopped")
        versions: list[int] = []
        async with aclosing(store.read(stream)) as reading:
            async for commit in reading:
                versions.append(commit.version)
                if len(commits) < 6:
                    commits.append(make_commit(stream, len(commits) + 1))
                    await store.append(commits[-1])
        expect_equal(versions, list(range(1, len(versions) + 1)), "versions read while others were appended")
        await expect_stored(store, stream, commits)


async def a_loaded_result_does_not_change(make_store: MakeStore) -> None:
    """The result of a load does not change when more is appended, and changing the result does not change the store."""
    async with make_store() as store:
        stream = fresh_stream()
        commits = await fill(store, stream, 3)
        loaded = await store.load(stream)
        commits.append(make_commit(stream, 4))
        await store.append(commits[-1])
        expect_same(loaded.commits, commits[:3], "loaded before another was appended")
        if isinstance(loaded.commits, list):
            loaded.commits.clear()
        await expect_stored(store, stream, commits)


async def similar_stream_ids_are_different_streams(make_store: MakeStore) -> None:
    """Stream ids are compared byte by byte: prefixes, other cases and other forms of the same letters are different."""
    composed = f"{fresh_stream()}-\u00e9"
    unique = fresh_stream()
    alike = [unique, f"{unique}0", f"{unique}-", f"{unique}-1", f"{unique}-10", f"{unique}-01", f"{unique}%"]
    alike += [f"{unique}-a", f"{unique}-A", f"{unique}_a", composed, unicodedata.normalize("NFD", composed)]
    async with make_store() as store:
        written: list[list[Commit]] = []
        for number, stream in enumerate(alike, 1):
            written.append(await fill(store, stream, number % 3 + 1))
            await store.put_snapshot(make_snapshot(stream, 1, payload=stream.encode()))
        for stream, commits in zip(alike, written, strict=True):
            await expect_stored(store, stream, commits)
            expect_equal((await store.load(stream)).snapshot, make_snapshot(stream, 1, stream.encode()), "the snapshot")


CHECKS = make_checks(
    a_range_is_read_exactly,
    an_unknown_stream_is_empty,
    pages_beyond_a_megabyte_are_read,
    many_commits_are_read,
    a_read_can_be_stopped,
    a_loaded_result_does_not_change,
    similar_stream_ids_are_different_streams,
)
