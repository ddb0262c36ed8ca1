"""Find the map of one or several stores: read all their commits once, and look up the causes that are not in memory."""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from math import exp, log
from typing import TYPE_CHECKING, Any, NamedTuple

from ..aggregates.codec import unpack
from ..aggregates.event_values import read_tags
from ..errors import StoredDataError, StoreError
from ..store import Commit, EventId, Store
from ..stores.causes import identity_of, parse_identity
from ..stores.feed import Feed, read_stored
from .finding import read_commit
from .map import Edge, Kind, Map
from .trace import types_of

if TYPE_CHECKING:
    from ..processing import Processor

REMEMBERED = 200_000
"""Commits that are kept in memory, as causes of later ones: their times and types, not their payloads."""

MAX_LOOKUPS = 100_000
"""Causes that are read from a store, because they are not remembered. Further ones count as unread."""

MAX_KINDS = 10_000
"""Types of events, and kinds of edges. Further ones count as unread."""

_PLACES = 20  # of a type
_PROCESSORS = 20  # of a kind of edge
_STEP = log(1.01)  # width of a class of latencies


class _Cause(NamedTuple):
    """What is remembered of a commit."""

    time: int  # µs
    tags: tuple[str, ...]
    by_event: bool  # whether these are the types of its events, one by one
    in_period: bool
    led_to: list[_Tally]  # of the kinds of edges for which this commit was counted


class _Tally:
    """The counts of a kind of edge. Latencies are in classes that are 1 % wide, so memory is bounded."""

    def __init__(self) -> None:
        self.count = self.followed = self.skewed = 0
        self.processors: dict[str, None] = {}
        self._latencies: Counter[int] = Counter()

    def add(self, microseconds: int) -> None:
        self.count += 1
        if microseconds < 0:
            self.skewed += 1
        else:
            self._latencies[round(log(microseconds + 1) / _STEP)] += 1

    def percentile(self, percent: int) -> float | None:
        """Return the latency in seconds that so many percent of the edges have at most."""
        rank = (self._latencies.total() * percent + 99) // 100
        for place in sorted(self._latencies):
            rank -= self._latencies[place]
            if rank <= 0:
                return round(exp(place * _STEP) - 1) / 1e6
        return None


async def find_map(
    stores: Store | Mapping[str, Store],
    since: datetime | None = None,
    until: datetime | None = None,
    processors: Sequence[Processor[Any]] = (),
) -> Map:
    """Return which types of events cause which, in the commits with `since <= time < until`.

    - `stores` is a store, or several by name, as for `find_trace`. All of them are open and have a feed.
    - `processors` are those that handle commits of these stores: the map then says how many commits they have parked
      or retry. The map shows what is parked now, for commits of the period.
    - The commits of a process count as events of one type, its category: what it records is not distinguished.
    - Times without a zone are in UTC.

    This reads all commits of the stores, once: DynamoDB bills it as a scan. The stores are read side by side, by time.
    The last REMEMBERED commits are kept in memory; an older cause, or one from before `since`, is looked up by one read
    in each store until it is found, at most MAX_LOOKUPS times. A cause that no store has counts as `outside`.
    Commits that are stored while it reads may be missing. A store that cannot be read is named in `Map.failures`.

    Raises TypeError if a store has no feed.
    """
    named = dict(stores) if isinstance(stores, Mapping) else {"store": stores}
    for name, store in named.items():
        if not isinstance(store, Feed):
            raise TypeError(f"{name} is {type(store).__name__}, which has no feed")
    period = _to_time(since, 0), _to_time(until, 2**63)
    survey = _Survey(named, *period)
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(aclosing(survey.read(name))) for name in named]
        await _merge(readers, survey)
    for processor in processors:
        await survey.count_failed(processor)
    return survey.to_map(*(bound if given else None for bound, given in zip(period, (since, until), strict=True)))


def _to_time(time: datetime | None, otherwise: int) -> int:
    if time is None:
        return otherwise
    return round((time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp() * 1e6)


async def _merge(readers: Sequence[AsyncGenerator[tuple[str, Commit]]], survey: _Survey) -> None:
    """Add the commits of several stores by time, so that most causes are read before their effects."""
    ready: list[tuple[int, int, str, Commit]] = []
    turns: Iterable[int] = range(len(readers))
    while True:
        for turn in turns:
            if (found := await anext(readers[turn], None)) is not None:
                heapq.heappush(ready, (found[1].time, turn, *found))
        if not ready:
            return
        _, turn, name, commit = heapq.heappop(ready)
        await survey.add(name, commit)
        turns = (turn,)


class _Survey:
    """What is known of the stores so far."""

    def __init__(self, stores: Mapping[str, Store], since: int, until: int) -> None:
        self._stores, self._since, self._until = stores, since, until
        self._kinds: Counter[str] = Counter()
        self._places: dict[str, dict[str, None]] = {}
        self._edges: dict[tuple[str, str], _Tally] = {}
        self._failed: Counter[str] = Counter()  # by type
        self._failed_by: Counter[tuple[str, str]] = Counter()  # by type and processor
        self._remembered: OrderedDict[tuple[str, str], _Cause] = OrderedDict()
        self._lookups = self._outside = self._unread = self._damaged = 0
        self._failures: list[str] = []

    async def read(self, name: str) -> AsyncGenerator[tuple[str, Commit]]:
        """Yield the commits of a store. If it cannot be read, it ends there."""
        store = self._stores[name]
        assert isinstance(store, Feed)
        try:
            async with aclosing(read_stored(store)) as batches:
                async for batch in batches:
                    self._damaged += len(batch.damaged)
                    for commit in batch.commits:
                        yield name, commit
        except (StoreError, StoredDataError) as error:
            self._failures.append(f"{name}: {type(error).__name__}: {error}")

    async def add(self, name: str, commit: Commit) -> None:
        own = self._remembered.get((name, f"{commit.stream}@{commit.version}")) or self._remember(name, commit)
        if not own.in_period:
            return
        for tag in types_of(commit.stream, commit.tags):
            if tag in self._kinds or len(self._kinds) < MAX_KINDS:
                self._kinds[tag] += 1
                places = self._places.setdefault(tag, {})
                if len(places) < _PLACES:
                    places[commit.metadata.get("service", "") or name] = None
            else:
                self._unread += 1
        causes: dict[str, list[str]] = {}  # by identity: each commit counts once
        for text in dict.fromkeys(commit.causation_ids):
            causes.setdefault(identity_of(text), []).append(text)
        for identity, texts in causes.items():
            stores = [name, *(other for other in self._stores if other != name)]  # its own first
            known = (self._remembered.get((store, identity)) for store in stores)
            cause = next(filter(None, known), None) or await self._look_up(identity, stores)
            if cause is not None and cause is not own:
                self._count(commit, cause, texts)

    def _count(self, commit: Commit, cause: _Cause, texts: Sequence[str]) -> None:
        """Count the edges from a commit, by some of its events, to a commit that they caused."""
        processor = commit.metadata.get("handler", "").rpartition(".")[0]
        for one in dict.fromkeys(tag for text in texts for tag in _tags_of(cause, text)):
            for other in types_of(commit.stream, commit.tags):
                tally = self._edges.get((one, other))
                if tally is None:
                    if len(self._edges) >= MAX_KINDS:
                        self._unread += 1
                        continue
                    tally = self._edges[one, other] = _Tally()
                tally.add(commit.time - cause.time)
                if cause.in_period and tally not in cause.led_to:
                    cause.led_to.append(tally)
                    tally.followed += 1
                if processor and len(tally.processors) < _PROCESSORS:
                    tally.processors[processor] = None

    def _remember(self, store: str, commit: Commit) -> _Cause:
        tags = tuple(types_of(commit.stream, commit.tags))
        by_event = len(tags) > 1
        if by_event:
            try:
                tags = tuple(read_tags(unpack(commit.payload, commit.stream, commit.version)))
            except Exception:  # noqa: BLE001  # it is damaged: each of its events may be of each type
                by_event = False
        found = _Cause(commit.time, tags, by_event, self._since <= commit.time < self._until, [])
        self._remembered[store, f"{commit.stream}@{commit.version}"] = found
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        return found

    async def _look_up(self, identity: str, stores: Sequence[str]) -> _Cause | None:
        """Return a commit that is not remembered; None if no store has it, or too many were looked up."""
        if (key := parse_identity(identity)) is None:
            self._outside += 1
            return None
        for store in stores:
            if self._lookups >= MAX_LOOKUPS:
                self._unread += 1
                return None
            self._lookups += 1
            if (commit := await read_commit(self._stores[store], *key)) is not None:
                return self._remember(store, commit)
        self._outside += 1
        return None

    async def count_failed(self, processor: Processor[Any]) -> None:
        """Count the commits at which a processor has parked or retries a stream, by type."""
        if all(processor.store is not store for store in self._stores.values()):
            return
        try:
            parked = await processor.checkpoints.parked(processor.name)
        except StoreError as error:
            self._failures.append(f"{processor.name}: {type(error).__name__}: {error}")
            return
        for each in parked:
            commit = await read_commit(processor.store, each.stream, each.version)
            if commit is not None and self._since <= commit.time < self._until:
                types = types_of(commit.stream, commit.tags)
                self._failed.update(types)
                self._failed_by.update((tag, processor.name) for tag in types)

    def to_map(self, since: int | None, until: int | None) -> Map:
        kinds = [
            Kind(tag=tag, count=count, places=tuple(self._places.get(tag, ())), failed=self._failed[tag])
            for tag, count in ({cause: 0 for cause, _ in self._edges} | self._kinds).items()
        ]
        edges = [
            Edge(
                cause=cause,
                effect=effect,
                count=tally.count,
                followed=tally.followed,
                p50=tally.percentile(50),
                p95=tally.percentile(95),
                skewed=tally.skewed,
                failed=sum(self._failed_by[cause, name] for name in tally.processors),
                processors=tuple(tally.processors),
            )
            for (cause, effect), tally in self._edges.items()
        ]
        return Map(
            kinds=tuple(sorted(kinds, key=lambda kind: (-kind.count, kind.tag))),
            edges=tuple(sorted(edges, key=lambda edge: (-edge.count, edge.cause, edge.effect))),
            since=since,
            until=until,
            outside=self._outside,
            unread=self._unread,
            damaged=self._damaged,
            failures=tuple(self._failures),
        )


def _tags_of(cause: _Cause, text: str) -> tuple[str, ...]:
    """Return the type of an event of a commit; all its types if the text names the commit, or an unknown event."""
    try:
        index = EventId.parse(text).index
    except ValueError:
        return cause.tags
    return (cause.by_event and cause.tags[index : index + 1]) or cause.tags
