"""When to write a snapshot: our rule beside "a snapshot every N commits", by the bytes it writes and reads.

Each load is saved once, and the sizes of commits and of snapshots of the states after them are noted. Over these each
rule is played, ours by the policy's own methods. It must give the very snapshots that the repository wrote meanwhile.
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

SAVES, STREAMS = 20_000, 400  # of a made-up load; the n-th stream has 1/n as many saves as the first, by Zipf's law
OURS, POLICY = "ours", SnapshotPolicy(inline=True)
MADE_UP: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "small states": (Account, move),
    "large states": (Board, place),
    "growing states": (Notebook, note),
}

Rule = Callable[[int, int, int], bool]  # commits and bytes since the last snapshot, bytes of the state: write one now?


class Save(NamedTuple):
    """Bytes of a commit, of a snapshot of the state after it, and of the snapshot that is written, if one is."""

    commit: int
    state: int
    snapshot: int
    read: int = 0  # by a load that follows
    first: int = 0  # of `read`, the commit that the last snapshot stands for
    largest: int = 0  # the state has been since the last snapshot
    share: float = 0.0  # all snapshots of the stream so far ÷ its commits


class Noting(Repository[Any]):
    """Notes its saves by stream. They must not overlap."""

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
    """The rule of `Snapshots.after_save`, for one stream."""
    threshold = 0

    def rule(commits: int, tail: int, state: int) -> bool:
        nonlocal threshold
        written = (weighed := POLICY.weighs(tail, threshold)) and POLICY.writes(tail, state)
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
    """The saves of a stream under a rule, with a load after each."""
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

A load follows each save. *Written* is all bytes ÷ those of the commits, *read* the mean load ÷ the mean state; units
and dollars, for a million saves and loads, are DynamoDB's. The last columns are the worst of any stream and load, with
what [our rule](storage.md#when-a-snapshot-is-written) promises: snapshots as a *share* of commits; a load in *states*
beyond the floor, less its snapshot's commit; *÷ bound*, that commit and 2.25 states, or a state and the floor. Made-up
loads spread {SAVES:,} saves of one event by Zipf's law; the large state, 22 KB, compresses less with each event.

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
        "Which number of commits is right depends on the load, and ours needs none. In dollars, with a load after each "
        f"save, it is at most {over[OURS]:.1%} above the best rule of each load; {best} is so by {over[best]:.1%}, "
        f"{', '.join(f'{rule} by {over[rule]:.0%}' for rule in rest)}. In bytes, {best} writes up to "
        f"{written[best]:.1f} times the commits, ours {written[OURS]:.1f}; that another rule both writes and reads "
        f"less than ours happens {both} times. Only ours has bounds: they are met below, and nearly reached."
    )


def _table(name: str, load: dict[str, Any]) -> str:
    keys = list(load["rules"][OURS])[1:]
    rows = [["*ours, on paper*", "", "≤ 2", *[""] * 4, "≤ 1", "≤ 2.25", "≤ 1"]]
    for rule, f in load["rules"].items():
        cells = [f"{f['snapshots']:,}", *(f"{f[key]:.2f}" if f[key] else "" for key in keys)]
        rows.append([f"**{rule}**" if rule == OURS else rule, *cells])
    streams = f"{load['saves']:,} saves of {load['streams']:,} streams, at most {load['longest']:,} of one"
    head = f"**{name}**: {streams}; states of {load['state']:,.0f} bytes, at most {load['largest']:,}\n\n"
    return head + markdown(["rule", "snapshots", *keys], rows)


def draw(found: dict[str, Any]) -> None:
    """A line for each load through the rules, a marker for each rule."""
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
