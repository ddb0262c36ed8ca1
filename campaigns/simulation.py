"""Deterministic simulation: repository, store and retries over a simulated DynamoDB, in virtual time.

A seed defines a history, which is the same in each run: `python -m campaigns simulation --seed 7 --seeds 1` replays
seed 7.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from random import Random
from time import perf_counter
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec

from eventsrc import DynamoDBStore, SnapshotPolicy
from eventsrc.store import Commit
from eventsrc.stores.dynamodb.items import PAYLOAD, SHAPE, SNAPSHOT_VERSION, Items

from .clock import Deadlock, VirtualLoop, WallClock, run, virtual_time
from .history import Findings, History, ticking
from .progress import report
from .report import Layer
from .service import Service
from .workload import Workload

DEADLINE = 1.0
SETTLED = 10 * DEADLINE  # seconds after which no earlier request is in flight


class Result(NamedTuple):
    """The result of one seed."""

    findings: Findings
    faults: Counter[str]
    history: History


def simulate(seed: int) -> Result:
    """Run one history. The seed defines its clients, streams, layout, faults and cancellations."""
    loop = VirtualLoop()
    source = Random(seed)
    random.seed(seed)  # tenacity's jitter
    with virtual_time(loop) as wall, patch("eventsrc.repository.drafting.uuid7", lambda: source.randbytes(16)):
        world = World(source, loop, wall)
        try:
            run(world.play(), loop)
        except Deadlock:
            world.violations.append("a task still waits, but no task can continue")
        except Exception as error:  # callers catch errors of the library until the faults have ended
            world.violations.append(f"a call ended with {error!r}")
    findings = world.history.check(world.logs())
    findings.violations.extend(world.violations)
    return Result(findings, world.service.injected, world.history)


class World:
    """A table, its clients, and the faults of both."""

    def __init__(self, source: Random, loop: VirtualLoop, wall: WallClock) -> None:
        self.history = History(ticking())
        self.violations: list[str] = []
        self.service = Service(source, rate=source.choice((0.05, 0.2, 0.4)), deadline=DEADLINE)
        self._random, self._loop, self._wall = source, loop, wall
        self._blocked = 0.0  # seconds in all
        self._options: dict[str, Any] = {
            "layout": source.choice(("snapshot-last", "snapshot-first", "interleaved")),
            "deadline": DEADLINE,
            "max_connections": source.choice((1, 3, 64)),
        }
        policy = SnapshotPolicy(
            floor=0,
            ratio=source.choice((0.05, 0.5, 2.0)),
            inline=source.random() < 0.3,
            enabled=source.random() < 0.9,
        )
        ids = [f"s-{each}" for each in range(source.randint(1, 3))]
        self._damaged = f"chain-{ids[0]}" if source.random() < 0.2 else None  # stream whose snapshots are tampered with
        if self._damaged:
            self.history.disturbed.add(self._damaged)
        self._workload = Workload(
            self.history,
            source,
            lambda: DynamoDBStore("simulated", client=self.service.client(), **self._options),
            ids,
            policy,
            clock=lambda: loop.time() - self._blocked,
            deadline=2 * DEADLINE + 0.01,  # one for the put, and one for a read of its slot
            between=self._disturb,
        )

    async def play(self) -> None:
        await self._workload.play(clients=self._random.randint(2, 5), steps=25)
        self.service.rate = 0
        await asyncio.sleep(SETTLED)
        await self._workload.go_on()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        self.violations += [*self._workload.violations, *(f"a task was left: {task!r}" for task in left)]

    def _disturb(self) -> None:
        random = self._random
        if random.random() < 0.05:
            self._wall.jump(random.uniform(-600, 600))
        if random.random() < 0.01:
            self._loop.block(5.0)
            self._blocked += 5.0
        if self._damaged and random.random() < 0.1:
            self._tamper(self._damaged)

    def _tamper(self, stream: str) -> None:
        """Lose a snapshot, truncate it, or give it the shape of another release or a later version."""
        items = self.service.partitions[stream]
        key = max((sort for sort, item in items.items() if SNAPSHOT_VERSION in item), default=None)
        if key is None:
            return
        item = dict(items[key])
        match self._random.randint(0, 3):
            case 0:
                del items[key]
                return
            case 1:
                item[PAYLOAD] = {"B": item[PAYLOAD]["B"][: self._random.randint(0, 20)]}
            case 2:
                item[SHAPE] = {"S": "0" * 16}
            case 3:
                item[SNAPSHOT_VERSION] = {"N": str(int(item[SNAPSHOT_VERSION]["N"]) + self._random.randint(1, 50))}
        items[key] = item

    def logs(self) -> dict[str, list[Commit]]:
        """Return the stored commits by stream, read without the library's reads."""
        items = Items("PK", "SK", None)
        return {
            stream: [
                items.to_commit(msgspec.convert(item, items.stored), stream)
                for _, item in sorted(partition.items())
                if SNAPSHOT_VERSION not in item
            ]
            for stream, partition in self.service.partitions.items()
        }


def campaign(seeds: Sequence[int]) -> Layer:
    """Run these seeds, one after the other. A violation names its seed."""
    begun = perf_counter()
    operations = acknowledged = lost = duplicated = faults = 0
    violations: list[str] = []
    for done, seed in enumerate(seeds):
        report(done, len(seeds))
        findings, injected, _ = simulate(seed)
        operations += findings.operations
        acknowledged += findings.acknowledged
        lost, duplicated = lost + findings.lost, duplicated + findings.duplicated
        faults += injected.total()
        violations += [f"seed {seed}: {violation}" for violation in findings.violations]
    row = ("simulation", operations, faults, acknowledged, lost, duplicated, perf_counter() - begun)
    return Layer(*row, seed=seeds[0], violations=violations)
