"""Compression: none, lz4 as it is used, and zstandard for comparison: bytes, units, and CPU of both ways."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import lz4.block
import zstandard
from bank import Account

from eventsrc import MemoryStore, Repository, SnapshotPolicy
from eventsrc.codec import unpack
from eventsrc.snapshots import SnapshotCodec
from eventsrc.wiring import wiring_of
from examples.flights.aircraft import Aircraft
from examples.flights.importer import import_fleet
from examples.flights.table import by_aircraft, read_flights

from .measure import markdown, median_of
from .snapshots import Board, place

ITEM = 150  # bytes of an item beside its payload, about
ROUNDS = 5
DOCS = Path(__file__).parents[1] / "docs"

Method = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]


def methods() -> dict[str, Method]:
    """How to compress and to expand; each carries the expanded size, as lz4 blocks do here."""
    found: dict[str, Method] = {
        "none": (lambda body: body, lambda body: body),
        "lz4": (lz4.block.compress, lz4.block.decompress),
    }
    expand = zstandard.ZstdDecompressor().decompress
    for level in (1, 3, 9):
        found[f"zstd {level}"] = (zstandard.ZstdCompressor(level=level).compress, expand)
    return found


def measure() -> dict[str, Any]:
    bodies = asyncio.run(_bodies())
    return {what: {name: _cost(each, method) for name, method in methods().items()} for what, each in bodies.items()}


async def _bodies() -> dict[str, list[bytes]]:
    """What would be compressed: the bodies of payloads."""
    texts = [text for path in sorted(DOCS.glob("*.md")) for text in path.read_text().split("\n\n") if len(text) > 300]
    deposits = {f"{count} bank event{'s' * (count > 1)}": [await _deposits(count)] for count in (1, 10, 100)}
    board = Board(id="1")
    for _ in range(100):
        place(board)
    codec = SnapshotCodec(wiring_of(Board).snapshot_type, 0)
    return {
        "flights' commits": await _flights(),
        **deposits,
        "paragraphs of English": [text.encode() for text in texts],
        "a state of 22 KB": [codec.body(board)],
    }


async def _flights() -> list[bytes]:
    """The commits of some days, each with the events of one departure."""
    async with MemoryStore() as store:
        fleet = by_aircraft(read_flights(3))
        await import_fleet(fleet, Repository(Aircraft, store, snapshots=SnapshotPolicy(enabled=False)))
        loaded = [await store.load(f"aircraft-{tailnum}") for tailnum in fleet]
    return [unpack(each.payload, each.stream, each.version) for one in loaded for each in one.commits]


async def _deposits(count: int) -> bytes:
    async with MemoryStore() as store:
        account = Account.open("a-1", owner="ann")
        for amount in range(count - 1):
            account.deposit(amount * 977)
        await Repository(Account, store).save(account)
        [commit] = (await store.load(account.stream)).commits
    return unpack(commit.payload, commit.stream, commit.version)


def _cost(bodies: Sequence[bytes], method: Method) -> dict[str, float]:
    """Means over the bodies; a body is stored as it is where that is smaller, as the codec does."""
    compress, expand = method
    blocks = [compress(body) for body in bodies]
    assert [expand(block) for block in blocks] == list(bodies)
    sizes = [min(len(block), len(body)) for block, body in zip(blocks, bodies, strict=True)]
    return {
        "bytes": sum(sizes) / len(sizes),
        "write units": sum(math.ceil((size + ITEM) / 1024) for size in sizes) / len(sizes),
        "read units": sum(size + ITEM for size in sizes) / len(sizes) / 4096,
        "µs to compress": _microseconds(compress, bodies),
        "µs to expand": _microseconds(expand, blocks),
    }


def _microseconds(call: Callable[[bytes], bytes], inputs: Sequence[bytes]) -> float:
    """Of one, in CPU; the median of some rounds."""
    times = max(1, 3_000 // len(inputs))

    def one_round() -> float:
        start = process_time()
        for _ in range(times):
            for each in inputs:
                call(each)
        return (process_time() - start) / times / len(inputs) * 1e6

    return median_of(one_round() for _ in range(ROUNDS))


def section(found: dict[str, Any]) -> str:
    names = list(next(iter(found.values())))
    rows = [[what, *(_cell(costs[name], costs["none"]) for name in names)] for what, costs in found.items()]
    return f"""## Compression

{_verdict(found)}

Mean bytes of a payload's body, write units of its item, and µs of CPU to compress / to expand it:

{markdown(["", *names], rows)}
"""


def _verdict(found: dict[str, Any]) -> str:
    shares = {what: costs["lz4"]["bytes"] / costs["none"]["bytes"] for what, costs in found.items()}
    pays = [f"{what} ({share:.0%})" for what, share in shares.items() if share < 0.8]
    small = [what for what, share in shares.items() if share >= 0.8]
    saved = {what: 1 - costs["zstd 3"]["bytes"] / costs["lz4"]["bytes"] for what, costs in found.items()}
    best = max(saved, key=lambda what: saved[what])
    slower = found[best]["zstd 3"]["µs to compress"] / found[best]["lz4"]["µs to compress"]
    return (
        f"lz4 takes this share of the bytes: {', '.join(pays)}; it saves little on {', '.join(small)}. Zstandard at "
        f"its usual level 3 would save most on {best}, {saved[best]:.0%} more than lz4, at {slower:.0f} times its CPU. "
        "DynamoDB writes whole units of 1 KB, so a small commit costs one unit either way."
    )


def _cell(cost: dict[str, float], plain: dict[str, float]) -> str:
    size = f"{cost['bytes']:,.0f} B, {cost['write units']:.3g} units"
    if cost is plain:
        return size
    return f"{size}, {cost['µs to compress']:.1f} / {cost['µs to expand']:.1f} µs"


def draw(found: dict[str, Any]) -> None:
    """No plot: the table says it."""
