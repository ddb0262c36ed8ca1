"""Deterministic simulation: repository, store and retries over a simulated DynamoDB, in virtual time.

One seed is one history, the same each time: `python -m faults simulation --seed 7 --seeds 1` shows that of 7.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from random import Random
from time import perf_counter
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec

from eventsrc import AggregateNotFound, ConflictError, DynamoDBStore, EventsrcError, Repository, SnapshotPolicy
from eventsrc.dynamodb.items import PAYLOAD, SHAPE, SNAPSHOT_VERSION, Items
from eventsrc.store import MAX_VERSION, Commit

from .chain import Chain, Refused
from .clock import Deadlock, VirtualLoop, WallClock, run, virtual_time
from .history import Caller, Findings, History, ticking
from .report import Layer
from .service import Service

DEADLINE = 1.0
SETTLED = 10 * DEADLINE  # after this nothing sent before is under way


Command = tuple[str, str, bytes, str]  # id, key, padding, command id


class Result(NamedTuple):
    """What one seed led to."""

    findings: Findings
    faults: Counter[str]
    history: History


def simulate(seed: int) -> Result:
    """One history: its clients, streams, layout, faults and cancellations all come from the seed."""
    loop = VirtualLoop()
    loop.set_exception_handler(lambda *_: None)  # of those whose callers were cut short, nobody asks for the outcome
    source = Random(seed)
    random.seed(seed)  # tenacity's jitter
    with virtual_time(loop) as wall, patch("eventsrc.repository.uuid7", lambda: source.randbytes(16)):
        world = World(source, loop, wall)
        try:
            run(world.play(), loop)
        except Deadlock:
            world.violations.append("nothing was left to happen, and somebody still waited")
        except Exception as error:  # whoever calls the library catches its errors, until the faults have ended
            world.violations.append(f"a call ended with {error!r}")
    findings = world.history.check(world.logs())
    findings.violations.extend(world.violations)
    return Result(findings, world.service.injected, world.history)


class World:
    """The clients of one table: each with a store of its own, as if it were another process."""

    def __init__(self, source: Random, loop: VirtualLoop, wall: WallClock) -> None:
        self.history = History(ticking())
        self.violations: list[str] = []
        self.random = source
        self.service = Service(source, rate=source.choice((0.05, 0.2, 0.4)), deadline=DEADLINE)
        self._loop, self._wall = loop, wall
        self._blocked = 0.0  # seconds in all
        self._options: dict[str, Any] = {
            "layout": source.choice(("snapshot-last", "snapshot-last", "snapshot-first")),
            "deadline": DEADLINE,
            "max_connections": source.choice((1, 3, 64)),
        }
        self._policy = SnapshotPolicy(
            floor=0,
            ratio=source.choice((0.05, 0.5, 2.0)),
            inline=source.random() < 0.3,
            enabled=source.random() < 0.9,
        )
        self._ids = [f"s-{each}" for each in range(source.randint(1, 3))]
        self._damaged = self._ids[0] if source.random() < 0.2 else None  # its snapshots are tampered with
        if self._damaged:
            self.history.disturbed.add(f"chain-{self._damaged}")
        self._keys = (f"k{each}" for each in range(10**9))
        self._issued: list[Command] = []  # with ids, to deliver again

    async def play(self) -> None:
        clients = [self._client(self.random.randint(8, 25)) for _ in range(self.random.randint(2, 5))]
        await asyncio.gather(*clients)
        self.service.rate = 0
        await asyncio.sleep(SETTLED)
        async with DynamoDBStore("simulated", client=self.service.client(), **self._options) as store:
            self.history.watch(store)
            caller = self.history.caller(Repository(Chain, store, snapshots=self._policy))
            for id in self._ids:  # whatever has happened, each stream goes on
                await caller.save(await self._loaded(caller, id, key := next(self._keys)), key)
                await caller.load(id)
                await caller.read(id)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        self.violations += [f"a task was left: {task!r}" for task in left]

    async def _client(self, steps: int) -> None:
        """Some tasks on one store. Halfway it may be closed under them, and another one opened."""
        for part in range(self.random.choice((1, 1, 2))):
            store = DynamoDBStore("simulated", client=self.service.client(), **self._options)
            self.history.watch(store)
            self._time(store)
            caller = self.history.caller(
                Repository(Chain, store, snapshots=self._policy, attempts=self.random.randint(1, 5))
            )
            await store.open()
            tasks = [asyncio.create_task(self._work(caller, steps)) for _ in range(self.random.randint(1, 3))]
            if part == 0 and self.random.random() < 0.3:
                await asyncio.sleep(self.random.random() * 2)
                await store.aclose()
            await asyncio.gather(*tasks)
            await store.aclose()
            if store._calls or store._tasks:
                self.violations.append("a closed store has calls or tasks in flight")

    def _time(self, store: DynamoDBStore) -> None:
        """Each append ends within the deadline."""
        append = store.append

        async def timed(commit: Commit) -> Any:
            begun = self._loop.time() - self._blocked
            try:
                return await append(commit)
            finally:
                took = self._loop.time() - self._blocked - begun
                if took > DEADLINE * 2 + 0.01:  # one for the put, and one for reading the slot where need be
                    self.violations.append(f"an append took {took:.2f} s with a deadline of {DEADLINE} s")

        store.append = timed  # type: ignore[method-assign]

    async def _work(self, caller: Caller, steps: int) -> None:
        for _ in range(steps):
            step = self._step(caller, self.random.choice(self._ids))
            with suppress(EventsrcError, Refused):
                await (self._cut_short(step) if self.random.random() < 0.12 else step)
            if self.random.random() < 0.05:
                self._wall.jump(self.random.uniform(-600, 600))
            if self.random.random() < 0.01:
                self._loop.block(5.0)
                self._blocked += 5.0
            if self._damaged and self.random.random() < 0.1:
                self._tamper(f"chain-{self._damaged}")
            if self.random.random() < 0.3:
                await asyncio.sleep(self.random.expovariate(20.0))

    async def _cut_short(self, step: Awaitable[None]) -> None:
        """Cancel a step: after some turns of the loop, or some time."""
        task = asyncio.ensure_future(step)
        if self.random.random() < 0.5:
            for _ in range(self.random.randint(0, 12)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(self.random.expovariate(20.0))
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def _step(self, caller: Caller, id: str) -> None:
        kinds: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (30, lambda: caller.execute(id, next(self._keys), self._padding())),
            (15, lambda: self._deliver(caller, id)),
            (10, lambda: self._deliver_again(caller)),
            (15, lambda: self._save(caller, id)),
            (4, lambda: self._create(caller, id)),
            (14, lambda: self._load(caller, id)),
            (5, lambda: caller.look(id)),
            (3, lambda: caller.past(id, self.random.randint(1, 12))),
            (3, lambda: caller.read(id)),
        ]
        [step] = self.random.choices([step for _, step in kinds], [weight for weight, _ in kinds])
        await step()

    def _padding(self) -> bytes:
        return bytes(self.random.choice((0, 0, 10, 200)))

    async def _load(self, caller: Caller, id: str) -> None:
        await caller.load(id)

    async def _deliver(self, caller: Caller, id: str) -> None:
        """A command with an id, so that it may come again."""
        key = next(self._keys)
        command = (id, key, self._padding(), f"c-{key}")
        self._issued.append(command)
        await caller.execute(*command)

    async def _deliver_again(self, caller: Caller) -> None:
        if self._issued:
            await caller.execute(*self.random.choice(self._issued[-20:]))

    async def _create(self, caller: Caller, id: str) -> None:
        chain = Chain(id=id)
        chain.link(key := next(self._keys))
        await caller.save(chain, key)

    async def _save(self, caller: Caller, id: str) -> None:
        """Load, record, save; the same object again while its outcome is open, sometimes with more recorded since."""
        keys = [next(self._keys)]
        chain = await self._loaded(caller, id, keys[0])
        command_id = f"c-{keys[0]}" if self.random.random() < 0.3 else None
        for again in range(4):
            try:
                await self._saved(caller, chain, keys, command_id)
                break
            except ConflictError:
                if self.random.random() < 0.5:  # the same object again: it must conflict again
                    break
            except EventsrcError:
                if again == 3:
                    raise
                if self.random.random() < 0.3:
                    command_id = None
                    keys.append(next(self._keys))
                    chain.link(keys[-1])

    async def _saved(self, caller: Caller, chain: Chain, keys: list[str], command_id: str | None) -> None:
        """Save, perhaps cut short, so that the outcome stays open; but not the caller, who goes on with the object."""
        if self.random.random() < 0.2:
            task = asyncio.ensure_future(caller.save(chain, *keys, command_id=command_id))
            await asyncio.sleep(self.random.expovariate(100.0))
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()
                return
        await caller.save(chain, *keys, command_id=command_id)

    async def _loaded(self, caller: Caller, id: str, key: str) -> Chain:
        """An aggregate that has recorded a link; a new one where there is none yet."""
        try:
            chain = await caller.load(id)
        except AggregateNotFound:
            chain = Chain(id=id)
        chain.link(key, self._padding())
        return chain

    def _tamper(self, stream: str) -> None:
        """Lose a snapshot, tear it, or make it one of another release or of a later time."""
        items = self.service.partitions[stream]
        key = next((sort for sort in (0, MAX_VERSION + 1) if sort in items), None)
        if key is None:
            return
        item = dict(items[key])
        match self.random.randint(0, 3):
            case 0:
                del items[key]
                return
            case 1:
                item[PAYLOAD] = {"B": item[PAYLOAD]["B"][: self.random.randint(0, 20)]}
            case 2:
                item[SHAPE] = {"S": "0" * 16}
            case 3:
                item[SNAPSHOT_VERSION] = {"N": str(int(item[SNAPSHOT_VERSION]["N"]) + self.random.randint(1, 50))}
        items[key] = item

    def logs(self) -> dict[str, list[Commit]]:
        """What is stored, read past the library's reads."""
        items = Items("PK", "SK", None)
        return {
            stream: [
                items.to_commit(msgspec.convert(item, items.stored), stream)
                for sort, item in sorted(partition.items())
                if 0 < sort <= MAX_VERSION
            ]
            for stream, partition in self.service.partitions.items()
        }


def campaign(seeds: Sequence[int]) -> Layer:
    """All of these seeds, one after the other. A violation names its seed."""
    begun = perf_counter()
    operations = acknowledged = lost = duplicated = faults = 0
    violations: list[str] = []
    for seed in seeds:
        findings, injected, _ = simulate(seed)
        operations += findings.operations
        acknowledged += findings.acknowledged
        lost, duplicated = lost + findings.lost, duplicated + findings.duplicated
        faults += injected.total()
        violations += [f"seed {seed}: {violation}" for violation in findings.violations]
    row = ("simulation", operations, faults, acknowledged, lost, duplicated, perf_counter() - begun)
    return Layer(*row, seed=seeds[0], violations=violations, note=f"{len(seeds):,} seeds")
