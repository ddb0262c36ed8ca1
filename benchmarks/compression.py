"""Compare compression methods: none, lz4 as in the codec, and zstandard; by bytes, DynamoDB units, and CPU.

All methods use the same frame. A payload stays uncompressed if the codec would not try to compress it, or if
compression does not make it smaller. The times are of the compressor alone, in this process. Methods take turns; the
result is the median of the rounds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from math import ceil
from statistics import mean
from time import process_time
from typing import Any

import lz4.block
import zstandard

from eventsrc import Aggregate, Commit, Event, MemoryStore, Receipt, Repository, SnapshotPolicy
from eventsrc.aggregates.codec import _MIN_COMPRESSED, pack, unpack
from eventsrc.store import OVERHEAD
from eventsrc.stores.limits import item_size
from examples.flights.aircraft import Aircraft
from examples.flights.importer import import_fleet
from examples.flights.table import Flight, by_aircraft, read_flights

from .measure import markdown, median_of
from .plots import PLOTS, bars, plot
from .snapshots import Board, Notebook, Noted, chance, place

FRAME = 5  # bytes of a payload without its body: format and checksum
ROUNDS, SAMPLE = 9, 1_000  # SAMPLE: calls that are timed in a round
NEVER = SnapshotPolicy(enabled=False)
TEXTS = [PLOTS.parent / f"{name}.md" for name in ("aggregates", "operations", "storage")]

Way = Callable[[bytes], bytes]
Content = tuple[bytes, int]  # body to compress, and bytes of the item without the payload


class Paid(Event, tag="book.paid"):
    amount: int
    memo: str


class Book(Aggregate, tag="book"):
    total: int = 0

    def apply_paid(self, event: Paid) -> None:
        self.total += event.amount


class Keeping(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.contents: list[Content] = []

    async def append(self, commit: Commit) -> Receipt:
        body = unpack(commit.payload, commit.stream, commit.version)
        self.contents.append((body, item_size(commit) - len(commit.payload)))
        return await super().append(commit)


def methods() -> dict[str, tuple[Way, Way]]:
    """Return how to compress and to expand, by name. Each method stores the expanded size with the block."""
    expand = zstandard.ZstdDecompressor().decompress
    levels = {f"zstd {level}": (zstandard.ZstdCompressor(level=level).compress, expand) for level in (1, 3, 9)}
    return {"lz4": (lz4.block.compress, lz4.block.decompress), **levels}


def measure() -> dict[str, Any]:
    return {what: _costs(contents) for what, contents in asyncio.run(_contents()).items()}


async def _contents() -> dict[str, list[Content]]:
    paid = [_paid(flight) for flight in read_flights(3)]
    texts = [text for path in TEXTS for text in path.read_text().split("\n\n") if len(text) > 300]
    async with Keeping() as store:
        await import_fleet(by_aircraft(read_flights()), Repository(Aircraft, store, snapshots=NEVER))
    return {
        "flights": store.contents,
        **{f"{n} deposit{'s' * (n > 1)}": await _commits(Book, paid, n) for n in (1, 10, 100)},
        "10 paragraphs": await _commits(Notebook, [Noted(text=text) for text in texts], 10),
        "regular 22 KB": [_snapshot(100)],
        "random 22 KB": [_snapshot(5_000)],
    }


def _paid(flight: Flight) -> Paid:
    memo = f"Ticket {flight.origin}-{flight.dest} {flight.carrier} {flight.flight:04}, January {flight.day:02}, paid"
    assert len(memo) == 40
    return Paid(amount=flight.distance * 17, memo=memo)


async def _commits(kind: type[Aggregate], events: Sequence[Event], each: int) -> list[Content]:
    """Return commits of `each` events. Events that do not fill the last commit are left out."""
    async with Keeping() as store:
        aggregate = kind(id="1")
        for start in range(0, len(events) - each + 1, each):
            for event in events[start : start + each]:
                aggregate.record(event)
            await Repository(kind, store, snapshots=NEVER).save(aggregate)
    return store.contents


def _snapshot(events: int) -> Content:
    """Return a snapshot of a state of 22 KB. Each event replaces regular digits by random ones."""
    chance.seed(1)
    board = Board(id="1")
    for _ in range(events):
        place(board)
    return Repository(Board, MemoryStore())._snapshots._codec.encode_state(board), OVERHEAD


def _costs(contents: Sequence[Content]) -> dict[str, dict[str, float]]:
    plain, ways = [body for body, _ in contents], methods()
    kept = {"none": plain, **{name: [_kept(body, *way) for body in plain] for name, way in ways.items()}}
    assert [len(body) + FRAME for body in kept["lz4"]] == [len(pack(body, "", 1)) for body in plain]
    few = slice(None, None, ceil(len(plain) / SAMPLE))
    rounds = [{name: _times(plain[few], kept[name][few], *ways[name]) for name in ways} for _ in range(ROUNDS)]
    costs = {name: _sizes(bodies, contents) for name, bodies in kept.items()}
    for name in ways:
        costs[name] |= {way: median_of(each[name][way] for each in rounds) for way in ("compress", "expand")}
    return costs


def _kept(body: bytes, compress: Way, expand: Way) -> bytes:
    block = compress(body)
    assert expand(block) == body
    return block if len(block) < len(body) and len(body) >= _MIN_COMPRESSED else body


def _sizes(bodies: Sequence[bytes], contents: Sequence[Content]) -> dict[str, float]:
    items = [rest + FRAME + len(body) for body, (_, rest) in zip(bodies, contents, strict=True)]
    units = {"write units": mean(ceil(item / 1024) for item in items), "read units": mean(items) / 4096}
    return {"bytes": mean(map(len, bodies)) + FRAME, **units}


def _times(plain: Sequence[bytes], kept: Sequence[bytes], compress: Way, expand: Way) -> dict[str, float]:
    """Return µs of CPU per payload. A payload that is not tried, or stays uncompressed, counts as 0."""
    tried = [body for body in plain if len(body) >= _MIN_COMPRESSED]
    blocks = [block for block, body in zip(kept, plain, strict=True) if block is not body]
    return {"compress": _time(compress, tried) / len(plain), "expand": _time(expand, blocks) / len(plain)}


def _time(call: Way, inputs: Sequence[bytes]) -> float:
    """Return µs of CPU for one call on each of the inputs."""
    times = ceil(SAMPLE / len(inputs)) if inputs else 1
    start = process_time()
    for each in chain.from_iterable(repeat(inputs, times)):
        call(each)
    return (process_time() - start) / times * 1e6 if inputs else 0.0


def section(found: dict[str, Any]) -> str:
    rows = [[what, name, *_cells(costs)] for what, by_name in found.items() for name, costs in by_name.items()]
    head = ["payload", "stored", "bytes", "write units", "read units", "µs to compress", "µs to expand"]
    return f"""## Compression

{_verdict(found)}

The table shows means per payload:

- Units are units of the payload's item. A load adds up items before it rounds to 4 KB, so fractions count.
- CPU is the CPU time of the compressor alone, as medians of {ROUNDS} rounds. Payloads below {_MIN_COMPRESSED} bytes
  are not compressed.
- Deposits have a memo of 40 characters, paragraphs are taken from this documentation, and snapshots of 22 KB consist of
  hex digits.

{markdown(head, rows)}

![Bytes of a payload as a share of those without compression](plots/compression.svg)
"""


def _cells(costs: dict[str, float]) -> list[str]:
    sizes = [f"{costs['bytes']:,.0f}", f"{costs['write units']:.2f}", f"{costs['read units']:.3f}"]
    return [*sizes, *(f"{costs[way]:.1f}" if costs.get(way) else "" for way in ("compress", "expand"))]


def _verdict(found: dict[str, Any]) -> str:
    little = [what for what, by in found.items() if by["lz4"]["bytes"] > 0.9 * by["none"]["bytes"]]
    slower = [by["zstd 3"]["compress"] / by["lz4"]["compress"] for by in found.values() if by["lz4"]["compress"]]
    return (
        f"lz4 saves write units on {_saved(found, 'none', 'lz4')}. On {', '.join(little)} it saves less than a "
        f"tenth of the bytes. zstd 3 would save more on {_saved(found, 'lz4', 'zstd 3')}. Compressing with it takes "
        f"{min(slower):.0f} to {max(slower):.0f} times the CPU of lz4."
    )


def _saved(found: dict[str, Any], more: str, less: str) -> str:
    """List the payloads for which `less` needs at least 5 % fewer write units than `more`."""
    units = {what: (by[more]["write units"], by[less]["write units"]) for what, by in found.items()}
    saved = {what: f"{before:.1f} → {after:.1f}" for what, (before, after) in units.items() if after <= 0.95 * before}
    return ", ".join(f"{what} ({each}, {found[what][less]['compress']:.0f} µs)" for what, each in saved.items())


def draw(found: dict[str, Any]) -> None:
    series = {name: [by[name]["bytes"] / by["none"]["bytes"] for by in found.values()] for name in methods()}
    with plot("compression", "Bytes of a payload ÷ without compression", "", "", width=9.5) as axes:
        bars(axes, list(found), series)
        axes.set(ylim=(0, 1.2))
        axes.legend(frameon=False, ncols=len(series), loc="upper center")
