"""SIGKILL of processes that write to one SQLite file, and of a DynamoDB Local that stores its tables in a folder.

    python -m campaigns.crashes FILE RECORDS NAME

is one of those writers. It works until it is killed, and records its calls and their outcomes in RECORDS.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from itertools import count
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import msgspec

from eventsrc import Commit, EventsrcError, Receipt, Repository, SnapshotPolicy, SQLiteStore, Store
from eventsrc.local.guard import START_SECONDS, wait_until_answering
from eventsrc.local.jar import make_command, reserve_port

from . import PYTHONPATH
from .chain import Chain
from .history import Caller, Findings, History, Operation, Outcome
from .progress import report
from .report import Layer

SAVES = 50  # that each writer has recorded as acknowledged before it is killed with the others
WRITERS = 3  # processes at once
TASKS = 4  # in each process
KILLS_PER_FILE = 12  # the last WRITERS of them at once
IDS = [f"s-{each}" for each in range(8)]
POLICY = SnapshotPolicy(floor=0, ratio=0.5)
SECONDS_PER_LIFE = 60  # per life of a DynamoDB Local; after that the campaign fails
FIRST = "first-"  # prefix of the keys of first links


class Record(msgspec.Struct, omit_defaults=True):
    """A line of a writer's records: a commit about to be appended, or the current state of an operation."""

    commit: Commit | None = None
    number: int = 0  # of the operation, within its process
    operation: Operation | None = None


class Recorded(History):
    """A history that survives its process.

    A line is passed to the kernel before the operation that it announces begins, and after the operation that it
    reports has ended.
    """

    def __init__(self, records: Path) -> None:
        super().__init__()
        self._file = os.open(records, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def begin(self, kind: Any, stream: str, key: str = "") -> Operation:
        operation = super().begin(kind, stream, key)
        self._tell(operation)
        return operation

    def end(
        self, operation: Operation, outcome: Outcome, version: int | None = None, digest: bytes | None = None
    ) -> None:
        super().end(operation, outcome, version, digest)
        self._tell(operation)

    def _failed(self, operation: Operation, error: BaseException) -> None:
        super()._failed(operation, error)
        self._tell(operation)  # again, with the winner

    def watch(self, store: Store) -> None:
        super().watch(store)
        append = store.append

        async def told_append(commit: Commit) -> Receipt:
            self._write(Record(commit))
            return await append(commit)

        store.append = told_append  # type: ignore[method-assign]

    def _tell(self, operation: Operation) -> None:
        self._write(Record(number=id(operation), operation=operation))  # operations are never freed, so ids are unique

    def _write(self, record: Record) -> None:
        os.write(self._file, msgspec.json.encode(record) + b"\n")


_to_record = msgspec.json.Decoder(Record).decode


def _take_over(records: Path, history: History) -> list[Operation]:
    """Add a writer's records to the history and return its operations. A line that the kill cut off is skipped."""
    operations: dict[int, Operation] = {}
    for line in records.read_bytes().splitlines(keepends=True) if records.exists() else ():
        if line.endswith(b"\n"):
            record = _to_record(line)
            if record.commit:
                history.issued.setdefault(record.commit.id, record.commit)
            elif record.operation:
                operations[record.number] = record.operation
    history.operations += operations.values()
    return list(operations.values())


def kills(times: int, seed: int, directory: Path) -> Layer:
    """Kill `times` writers of SQLite files in this empty directory.

    Each is killed at a random moment; the last writers of each file are killed together. Commands of a killed writer
    that had no outcome are delivered again by this process under the same command id. Each must be applied once.
    """
    begun, random = perf_counter(), Random(seed)
    total = Findings(0, 0, 0, 0, [])
    for first in range(0, times, KILLS_PER_FILE):
        file = _File(directory / f"kills-{seed}-{first}.db", random)
        found = asyncio.run(file.play(min(KILLS_PER_FILE, times - first)))
        report(first + KILLS_PER_FILE, times)
        total = Findings(*(one + other for one, other in zip(total, found, strict=True)))  # type: ignore[operator]
    note = f"{WRITERS} processes at once"
    return Layer.of("SIGKILL, SQLite", total, faults=times, seconds=perf_counter() - begun, seed=seed, note=note)


class _File:
    """One SQLite file, its writers, and the history of all of them."""

    def __init__(self, path: Path, random: Random) -> None:
        self._path = path
        self._random = random
        self._history = History()
        self._names = (f"{path.stem}-{each}" for each in count())
        self._writers: dict[str, subprocess.Popen[bytes]] = {}
        self._violations: list[str] = []

    async def play(self, kills: int) -> Findings:
        together = min(WRITERS, kills)
        try:
            for _ in range(together):
                self._start()
            for _ in range(kills - together):
                await asyncio.sleep(self._random.uniform(0, 0.5))
                await self._deliver_again(self._kill(self._random.choice(list(self._writers))))
                self._start()
            await self._until_busy()
            await asyncio.sleep(self._random.uniform(0, 0.5))
            for writer in self._writers.values():  # together, so that the next connection has to recover the file
                writer.kill()
            await self._deliver_again([open for name in list(self._writers) for open in self._kill(name)])
        finally:
            for writer in self._writers.values():  # empty if the campaign succeeded
                writer.kill()
                writer.communicate()
        findings = self._history.check(await self._logs())
        violations = [f"{self._path.name}: {violation}" for violation in findings.violations + self._violations]
        return findings._replace(violations=violations)

    async def _until_busy(self) -> None:
        """Wait until each writer has recorded SAVES: on a busy machine they start late."""
        async with asyncio.timeout(60):
            while any(self._count_saves(name) < SAVES for name in self._writers):  # noqa: ASYNC110  # of processes
                await asyncio.sleep(0.02)

    def _count_saves(self, name: str) -> int:
        records = self._records(name)
        lines = records.read_bytes().splitlines() if records.exists() else []
        return sum(b'"kind":"save"' in line and b'"outcome":"ok"' in line for line in lines)

    def _start(self) -> None:
        name = next(self._names)
        program = [sys.executable, "-m", "campaigns.crashes", str(self._path), str(self._records(name)), name]
        environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
        self._writers[name] = subprocess.Popen(program, env=environment, stderr=subprocess.PIPE)

    def _kill(self, name: str) -> list[Operation]:
        """Kill this writer and return its commands that have no outcome."""
        writer = self._writers.pop(name)
        writer.kill()
        _, said = writer.communicate()
        if writer.returncode != -signal.SIGKILL or said:
            self._violations.append(f"writer {name} ended with {writer.returncode} before it was killed: {said!r}")
        left = _take_over(self._records(name), self._history)
        return [op for op in left if op.kind == "save" and op.outcome == "unknown" and not op.key.startswith(FIRST)]

    def _records(self, name: str) -> Path:
        return self._path.with_name(f"{name}.records")

    async def _deliver_again(self, open: Sequence[Operation]) -> None:
        async with self._caller() as caller:
            for operation in open:
                await caller.execute(*command(operation.stream.removeprefix("chain-"), operation.key))

    async def _logs(self) -> dict[str, list[Commit]]:
        """Return the logs, after checking that each stream can be written and has a snapshot that fits its log."""
        async with self._caller() as caller:
            await _create(caller, "parent")
            await _go_on(caller)
        with closing(sqlite3.connect(self._path)) as connection:
            if (found := connection.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                self._violations.append(f"integrity_check is {found}")
        async with SQLiteStore(self._path) as store:
            return {f"chain-{id}": [commit async for commit in store.read(f"chain-{id}")] for id in IDS}

    @asynccontextmanager
    async def _caller(self) -> AsyncIterator[Caller]:
        async with SQLiteStore(self._path) as store:
            self._history.watch(store)
            yield self._history.caller(Repository(Chain, store, snapshots=POLICY))


def command(id: str, key: str) -> tuple[str, str, bytes, str]:
    """Return a command, the same for each delivery: aggregate, key, padding, command id."""
    return id, key, key.encode(), f"c-{key}"


async def _create(caller: Caller, name: str) -> None:
    """Create the chains that do not exist yet."""
    for id in IDS:
        chain = Chain(id=id)
        chain.link(key := f"{FIRST}{name}-{id}")
        with suppress(EventsrcError):
            await caller.save(chain, key)


async def _go_on(caller: Caller) -> None:
    """Check that each chain accepts another link and that its snapshot fits its log."""
    for id in IDS:
        await caller.execute(*command(id, f"last-{id}"))
        await caller.load(id)


async def write(path: Path, records: Path, name: str) -> None:
    """Add links to the chains of a file until killed."""
    history, random, numbers = Recorded(records), Random(name), count()

    async def work() -> None:
        while True:
            id = random.choice(IDS)
            with suppress(EventsrcError):
                await caller.execute(*command(id, f"{name}-{next(numbers)}"))
                if random.random() < 0.3:
                    await caller.load(id)
            await asyncio.sleep(random.expovariate(100))  # so that others come first, and to leave some CPU

    async with SQLiteStore(path) as store:
        history.watch(store)
        caller = history.caller(Repository(Chain, store, snapshots=POLICY))
        await _create(caller, name)
        await asyncio.gather(*(work() for _ in range(TASKS)))


async def kills_of_dynamodb_local(times: int, seed: int, directory: Path) -> Layer:
    """Kill a DynamoDB Local `times` times and restart it on its folder, while one store keeps writing to it.

    Each command is delivered until it is known to be applied. The store stays open all the time.
    """
    from support.tables import fresh_name, store_on  # here, so that the writers above do not import the SDK

    begun, random, history = perf_counter(), Random(seed), History()
    table = fresh_name()
    async with _server(directory) as server, store_on(server.url, table, deadline=2.0) as store:
        async with store_on(server.url, table) as patient:
            await patient.create_table()
        history.watch(store)
        caller = history.caller(Repository(Chain, store, snapshots=POLICY))
        await _create(caller, "parent")
        stop = asyncio.Event()
        async with asyncio.timeout(SECONDS_PER_LIFE * (times + 1)), asyncio.TaskGroup() as tasks:
            for each in range(2 * TASKS):
                tasks.create_task(_deliver(caller, f"task-{each}", random, stop))
            for number in range(times):
                report(number, times)
                await asyncio.sleep(random.uniform(0.3, 1.5))
                server.kill()
                await asyncio.sleep(random.uniform(0, 4))  # within the store's deadline or beyond it
                await server.start()
            await asyncio.sleep(0.5)
            stop.set()
        await _go_on(caller)
        logs = {f"chain-{id}": [commit async for commit in store.read(f"chain-{id}")] for id in IDS}
    outcomes = Counter(op.outcome for op in history.operations if op.kind == "save")
    note = f"{outcomes['unknown']} unknown outcomes and {outcomes['failed']} definite errors"
    row = history.check(logs)
    return Layer.of("SIGKILL, DynamoDB", row, faults=times, seconds=perf_counter() - begun, seed=seed, note=note)


async def _deliver(caller: Caller, name: str, random: Random, stop: asyncio.Event) -> None:
    for number in count():
        if stop.is_set():
            return
        delivery, applied = command(random.choice(IDS), f"{name}-{number}"), False
        while not applied:
            with suppress(EventsrcError):
                await caller.execute(*delivery)
                applied = True


class _Server:
    """A DynamoDB Local as a child of this process, so that it can be killed by its id."""

    def __init__(self, program: list[str], folder: Path, url: str) -> None:
        self.url = url
        self._program, self._folder = program, folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        process = self._process = self._run()
        await wait_until_answering(self.url, START_SECONDS, lambda: (process.poll() is None, ""))

    def _run(self) -> subprocess.Popen[bytes]:
        quiet = subprocess.DEVNULL
        return subprocess.Popen(self._program, cwd=self._folder, stdin=quiet, stdout=quiet, stderr=quiet)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@asynccontextmanager
async def _server(directory: Path) -> AsyncIterator[_Server]:
    """Run a DynamoDB Local. It keeps its port and its folder over all restarts."""
    program, folder = await asyncio.to_thread(make_command, directory)
    with reserve_port(0) as port:
        server = _Server([*program, "-port", str(port)], folder, f"http://127.0.0.1:{port}")
        try:
            await server.start()
            yield server
        finally:
            server.kill()


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
