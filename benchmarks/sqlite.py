"""Compare SQLite with bare sqlite3: durable saves by one task and by many (group commit), and loads."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from support.bank import Account, Deposited

from eventsrc import Repository, SnapshotPolicy, SQLiteStore

from . import bare
from .measure import Figure, cost, median_of

ROUNDS = 7
SAVES = 1_000
TURNS = tuple(f"single-{number}" for number in range(8))  # accounts of one task, which take turns
TASKS = 64
LENGTH = 1_000  # commits of each stream that is loaded
LONG = tuple(f"long-{number}" for number in range(4))  # which take turns
LOADS = 20


class Rates(NamedTuple):
    """What one round has found: saves/s, and events/s of loads."""

    one: float  # task that saves
    many: float
    bare: float
    load: float
    loop: float


def figures() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        found = [asyncio.run(_round(Path(folder) / str(number))) for number in range(ROUNDS)]
    return [
        Figure(f"SQLite, saves/s: {TASKS} tasks ÷ one task", median_of(each.many / each.one for each in found), 6),
        Figure("SQLite, saves/s: one task ÷ bare sqlite3", median_of(each.one / each.bare for each in found), 0.8),
        Figure("SQLite, events/s: load of 1,000 ÷ bare loop", median_of(each.load / each.loop for each in found), 0.6),
        Figure("SQLite, saves/s, one task", median_of(each.one for each in found)),
        Figure(f"SQLite, saves/s, {TASKS} tasks", median_of(each.many for each in found)),
        Figure("SQLite, events/s, load of 1,000", median_of(each.load for each in found)),
    ]


async def _round(path: Path) -> Rates:
    async with SQLiteStore(f"{path}.db") as store:
        accounts = Repository(Account, store, snapshots=SnapshotPolicy(enabled=False))

        async def save(ids: tuple[str, ...], times: int) -> None:
            held = [Account.open(id, owner="ann") for id in ids]
            for _, account in zip(range(times), cycle(held), strict=False):
                account.deposit(1)
                await accounts.save(account)

        each = SAVES * 4 // TASKS
        start = perf_counter()
        await save(TURNS, SAVES)
        one = SAVES / (perf_counter() - start)
        start = perf_counter()
        await asyncio.gather(*(save((f"many-{task}",), each) for task in range(TASKS)))
        many = each * TASKS / (perf_counter() - start)
        await save(LONG, LENGTH * len(LONG))
        with bare.open_file(path.with_suffix(".bare")) as connection:
            await bare.copy(store, connection)
            rate = _save(connection)
            turns = cycle(LONG)
            for id in LONG:
                assert (await accounts.load(id)).balance == bare.load(connection, id).balance == LENGTH
            load = await cost(lambda: accounts.load(next(turns)), LOADS)
            loop = _seconds(lambda: bare.load(connection, next(turns)))
    return Rates(one, many, rate, LENGTH / load.wall, LENGTH / loop)


def _save(connection: sqlite3.Connection) -> float:
    """Return saves per second of a bare connection with the same settings: one row and one fsync for each."""
    event = Deposited(amount=1)
    start = perf_counter()
    for number in range(SAVES):
        version, turn = divmod(number, len(TURNS))
        bare.save(connection, f"account-bare-{turn}", version + 1, [event])
    return SAVES / (perf_counter() - start)


def _seconds(load: Callable[[], Account]) -> float:
    start = perf_counter()
    for _ in range(LOADS):
        load()
    return (perf_counter() - start) / LOADS
