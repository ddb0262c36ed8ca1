"""Streams, commits and snapshots for the checks. Their content means nothing, because stores see only bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from ...store import MAX_VERSION, Commit, Snapshot, Store
from ...uuid7 import uuid7
from .check import expect_equal, shorten

ALL_BYTES = bytes(range(256))
ALL_SORTS = "\0\t\n\x7f\x85 aZ'\"\\%_;\u00e9e\u0301\u202e\ufeff\uffff\U0001f600\U0010ffff"
"""Text that stores must not change, and often do."""


def fresh_stream() -> str:
    """Return the id of a stream that does not exist yet, in any store."""
    return f"contract-{os.urandom(8).hex()}"


def make_commit(stream: str, version: int = 1, **fields: Any) -> Commit:
    given: dict[str, Any] = {
        "id": uuid7(),
        "time": time.time_ns() // 1000,
        "events": 1,
        "tags": ("contract.checked",),
        "payload": b"payload of %d" % version,
    }
    return Commit(stream=stream, version=version, **(given | fields))


def make_snapshot(stream: str, version: int, payload: bytes = b"state") -> Snapshot:
    return Snapshot(stream=stream, version=version, shape="5ha9e", payload=payload)


async def fill(store: Store, stream: str, count: int, size: int = 16) -> list[Commit]:
    """Append `count` commits with payloads of `size` random bytes, which cannot be compressed."""
    commits = [make_commit(stream, version, payload=os.urandom(size)) for version in range(1, count + 1)]
    for commit in commits:
        await store.append(commit)
    return commits


async def read_all(
    store: Store, stream: str, *, after: int = 0, until: int = MAX_VERSION, backward: bool = False
) -> list[Commit]:
    async with aclosing(store.read(stream, after=after, until=until, backward=backward)) as commits:
        return [commit async for commit in commits]


async def expect_stored(store: Store, stream: str, expected: Sequence[Commit]) -> None:
    """Check that every way of reading a stream returns exactly these commits."""
    expect_same(await read_all(store, stream), expected, "read forward")
    expect_same((await read_all(store, stream, backward=True))[::-1], expected, "read backward")
    expect_same((await store.load(stream)).commits, expected, "loaded")


def expect_same(found: Sequence[Commit], expected: Sequence[Commit], how: str) -> None:
    versions = [commit.version for commit in found]
    expect_equal(versions, [commit.version for commit in expected], f"versions {how}")
    for commit, original in zip(found, expected, strict=True):
        expect_same_commit(commit, original, how)


def expect_same_commit(found: Commit | None, original: Commit, how: str) -> None:
    """Check that two commits are equal in every field except `position`, which the store assigns."""
    if not isinstance(found, Commit):
        raise AssertionError(f"found {found!r} instead of commit {original!r}, {how}")
    for field in Commit.__struct_fields__:
        value, expected = getattr(found, field), getattr(original, field)
        if field == "metadata":
            value = dict(value)
        if field != "position" and (value != expected or type(value) is not type(expected)):
            what = f"{field} of {original!r}, {how},"
            raise AssertionError(f"{what} was {shorten(value)}, expected {shorten(expected)}")
