"""Where the snapshot lies in its partition, and how a load finds it. docs/storage.md compares the layouts."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple, Protocol

from ....store import MAX_VERSION, Commit, Loaded, Snapshot

Sort = int | Decimal
"""A sort key: a version; where snapshots are interleaved, also one and a half."""


def half_above(version: int) -> Decimal:
    """A version and a half, exact whatever the caller's decimal context is: rounded it would be a commit's key."""
    return Decimal(f"{version}.5")


def beyond(sort: Sort, *, backward: bool) -> Sort:
    """The next sort key that there can be in that direction."""
    whole = int(sort)
    if sort != whole:
        return whole if backward else whole + 1
    return half_above(whole - 1) if backward and whole else half_above(whole)


ABOVE = MAX_VERSION + 1


def is_snapshot(sort: Sort) -> bool:
    """Whether a layout keeps snapshots at that sort key: no commit is there."""
    return not 1 <= sort <= MAX_VERSION or sort != int(sort)


class Page(NamedTuple):
    """What a query found in a range of sort keys; `rest` is the range it did not get to."""

    snapshot: Snapshot | None
    commits: list[Commit]  # in the order read
    rest: tuple[Sort, Sort] | None


class Reader(Protocol):
    """The store, as a layout sees it."""

    async def query(
        self,
        stream: str,
        low: Sort,
        high: Sort,
        *,
        newest: bool = False,
        backward: bool = False,
        limit: int | None = None,
    ) -> Page: ...

    async def get_snapshot(self, stream: str, sort: Sort) -> Snapshot | None: ...


class Layout(Protocol):
    def key(self, version: int) -> Sort:
        """The sort key of a snapshot."""
        ...

    async def outdated(self, reader: Reader, snapshot: Snapshot) -> bool:
        """Whether a newer snapshot is there at another key, where the condition of a put cannot see it."""
        ...

    async def load(self, reader: Reader, stream: str) -> Loaded: ...
