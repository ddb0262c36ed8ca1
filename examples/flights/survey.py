"""Load every aircraft and add up their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import nlargest

from eventsrc import Commit, Repository, Snapshot, Store

from .aircraft import Aircraft
from .importer import for_each
from .table import Totals

BUSIEST = 10


@dataclass
class Reads:
    """The amount of data that loads read."""

    loads: int = 0
    commits: int = 0
    bytes: int = 0
    units: int = 0  # read units of DynamoDB: one for each started 4 KB of a consistent read

    def add(self, commits: Iterable[Commit], snapshot: Snapshot | None = None) -> None:
        sizes = [commit.size for commit in commits]
        size = sum(sizes) + (snapshot.size if snapshot else 0)
        self.loads += 1
        self.commits += len(sizes)
        self.bytes += size
        self.units += -(-size // 4096)


@dataclass
class Survey:
    """The contents of the store, and what reading them took. Only the busiest aircraft are kept in memory."""

    totals: Totals = field(default_factory=Totals)
    contradictions: int = 0
    busiest: list[Aircraft] = field(default_factory=list[Aircraft])
    events: int = 0
    loaded: Reads = field(default_factory=Reads)
    replayed: Reads = field(default_factory=Reads)
    loaded_with_snapshot: Reads = field(default_factory=Reads)  # only aircraft that have a snapshot
    replayed_with_snapshot: Reads = field(default_factory=Reads)
    differing: list[str] = field(default_factory=list[str])  # aircraft whose full replay gives another state

    def add(self, plane: Aircraft) -> None:
        counts = [getattr(plane, name) for name in Totals._fields[1:]]
        self.totals += Totals(1, *counts)
        self.contradictions += plane.contradictions
        self.busiest = nlargest(BUSIEST, [*self.busiest, plane], key=lambda one: (one.legs, one.air_minutes, one.id))


async def survey_fleet(
    tailnums: Iterable[str],
    store: Store,
    aircraft: Repository[Aircraft],
    *,
    workers: int = 32,
    progress: Callable[[int], object] = lambda aircraft: None,
) -> Survey:
    """Load each aircraft. If the load used a snapshot, also replay the whole stream and compare the two."""
    survey = Survey()

    async def survey_one(tailnum: str) -> None:
        plane = await aircraft.load(tailnum)
        snapshot, commits = await store.load(plane.stream)  # the same read again, to measure it
        stream = commits
        if snapshot is not None:
            stream = [commit async for commit in store.read(plane.stream)]
            survey.loaded_with_snapshot.add(commits, snapshot)
            survey.replayed_with_snapshot.add(stream)
            if await aircraft.load(tailnum, version=plane.version) != plane:  # a past version is always replayed
                survey.differing.append(tailnum)
        survey.loaded.add(commits, snapshot)
        survey.replayed.add(stream)
        survey.events += sum(commit.events for commit in stream)
        survey.add(plane)
        progress(1)

    await for_each(tailnums, survey_one, workers)
    return survey
