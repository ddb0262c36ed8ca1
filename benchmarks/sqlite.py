"""Durable saves on SQLite: one task awaiting each, against 64 tasks at once (group commit), and a bare connection."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from pathlib import Path
from time import perf_counter

from bank import Account

from eventsrc import Repository, SnapshotPolicy, SQLiteStore

from .measure import Figure, median

SAVES = 1_500
TASKS = 64


def figures() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        pairs = [asyncio.run(_rates(path / f"{round}.db")) for round in range(5)]
        ratios = iter([many / one for one, many in pairs])
        ones = iter([one for one, _ in pairs])
        many = iter([many for _, many in pairs])
        bare = iter([_bare(path / f"bare-{round}.db") / pairs[round][0] for round in range(5)])
        return [
            Figure(f"saves/s, {TASKS} tasks ÷ one task", median(lambda: next(ratios), 5), goal=6),
            Figure("one task ÷ bare sqlite3, one fsync each", 1 / median(lambda: next(bare), 5)),
            Figure("saves/s, one task", median(lambda: next(ones), 5)),
            Figure(f"saves/s, {TASKS} tasks", median(lambda: next(many), 5)),
        ]


async def _rates(path: Path) -> tuple[float, float]:
    """Durable saves a second: by one task, and by many."""
    async with SQLiteStore(path) as store:
        accounts = Repository(Account, store, snapshots=SnapshotPolicy(enabled=False))

        async def save(id: str, times: int) -> None:
            account = Account.open(id, owner="ann")
            for _ in range(times):
                account.deposit(1)
                await accounts.save(account)

        start = perf_counter()
        await save("single", SAVES)
        one = SAVES / (perf_counter() - start)
        each = SAVES * 4 // TASKS
        start = perf_counter()
        await asyncio.gather(*(save(f"many-{task}", each) for task in range(TASKS)))
        return one, each * TASKS / (perf_counter() - start)


def _bare(path: Path) -> float:
    """Inserts a second of a plain connection with the same settings and a row of the same size."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE rows (position INTEGER PRIMARY KEY AUTOINCREMENT, row BLOB)")
    start = perf_counter()
    for _ in range(SAVES):
        connection.execute("INSERT INTO rows (row) VALUES (?)", (bytes(120),))
    rate = SAVES / (perf_counter() - start)
    connection.close()
    return rate
