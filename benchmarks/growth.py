"""Measure loads and saves by length of a stream and by number of streams, and the memory of a long history."""

from __future__ import annotations

import asyncio
import tempfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.bank import Account

from eventsrc import DynamoDBStore, Repository, SnapshotPolicy, SQLiteStore, Store
from eventsrc.local import dynamodb_local

from .measure import Cost, cost, markdown, median_of
from .plots import plot

POINTS = {"SQLite": (1, 10, 100, 1_000, 10_000, 100_000), "DynamoDB Local": (1, 10, 100, 1_000, 10_000)}
HISTORIES = (1_000, 10_000, 100_000)
ROUNDS = 5
WRITERS = 64

NEVER = SnapshotPolicy(enabled=False)


def measure() -> dict[str, Any]:
    return asyncio.run(_measure())


async def _measure() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        async with SQLiteStore(Path(folder) / "lengths.db") as store:
            lengths = {"SQLite": await _lengths(store, POINTS["SQLite"])}
            memory = await _memory(store)
        async with SQLiteStore(Path(folder) / "streams.db") as store:
            streams = {"SQLite": await _streams(store, POINTS["SQLite"])}
    async with dynamodb_local() as local:
        for points, found in ((_lengths, lengths), (_streams, streams)):
            async with local.store(f"growth-{points.__name__}") as remote:
                assert isinstance(remote, DynamoDBStore)
                await remote.create_table()
                found["DynamoDB Local"] = await points(remote, POINTS["DynamoDB Local"])
    return {"lengths": lengths, "streams": streams, "memory": memory}


async def _lengths(store: Store, points: Sequence[int]) -> dict[str, Any]:
    """Return CPU and time of a load and of a save at each length, without and with snapshots."""
    found: dict[str, Any] = {}
    for name, policy in (("plain", NEVER), ("snapshots", SnapshotPolicy(inline=True))):
        accounts = Repository(Account, store, snapshots=policy)
        account = Account.open(name, owner="ann")
        await accounts.save(account)
        for length in points:
            while account.version < length:
                account.deposit(1)
                await accounts.save(account)
            found.setdefault(str(length), {})[name] = await _costs(accounts, account)
    return found


async def _costs(accounts: Repository[Account], account: Account) -> dict[str, float]:
    """Return costs of a load and of a save in ms. The saves make the stream a little longer."""
    times = max(1, min(20, 2_000 // account.version))
    loads = [await cost(lambda: accounts.load(account.id), times) for _ in range(ROUNDS if times > 1 else 1)]

    async def save() -> None:
        account.deposit(1)
        await accounts.save(account)

    saves = [await cost(save, 10) for _ in range(ROUNDS)]
    return {"load": _ms(loads, "wall"), "load CPU": _ms(loads, "cpu"), "save": _ms(saves, "wall")}


def _ms(costs: Sequence[Cost], unit: str) -> float:
    return median_of(getattr(each, unit) for each in costs) * 1e3


async def _streams(store: Store, points: Sequence[int]) -> dict[str, Any]:
    """Return CPU and time of a load and of a save for each number of streams in the store."""
    found: dict[str, Any] = {}
    accounts, there = Repository(Account, store), 0
    for count in points:
        await _open(accounts, range(there, count))
        there = count
        account = await accounts.load("0")
        found[str(count)] = await _costs(accounts, account)
    return found


async def _open(accounts: Repository[Account], numbers: range) -> None:
    waiting = iter(numbers)

    async def work() -> None:
        for number in waiting:
            await accounts.save(Account.open(str(number), owner="ann"))

    await asyncio.gather(*(work() for _ in range(WRITERS)))


async def _memory(store: Store) -> dict[str, float]:
    """Return Python's peak memory in KB while it streams the first commits of a long history, by number of commits."""
    accounts, found = Repository(Account, store, snapshots=NEVER), {}
    for length in HISTORIES:
        tracemalloc.start()
        seen = 0
        async for _ in accounts.history("plain"):
            if (seen := seen + 1) == length:
                break
        found[str(length)] = tracemalloc.get_traced_memory()[1] / 1e3
        tracemalloc.stop()
        assert seen == length
    return found


def section(found: dict[str, Any]) -> str:
    head = ["commits in the stream", *(f"{where}: {what}" for where in POINTS for what in _COLUMNS)]
    lengths = [[f"{int(point):,}", *_row(found["lengths"], point)] for point in found["lengths"]["SQLite"]]
    streams = [[f"{int(point):,}", *_streams_row(found["streams"], point)] for point in found["streams"]["SQLite"]]
    memory = ", ".join(f"{size:,.0f} KB over {int(length):,} commits" for length, size in found["memory"].items())
    return f"""## Growth

{_verdict(found["lengths"])} The number of streams does not matter. Streaming a history takes the memory of one page.
The peaks are {memory}.

All times are in ms. On DynamoDB Local the measurement stops at {max(POINTS["DynamoDB Local"]):,} to keep it short.

{markdown(head, lengths)}

{markdown(["streams in the store", *(f"{where}: {key}" for where in POINTS for key in _KEYS)], streams)}

![Time of a load by the length of its stream](plots/growth.svg)
"""


_KEYS = ("load", "save")
_COLUMNS = ("load", "load with snapshots", "save", "save with snapshots")


def _at(found: dict[str, Any], point: str) -> list[Any]:
    return [found[where].get(point) for where in POINTS]


def _streams_row(found: dict[str, Any], point: str) -> list[str]:
    return [f"{each[key]:.3g}" if each else "" for each in _at(found, point) for key in _KEYS]


def _row(found: dict[str, Any], point: str) -> list[str]:
    cells = []
    for each in _at(found, point):
        figures = [each[name][key] for key in _KEYS for name in ("plain", "snapshots")] if each else []
        cells += [f"{figure:.3g}" for figure in figures] or [""] * len(_COLUMNS)
    return cells


def _verdict(lengths: dict[str, Any]) -> str:
    points = list(lengths["SQLite"])
    few, many = points[1], points[-1]
    at = lengths["SQLite"]
    plain = at[many]["plain"]["load"] / at[few]["plain"]["load"]
    kept = at[many]["snapshots"]["load"] / at[few]["snapshots"]["load"]
    return (
        f"On SQLite a load of {int(many):,} commits takes {plain:,.0f} times as long as a load of {int(few):,} without "
        f"snapshots, and {kept:.1f} times as long with them. The time of a save does not depend on the stream's length."
    )


def draw(found: dict[str, Any]) -> None:
    with plot("growth", "A load, by the length of the stream", "commits", "ms") as axes:
        axes.set_xscale("log")
        axes.set_yscale("log")
        for where, points in found["lengths"].items():
            for name, style in (("plain", "-"), ("snapshots", "--")):
                times = [each[name]["load"] for each in points.values()]
                label = f"{where}, {'with' if name == 'snapshots' else 'without'} snapshots"
                axes.plot([int(point) for point in points], times, style, marker="o", label=label)
        axes.legend(frameon=False)
