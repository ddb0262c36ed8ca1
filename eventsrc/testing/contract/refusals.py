"""What a store refuses, and that it stores nothing then."""

from __future__ import annotations

import os
from typing import Any

from ...errors import CommitTooLarge, InvalidStreamId
from ...store import MAX_VERSION, Commit
from .appends import FULL
from .check import MakeStore, checks, expect, expect_equal, refused
from .samples import expect_stored, fresh_stream, make_commit, make_snapshot, stored

TOO_MUCH = 16 * 2**20  # bytes

BAD_STREAMS: tuple[Any, ...] = (
    "",
    "a" * 2049,
    "\u00e9" * 1025,  # 1,025 characters, 2,050 bytes
    "a-\0",
    "a-\n1",
    "a-\x7f1",
    "a-\x851",
    "a-\u202e1",
    "a-\u20661",
    "a-\u20281",
    "a-\ud8001",
    " a-1",
    "a-1 ",
    "a-1\u3000",
    "a|b",
    None,
    7,
    b"a-1",
)
GOOD_ENDINGS = (
    "\u00e9" * 900,
    "\u65e5\u672c",
    "\U0001f600",
    "o'hara",
    '"; DROP TABLE commits; --',
    "%_*?[a]",
    "a b/c@d#1",
)
BAD_VERSIONS = (0, -1, -(2**63), MAX_VERSION + 1, 2**63, 2**64, 10**40)


async def a_bad_stream_id_is_refused(make_store: MakeStore) -> None:
    """InvalidStreamId, for an append, a load, a read or a snapshot, if the stream is no string, empty, longer than
    2,048 bytes, starts or ends with a space, or holds control characters, bidirectional controls, line separators,
    lone surrogates or the tenant delimiter.
    """
    async with make_store() as store:
        for stream in BAD_STREAMS:
            name = ascii(stream)[:40]
            await refused(InvalidStreamId, store.append(make_commit(stream)), f"an append to {name}")
            await refused(InvalidStreamId, store.load(stream), f"a load of {name}")
            await refused(InvalidStreamId, stored(store, stream), f"a read of {name}")
            await refused(InvalidStreamId, store.put_snapshot(make_snapshot(stream, 1)), f"a snapshot of {name}")


async def a_good_stream_id_is_taken(make_store: MakeStore) -> None:
    """Any other string is a stream: long ones, in any script, with quotes, wildcards and spaces inside."""
    async with make_store() as store:
        unique = fresh_stream()
        for ending in GOOD_ENDINGS:
            stream = f"{unique}-{ending}"
            commit = make_commit(stream)
            await store.append(commit)
            await expect_stored(store, stream, [commit])


async def a_bad_version_is_refused(make_store: MakeStore) -> None:
    """ValueError for a version below 1 or beyond MAX_VERSION, and nothing is stored."""
    async with make_store() as store:
        stream = fresh_stream()
        for version in BAD_VERSIONS:
            await refused(ValueError, store.append(make_commit(stream, version)), f"an append at version {version}")
        await expect_stored(store, stream, [])


async def a_commit_fits_or_is_refused(make_store: MakeStore) -> None:
    """A commit up to the store's limit is stored. One byte more is CommitTooLarge, with both sizes, before any I/O."""
    stream = fresh_stream()
    unopened = make_store()  # so it can do no I/O
    huge = full_commit(stream, bytes(TOO_MUCH))
    error = await refused(CommitTooLarge, unopened.append(huge), f"a commit of {TOO_MUCH:,} bytes")
    expect(error.size > TOO_MUCH and error.size > error.limit, f"the sizes are wrong: {error}")
    expect_equal(error.stream, stream, "the stream of CommitTooLarge")

    fitting = os.urandom(TOO_MUCH - (error.size - error.limit))
    one_more = full_commit(stream, fitting + b"!")
    error = await refused(CommitTooLarge, unopened.append(one_more), "a commit one byte beyond the limit")
    expect_equal(error.size, error.limit + 1, "the size one byte beyond the limit")

    largest = full_commit(stream, fitting)
    async with make_store() as store:
        await refused(CommitTooLarge, store.append(one_more), "a commit one byte beyond the limit")
        await store.append(largest)
        await expect_stored(store, stream, [largest])


def full_commit(stream: str, payload: bytes) -> Commit:
    fields = {**FULL, "payload": payload}
    return make_commit(stream, **fields)


CHECKS = checks(
    a_bad_stream_id_is_refused,
    a_good_stream_id_is_taken,
    a_bad_version_is_refused,
    a_commit_fits_or_is_refused,
)
