"""What snapshots cost and save: bytes written and read, and what a load costs in each layout.

Counts, not times: the same on every machine. `python -m benchmarks.snapshots` prints the tables of docs/storage.md; the
last two ask a DynamoDB Local (see eventsrc.local).
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import aioboto3
import msgspec
from bank import Account, Opened

from eventsrc import Aggregate, Commit, DynamoDBStore, Event, Loaded, MemoryStore, Receipt, Repository, Snapshot
from eventsrc.local import dynamodb_local
from eventsrc.snapshots import SnapshotCodec, SnapshotPolicy
from eventsrc.uuid7 import uuid7
from eventsrc.wiring import wiring_of

from .measure import Figure

SAVES = 2_000
POLICY = SnapshotPolicy(inline=True)

chance = random.Random(1)


class Noted(Event, tag="notebook.noted"):
    text: str


class Cleared(Event, tag="notebook.cleared"):
    pass


class Notebook(Aggregate, tag="notebook"):
    """A state that grows by what each event brings, until it is cleared."""

    notes: list[str] = msgspec.field(default_factory=list)

    def apply_noted(self, event: Noted) -> None:
        self.notes.append(event.text)

    def apply_cleared(self, event: Cleared) -> None:
        self.notes = []


class Labelled(Aggregate, tag="notebook"):
    """The same notebook in a newer release, with one field more."""

    notes: list[str] = msgspec.field(default_factory=list)
    label: str = ""

    def apply_noted(self, event: Noted) -> None:
        self.notes.append(event.text)


class Placed(Event, tag="board.placed"):
    square: int
    piece: str


class Board(Aggregate, tag="board"):
    """A state that is large from the first event on, and of which each event changes a little."""

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
    """Counts what is written, in the bytes that the policy weighs: `Commit.size` and `Snapshot.size`."""

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


class CountingCodec(SnapshotCodec):
    encoded = 0

    def encode(self, aggregate: Aggregate) -> Snapshot:
        self.encoded += 1
        return super().encode(aggregate)


@dataclass
class Life:
    """What one stream's saves wrote, and what a load after each of them read."""

    name: str
    committed: int = 0
    snapshots: list[int] = field(default_factory=list)
    encoded: int = 0
    state: int = 0  # of a snapshot, were one made at the end
    reads: list[int] = field(default_factory=list)
    worst: float = 0.0  # the largest load, as a share of the bound that docs/storage.md proves


async def live(name: str, kind: type[Any], command: Callable[[Any], None], *, held: bool = False) -> Life:
    """Save by `execute`, which loads each time, or from one object `held` in memory; load after each save."""
    life, state = Life(name), wiring_of(kind).snapshot_type
    weigh, counting = SnapshotCodec(state, 0), CountingCodec(state, 0)
    async with Ledger() as store:
        repository = Repository(kind, store, snapshots=POLICY)
        repository._snapshots._codec = counting
        aggregate = kind(id="1")
        command(aggregate)
        await repository.save(aggregate)
        largest = 0  # the state has been since the last snapshot
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
    """Bytes of a load, and what they are at most: the state, a tail of it or the floor, and the snapshot's commit."""
    snapshot, first = (loaded.snapshot.size, loaded.commits[0].size) if loaded.snapshot else (0, 0)
    return snapshot + sum(each.size for each in loaded.commits), largest + max(POLICY.floor, 1.25 * largest) + first


async def lives() -> list[Life]:
    chance.seed(1)
    kinds: list[tuple[str, type[Any], Callable[[Any], None]]] = [
        ("a bank account", Account, move),
        ("22 KB from the start", Board, place),
        ("grows with each event", Notebook, note),
        ("grows, and is cleared", Notebook, note_or_clear),
    ]
    return [await live(name, kind, command, held=held) for name, kind, command in kinds for held in (False, True)]


async def roll_out(saves: int) -> tuple[int, float]:
    """Two releases save a notebook in turn, each ignoring the other's snapshots: how many, and ÷ commits."""
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


class CountingClient:
    """A client of the SDK that adds up what each read costs, which the store has every answer say."""

    def __init__(self, sdk: Any) -> None:
        self._sdk = sdk
        self.requests, self.units = 0, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sdk, name)

    async def get_item(self, **request: Any) -> Any:
        return self._counted(await self._sdk.get_item(**request))

    async def query(self, **request: Any) -> Any:
        return self._counted(await self._sdk.query(**request))

    def _counted(self, answer: Any) -> Any:
        self.requests += 1
        self.units += answer["ConsumedCapacity"]["CapacityUnits"]
        return answer


class Stream(NamedTuple):
    """`tail` commits behind a snapshot (0 bytes: there is none), payloads of random bytes."""

    snapshot: int
    tail: int
    payload: int


STREAMS = (Stream(0, 1, 30), Stream(0, 20, 30), Stream(500, 20, 30), Stream(3_900, 20, 30), Stream(20_000, 60, 300))
LAYOUTS: tuple[Literal["snapshot-first", "snapshot-last"], ...] = ("snapshot-first", "snapshot-last")
BEHIND = 50  # commits that a snapshot stands for, or is behind


async def fill(store: DynamoDBStore, name: str, stream: Stream) -> None:
    behind = BEHIND if stream.snapshot else 0
    for version in range(1, behind + stream.tail + 1):
        commit = Commit(
            stream=name,
            version=version,
            id=uuid7(),
            time=time.time_ns() // 1000,
            events=1,
            tags=("account.deposited",),
            payload=os.urandom(stream.payload),
        )
        await store.append(commit)
    if behind:
        shape, payload = "0" * 16, os.urandom(stream.snapshot)
        await store.put_snapshot(Snapshot(stream=name, version=behind, shape=shape, payload=payload))


async def costs(
    sdk: Any, layout: Literal["snapshot-first", "snapshot-last"], stream: Stream
) -> list[tuple[int, float]]:
    """Requests and read units of the first load by a store object, and of the tenth."""
    client = CountingClient(sdk)
    async with DynamoDBStore(f"layouts-{os.urandom(4).hex()}", client=client, layout=layout) as store:
        await store.create_table()
        await fill(store, "account-a-1", stream)
        found = []
        for _ in range(10):
            client.requests, client.units = 0, 0.0
            await store.load("account-a-1")
            found.append((client.requests, client.units))
        return [found[0], found[-1]]


CROWDS = (Stream(500, 30, 30), Stream(4_000, 30, 30), Stream(20_000, 40, 400))
LOADS = 200


async def crowd(sdk: Any, layout: Literal["snapshot-first", "snapshot-last"], longest: Stream) -> tuple[float, float]:
    """Mean requests and read units of a load, over 20 streams of one category with tails of random length."""
    chance.seed(1)
    client = CountingClient(sdk)
    async with DynamoDBStore(f"crowds-{os.urandom(4).hex()}", client=client, layout=layout) as store:
        await store.create_table()
        for number in range(20):
            await fill(store, f"account-{number}", longest._replace(tail=chance.randint(0, longest.tail)))
        for load in range(LOADS + 50):
            if load == 50:  # what the limit learns from
                client.requests, client.units = 0, 0.0
            await store.load(f"account-{chance.randrange(20)}")
        return client.requests / LOADS, client.units / LOADS


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
    print("A load on DynamoDB: requests / read units")
    print("| snapshot | tail | " + " | ".join(f"`{layout}`, first | tenth" for layout in LAYOUTS) + " |")
    session: Any = aioboto3.Session()
    async with dynamodb_local() as local, session.client("dynamodb", **local.client_kwargs) as sdk:
        for stream in STREAMS:
            found = [f"{n} / {units:g}" for layout in LAYOUTS for n, units in await costs(sdk, layout, stream)]
            print(f"| {stream.snapshot:,} | {stream.tail} of {stream.payload} | {' | '.join(found)} |")
        print("A load of one of 20 streams, mean: requests / read units")
        print("| snapshot | tail | " + " | ".join(f"`{layout}`" for layout in LAYOUTS) + " |")
        for longest in CROWDS:
            means = [await crowd(sdk, layout, longest) for layout in LAYOUTS]
            row = " | ".join(f"{requests:.2f} / {units:.1f}" for requests, units in means)
            print(f"| {longest.snapshot:,} | 0 to {longest.tail} of {longest.payload} | {row} |")


if __name__ == "__main__":
    asyncio.run(print_tables())
