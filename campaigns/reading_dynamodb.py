"""The read side on the real DynamoDB Local.

Workers follow the feed of a table that is written all the time. Positions and read models are in another table. A proxy
between the service and the workers injects faults.

    python -m campaigns.reading_dynamodb read FOLDER NAME

is a worker. Its runner is cancelled repeatedly and its handlers raise. Its feed shuffles, repeats, delays and, in every
second campaign, drops commits. The process may also be killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any
from zlib import crc32

import msgspec
from support.bank import Account, Deposited, Opened, Withdrawn
from support.proxy import CRAWL, STALL, Fault, proxy_to
from support.tables import checkpoints_on, fresh_name, records, session, store_on

from eventsrc import Commit, Repository
from eventsrc.aggregates.codec import Codec
from eventsrc.processing import (
    DynamoDBCheckpoints,
    DynamoDBContext,
    DynamoDBProjection,
    DynamoDBRows,
    Leases,
    Processor,
    RowContext,
    Runner,
    verify,
)

from .fleet import AT_THE_END, Fleet
from .hostile import Chaos, HostileFeed
from .live import HARM, Dice, left_behind, stored_logs
from .progress import report
from .readers import Refused
from .report import Layer

Movement = Opened | Deposited | Withdrawn
Processors = tuple[Processor["Sums"], Processor["Rows"]]

SLOTS = 6
TTL = 1.5  # seconds
STREAMS, WRITERS = 24, 3
RATE = 0.1  # share of the requests that have a fault
DEADLINES = (0.7, 2.0)  # seconds; with the first one a write may succeed long after it was given up
PAUSES = (0.0, 0.0, 0.0, 0.02)  # seconds, of the feed
RATES = {"shuffled": 0.5, "repeated": 0.1, "delayed": 0.1, "feed failed": 0.005, "handler failed": 0.03}
TOTALS = 4  # items, each shared by many streams
TICK = 0.05

FAULTS: Sequence[Fault] = (*HARM * 5, *(CRAWL,) * 5, STALL)  # STALL only once: each costs a whole deadline


class World(msgspec.Struct):
    """The settings of a worker."""

    endpoint: str
    events: str  # table of the store
    model: str  # table of the read models and positions
    seed: int
    drops: bool
    ttl: float


class Sums(DynamoDBProjection, tag="sums"):
    """Write an item per event, a sum per stream, and totals that streams share."""

    def __init__(self, table: str, chaos: Chaos) -> None:
        self._table, self._chaos = table, chaos

    async def handle_movement(self, event: Movement, context: DynamoDBContext) -> None:
        sums = {"events": 1, "amount": _amount(event)}
        context.add(self._table, {"PK": f"event {context.stream}", "SK": context.id}, times=1)
        context.add(self._table, {"PK": f"sum {context.stream}", "SK": "sum"}, **sums)
        context.add(self._table, {"PK": f"total {crc32(context.stream.encode()) % TOTALS}", "SK": "total"}, **sums)
        await asyncio.sleep(0)
        if self._chaos.strikes("handler failed"):
            raise Refused


class Rows(DynamoDBRows, tag="rows"):
    def __init__(self, table: str, chaos: Chaos) -> None:
        self.table, self._chaos = table, chaos  # type: ignore[misc]  # its name is not known before

    def key(self, stream: str) -> Mapping[str, str]:
        return {"PK": f"{self.name} {stream}", "SK": "row"}

    def handle_movement(self, event: Movement, context: RowContext) -> None:
        context.add(events=1, amount=_amount(event))
        context.set(last=context.id)
        if self._chaos.strikes("handler failed"):
            raise Refused


def _amount(event: object) -> int:
    return event.amount if isinstance(event, Deposited) else 0


@asynccontextmanager
async def _opened(
    world: World, chaos: Chaos, deadline: float = 10.0
) -> AsyncIterator[tuple[HostileFeed, Any, DynamoDBCheckpoints]]:
    async with (
        store_on(world.endpoint, world.events, deadline=deadline) as store,
        checkpoints_on(world.endpoint, world.model, deadline=deadline) as checkpoints,
    ):
        yield HostileFeed(store, chaos, PAUSES), store, checkpoints


def _processors(world: World, chaos: Chaos, feed: HostileFeed, store: Any, checkpoints: Any) -> Processors:
    options: dict[str, Any] = {"feed": feed, "attempts": chaos.random.choice((1, 3))}
    return (
        Processor(Sums(world.model, chaos), store, checkpoints, **options),
        Processor(Rows(world.model, chaos), store, checkpoints, **options),
    )


async def read(folder: Path, name: str) -> None:
    """Work until SIGTERM. Inject faults until the file `calm` exists."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    world = msgspec.json.decode((folder / "world.json").read_bytes(), type=World)
    dice = Random(f"{world.seed} {name}")
    chaos = Chaos(dice)
    chaos.rates, chaos.is_lossless = dict.fromkeys(chaos.rates, 0.0) | RATES, not world.drops
    if world.drops:
        chaos.rates["dropped"] = 0.05
    async with _opened(world, chaos, dice.choice(DEADLINES)) as opened:
        before = asyncio.all_tasks()
        while not stopping.is_set():
            leases = Leases(worker=name, slots=SLOTS, ttl=world.ttl)
            runner = Runner(*_processors(world, chaos, *opened), leases=leases, save_every=dice.choice((0.1, 1.0)))
            task = asyncio.create_task(runner.run())
            ends = perf_counter() + dice.choice((0.3, 3.0, 10.0))
            while not (task.done() or stopping.is_set()):
                await asyncio.wait([task], timeout=TICK)
                if (folder / "calm").exists():
                    chaos.off()
                elif perf_counter() >= ends:
                    break
                _write(folder / f"{name}.json", {**chaos.counts, "delivered": opened[0].told})
            if stopping.is_set():
                runner.stop()
            elif not task.done():
                chaos.counts["runs cancelled"] += 1
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            assert not (left := asyncio.all_tasks() - before), left
    _write(folder / f"{name}.json", {**chaos.counts, "delivered": opened[0].told})


def _write(path: Path, value: object) -> None:
    (path.parent / f"{path.name}.new").write_bytes(msgspec.json.encode(value))
    os.replace(path.parent / f"{path.name}.new", path)


class _Fleet(Fleet):
    def __init__(self, folder: Path, seed: int, dice: Dice, proxy: str, endpoint: str, ttl: float) -> None:
        super().__init__("campaigns.reading_dynamodb", folder, seed, ttl)
        self._dice = dice
        self._world = World(proxy, fresh_name(), fresh_name(), seed, drops=bool(seed % 2), ttl=ttl)
        self._here = msgspec.structs.replace(self._world, endpoint=endpoint)
        self._repository: Repository[Account]
        self._writing = True
        self._counts = Counter[str]()

    def counted(self) -> Counter[str]:
        """Return the counts of faults. A killed worker is counted until shortly before its end."""
        files = [path.read_bytes() for path in self.folder.glob("w-*.json")]
        return sum((Counter(msgspec.json.decode(each, type=dict[str, int])) for each in files), self._counts)

    async def play(self, times: int, workers: int) -> tuple[int, int, int]:
        """Send `times` signals. Return the commits, the events not handled, and the events handled more than once."""
        _write(self.folder / "world.json", self._world)
        chaos = Chaos(self.random)
        chaos.off()
        try:
            async with _opened(self._here, chaos) as (feed, store, checkpoints), asyncio.TaskGroup() as group:
                await store.create_table(stream=True)
                await checkpoints.create_table()
                await _watch(self._here)
                self.processor, _ = processors = _processors(self._here, chaos, feed, store, checkpoints)
                self._repository = Repository(Account, store)
                writers = [group.create_task(self._write(number)) for number in range(WRITERS)]
                for _ in range(workers):
                    self.start_worker()
                await self.until(self.is_shared)
                for done in range(times):
                    report(done, times)
                    await self.strike()
                    await self._retry(processors)
                self._writing = False
                await asyncio.wait(writers)
                await self._settle(processors, feed)
                await self.end()
            return await self._check()
        finally:
            self.kill()

    async def _write(self, number: int) -> None:
        """Save commits of one or three events until the faults are over."""
        dice = Random(f"{self._world.seed} {number}")
        accounts = [Account.open(f"a-{each}", owner="ann") for each in range(number, STREAMS, WRITERS)]
        while self._writing:
            account = dice.choice(accounts)
            for _ in range(dice.choice((1, 1, 3))):
                account.deposit(dice.randrange(1, 1_000_000))
            await self._repository.save(account)
            await asyncio.sleep(dice.choice((0.0, 0.02, 0.1)))

    async def _retry(self, processors: Processors) -> None:
        """Retry parked streams from this process."""
        for processor in processors:
            self._counts["parked"] += len(await processor.parked())
            await processor.retry_all()

    async def _settle(self, processors: Processors, feed: HostileFeed) -> None:
        """End the faults and wait until all commits are handled. `verify` must find the dropped ones."""
        self._dice.rate = 0.0
        (self.folder / "calm").touch()
        heads = {head.stream: head.version async for page in feed.heads() for head in page}

        async def all_is_handled() -> bool:
            await self._retry(processors)
            return all([await processor.positions(list(heads)) == heads for processor in processors])

        if self._world.drops:
            for processor in processors:
                self._counts["found by verify"] += (await verify(processor)).handled
        await self.until(all_is_handled, AT_THE_END)
        for processor in processors:
            if (found := await verify(processor))[1:] != (0, 0, 0, [], []):
                self.violations.append(f"{processor.name}: {found}")

    async def _check(self) -> tuple[int, int, int]:
        world = self._here
        story = _Story(await stored_logs(world.endpoint, world.events), self.violations)
        story.follow(await records(world.endpoint, world.model))
        return sum(map(len, story.logs.values())), *story.compare()


async def _watch(world: World) -> None:
    """Turn on a stream that records each change of the read models, with old and new images."""
    specification = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
    async with session().client("dynamodb", endpoint_url=world.endpoint) as client:
        await client.update_table(TableName=world.model, StreamSpecification=specification)


class _Story:
    """Compares the read models of each stream with its commits."""

    def __init__(self, logs: Mapping[str, Sequence[Commit]], violations: list[str]) -> None:
        self.logs, self._violations = logs, violations
        codec = Codec([Opened, Deposited, Withdrawn], {})
        self._folds: dict[str, list[tuple[int, int, str]]] = {}  # events, amount and last event at each version
        for stream, commits in logs.items():
            folds = self._folds[stream] = [(0, 0, "")]
            for commit in sorted(commits, key=lambda commit: commit.version):
                amounts = [_amount(event) for event in codec.decode(commit.payload, stream, commit.version)]
                last = str(commit.event_id(commit.events - 1))
                folds.append((folds[-1][0] + len(amounts), folds[-1][1] + sum(amounts), last))
        self._items: dict[tuple[str, str], list[Any]] = defaultdict(list)  # all versions of an item

    def follow(self, changes: Sequence[Mapping[str, Any]]) -> None:
        for change in changes:
            keys = change["dynamodb"]["Keys"]
            self._items[keys["PK"]["S"], keys["SK"]["S"]].append(change["dynamodb"].get("NewImage"))

    def compare(self) -> tuple[int, int]:
        """Return counts of missing events and of events handled twice. Extend the violations."""
        missing = twice = disordered = 0
        totals: dict[str, Counter[str]] = defaultdict(Counter)
        for stream, folds in self._folds.items():
            events, amount, _ = folds[-1]
            totals[f"total {crc32(stream.encode()) % TOTALS}"].update(events=events, amount=amount)
            times = [
                _number(changes[-1], "times") for (pk, _), changes in self._items.items() if pk == f"event {stream}"
            ]
            rows = self._items[f"rows@1 {stream}", "row"]
            sums = self._items[f"sum {stream}", "sum"]
            for handled in (len(times), _number(rows[-1], "events") if rows else 0):
                missing += max(0, events - handled)
                twice += max(0, handled - events)
            twice += sum(times) - len(times)
            kept = [(_number(row, "events"), _number(row, "amount"), row["last"]["S"]) for row in rows]
            places = [row["eventsrc"]["M"] for row in rows]
            versions = [_number(place, "version") for place in places]
            disordered += sum(fold != folds[version] for fold, version in zip(kept, versions, strict=True))
            prefixes = [fold[:2] for fold in folds]
            disordered += sum((_number(each, "events"), _number(each, "amount")) not in prefixes for each in sums)
            disordered += _falls(versions) + _falls([_number(each, "events") for each in sums])
            positions = self._items[f"@sums@1/{crc32(stream.encode()) % 64}", stream]
            disordered += _falls([_number(each, "version") for each in positions])
            for each in (positions, places):
                disordered += sum(_number(a, "epoch") > _number(b, "epoch") for a, b in pairwise(each))
            ends = [each[-1] if each else 0 for each in (versions, [_number(each, "version") for each in positions])]
            if ends != [len(folds) - 1] * 2 or not sums or _number(sums[-1], "amount") != amount:
                self._violations.append(f"{stream}: handled up to {ends} of {len(folds) - 1}")
        for name, total in totals.items():
            found = self._items[name, "total"][-1]
            if any(_number(found, each) != total[each] for each in ("events", "amount")):
                self._violations.append(f"{name}: {found} instead of {total}")
        if missing or twice or disordered:
            self._violations.append(f"{missing} events missing, {twice} twice, {disordered} changes out of order")
        return missing, twice


def _number(item: Mapping[str, Any], name: str) -> int:
    return int(item[name]["N"])


def _falls(numbers: Sequence[int]) -> int:
    """Return how often a number is not greater than the one before it."""
    return sum(first >= second for first, second in pairwise(numbers))


async def campaign(times: int, seed: int, folder: Path, endpoint: str, *, workers: int = 3, ttl: float = TTL) -> Layer:
    """Send `times` signals to workers. With an odd seed the feed drops commits, which `verify` has to find."""
    begun = perf_counter()
    dice = Dice(seed, RATE, FAULTS)
    async with left_behind() as left, proxy_to(endpoint) as proxy:
        proxy.choose = dice
        fleet = _Fleet(folder, seed, dice, proxy.url, endpoint, ttl)
        commits, missing, twice = await fleet.play(times, workers)
        asked = len(proxy.operations)
    counts = fleet.counted()
    delivered = counts.pop("delivered", 0)
    kinds = counts + dice.injected + Counter({kind: len(each) for kind, each in fleet.taken_over.items()})
    injected = kinds.total() - kinds["parked"] - kinds["found by verify"]
    row = ("reading, DynamoDB Local", delivered, injected, commits, missing, twice, perf_counter() - begun, seed)
    return Layer(*row, [*fleet.violations, *left], f"{asked:,} requests; {fleet.takeovers()}", kinds)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["read", folder, name]:
            asyncio.run(read(Path(folder), name))
