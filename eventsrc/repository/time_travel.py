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
from ..concurrency import Turn
from ..errors import AggregateNotFound
from ..store import MAX_VERSION, Commit, Store
from ..stores.limits import check_version
from ..stores.reading import read_backward_without_gaps, read_without_gaps
from .folding import PART

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
    last, turn = _to_microseconds(at) if at is not None else inf, Turn()
    part: list[Commit] = []
    async with aclosing(read_without_gaps(store, aggregate.stream, until=version or MAX_VERSION)) as commits:
        async for commit in commits:
            if commit.time > last:
                break
            part.append(commit)
            if len(part) == PART:
                fold(aggregate, part)
                part = []
                await turn.end_if_long()
    if part:
        fold(aggregate, part)
    if aggregate.version == 0 or (version is not None and at is None and aggregate.version < version):
        wanted = f"version {version}" if at is None else f"{at}"
        detail = f"nothing at {wanted}; its commits were read up to version {aggregate.version}"
        raise AggregateNotFound(aggregate.stream, detail)
    return aggregate


def _to_microseconds(time: datetime) -> int:
    """Return the whole microseconds since the epoch, as in `Commit.time`."""
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
