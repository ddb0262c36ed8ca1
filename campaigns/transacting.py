"""Transactions under faults: each is stored whole or not at all, and all of them are serializable.

The versions of a stream are the order in which it was written. So the order of all transactions needs no search: a
transaction that has read version 4 of a stream comes after the writer of version 4, and before the writer of version 5.
One that had ended before another began comes before it. These relations must have no cycle.

    python -m campaigns.transacting FILE RECORDS NAME

is a process that works on an SQLite file until it is killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, closing, suppress
from itertools import count
from pathlib import Path
from random import Random
from time import monotonic, perf_counter
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec

from eventsrc import (
    Aggregate,
    Commit,
    CommitOutcomeUnknown,
    ConflictError,
    DynamoDBStore,
    Event,
    EventsrcError,
    MemoryStore,
    Receipt,
    Recorded,
    Repository,
    SnapshotPolicy,
    SQLiteStore,
    Store,
    TransactionOutcomeUnknown,
)
from eventsrc.stores import Guard, InlineDatabase
from eventsrc.transactions import Transaction, settle, transact

from . import PYTHONPATH
from .clock import Deadlock, VirtualLoop, run, virtual_time
from .history import Findings
from .progress import report
from .report import Layer

DEADLINE = 1.0
SETTLED = 10 * DEADLINE  # seconds after which no earlier request is in flight
LAYOUTS = ("snapshot-last", "snapshot-first", "interleaved")
ACCOUNTS, PAIRS = 5, 2
OPENING = 100  # the balance of each account at the start
POLICY = SnapshotPolicy(floor=0, ratio=0.5)

Key = tuple[str, int]  # a stream and a version


class Moved(Event, tag="purse.moved"):
    amount: int


class Purse(Aggregate, tag="purse"):
    balance: int = 0

    def move(self, amount: int) -> int:
        self.record(Moved(amount=amount))
        return self.balance

    def apply_moved(self, event: Moved) -> None:
        self.balance += event.amount


class Overdrawn(Exception):
    pass


class Sent(msgspec.Struct):
    """A transaction or an append that was sent, perhaps several times, and what is known of its outcome."""

    commits: list[tuple[str, int, bytes]]  # stream, version, id
    guards: list[Key]
    begin: float
    end: float | None = None  # when it was first known to be stored
    outcome: str = "unknown"  # or "stored", "refused"
    tries: int = 0

    @property
    def reads(self) -> list[Key]:
        return [*self.guards, *((stream, version - 1) for stream, version, _ in self.commits)]


class Recorder:
    """Records what stores are asked to store. With a file, each line is passed to the kernel before the call."""

    def __init__(self, clock: Callable[[], float], file: Path | None = None) -> None:
        self.sent: list[Sent] = []
        self._clock = clock
        self._by_id: dict[bytes, Sent] = {}
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if file is not None else None

    def watch(self, store: Any) -> None:
        append, append_all = store.append, store.append_all

        async def recorded(commit: Commit) -> Receipt:
            receipt: Receipt = await self._call([commit], [], lambda: append(commit))
            return receipt

        async def all_recorded(
            commits: Sequence[Commit], guards: Sequence[Guard] = (), **options: Any
        ) -> Sequence[Receipt]:
            receipts: Sequence[Receipt] = await self._call(
                commits, guards, lambda: append_all(commits, guards, **options)
            )
            return receipts

        store.append, store.append_all = recorded, all_recorded

    async def _call(
        self, commits: Sequence[Commit], guards: Sequence[Guard], call: Callable[[], Awaitable[Any]]
    ) -> Any:
        sent = self._by_id.get(commits[0].id) if commits else None
        if sent is None:
            sent = Sent(
                [(each.stream, each.version, each.id) for each in commits],
                [(each.stream, each.version) for each in guards],
                self._clock(),
            )
            self.sent.append(sent)
            if commits:
                self._by_id[commits[0].id] = sent
        sent.tries += 1
        first = sent.tries == 1
        self._write(sent)
        try:
            result = await call()
        except ConflictError:
            sent.outcome = "refused"
            raise
        except CommitOutcomeUnknown:
            raise
        except EventsrcError:
            if first:
                sent.outcome = "refused"
            raise
        else:
            if sent.end is None:
                sent.end = self._clock()
            sent.outcome = "stored"
            return result
        finally:
            self._write(sent)

    def _write(self, sent: Sent) -> None:
        if self._file is not None:
            os.write(self._file, msgspec.json.encode(sent) + b"\n")


def take_over(records: Path) -> list[Sent]:
    """Return what a process has recorded before it was killed. A line that the kill cut off is skipped."""
    found: dict[bytes, Sent] = {}
    for line in records.read_bytes().splitlines(keepends=True) if records.exists() else ():
        if line.endswith(b"\n"):
            sent = msgspec.json.decode(line, type=Sent)
            found[sent.commits[0][2] if sent.commits else line] = sent
    return list(found.values())


def check(sent: Sequence[Sent], logs: Mapping[str, Sequence[Commit]]) -> Findings:
    """Compare what was sent with what is stored."""
    violations: list[str] = []
    stored = Counter(commit.id for log in logs.values() for commit in log)
    known = {id for each in sent for _, _, id in each.commits}
    for stream, log in logs.items():
        if [commit.version for commit in log] != list(range(1, len(log) + 1)):
            violations.append(f"{stream} has a gap")
        violations += [f"{commit!r} was never sent" for commit in log if commit.id not in known]
    lost, landed = 0, []
    for each in sent:
        found = [stored[id] for _, _, id in each.commits]
        names = ", ".join(f"{stream}@{version}" for stream, version, _ in each.commits) or "a check of guards"
        if found and min(found) != max(found):
            violations.append(f"a part of a transaction is stored: {names}")
        if each.outcome == "stored" and 0 in found:
            lost += 1
            violations.append(f"an acknowledged transaction is not stored: {names}")
        if each.outcome == "refused" and any(found):
            violations.append(f"a refused transaction is stored: {names}")
        if all(found) if found else each.outcome == "stored":
            landed.append(each)
    duplicated = sum(number > 1 for number in stored.values())
    if cycle := find_cycle(landed, violations):
        violations.append(f"not serializable: {' before '.join(map(_describe, cycle))}")
    return Findings(len(sent), sum(each.outcome == "stored" for each in sent), lost, duplicated, violations)


def _describe(sent: Sent) -> str:
    wrote = [f"{stream}@{version}" for stream, version, _ in sent.commits]
    return f"[read {', '.join(f'{stream}@{version}' for stream, version in sent.guards)}; wrote {', '.join(wrote)}]"


def find_cycle(landed: Sequence[Sent], violations: list[str]) -> list[Sent]:
    """Return transactions that each must come before the next one, and the last one before the first, or none."""
    after: dict[int, set[int]] = defaultdict(set)
    writers = {(stream, version): number for number, each in enumerate(landed) for stream, version, _ in each.commits}
    for number, each in enumerate(landed):
        for stream, version in each.reads:
            if version and (stream, version) not in writers:
                violations.append(f"{stream}@{version} was read, and is not stored")
            for other, later in ((writers.get((stream, version)), False), (writers.get((stream, version + 1)), True)):
                if other is not None and other != number:
                    after[number if later else other].add(other if later else number)
    _add_times(landed, after)
    return [landed[number] for number in _search(after) if number < len(landed)]


def _add_times(landed: Sequence[Sent], after: dict[int, set[int]]) -> None:
    """Add that what had ended comes before what began later. Each end is a node, so that this needs few relations."""
    events = [(each.begin, 1, number) for number, each in enumerate(landed)]
    events += [(each.end, 0, number) for number, each in enumerate(landed) if each.end is not None]
    node = len(landed)
    last: int | None = None
    for _, is_begin, number in sorted(events, key=lambda event: (event[0], -event[1])):  # at one moment, begins first
        if is_begin:
            if last is not None:
                after[last].add(number)
        else:
            after[number].add(node)
            if last is not None:
                after[last].add(node)
            last, node = node, node + 1


def _search(after: Mapping[int, Iterable[int]]) -> list[int]:
    """Return a cycle, or an empty list."""
    waiting: Counter[int] = Counter(other for others in after.values() for other in others)
    nodes = {*after, *waiting}
    free = deque(node for node in nodes if not waiting[node])
    while free:
        node = free.popleft()
        nodes.discard(node)
        for other in after.get(node, ()):
            waiting[other] -= 1
            if not waiting[other]:
                free.append(other)
    if not nodes:
        return []
    before: dict[int, int] = {other: node for node in nodes for other in after.get(node, ()) if other in nodes}
    path, node = list[int](), next(iter(sorted(nodes)))
    while node not in path:  # each node that is left has one before it that is left
        path.append(node)
        node = before[node]
    return path[path.index(node) :][::-1]


class Bank:
    """Clients that move money between accounts, and between pairs of purses that must not be overdrawn together."""

    def __init__(self, source: Random, name: str, deadline: float, **options: Any) -> None:
        self._options = options  # of each `transact`
        self.accounts = [f"{name}.a{number}" for number in range(ACCOUNTS)]
        self.pairs = [(f"{name}.p{number}", f"{name}.q{number}") for number in range(PAIRS)]
        self.violations: list[str] = []
        self.done: Counter[str] = Counter()
        self._random, self._deadline = source, deadline

    @property
    def streams(self) -> list[str]:
        return [f"purse-{id}" for id in (*self.accounts, *(id for pair in self.pairs for id in pair))]

    async def open(self, store: Store) -> None:
        purses = Repository(Purse, store)

        async def create(tx: Transaction) -> None:
            for id in (*self.accounts, *(id for pair in self.pairs for id in pair)):
                if await tx.find(purses, id) is None:
                    tx.add(purses, Purse(id=id)).move(OPENING)

        await transact(store, create, **self._options)

    async def work(self, store: Store, steps: float) -> None:
        purses = Repository(Purse, store, snapshots=POLICY)
        actions = (self._transfer, self._transfer, self._draw, self._draw, self._audit, self._touch)
        for _ in range(int(steps)):
            action, limit = self._random.choice(actions), None
            if self._random.random() < 0.2:
                limit = self._random.random() * self._deadline
            try:
                async with asyncio.timeout(limit):
                    await action(store, purses)
                self.done["done"] += 1
            except (TimeoutError, TransactionOutcomeUnknown) as error:
                self.done["unknown"] += 1
                if self._random.random() < 0.7:
                    await self._settle(store, error)
            except Overdrawn:
                self.done["refused"] += 1
            except EventsrcError as error:
                self.done[type(error).__name__] += 1
            await asyncio.sleep(self._random.random() * 0.01)

    async def _settle(self, store: Store, error: BaseException) -> None:
        for _ in range(5):
            try:
                with suppress(ValueError):  # an `execute`, or nothing was sent
                    await settle(store, error)
            except TransactionOutcomeUnknown:
                continue
            return

    async def _transfer(self, store: Store, purses: Repository[Purse]) -> None:
        source, target = self._random.sample(self.accounts, 2)
        amount = self._random.randint(1, 80)

        async def decide(tx: Transaction) -> None:
            if (purse := await tx.load(purses, source)).balance < amount:
                raise Overdrawn
            purse.move(-amount)
            (await tx.load(purses, target)).move(amount)

        await transact(store, decide, attempts=self._random.choice((1, 3, 10)), **self._options)

    async def _draw(self, store: Store, purses: Repository[Purse]) -> None:
        """Take money from one purse of a pair if both together have enough: without guards, a write skew."""
        pair = self._random.choice(self.pairs)
        one, other = self._random.sample(pair, 2)
        amount = self._random.randint(50, 150)

        async def decide(tx: Transaction) -> int:
            both = (await tx.load(purses, other)).balance + (purse := await tx.load(purses, one)).balance
            purse.move(-amount if both >= amount else 40)
            return both

        attempts = self._random.choice((1, 3, 10))
        if (both := await transact(store, decide, attempts=attempts, **self._options)) < 0:
            self.violations.append(f"{one} and {other} had {both} together")

    async def _audit(self, store: Store, purses: Repository[Purse]) -> None:
        async def decide(tx: Transaction) -> int:
            return sum([(await tx.load(purses, id)).balance for id in self.accounts])

        if (found := await transact(store, decide, attempts=3)) != OPENING * ACCOUNTS:
            self.violations.append(f"an audit has found {found}, not {OPENING * ACCOUNTS}")

    async def _touch(self, store: Store, purses: Repository[Purse]) -> None:
        """Commit to one stream, without a transaction."""
        await purses.execute(self._random.choice(self.accounts), Purse.move, 0)

    async def check(self, store: Store) -> dict[str, list[Commit]]:
        """Check the balances at the end, and that each stream can be written. Return the logs."""
        purses = Repository(Purse, store, snapshots=POLICY)
        for id in self.accounts:
            await purses.execute(id, Purse.move, 0)
        found = await purses.load_many(self.accounts)
        total, least = sum(each.balance for each in found.values()), min(each.balance for each in found.values())
        if (total, least >= 0) != (OPENING * ACCOUNTS, True):
            self.violations.append(f"the accounts have {total}, and the least {least}, at the end")
        for pair in self.pairs:
            both = sum(each.balance for each in (await purses.load_many(pair)).values())
            if both < 0:
                self.violations.append(f"{pair} have {both} together at the end")
        return {stream: [commit async for commit in store.read(stream)] for stream in self.streams}


def project(db: InlineDatabase, recorded: Sequence[Recorded]) -> None:
    """Keep the balances in a table, in the transaction of the commits."""
    db.execute("CREATE TABLE IF NOT EXISTS balances (stream TEXT PRIMARY KEY, balance INTEGER NOT NULL) STRICT")
    for commit, events in recorded:
        change = sum(event.amount for event in events if isinstance(event, Moved))
        db.execute(
            "INSERT INTO balances VALUES (?, ?) ON CONFLICT DO UPDATE SET balance = balance + excluded.balance",
            (commit.stream, change),
        )


class LosingStore(MemoryStore):
    """A store in memory whose answers to transactions are lost now and then, before or after they were stored."""

    def __init__(self, source: Random, rate: float) -> None:
        super().__init__()
        self._source, self.rate, self.lost = source, rate, 0

    async def append_all(
        self, commits: Sequence[Commit], guards: Sequence[Guard] = (), *, inline: Any = None
    ) -> Sequence[Receipt]:
        is_lost, when = bool(commits) and self._source.random() < self.rate, self._source.random()
        await asyncio.sleep(self._source.expovariate(200.0))
        if is_lost and when < 0.4:
            self.lost += 1
            raise TransactionOutcomeUnknown(commits, guards, "lost")
        receipts = await super().append_all(commits, guards, inline=inline)
        await asyncio.sleep(self._source.expovariate(200.0))
        if is_lost:
            self.lost += 1
            raise TransactionOutcomeUnknown(commits, guards, "answer lost")
        return receipts


class Result(NamedTuple):
    findings: Findings
    faults: int


def simulate(seed: int) -> Result:
    """Run one history in virtual time, over a simulated DynamoDB or a store in memory. The seed defines all of it."""
    from .service import Service  # here, so that the processes below do not import the SDK

    loop, source = VirtualLoop(), Random(seed)
    random.seed(seed)  # tenacity's jitter
    recorder, bank = Recorder(loop.time), Bank(source, "s", 2 * DEADLINE)
    service = Service(source, rate=source.choice((0.02, 0.1, 0.3)), deadline=DEADLINE)
    memory = LosingStore(source, service.rate) if source.random() < 0.2 else None
    options: dict[str, Any] = {"layout": source.choice(LAYOUTS), "deadline": DEADLINE}

    def make_store() -> Any:
        return memory or DynamoDBStore("simulated", client=service.client(), **options)

    logs: dict[str, list[Commit]] = {}

    def set_rate(rate: float) -> None:
        service.rate = rate
        if memory is not None:
            memory.rate = rate

    async def play() -> None:
        rate = service.rate
        async with AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(make_store()) for _ in range(1 if memory else 2)]
            for store in stores:
                recorder.watch(store)
            set_rate(0)
            await bank.open(stores[0])
            set_rate(rate)
            clients = source.randint(2, 6)
            await asyncio.gather(*(bank.work(stores[each % len(stores)], 12) for each in range(clients)))
            set_rate(0)
            await asyncio.sleep(SETTLED)
            logs.update(await bank.check(stores[0]))

    with virtual_time(loop), patch("eventsrc.repository.drafting.uuid7", lambda: source.randbytes(16)):
        try:
            run(play(), loop)
        except Deadlock:
            bank.violations.append("a task still waits, but no task can continue")
        except Exception as error:
            bank.violations.append(f"a call ended with {error!r}")
    findings = check(recorder.sent, logs)
    findings.violations.extend(bank.violations)
    return Result(findings, service.injected.total() + (memory.lost if memory is not None else 0))


def campaign(seeds: Sequence[int]) -> Layer:
    """Simulate these seeds."""
    begun, total, faults = perf_counter(), Findings(0, 0, 0, 0, []), 0
    for number, seed in enumerate(seeds):
        report(number, len(seeds))
        result = simulate(seed)
        found = result.findings._replace(violations=[f"seed {seed}: {each}" for each in result.findings.violations])
        total = Findings(*(one + other for one, other in zip(total, found, strict=True)))  # type: ignore[operator]
        faults += result.faults
    return Layer.of(
        "transactions, simulated", total, faults=faults, seconds=perf_counter() - begun, seed=seeds[0] if seeds else 0
    )


async def live(operations: int, seed: int, endpoint: str, rate: float = 0.05) -> Layer:
    """Work on the real DynamoDB Local through a proxy that injects faults, in all layouts."""
    from support.proxy import proxy_to  # here, so that the processes below do not import the SDK
    from support.tables import fresh_name, store_on

    from .live import Dice

    begun, source, dice = perf_counter(), Random(seed), Dice(seed, rate)
    total = Findings(0, 0, 0, 0, [])
    async with proxy_to(endpoint) as proxy:
        for layout in LAYOUTS:
            recorder, bank = Recorder(monotonic), Bank(source, layout, 1.5)
            options: dict[str, Any] = {"layout": layout}
            async with (
                store_on(endpoint, table := fresh_name(), **options) as direct,
                store_on(proxy.url, table, deadline=1.5, **options) as one,
                store_on(proxy.url, table, deadline=1.5, **options) as other,
            ):
                await direct.create_table()
                for store in (direct, one, other):
                    recorder.watch(store)
                await bank.open(direct)
                proxy.choose = dice
                clients = 8
                steps = operations / len(LAYOUTS) / clients
                await asyncio.gather(*(bank.work((one, other)[each % 2], steps) for each in range(clients)))
                proxy.choose = None
                while proxy.late:
                    await asyncio.wait(proxy.late)
                found = check(recorder.sent, await bank.check(direct))
            found.violations.extend(bank.violations)
            total = Findings(*(a + b for a, b in zip(total, found, strict=True)))  # type: ignore[operator]
            report(total.operations, operations)
    faults, seconds = dice.injected.total(), perf_counter() - begun
    return Layer.of("transactions, live", total, faults=faults, seconds=seconds, seed=seed)


PROCESSES = 3  # at once


def kills(times: int, seed: int, directory: Path) -> Layer:
    """Kill processes that make transactions on one SQLite file, `times` in all, at random moments."""
    begun, source = perf_counter(), Random(seed)
    path, names, sent = directory / f"bank-{seed}.db", count(), list[Sent]()
    bank = Bank(source, "k", 1.0, inline=project)
    running: dict[str, subprocess.Popen[bytes]] = {}

    def start() -> None:
        name = f"{path.stem}-{next(names)}"
        program = [sys.executable, "-m", __name__, str(path), str(path.with_name(f"{name}.records")), name]
        environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
        running[name] = subprocess.Popen(program, env=environment, stderr=subprocess.PIPE)

    def kill(name: str) -> None:
        process = running.pop(name)
        process.kill()
        _, said = process.communicate()
        if process.returncode != -signal.SIGKILL or said:
            bank.violations.append(f"{name} ended with {process.returncode} before it was killed: {said!r}")
        sent.extend(take_over(path.with_name(f"{name}.records")))

    async def play() -> dict[str, list[Commit]]:
        recorder = Recorder(monotonic)
        async with SQLiteStore(path) as store:
            recorder.watch(store)
            await bank.open(store)
        for _ in range(min(PROCESSES, times)):
            start()
        for number in range(times):
            report(number, times)
            name = source.choice(list(running))
            async with asyncio.timeout(60):
                while _count_stored(path.with_name(f"{name}.records")) < 5:  # noqa: ASYNC110  # of another process
                    await asyncio.sleep(0.02)
            await asyncio.sleep(source.uniform(0, 0.3))
            kill(name)
            if number + 1 + len(running) < times:
                start()
        with closing(sqlite3.connect(path)) as connection:
            if (found := connection.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                bank.violations.append(f"integrity_check is {found}")
            rows: dict[str, int] = dict(connection.execute("SELECT stream, balance FROM balances").fetchall())
        async with SQLiteStore(path) as store:
            recorder.watch(store)
            logs = await bank.check(store)
            purses = await Repository(Purse, store).load_many([stream.partition("-")[2] for stream in bank.streams])
        if rows != (folded := {purse.stream: purse.balance for purse in purses.values()}):
            bank.violations.append(f"the inline projection has {rows}, the streams have {folded}")
        sent.extend(recorder.sent)
        return logs

    try:
        logs = asyncio.run(play())
    finally:
        for name in list(running):
            running.pop(name).kill()
    findings = check(sent, logs)
    findings.violations.extend(bank.violations)
    seconds = perf_counter() - begun
    return Layer.of("transactions, SIGKILL, SQLite", findings, faults=times, seconds=seconds, seed=seed)


def _count_stored(records: Path) -> int:
    return records.read_bytes().count(b'"outcome":"stored"') if records.exists() else 0


async def write(path: Path, records: Path, name: str) -> None:
    """Make transactions until killed. Audits of this process that fail end it with an error."""
    recorder, bank = Recorder(monotonic, records), Bank(Random(name), "k", 1.0, inline=project)
    async with SQLiteStore(path) as store:
        recorder.watch(store)
        while not bank.violations:
            await asyncio.gather(*(bank.work(store, 10) for _ in range(3)))
    raise AssertionError(bank.violations)


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
