"""SIGKILL, SIGSTOP and SIGTERM of processes that share one processor, while another one writes.

    python -m faults.workers write FOLDER SEED
    python -m faults.workers read FOLDER NAME

are those processes: one SQLite store, one file of checkpoints with the read model in it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from random import Random
from statistics import median
from time import monotonic, perf_counter
from typing import Any

from bank import Account, Deposited, Opened, Withdrawn

from eventsrc import Repository, SQLiteStore
from eventsrc.processor import Leases, Processor, Runner, SQLiteCheckpoints, SQLiteContext, SQLiteProjection
from eventsrc.processor.checkpoints import in_use
from eventsrc.processor.sqlite import Database

from .report import Layer

Movement = Opened | Deposited | Withdrawn

WORKERS = 3
SLOTS = 8
TTL = 1.5  # seconds
STREAMS = 40
AT_THE_END = 60.0  # seconds in which all must be handled once nothing goes wrong any more


class Log(SQLiteProjection, tag="log"):
    """A row a commit, in the order in which they were handled, and by whom."""

    worker = ""

    def create(self, db: Database) -> None:
        columns = "number INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT, version INTEGER, worker TEXT"
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({columns})")

    def handle_movement(self, event: Movement, context: SQLiteContext) -> None:
        row = (context.stream, context.commit.version, self.worker)
        context.db.execute(f"INSERT INTO {self.table} (stream, version, worker) VALUES (?, ?, ?)", row)


async def write(folder: Path, seed: int) -> None:
    """Save until SIGTERM."""
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
    """Work until SIGTERM."""
    async with SQLiteStore(folder / "store.db") as store, SQLiteCheckpoints(folder / "model.db") as checkpoints:
        projection = Log()
        projection.worker = name
        leases = Leases(worker=name, slots=SLOTS, ttl=TTL)
        await Runner(Processor(projection, store, checkpoints), leases=leases, save_every=0.1).run(on_sigterm=True)


class _Fleet:
    """The processes, as who ends them sees them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, Random(seed)
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.writer = self._start("write", str(seed))
        self.violations: list[str] = []
        self.taken_over: dict[str, list[float]] = defaultdict(list)  # seconds, by signal
        self._names = 0

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "faults.workers", arguments[0], str(self.folder), *arguments[1:]]
        paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        with (self.folder / f"{arguments[-1]}.err").open("wb") as errors:
            return subprocess.Popen(
                command, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}, stderr=errors
            )

    def start_worker(self) -> None:
        self._names += 1
        name = f"w-{self._names}"
        self.workers[name] = self._start("read", name)

    async def play(self, times: int) -> tuple[int, int, int]:
        """So many signals; the commits, and how many were not handled, or more than once."""
        try:
            async with (
                SQLiteStore(self.folder / "store.db") as store,
                SQLiteCheckpoints(self.folder / "model.db") as checkpoints,
            ):
                for _ in range(WORKERS):
                    self.start_worker()
                self._processor = Processor(Log(), store, checkpoints)
                await self._until(self._is_shared)
                for _ in range(times):
                    await self._strike()
                return await self._end()
        finally:
            for process in (self.writer, *self.workers.values()):
                if process.poll() is None:
                    process.kill()
                process.wait()

    async def _owners(self) -> set[str]:
        checkpoints = self._processor.checkpoints
        return {slot.owner for slot in in_use(await checkpoints.slots(self._processor.name))}

    async def _is_shared(self) -> bool:
        return await self._owners() == set(self.workers)

    async def _until(self, condition: Any, seconds: float = AT_THE_END) -> None:
        limit = monotonic() + seconds
        while not await condition():
            if monotonic() > limit:
                self.violations.append(f"nothing came of it in {seconds} s: {condition.__name__}")
                return
            await asyncio.sleep(0.01)

    async def _strike(self) -> None:
        """One worker is killed, stopped for a while, or asked to end; the others take over; another one begins."""
        name = self.random.choice(sorted(self.workers))
        kind = self.random.choice(("SIGKILL", "SIGKILL", "SIGSTOP", "SIGTERM"))
        process = self.workers[name]
        await asyncio.sleep(self.random.uniform(0, TTL))
        if kind == "SIGTERM":
            await self._until(self._is_shared)  # one that is still being loaded does not listen yet
        begun = monotonic()
        process.send_signal(getattr(signal, kind))

        async def others_have_all() -> bool:
            return name not in await self._owners()

        await self._until(others_have_all)
        self.taken_over[kind].append(monotonic() - begun)
        if kind == "SIGSTOP":
            await asyncio.sleep(self.random.uniform(0, TTL))
            process.send_signal(signal.SIGCONT)
        else:
            del self.workers[name]
            await asyncio.to_thread(process.wait)
            if kind == "SIGTERM":
                self._check_end(name, process)
            self.start_worker()
        if self.random.random() < 0.7:
            await self._until(self._is_shared)

    def _check_end(self, name: str, process: subprocess.Popen[bytes]) -> None:
        if process.returncode:
            errors = (self.folder / f"{name}.err").read_text()
            self.violations.append(f"{name} ended with {process.returncode}: {errors[-500:]}")

    async def _end(self) -> tuple[int, int, int]:
        self.writer.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self.writer.wait)
        store: Any = self._processor.store
        expected = {head.stream: head.version async for page in store.heads() for head in page}

        async def all_is_handled() -> bool:
            return await self._processor.positions(list(expected)) == expected

        await self._until(all_is_handled)
        await self._until(self._is_shared)
        for name, process in self.workers.items():
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait)
            self._check_end(name, process)
        checkpoints: Any = self._processor.checkpoints
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
                self.violations.append(f"{stream} was not handled in order, once, up to {head}")
        return sum(expected.values()), missing, twice


def campaign(times: int, seed: int, folder: Path) -> Layer:
    """So many signals to workers in this empty folder."""
    begun = perf_counter()
    fleet = _Fleet(folder, seed)
    commits, missing, twice = asyncio.run(fleet.play(times))
    told = [
        f"{len(seconds)} {kind}, taken over in {median(seconds):.2f} s (median), {max(seconds):.2f} s (most)"
        for kind, seconds in sorted(fleet.taken_over.items())
    ]
    row = ("workers", commits, times, commits, missing, twice, perf_counter() - begun, seed)
    return Layer(*row, violations=fleet.violations, note=f"with a ttl of {TTL} s: " + "; ".join(told))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", folder, seed]:
            asyncio.run(write(Path(folder), int(seed)))
        case ["read", folder, name]:
            asyncio.run(read(Path(folder), name))
