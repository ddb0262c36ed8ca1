"""Measure what snapshots cost and save, in bytes written and read.

The figures are counts, not times, so they are the same on every machine. `python -m benchmarks.snapshots` prints the
table of docs/storage.md.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from support.bank import Account, Opened

from eventsrc import Aggregate, Commit, Event, Loaded, MemoryStore, Receipt, Repository, Snapshot
from eventsrc.repository.snapshots import SnapshotCodec, SnapshotPolicy

from .measure import Figure

SAVES = 2_000
POLICY = SnapshotPolicy(inline=True)

chance = random.Random(1)


class Noted(Event, tag="notebook.noted"):
    text: str


class Cleared(Event, tag="notebook.cleared"):
    pass


class Notebook(Aggregate, tag="notebook"):
    """A state that grows with each event, until it is cleared."""

    notes: list[str] = msgspec.field(default_factory=list)

    def apply_noted(self, event: Noted) -> None:
        self.notes.append(event.text)

    def apply_cleared(self, event: Cleared) -> None:
        self.notes = []


class Labelled(Aggregate, tag="notebook"):
    """The same notebook in a newer release, with one more field."""

    notes: list[str] = msgspec.field(default_factory=list)
    label: str = ""

    def apply_noted(self, event: Noted) -> None:
        self.notes.append(event.text)


class Placed(Event, tag="board.placed"):
    square: int
    piece: str


class Board(Aggregate, tag="board"):
    """A state that is large from the first event on. Each event changes a small part of it."""

    squares: dict[int, str] = msgspec.field(default_factory=dict)

    def apply_placed(self, event: Placed) -> None:
        if not self.squares:
            self.squares = {square: f"{square**9:040x}" for square in range(500)}
        self.squares[event.square] = event.piece


def note(notebook: Notebook | Labelled) -> None:
    notebook.record(Noted(text=chance.randbytes(20).hex()))


def note_or_clear(notebook: Notebook) -> None:
    notebook.record(Cleared()) if len(notebook.notes) == 400 else note(notebook)


def place(board: Board) -> None:
    board.record(Placed(square=chance.randrange(500), piece=chance.randbytes(20).hex()))


def move(account: Account) -> None:
    account.deposit(chance.randrange(1, 10_000)) if account.owner else account.record(Opened(owner="ann"))


class Ledger(MemoryStore):
    """A store that counts the bytes it writes as the policy does: `Commit.size` and `Snapshot.size`."""

    def __init__(self) -> None:
        super().__init__()
        self.committed = 0
        self.snapshots: list[int] = []

    async def append(self, commit: Commit) -> Receipt:
        self.committed += commit.size
        return await super().append(commit)

    async def put_snapshot(self, snapshot: Snapshot) -> bool:
        self.snapshots.append(snapshot.size)
        return await super().put_snapshot(snapshot)


class CountingCodec(SnapshotCodec[Any]):
    encoded = 0

    def encode(self, aggregate: Aggregate) -> Snapshot:
        self.encoded += 1
        return super().encode(aggregate)


@dataclass
class Life:
    """Bytes that the saves of one stream wrote, and bytes that a load after each save read."""

    name: str
    committed: int = 0
    snapshots: list[int] = field(default_factory=list)
    encoded: int = 0
    state: int = 0  # bytes of a snapshot of the last state
    reads: list[int] = field(default_factory=list)
    worst: float = 0.0  # the largest load, as a share of the bound that docs/storage.md proves


async def live(name: str, kind: type[Any], command: Callable[[Any], None], *, held: bool = False) -> Life:
    """Save by `execute`, or from one object that is `held` in memory. Load after each save."""
    life, weigh, counting = Life(name), SnapshotCodec(kind), CountingCodec(kind)
    async with Ledger() as store:
        repository = Repository(kind, store, snapshots=POLICY)
        repository._snapshots._codec = counting
        aggregate = kind(id="1")
        command(aggregate)
        await repository.save(aggregate)
        largest = 0  # largest state since the last snapshot
        for _ in range(SAVES):
            before = len(store.snapshots)
            if held:
                command(aggregate)
                await repository.save(aggregate)
            else:
                await repository.execute("1", command)
            life.state = weigh.encode(await repository.load("1")).size
            largest = life.state if len(store.snapshots) > before else max(largest, life.state)
            read, bound = _read(await store.load(aggregate.stream), largest)
            life.reads.append(read)
            life.worst = max(life.worst, read / bound)
            assert sum(store.snapshots) <= store.committed
        life.committed, life.snapshots, life.encoded = store.committed, store.snapshots, counting.encoded
    return life


def _read(loaded: Loaded, largest: int) -> tuple[int, float]:
    """Return the bytes of a load and their bound: the state, a tail or the floor, and the snapshot's commit."""
    snapshot, first = (loaded.snapshot.size, loaded.commits[0].size) if loaded.snapshot else (0, 0)
    return snapshot + sum(each.size for each in loaded.commits), largest + max(POLICY.floor, 1.25 * largest) + first


async def lives() -> list[Life]:
    chance.seed(1)
    kinds: list[tuple[str, type[Any], Callable[[Any], None]]] = [
        ("a bank account", Account, move),
        ("large from the start", Board, place),
        ("grows with each event", Notebook, note),
        ("grows, and is cleared", Notebook, note_or_clear),
    ]
    return [await live(name, kind, command, held=held) for name, kind, command in kinds for held in (False, True)]


async def roll_out(saves: int) -> tuple[int, float]:
    """Save a notebook by two releases in turn, each of which ignores the other's snapshots.

    Return the number of snapshots, and their bytes ÷ bytes of the commits.
    """
    chance.seed(1)
    async with Ledger() as store:
        old, new = Repository(Notebook, store, snapshots=POLICY), Repository(Labelled, store, snapshots=POLICY)
        notebook = Notebook(id="1")
        note(notebook)
        await old.save(notebook)
        for _ in range(saves):
            await old.execute("1", note)
        store.committed, store.snapshots = 0, []
        for _ in range(saves // 2):
            await new.execute("1", note)
            await old.execute("1", note)
        return len(store.snapshots), sum(store.snapshots) / store.committed


def figures() -> list[Figure]:
    measured = asyncio.run(lives())
    written = max(sum(life.snapshots) / life.committed for life in measured)
    return [
        Figure(f"snapshot bytes ÷ commit bytes, worst of {len(measured)} streams", written, 1, at_most=True),
        Figure("bytes of a load ÷ their bound, worst load", max(life.worst for life in measured), 1, at_most=True),
    ]


async def print_tables() -> None:
    print(f"The lives of streams, {SAVES:,} saves each; bytes are KB")
    print("| state | saved by | snapshots | ÷ commits | encoded | state | load, mean | largest | without | ÷ bound |")
    for number, life in enumerate(await lives()):
        cells = (
            life.name,
            "one object" if number % 2 else "`execute`",
            len(life.snapshots),
            f"{sum(life.snapshots) / life.committed:.2f}",
            life.encoded,
            f"{life.state / 1e3:.1f}",
            f"{sum(life.reads) / len(life.reads) / 1e3:.1f}",
            f"{max(life.reads) / 1e3:.1f}",
            f"{life.committed / 1e3:.0f}",
            f"{life.worst:.2f}",
        )
        print(f"| {' | '.join(map(str, cells))} |")
    snapshots, share = await roll_out(100)
    print(f"100 saves by two releases in turn: {snapshots} snapshots, {share:.0f} times the bytes of the commits")


if __name__ == "__main__":
    asyncio.run(print_tables())
