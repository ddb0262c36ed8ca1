"""SIGKILL, SIGSTOP and SIGTERM of processes that share one processor, while another process writes.

    python -m campaigns.workers write FOLDER SEED
    python -m campaigns.workers read FOLDER NAME

are these processes. They use one SQLite store, and one file with the checkpoints and the read model.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import defaultdict
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

from support.bank import Account, Deposited, Opened, Withdrawn

from eventsrc import Repository, SQLiteStore
from eventsrc.processing import Leases, Processor, Runner, SQLiteCheckpoints, SQLiteContext, SQLiteProjection
from eventsrc.processing.projections.sqlite import Database

from .fleet import Fleet
from .progress import report
from .report import Layer

Movement = Opened | Deposited | Withdrawn

WORKERS = 3
SLOTS = 8
TTL = 1.5  # seconds
STREAMS = 40


class Log(SQLiteProjection, tag="log"):
    """Insert a row for each commit, in the order of handling, with the name of the worker."""

    worker = ""

    def create(self, db: Database) -> None:
        columns = "number INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT, version INTEGER, worker TEXT"
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({columns})")

    def handle_movement(self, event: Movement, context: SQLiteContext) -> None:
        row = (context.stream, context.commit.version, self.worker)
        context.db.execute(f"INSERT INTO {self.table} (stream, version, worker) VALUES (?, ?, ?)", row)


async def write(folder: Path, seed: int) -> None:
    """Save commits until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    dice = Random(seed)
    async with SQLiteStore(folder / "store.db") as store:
        repository = Repository(Account, store)
        accounts = [Account.open(f"a-{number}", owner="ann") for number in range(STREAMS)]
        for account in accounts:
            await repository.save(account)
        while not stopping.is_set():
            account = dice.choice(accounts)
            account.deposit(1)
            await repository.save(account)
            await asyncio.sleep(0.002)


async def read(folder: Path, name: str) -> None:
    """Handle commits until SIGTERM."""
    async with SQLiteStore(folder / "store.db") as store, SQLiteCheckpoints(folder / "model.db") as checkpoints:
        projection = Log()
        projection.worker = name
        leases = Leases(worker=name, slots=SLOTS, ttl=TTL)
        await Runner(Processor(projection, store, checkpoints), leases=leases, save_every=0.1).run(on_sigterm=True)


class _Fleet(Fleet):
    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__("campaigns.workers", folder, seed, TTL)
        self.writer = self.start("write", str(seed))

    async def play(self, times: int) -> tuple[int, int, int]:
        """Send `times` signals. Return the commits, those not handled, and those handled more than once."""
        try:
            async with (
                SQLiteStore(self.folder / "store.db") as store,
                SQLiteCheckpoints(self.folder / "model.db") as checkpoints,
            ):
                for _ in range(WORKERS):
                    self.start_worker()
                self.processor = Processor(Log(), store, checkpoints)
                await self.until(self.is_shared)
                for done in range(times):
                    report(done, times)
                    await self.strike()
                return await self._end()
        finally:
            self.kill()
            self.writer.kill()
            self.writer.wait()

    async def _end(self) -> tuple[int, int, int]:
        self.writer.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self.writer.wait)
        store: Any = self.processor.store
        expected = {head.stream: head.version async for page in store.heads() for head in page}

        async def all_is_handled() -> bool:
            return await self.processor.positions(list(expected)) == expected

        await self.until(all_is_handled)
        await self.end()
        checkpoints: Any = self.processor.checkpoints
        rows = await checkpoints.read(
            lambda db: db.execute("SELECT stream, version FROM log_1 ORDER BY number").fetchall()
        )
        seen: dict[str, list[int]] = defaultdict(list)
        for stream, version in rows:
            seen[stream].append(version)
        missing = twice = 0
        for stream, head in expected.items():
            missing += head - len(set(seen[stream]))
            twice += len(seen[stream]) - len(set(seen[stream]))
            if seen[stream] != list(range(1, head + 1)):
                self.violations.append(f"{stream} was not handled once and in order up to {head}")
        return sum(expected.values()), missing, twice


def campaign(times: int, seed: int, folder: Path) -> Layer:
    """Send `times` signals to workers in this empty folder."""
    begun = perf_counter()
    fleet = _Fleet(folder, seed)
    commits, missing, twice = asyncio.run(fleet.play(times))
    row = ("workers", commits, times, commits, missing, twice, perf_counter() - begun, seed)
    return Layer(*row, violations=fleet.violations, note=fleet.takeovers())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", folder, seed]:
            asyncio.run(write(Path(folder), int(seed)))
        case ["read", folder, name]:
            asyncio.run(read(Path(folder), name))
