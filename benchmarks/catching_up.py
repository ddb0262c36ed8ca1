"""Measure projections that catch up from SQLite, in memory and exactly once in SQLite, and bare loops of the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection
from time import process_time
from typing import Any

from eventsrc import SQLiteStore
from eventsrc.processing import MemoryProjection, Processor, SQLiteCheckpoints

from . import bare
from .filling import fill
from .measure import Figure, median_of
from .models import Balances, BalancesByEvent, BalancesByStream, BalancesInSQLite

ROUNDS = 5
STREAMS, COMMITS = 500, 40  # 20,000 commits

BARE = "a bare loop"
_PAIRS = (  # what is compared with which loop, and the goal with one event a commit
    ("SQLite to memory", "SQLite to memory", 0.4),
    ("SQLite to SQLite, one statement an event", "SQLite to SQLite, one statement an event", None),
    ("SQLite to SQLite, batched in the order of the feed", "SQLite to SQLite, batched", None),
    ("SQLite to SQLite, batched stream by stream", "SQLite to SQLite, batched", None),
)

Rates = dict[str, float]
"""Events per second of CPU, of all threads of this process, by name."""


async def figures() -> list[Figure]:
    found: list[Figure] = []
    for name, events in (("1 event a commit", 1), ("10 events a commit", 10)):
        with tempfile.TemporaryDirectory() as folder:
            rounds = await _measure(Path(folder), events)
        for what, loop, goal in _PAIRS:
            ratio = median_of(each[what] / each[f"{BARE}, {loop}"] for each in rounds)
            label = f"events/s of CPU, {what}, {name} ÷ {BARE}"
            found.append(Figure(label, ratio, goal if events == 1 else None))
        found += [
            Figure(f"events/s of CPU, {what}, {name}", median_of(each[what] for each in rounds)) for what in rounds[0]
        ]
    return found


async def _measure(folder: Path, events: int) -> list[Rates]:
    async with SQLiteStore(folder / "ledger.db") as store:
        await fill(store, STREAMS, COMMITS, events)
        with bare.open_file(folder / "ledger.bare") as source:
            await bare.copy(store, source)
            found = []
            for number in range(ROUNDS):
                (inner := folder / str(number)).mkdir()
                total = STREAMS * COMMITS * events + STREAMS
                seconds = await _ours(store, inner) | _bare(source, inner)
                found.append({name: total / each for name, each in seconds.items()})
    return found


async def _ours(store: SQLiteStore, folder: Path) -> dict[str, float]:
    """Return the seconds of CPU of each projection."""
    names = [what for what, _, _ in _PAIRS]
    kinds: tuple[Any, ...] = (Balances, BalancesByEvent, BalancesInSQLite, BalancesByStream)
    return {name: await _catch_up(kind, store, folder) for name, kind in zip(names, kinds, strict=True)}


async def _catch_up(kind: type[Any], store: SQLiteStore, folder: Path) -> float:
    if issubclass(kind, MemoryProjection):
        model: Any = kind()
        processor = Processor(model, store)
        start = process_time()
        await processor.run(until_caught_up=True)
        seconds = process_time() - start
        _check(model.balances)
        return seconds
    async with SQLiteCheckpoints(folder / f"{kind.tag}.db") as checkpoints:
        processor = Processor(kind(), store, checkpoints)
        start = process_time()
        await processor.run(until_caught_up=True)
        seconds = process_time() - start
        query = f"SELECT stream, balance FROM {processor.projection.table}"
        _check(dict(await checkpoints.read(lambda db: db.execute(query).fetchall())))
        return seconds


def _bare(source: Connection, folder: Path) -> dict[str, float]:
    """Return the seconds of CPU of each bare loop."""
    model = Balances()
    start = process_time()
    bare.project(source, model)
    seconds = {f"{BARE}, SQLite to memory": process_time() - start}
    _check(model.balances)
    project: Callable[[Connection, Connection], None]
    for name, project in (("one statement an event", bare.project_each), ("batched", bare.project_batches)):
        with bare.open_file(folder / f"{name}.bare") as target:
            bare.create_balances(target)
            start = process_time()
            project(source, target)
            seconds[f"{BARE}, SQLite to SQLite, {name}"] = process_time() - start
            _check(dict(target.execute("SELECT stream, balance FROM balances")))
    return seconds


def _check(balances: dict[str, int]) -> None:
    """Check that all find the same answer."""
    [balance] = set(balances.values())
    assert len(balances) == STREAMS
    assert balance % COMMITS == 0
