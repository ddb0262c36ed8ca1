"""The past of one stream: its commits with their events, and the aggregate as it was."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from math import inf
from typing import NamedTuple, TypeVar

from ..aggregates.aggregate import Aggregate
from ..aggregates.codec import Codec
from ..aggregates.event import Event
from ..errors import AggregateNotFound, StreamCorrupt
from ..store import MAX_VERSION, Commit, Store
from ..stores.limits import check_version
from ..stores.reading import check_contiguous, read_backward_without_gaps, read_without_gaps
from .folding import fold_in_parts

A = TypeVar("A", bound=Aggregate)


class Recorded(NamedTuple):
    """A stored commit with its events, upcast."""

    commit: Commit
    events: list[Event]


async def read_history(store: Store, codec: Codec, stream: str, after: int, backward: bool) -> AsyncGenerator[Recorded]:
    """Yield the commits above a version, as `Repository.history`."""
    read = read_backward_without_gaps if backward else read_without_gaps
    async with aclosing(read(store, stream, max(after, 0))) as commits:
        async for commit in commits:
            yield Recorded(commit, codec.decode(commit.payload, stream, commit.version))


async def load_as_of(
    aggregate: A,
    fold: Callable[[A, Sequence[Commit]], A],
    store: Store,
    version: int | None,
    at: datetime | None,
) -> A:
    """Return this new aggregate folded up to a version and a time, both inclusive.

    Raises AggregateNotFound if there is no such commit, and TypeError or ValueError for an invalid version or time.
    """
    if version is not None:
        check_version(version)
    if at is not None and not isinstance(at, datetime):
        raise TypeError(f"`at` is {type(at).__name__}; it must be a datetime")
    if at is not None and at.tzinfo is None:
        raise ValueError(f"{at} has no time zone; give it one, e.g. datetime.now(UTC)")
    stream, until = aggregate.stream, version or MAX_VERSION
    last = _to_microseconds(at) if at is not None else inf
    if at is None:
        commits = await store.load_until(stream, until)
    else:
        commits = await _take_until(store.read(stream, until=until), last)
    try:
        check_contiguous(stream, 0, commits)
    except StreamCorrupt:  # or a page was read while it was written
        commits = await _take_until(read_without_gaps(store, stream, until=until), last)
    if commits:
        await fold_in_parts(fold, aggregate, commits)
    if aggregate.version == 0 or (version is not None and at is None and aggregate.version < version):
        wanted = f"version {version}" if at is None else f"{at}"
        detail = f"nothing at {wanted}; its commits were read up to version {aggregate.version}"
        raise AggregateNotFound(aggregate.stream, detail)
    return aggregate


async def _take_until(read: AsyncGenerator[Commit], time: float) -> list[Commit]:
    """Return the commits up to a time."""
    taken: list[Commit] = []
    async with aclosing(read) as commits:
        async for commit in commits:
            if commit.time > time:
                break
            taken.append(commit)
    return taken


def _to_microseconds(time: datetime) -> int:
    """Return the whole microseconds since the epoch, as in `Commit.time`."""
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
