"""When to write a snapshot: our rule beside "every N commits", by what it reads and writes.

Each stream is lived through once, which gives the size of each commit and of the state after it. Over these the rules
are played: ours by the policy's own methods, in the order in which a save asks them. A run of the real thing shows that
this gives the same snapshots.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

from bank import Account

from eventsrc import Aggregate, MemoryStore, Repository, Snapshot, SnapshotPolicy
from eventsrc.snapshots import SnapshotCodec
from eventsrc.store import OVERHEAD
from eventsrc.wiring import wiring_of
from examples.flights.aircraft import Aircraft
from examples.flights.importer import report
from examples.flights.table import Flight, by_aircraft, read_flights

from .measure import markdown
from .plots import COLOURS, plot
from .snapshots import Board, Notebook, move, note, place

EVERY = (10, 50, 100, 500)
OURS = "ours"
SKEWED = 20_000  # commits in all, over streams by Zipf's law
STREAMS = 400
POLICY = SnapshotPolicy(inline=True)


@dataclass(frozen=True)
class Step:
    """A save: bytes of its commit, and of a snapshot of the state after it."""

    commit: int
    state: int


@dataclass
class Played:
    """What a rule came to, over all streams."""

    saves: int = 0
    snapshots: int = 0
    committed: int = 0
    written: int = 0  # by snapshots
    read: int = 0  # by a load after each save
    states: int = 0
    read_units: int = 0
    write_units: int = 0
    worst: float = 0.0  # of a load, as a share of the bound

    def figures(self) -> dict[str, float]:
        return {
            "snapshots": self.snapshots,
            "write": (self.committed + self.written) / self.committed,
            "read": self.read / self.states,
            "write units a save": self.write_units / self.saves,
            "read units a load": self.read_units / self.saves,
            "worst load ÷ bound": self.worst,
        }


class Ours:
    """The rule of `Snapshots.after_save` for one stream."""

    def __init__(self) -> None:
        self._threshold = 0

    def __call__(self, commits: int, tail: int, state: int) -> bool:
        if not POLICY.weighs(tail, self._threshold):
            return False
        if POLICY.writes(tail, state):
            self._threshold = int(POLICY.ratio * state)
            return True
        self._threshold = POLICY.next_threshold(tail, state)
        return False


Rule = Callable[[int, int, int], bool]


def rules() -> dict[str, Callable[[], Rule]]:
    """A rule is asked after each save: commits and bytes since the last snapshot, and bytes of the state now."""
    return {OURS: Ours, **{f"every {n}": partial(_every, n) for n in EVERY}, "never": partial(_every, 10**9)}


def _every(n: int) -> Rule:
    def rule(commits: int, tail: int, state: int) -> bool:
        return commits >= n

    return rule


def measure() -> dict[str, Any]:
    loads = {"flights": _flights(), **{name: _skewed(*kind) for name, kind in KINDS.items()}}
    for name, streams in loads.items():
        expected = sum(_play(steps, Ours(), Played()) for steps in streams)
        if name == "flights":
            assert expected == asyncio.run(_really()), "the rule as played is not the rule as built"
    return {name: {rule: _played(streams, make) for rule, make in rules().items()} for name, streams in loads.items()}


def _played(streams: Sequence[Sequence[Step]], make: Callable[[], Rule]) -> dict[str, float]:
    played = Played()
    for steps in streams:
        _play(steps, make(), played)
    return played.figures()


def _play(steps: Sequence[Step], rule: Rule, played: Played) -> int:
    """Save by save through one stream; returns how many snapshots there were."""
    snapshot = at = tail = commits = largest = before = 0
    for step in steps:
        tail, commits, largest = tail + step.commit, commits + 1, max(largest, step.state)
        played.committed += step.commit
        played.write_units += ceil(step.commit / 1024)
        if rule(commits, tail, step.state):
            snapshot, at, tail, commits, largest = step.state, step.commit, 0, 0, step.state
            played.snapshots, played.written = played.snapshots + 1, played.written + step.state
            played.write_units += ceil(step.state / 1024)
            before += 1
        read = snapshot + at + tail  # a load reads the commit of its snapshot too
        played.saves, played.states, played.read = played.saves + 1, played.states + step.state, played.read + read
        played.read_units += ceil(read / 4096)
        played.worst = max(played.worst, read / (largest + max(POLICY.floor, 1.25 * largest) + at + step.commit))
    return before


def _flights() -> list[list[Step]]:
    """The life of each aircraft."""
    found = []
    for tailnum, flights in by_aircraft(read_flights()).items():
        rows = iter(flights)
        found.append(_life(Aircraft(id=tailnum), partial(_next_leg, rows), len(flights)))
    return found


def _next_leg(rows: Iterator[Flight], plane: Aircraft) -> None:
    report(plane, next(rows))


async def _really() -> int:
    """Snapshots of a real import of the flights."""

    class Counting(MemoryStore):
        snapshots = 0

        async def put_snapshot(self, snapshot: Snapshot) -> bool:
            self.snapshots += 1
            return await super().put_snapshot(snapshot)

    async with Counting() as store:
        aircraft = Repository(Aircraft, store, snapshots=POLICY)
        for tailnum, flights in by_aircraft(read_flights()).items():
            plane = Aircraft(id=tailnum)
            for flight in flights:
                report(plane, flight)
                await aircraft.save(plane)
        return store.snapshots


KINDS: dict[str, tuple[type[Any], Callable[[Any], None], int]] = {
    "bank accounts, skewed": (Account, move, 1),
    "22 KB from the start, skewed": (Board, place, 10),
    "growing states, skewed": (Notebook, note, 4),
}


def _skewed(kind: type[Any], command: Callable[[Any], None], share: int) -> list[list[Step]]:
    """Few streams have most of the commits; there are fewer of the kinds that take longer to encode."""
    dice = random.Random(1)
    weights = [1 / rank for rank in range(1, STREAMS // share + 1)]
    lengths = Counter(dice.choices(range(len(weights)), weights, k=SKEWED // share))
    return [_life(kind(id=str(number)), command, length) for number, length in sorted(lengths.items())]


def _life(aggregate: Aggregate, command: Callable[[Any], None], saves: int) -> list[Step]:
    codec = SnapshotCodec(wiring_of(type(aggregate)).snapshot_type, 0)

    async def live() -> list[Step]:
        steps = []
        async with MemoryStore() as store:
            repository = Repository(type(aggregate), store, snapshots=SnapshotPolicy(enabled=False))
            for _ in range(saves):
                command(aggregate)
                before = store.usage.bytes_written
                await repository.save(aggregate)
                steps.append(Step(store.usage.bytes_written - before, codec.encode(aggregate).size))
        return steps

    return asyncio.run(live())


def section(found: dict[str, Any]) -> str:
    tables, keys = [], ("write", "read", "write units a save", "read units a load")
    for name, by_rule in found.items():
        rows = [
            [f"**{rule}**" if rule == OURS else rule, f"{f['snapshots']:,}", *(f"{f[key]:.2f}" for key in keys)]
            for rule, f in by_rule.items()
        ]
        head = [name, "snapshots", "written ÷ commits", "read ÷ state", "write units a save", "read units a load"]
        tables.append(markdown(head, rows))
    written = max(by_rule[OURS]["write"] for by_rule in found.values())
    worst = max(by_rule[OURS]["worst load ÷ bound"] for by_rule in found.values())
    return f"""## Snapshot policy

Ours writes a snapshot once the commits since the last one weigh as much as it does and {POLICY.floor:,} bytes at least.
On paper ([storage](storage.md#when-a-snapshot-is-written)) snapshots then never outweigh commits, so that at most twice
the bytes of the commits are written, and a load reads at most 2.25 states, or a state and {POLICY.floor:,} bytes, and a
commit. Measured: {written:.2f} times the bytes of the commits at most, and no load above {worst:.2f} of that bound.
"Every N" has no such bound: what suits a small state writes a large one over and over, and what suits a large one has
small ones read long tails.

{(chr(10) * 2).join(tables)}

A commit weighs its payload and {OVERHEAD} bytes, a load comes after each save.

![Bytes written against bytes read, by rule](plots/policy.svg)
"""


def draw(found: dict[str, Any]) -> None:
    across, up = "written: all bytes ÷ those of the commits", "read: bytes of a load ÷ state"
    with plot("policy", "Snapshot rules: what they write and read; lower left is better", across, up) as axes:
        axes.set_xscale("log")
        axes.set_yscale("log")
        markers = dict(zip(rules(), "*osD^x", strict=True))
        for colour, (name, by_rule) in zip(COLOURS, found.items(), strict=False):
            for rule, figures in by_rule.items():
                size = 220 if rule == OURS else 50
                axes.scatter(figures["write"], figures["read"], s=size, marker=markers[rule], color=colour)
            axes.scatter([], [], color=colour, marker="o", label=name)
        for rule, marker in markers.items():
            axes.scatter([], [], color="#444444", marker=marker, label=rule)
        axes.legend(frameon=False, fontsize=9, ncols=2)
