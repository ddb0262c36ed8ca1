"""Compare the three layouts by the cost of a load: requests, read units, bytes, dollars, time."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from typing import Any, NamedTuple

from support.tables import fresh_name, store_on

from eventsrc import Commit, DynamoDBStore, Repository, Snapshot, SnapshotPolicy
from eventsrc.local import dynamodb_local
from eventsrc.stores.dynamodb.layouts import LAYOUTS
from eventsrc.uuid7 import uuid7
from examples.flights.aircraft import Aircraft
from examples.flights.importer import import_fleet
from examples.flights.table import by_aircraft, read_flights

from .counting import CountingProxy, Counts, counting
from .measure import markdown, median_of
from .plots import bars, plot
from .snapshots import Board, chance, place

READ_PRICE, WRITE_PRICE = 0.125, 0.625
"""Dollars per million request units, on demand, in US East (N. Virginia). Source: "Pricing for On-Demand Capacity" on
the Amazon DynamoDB pages."""

SNAPSHOTS = (500, 4_000, 20_000, 100_000)  # bytes
COMMITS = (100, 400, 4_000)  # bytes of payload
TAILS = (1, 10, 40)  # commits after the snapshot
BEFORE = 20  # commits up to the snapshot
DELAYS = (0.0, 0.001, 0.005)  # seconds
LOADS = 12
CROWD = 20  # streams of one category with different tails
DAYS = 10  # days of flights
SAVES = 1_000


class Shape(NamedTuple):
    """A stream: bytes of its snapshot, bytes of each commit, and number of commits after the snapshot."""

    snapshot: int
    commit: int
    tail: int


def measure() -> dict[str, Any]:
    return asyncio.run(_measure())


async def _measure() -> dict[str, Any]:
    async with dynamodb_local() as local, counting(local.endpoint_url) as proxy:
        matrix = [
            {**shape._asdict(), "layouts": {layout: await _steady(proxy, layout, shape) for layout in LAYOUTS}}
            for shape in itertools.starmap(Shape, itertools.product(SNAPSHOTS, COMMITS, TAILS))
        ]
        crowds = [
            {
                "snapshot": snapshot,
                "commit": commit,
                "layouts": {layout: await _crowd(proxy, layout, snapshot, commit) for layout in LAYOUTS},
            }
            for snapshot, commit in ((500, 100), (4_000, 100), (20_000, 400), (100_000, 400))
        ]
        lives = {layout: await _life(proxy, layout) for layout in LAYOUTS}
        flights = {layout: await _flights(proxy, layout) for layout in LAYOUTS}
    return {"matrix": matrix, "crowds": crowds, "lives": lives, "flights": flights}


async def _steady(proxy: CountingProxy, layout: str, shape: Shape) -> dict[str, Any]:
    """Return the cost of a load of such a stream after the store has loaded it a few times."""
    async with _store(proxy, layout) as store:
        await store.create_table()
        await _fill(store, "order-1", shape)
        await _put(store, "order-1", BEFORE, shape.snapshot)
        for _ in range(3):
            await store.load("order-1")
        before = _seen(proxy)
        await store.load("order-1")
        requests, units, received = (now - then for now, then in zip(_seen(proxy), before, strict=True))
        times = {f"{delay * 1e3:g}": await _milliseconds(proxy, store, delay) for delay in DELAYS}
    return {"requests": requests, "units": units, "bytes": received, "dollars": units * READ_PRICE, "ms": times}


async def _milliseconds(proxy: CountingProxy, store: DynamoDBStore, delay: float) -> float:
    """Return the median time of a load in ms, with `delay` seconds added to each request."""
    proxy.delay = delay
    taken = []
    for _ in range(LOADS):
        start = time.perf_counter()
        await store.load("order-1")
        taken.append((time.perf_counter() - start) * 1e3)
    proxy.delay = 0.0
    return median_of(taken)


async def _crowd(proxy: CountingProxy, layout: str, snapshot: int, commit: int) -> dict[str, float]:
    """Return the mean cost of a load if the tails of a category differ, so that no limit fits all."""
    dice = random.Random(1)
    async with _store(proxy, layout) as store:
        await store.create_table()
        for number in range(CROWD):
            await _fill(store, f"order-{number}", Shape(snapshot, commit, dice.randint(0, 40)))
            await _put(store, f"order-{number}", BEFORE, snapshot)
        for _ in range(30):
            await store.load(f"order-{dice.randrange(CROWD)}")
        before = _seen(proxy)
        for _ in range(100):
            await store.load(f"order-{dice.randrange(CROWD)}")
        requests, units, _ = (now - then for now, then in zip(_seen(proxy), before, strict=True))
    return {"requests": requests / 100, "units": units / 100}


async def _life(proxy: CountingProxy, layout: str) -> dict[str, float]:
    """Return the costs of one stream with a large state, saved under the default policy, loaded and replayed."""
    chance.seed(1)
    async with _store(proxy, layout) as store:
        await store.create_table()
        boards, board = Repository(Board, store, snapshots=SnapshotPolicy(inline=True)), Board(id="1")
        saving, loading = Counts(), Counts()
        for number in range(1, SAVES + 1):
            proxy.counts = saving
            place(board)
            await boards.save(board)
            if number % 10 == 0:
                proxy.counts = loading
                await boards.load("1")
        replaying = proxy.counts = Counts()
        assert len([commit async for commit in store.read(board.stream)]) == SAVES
    loads = SAVES // 10
    return {
        "save: requests": saving.requests / SAVES,
        "save: write units": saving.write_units / SAVES,
        "save: read units": saving.read_units / SAVES,
        "load: requests": loading.requests / loads,
        "load: read units": loading.read_units / loads,
        "replay: read units": replaying.read_units,
        "a million saves and loads each, dollars": (
            saving.write_units / SAVES * WRITE_PRICE
            + (saving.read_units / SAVES + loading.read_units / loads) * READ_PRICE
        ),
    }


async def _flights(proxy: CountingProxy, layout: str) -> dict[str, float]:
    """Return the cost of an import of flights under the default policy, and of a cold load of each aircraft."""
    fleet = by_aircraft(read_flights(DAYS))
    async with _store(proxy, layout) as store:
        await store.create_table()
        before, written = _seen(proxy), proxy.counts.write_units
        await import_fleet(fleet, Repository(Aircraft, store), workers=16)
        while store._tasks:
            await asyncio.wait(store._tasks)
        imported = [now - then for now, then in zip(_seen(proxy), before, strict=True)]
        written = proxy.counts.write_units - written
        aircraft, before = Repository(Aircraft, store, snapshots=SnapshotPolicy(enabled=False)), _seen(proxy)
        for tailnum in fleet:
            await aircraft.load(tailnum)
        loaded = [now - then for now, then in zip(_seen(proxy), before, strict=True)]
    return {
        "aircraft": len(fleet),
        "import requests": imported[0],
        "import read units": imported[1],
        "import write units": written,
        "import dollars": (imported[1] * READ_PRICE + written * WRITE_PRICE) / 1e6,
        "load requests": loaded[0] / len(fleet),
        "load units": loaded[1] / len(fleet),
    }


def _store(proxy: CountingProxy, layout: str) -> DynamoDBStore:
    return store_on(proxy.url, fresh_name(), layout=layout)


def _seen(proxy: CountingProxy) -> tuple[int, float, int]:
    return proxy.counts.requests, proxy.counts.read_units, proxy.counts.bytes_received


async def _fill(store: DynamoDBStore, stream: str, shape: Shape) -> None:
    await asyncio.gather(*(store.append(_commit(stream, n, shape)) for n in range(1, BEFORE + shape.tail + 1)))


def _commit(stream: str, version: int, shape: Shape) -> Commit:
    return Commit(
        stream=stream,
        version=version,
        id=uuid7(),
        time=time.time_ns() // 1000,
        events=1,
        tags=("order.changed",),
        payload=os.urandom(shape.commit),
    )


async def _put(store: DynamoDBStore, stream: str, version: int, size: int) -> None:
    await store.put_snapshot(Snapshot(stream=stream, version=version, shape="0" * 16, payload=os.urandom(size)))


def section(found: dict[str, Any]) -> str:
    names = list(LAYOUTS)
    matrix = [
        [f"{row['snapshot']:,}", f"{row['commit']:,}", f"{row['tail']}"]
        + [f"{c['requests']} / {c['units']:g} / {c['dollars']:.3f}" for c in row["layouts"].values()]
        for row in found["matrix"]
    ]
    crowds = [
        [f"{row['snapshot']:,}", f"{row['commit']:,}"]
        + [f"{c['requests']:.2f} / {c['units']:.1f}" for c in row["layouts"].values()]
        for row in found["crowds"]
    ]
    count = f"{found['flights'][names[0]]['aircraft']:,}"
    return f"""## Layouts

{_verdict(found)}

The next table shows a load in the steady state, as requests / read units / dollars per million loads. The first columns
are bytes of the snapshot, bytes of each commit, and the number of commits after the snapshot (the tail).

{markdown(["snapshot", "commit", "tail", *names], matrix)}

If the tails of one category differ (0 to 40 commits), no limit of a backward query fits all of them. The next table
shows the mean of 100 loads, as requests / read units.

{markdown(["snapshot", "commit", *names], crowds)}

The next stream has a state of 11 KB at first, which grows with each event. It is saved {SAVES:,} times under the
default policy and loaded after every tenth save.

{markdown(["mean", *names], _by_key(found["lives"]))}

The last table shows the flights of {DAYS} days, imported under the default policy, and then a cold load of each of the
{count} aircraft.

{markdown(["", *names], _by_key(found["flights"]))}

![Time of a load by layout and distance](plots/layouts.svg)
"""


def _by_key(found: dict[str, dict[str, float]]) -> list[list[str]]:
    """Return a row for each figure, with a column for each layout."""
    return [
        [key, *(f"{values[key]:,.4g}" if values[key] < 1000 else f"{values[key]:,.0f}" for values in found.values())]
        for key in found["snapshot-last"]
    ]


def _verdict(found: dict[str, Any]) -> str:
    """Compare the layouts in words, counted over the matrix."""
    matrix, lives = found["matrix"], found["lives"]
    first, last = "snapshot-first", "snapshot-last"
    fewer = sum(row["layouts"][last]["units"] < row["layouts"][first]["units"] for row in matrix)
    more = [row for row in matrix if row["layouts"][last]["units"] > row["layouts"][first]["units"]]
    large = sum(row["commit"] == max(COMMITS) for row in more)
    extra = median_of(row["layouts"][last]["units"] / row["layouts"][first]["units"] - 1 for row in more)
    far = f"{DELAYS[-1] * 1e3:g}"
    faster = median_of(row["layouts"][first]["ms"][far] / row["layouts"][last]["ms"][far] for row in matrix)
    alone = sum(_least(row) == ["interleaved"] for row in matrix)
    same, replay = len(matrix) - fewer - len(more), "replay: read units"
    return f"""- `snapshot-last`, the default, loads in one request. `snapshot-first` needs two requests, one after the
  other. With {far} ms more network delay `snapshot-last` loads {faster:.1f} times as fast.
- `snapshot-last` needs fewer read units than `snapshot-first` in {fewer} of the {len(matrix)} cases below, the same
  number in {same}, and more in {len(more)} (in the median {extra:.0%} more). In {large} of these {len(more)} cases
  commits have {max(COMMITS):,} bytes: the commits that it reads beyond the snapshot then cost most. Choose
  `snapshot-first` if commits are large and read units matter more than a round trip.
- `interleaved` loads as `snapshot-last` does. In {alone} cases it needs fewer units than both others. Each snapshot
  costs one more query to write, and old snapshots stay: a full replay of the large stream below reads
  {lives["interleaved"][replay]:g} units, and {lives[last][replay]:g} in `snapshot-last`."""


def _least(row: dict[str, Any]) -> list[str]:
    """Return the layouts with the fewest units."""
    least = min(cell["units"] for cell in row["layouts"].values())
    return [name for name, cell in row["layouts"].items() if cell["units"] == least]


def draw(found: dict[str, Any]) -> None:
    [row] = [r for r in found["matrix"] if (r["snapshot"], r["commit"], r["tail"]) == (4_000, 100, 10)]
    groups = [f"{delay * 1e3:g} ms" for delay in DELAYS]
    with plot("layouts", "A load: snapshot of 4 KB, 10 commits", "added network delay", "ms, median") as axes:
        bars(axes, groups, {name: list(cells["ms"].values()) for name, cells in row["layouts"].items()})
