"""The calls that a store refuses, and that it stores nothing then."""

from __future__ import annotations

import os
from typing import Any

from ...errors import CommitTooLarge, InvalidStreamId
from ...store import MAX_VERSION, Commit
from .appends import FULL
from .check import MakeStore, expect, expect_equal, expect_error, make_checks
from .samples import expect_stored, fresh_stream, make_commit, make_snapshot, read_all

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
    """An append, a load, a read or a snapshot raises InvalidStreamId if the stream is not a string, is empty, is longer
    than 2,048 bytes, starts or ends with a space, or has control characters, bidirectional controls, line separators,
    lone surrogates or the tenant delimiter.
    """
    async with make_store() as store:
        for stream in BAD_STREAMS:
            name = ascii(stream)[:40]
            await expect_error(InvalidStreamId, store.append(make_commit(stream)), f"an append to {name}")
            await expect_error(InvalidStreamId, store.load(stream), f"a load of {name}")
            await expect_error(InvalidStreamId, read_all(store, stream), f"a read of {name}")
            await expect_error(InvalidStreamId, store.put_snapshot(make_snapshot(stream, 1)), f"a snapshot of {name}")


async def a_good_stream_id_is_accepted(make_store: MakeStore) -> None:
    """Any other string is accepted as a stream: long, in any script, with quotes, wildcards and spaces inside."""
    async with make_store() as store:
        unique = fresh_stream()
        for ending in GOOD_ENDINGS:
            stream = f"{unique}-{ending}"
            commit = make_commit(stream)
            await store.append(commit)
            await expect_stored(store, stream, [commit])


async def a_bad_version_is_refused(make_store: MakeStore) -> None:
    """An append at a version below 1 or above MAX_VERSION raises ValueError, and stores nothing."""
    async with make_store() as store:
        stream = fresh_stream()
        for version in BAD_VERSIONS:
            await expect_error(
                ValueError, store.append(make_commit(stream, version)), f"an append at version {version}"
            )
        await expect_stored(store, stream, [])


async def a_commit_fits_or_is_refused(make_store: MakeStore) -> None:
    """A commit up to the store's limit is stored. One byte more raises CommitTooLarge, with both sizes and before any
    I/O.
    """
    stream = fresh_stream()
    unopened = make_store()  # it cannot do any I/O
    huge = make_full_commit(stream, bytes(TOO_MUCH))
    error = await expect_error(CommitTooLarge, unopened.append(huge), f"a commit of {TOO_MUCH:,} bytes")
    expect(error.size > TOO_MUCH and error.size > error.limit, f"the sizes are wrong: {error}")
    expect_equal(error.stream, stream, "the stream of CommitTooLarge")

    fitting = os.urandom(TOO_MUCH - (error.size - error.limit))
    one_more = make_full_commit(stream, fitting + b"!")
    error = await expect_error(CommitTooLarge, unopened.append(one_more), "a commit one byte above the limit")
    expect_equal(error.size, error.limit + 1, "the size one byte above the limit")

    largest = make_full_commit(stream, fitting)
    async with make_store() as store:
        await expect_error(CommitTooLarge, store.append(one_more), "a commit one byte above the limit")
        await store.append(largest)
        await expect_stored(store, stream, [largest])


def make_full_commit(stream: str, payload: bytes) -> Commit:
    fields = {**FULL, "payload": payload}
    return make_commit(stream, **fields)


CHECKS = make_checks(
    a_bad_stream_id_is_refused,
    a_good_stream_id_is_accepted,
    a_bad_version_is_refused,
    a_commit_fits_or_is_refused,
)
