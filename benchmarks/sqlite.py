"""Compare SQLite with bare sqlite3: durable saves by one task and by many (group commit), and loads."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from pathlib import Path
from time import perf_counter
from zlib import crc32

import msgspec
from support.bank import Account, Deposited, Opened, Withdrawn

from eventsrc import Repository, SnapshotPolicy, SQLiteStore
from eventsrc.stores.sqlite.connection import SCHEMA

from .measure import Figure, cost, median_of

ROUNDS = 7
SAVES = 1_000
TASKS = 64
LENGTH = 1_000  # commits of the stream that is loaded
LOADS = 20


def figures() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        found = [_round(Path(folder), number) for number in range(ROUNDS)]
    one, many, bare, load, loop = zip(*found, strict=True)
    pairs = list(zip(one, many, bare, load, loop, strict=True))
    return [
        Figure(f"SQLite, saves/s: {TASKS} tasks ÷ one task", median_of(m / o for o, m, *_ in pairs), 6),
        Figure("SQLite, saves/s: one task ÷ bare sqlite3", median_of(o / b for o, _, b, *_ in pairs), 0.8),
        Figure("SQLite, events/s: load of 1,000 ÷ bare loop", median_of(x / y for *_, x, y in pairs), 0.6),
        Figure("SQLite, saves/s, one task", median_of(one)),
        Figure(f"SQLite, saves/s, {TASKS} tasks", median_of(many)),
        Figure("SQLite, events/s, load of 1,000", median_of(load)),
    ]


def _round(folder: Path, number: int) -> tuple[float, float, float, float, float]:
    """Return saves per second: one task, many, bare sqlite3; and events per second: a load, the bare loop."""
    one, many, load, loop = asyncio.run(_ours(folder / f"{number}.db"))
    return one, many, _bare(folder / f"bare-{number}.db"), load, loop


async def _ours(path: Path) -> tuple[float, float, float, float]:
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
        many = each * TASKS / (perf_counter() - start)
        await save("long", LENGTH)
        await accounts.load("long")
        load = await cost(lambda: accounts.load("long"), LOADS)
    return one, many, LENGTH / load.wall, _loop(path)


def _bare(path: Path) -> float:
    """Return saves per second of a bare connection: the same table, settings and row, one fsync per save."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    for statement in SCHEMA.split("\n\n"):
        connection.execute(statement)
    insert = "INSERT INTO log (stream, version, position, fields, record) VALUES (?, ?, ?, ?, ?)"
    fields, record = '{"size":34,"time":1767225600000000,"events":1,"tags":["account.deposited"]}', bytes(85)
    start = perf_counter()
    for version in range(1, SAVES + 1):
        connection.execute(insert, ("account-single", version, version, fields, os.urandom(16) + record)).close()
    rate = SAVES / (perf_counter() - start)
    connection.close()
    return rate


def _loop(path: Path) -> float:
    """Return events per second of a bare loop over the same rows: sqlite3, CRC-32, msgspec, handlers by type."""
    connection = sqlite3.connect(path)
    decode = msgspec.msgpack.Decoder(list[Opened | Deposited | Withdrawn]).decode
    handlers = {Opened: Account.apply_opened, Deposited: Account.apply_movement, Withdrawn: Account.apply_movement}

    def load() -> Account:
        account = Account(id="long")
        query = "SELECT record FROM log WHERE stream = ? ORDER BY version"
        for [record] in connection.execute(query, ("account-long",)):
            payload = msgspec.msgpack.decode(record)[1]
            assert crc32(payload) == 0
            for event in decode(payload[1:-4]):
                handlers[type(event)](account, event)  # type: ignore[operator]  # each takes its own event
        return account

    assert load().balance == LENGTH
    start = perf_counter()
    for _ in range(LOADS):
        load()
    rate = LENGTH * LOADS / (perf_counter() - start)
    connection.close()
    return rate
