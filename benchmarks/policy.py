"""Compare the default snapshot rule with "a snapshot every N commits", by the bytes that each writes and reads.

Each workload is saved once. The sizes of its commits, and of snapshots of the state after each commit, are recorded.
Each rule is then simulated over these sizes, the default rule with the policy's own methods. The simulation of the
default rule must give exactly the snapshots that the repository wrote.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from math import ceil, inf
from statistics import mean
from typing import Any, NamedTuple

from support.bank import Account

from eventsrc import Aggregate, Receipt, Repository, SnapshotPolicy
from examples.flights.aircraft import Aircraft
from examples.flights.importer import import_fleet
from examples.flights.table import by_aircraft, read_flights

from .layouts import READ_PRICE, WRITE_PRICE
from .measure import markdown
from .plots import COLOURS, plot
from .snapshots import Board, Ledger, Notebook, chance, move, note, place

SAVES, STREAMS = 20_000, 400  # of a generated workload; by Zipf's law the n-th stream has 1/n of the first one's saves
OURS, POLICY = "ours", SnapshotPolicy(inline=True)
MADE_UP: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "small states": (Account, move),
    "large states": (Board, place),
    "growing states": (Notebook, note),
}

Rule = Callable[[int, int, int], bool]
"""Whether to write a snapshot now, from commits and bytes since the last snapshot, and bytes of the state."""


class Save(NamedTuple):
    """Bytes of a commit, of a snapshot of the state after it, and of the snapshot that is written (0 if none is)."""

    commit: int
    state: int
    snapshot: int
    read: int = 0  # by the load after this save
    first: int = 0  # part of `read`: the commit of the last snapshot
    largest: int = 0  # bytes of the state since the last snapshot, at most
    share: float = 0.0  # all snapshots of the stream so far ÷ its commits


class Noting(Repository[Any]):
    """A repository that records the sizes of its saves by stream. Saves must not overlap."""

    def __init__(self, kind: type[Aggregate], ledger: Ledger) -> None:
        super().__init__(kind, ledger, snapshots=POLICY)
        self.ledger, self.noted = ledger, defaultdict[str, list[Save]](list)

    async def save(self, aggregate: Any, **options: Any) -> Receipt:
        committed, snapshots = self.ledger.committed, len(self.ledger.snapshots)
        receipt = await super().save(aggregate, **options)
        state = self._snapshots._codec.encode(aggregate).size
        written = sum(self.ledger.snapshots[snapshots:])
        self.noted[aggregate.stream].append(Save(self.ledger.committed - committed, state, written))
        return receipt


def ours() -> Rule:
    """Return the rule of `Snapshots.after_save`, for one stream."""
    threshold = 0

    def rule(commits: int, tail: int, state: int) -> bool:
        nonlocal threshold
        written = (weighed := POLICY.should_encode(tail, threshold)) and POLICY.should_write(tail, state)
        if weighed:
            threshold = int(POLICY.ratio * state) if written else POLICY.next_threshold(tail, state)
        return written

    return rule


def every(commits_at_least: float) -> Callable[[], Rule]:
    return lambda: lambda commits, tail, state: commits >= commits_at_least


RULES = {OURS: ours, **{f"every {n}": every(n) for n in (10, 50, 100, 500)}, "never": every(inf)}


def measure() -> dict[str, Any]:
    chance.seed(1)
    return {name: asyncio.run(_measure(*MADE_UP.get(name, (Aircraft, None)))) for name in ("flights", *MADE_UP)}


async def _measure(kind: type[Any], command: Callable[[Any], None] | None) -> dict[str, Any]:
    async with Ledger() as ledger:
        repository = Noting(kind, ledger)
        if command is None:
            await import_fleet(by_aircraft(read_flights()), repository, workers=1)
        else:
            aggregates, weights = [kind(id=str(n)) for n in range(STREAMS)], [1 / (n + 1) for n in range(STREAMS)]
            for aggregate in random.Random(1).choices(aggregates, weights, k=SAVES):
                command(aggregate)
                await repository.save(aggregate)
    streams = list(repository.noted.values())
    played = {name: [list(_play(saves, rule())) for saves in streams] for name, rule in RULES.items()}
    for as_played, as_built in zip(played[OURS], streams, strict=True):
        assert [save.snapshot for save in as_played] == [save.snapshot for save in as_built]
    states, lengths = [save.state for saves in streams for save in saves], [len(saves) for saves in streams]
    facts = {"streams": len(streams), "saves": len(states), "longest": max(lengths), "largest": max(states)}
    return {**facts, "state": mean(states), "rules": {name: _figures(each) for name, each in played.items()}}


def _play(noted: Sequence[Save], rule: Rule) -> Iterator[Save]:
    """Simulate the saves of a stream under a rule, with a load after each save."""
    last = first = tail = commits = largest = committed = written = 0
    for commit, state, *_ in noted:
        tail, committed, commits = tail + commit, committed + commit, commits + 1
        largest, snapshot = max(largest, state), 0
        if rule(commits, tail, state):
            snapshot = last = largest = state
            first, tail, commits, written = commit, 0, 0, written + state
        yield Save(commit, state, snapshot, last + first + tail, first, largest, written / committed)


def _figures(streams: Sequence[Sequence[Save]]) -> dict[str, float]:
    saves = [save for each in streams for save in each]
    commits, states, snapshots, read, *_ = map(sum, zip(*saves, strict=True))
    writes = mean(ceil(s.commit / 1024) + ceil(s.snapshot / 1024) for s in saves)
    reads = mean(ceil(s.read / 4096) for s in saves)
    return {
        "snapshots": sum(s.snapshot > 0 for s in saves),
        "written": (commits + snapshots) / commits,
        "read": read / states,
        "write units": writes,
        "read units": reads,
        "$": writes * WRITE_PRICE + reads * READ_PRICE,
        "share": max(s.share for s in saves),
        "states": max((s.read - s.first) / s.largest if 1.25 * s.largest > POLICY.floor else 0 for s in saves),
        "÷ bound": max(s.read / (s.largest + max(POLICY.floor, 1.25 * s.largest) + s.first) for s in saves),
    }


def section(found: dict[str, Any]) -> str:
    return f"""## Snapshot policy

{_verdict(found)}

A load follows each save. The columns are:

- *snapshots*: the number of snapshots written.
- *written*: all bytes written ÷ bytes of the commits.
- *read*: bytes of the mean load ÷ bytes of the mean state.
- *write units* and *read units* of DynamoDB per save and load, and dollars per million saves and loads.
- *share*: snapshots ÷ commits in bytes, for the worst stream at its worst time.
- *states*: bytes of a load without the snapshot's commit ÷ bytes of the state, for the worst load of a state beyond the
  floor.
- *÷ bound*: bytes of a load ÷ its bound, for the worst load. The bound is the snapshot's commit and 2.25 states, or the
  snapshot's commit, a state and the floor, whichever is larger.

The first row shows the promises of the [default rule](storage.md#when-a-snapshot-is-written). The generated workloads
spread {SAVES:,} saves of one event over the streams by Zipf's law. The large state, 22 KB, compresses less with each
event.

{(chr(10) * 2).join(_table(name, load) for name, load in found.items())}

![Bytes read against bytes written, by rule](plots/policy.svg)
"""


def _verdict(found: dict[str, Any]) -> str:
    loads = [load["rules"] for load in found.values()]
    over = {rule: max(f[rule]["$"] / min(g["$"] for g in f.values()) for f in loads) - 1 for rule in RULES}
    written = {rule: max(f[rule]["written"] for f in loads) for rule in RULES}
    _, best, *rest = sorted(RULES, key=lambda rule: (rule != OURS, over[rule]))
    both = sum(all(each[key] < f[OURS][key] for key in ("written", "read")) for f in loads for each in f.values())
    return (
        "The best number of commits between two snapshots depends on the workload. The default rule (*ours* below) "
        "does not need such a number. In dollars, with a load after each save, it costs at most "
        f"{over[OURS]:.1%} more than the best rule of each workload. The other rules cost at most this much more: "
        f"{best} {over[best]:.1%}, {', '.join(f'{rule} {over[rule]:.0%}' for rule in rest)}. In bytes, {best} writes "
        f"up to {written[best]:.1f} times the commits, and the default rule {written[OURS]:.1f} times. Another rule "
        f"both writes and reads less than the default rule in {both} cases. Only the default rule has bounds. It keeps "
        "them in all cases below, and nearly reaches them."
    )


def _table(name: str, load: dict[str, Any]) -> str:
    keys = list(load["rules"][OURS])[1:]
    rows = [["*ours, promised*", "", "≤ 2", *[""] * 4, "≤ 1", "≤ 2.25", "≤ 1"]]
    for rule, f in load["rules"].items():
        cells = [f"{f['snapshots']:,}", *(f"{f[key]:.2f}" if f[key] else "" for key in keys)]
        rows.append([f"**{rule}**" if rule == OURS else rule, *cells])
    streams = f"{load['saves']:,} saves of {load['streams']:,} streams, at most {load['longest']:,} per stream"
    head = f"**{name}**: {streams}; states of {load['state']:,.0f} bytes, at most {load['largest']:,}\n\n"
    return head + markdown(["rule", "snapshots", *keys], rows)


def draw(found: dict[str, Any]) -> None:
    """Draw a line through the rules for each workload, and a marker for each rule."""
    markers = dict(zip(RULES, "*osD^X", strict=True))
    with plot("policy", "Snapshot rules", "bytes of a load ÷ state", "bytes written ÷ commits", height=5) as axes:
        for colour, (name, load) in zip(COLOURS, found.items(), strict=False):
            at = {rule: (f["read"], f["written"]) for rule, f in load["rules"].items()}
            axes.loglog(*zip(*(at[rule] for rule in at if rule != OURS), strict=True), color=colour, lw=1, label=name)
            for rule, (x, y) in at.items():
                size = 330 if rule == OURS else 45
                axes.scatter(x, y, size, marker=markers[rule], color=colour, ec="black", zorder=3)
        for rule, marker in markers.items():
            axes.scatter([], [], marker=marker, color="#444444", label=rule)
        for axis, ticks in ((axes.xaxis, (1, 3, 10, 30, 100, 300)), (axes.yaxis, (1, 1.5, 2, 3, 5, 10))):
            axis.set_ticks(ticks, map(str, ticks))
            axis.set_ticks([], minor=True)
        axes.legend(frameon=False, fontsize=9, ncols=2)
