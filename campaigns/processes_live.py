"""Processes in real workers that are killed and frozen: on SQLite files, and on DynamoDB Local with a bad network.

    python -m campaigns.processes_live read FOLDER NAME

is a worker: it runs sales and transfers, each with a manager of its own. Orders and accounts are in one store, stock,
savings and the processes in another. The process that starts the workers is the user: it places orders, pays for some
of them, requests transfers, and moves money between savings by transactions. Timers take a few seconds.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from time import monotonic, perf_counter
from typing import Any

import msgspec
from support.proxy import proxy_to
from support.tables import checkpoints_on, fresh_name, store_on

from eventsrc import Commit, CommitOutcomeUnknown, Repository, SQLiteStore, TransactionOutcomeUnknown
from eventsrc.concurrency import load_all
from eventsrc.processes import ProcessManager
from eventsrc.processing import Leases, SQLiteCheckpoints
from eventsrc.transactions import Transaction, settle, transact

from . import market
from .fleet import AT_THE_END, Fleet
from .live import Dice, left_behind, stored_logs
from .market import Checking, Moving, Order, Payment, PriceAsked, Priced, Sale, Saving, Stock, Transfer
from .process_checks import Checker
from .progress import report
from .reading_dynamodb import DEADLINES, FAULTS, RATE
from .report import Layer

SLOTS = 4
TTL, DYNAMODB_TTL = 1.5, 4.0  # seconds
SKUS = 5
ACCOUNTS, DYNAMODB_ACCOUNTS, BUSY = 1_000, 100, 10  # every second transfer is between accounts that are busy
CONCURRENTLY = 16
RATES = {"handler failed": 0.01, "command failed": 0.02, "refused": 0.05}
OPENING = 10_000  # the money of each account

Managers = tuple[ProcessManager[Sale], ProcessManager[Moving]]


class World(msgspec.Struct):
    """Where stores and checkpoints are: in files of a folder, or in tables."""

    seed: int
    ttl: float
    accounts: int
    endpoint: str = ""  # of DynamoDB; "" for files
    tables: tuple[str, str, str] = ("a.db", "b.db", "checkpoints.db")


@asynccontextmanager
async def _opened(folder: Path, world: World, deadline: float = 10.0) -> AsyncIterator[tuple[Any, Any, Any]]:
    async with AsyncExitStack() as stack:
        if world.endpoint:
            options: Any = {"deadline": deadline}
            stores = [store_on(world.endpoint, table, **options) for table in world.tables[:2]]
            checkpoints: Any = checkpoints_on(world.endpoint, world.tables[2], **options)
        else:
            stores = [SQLiteStore(folder / name) for name in world.tables[:2]]  # type: ignore[misc]
            checkpoints = SQLiteCheckpoints(folder / world.tables[2])
        for each in (*stores, checkpoints):
            await stack.enter_async_context(each)
        yield stores[0], stores[1], checkpoints


async def prices(request: PriceAsked, key: str) -> Priced:
    return Priced(amount=1)


def _managers(a: Any, b: Any, checkpoints: Any) -> Managers:
    sales = ProcessManager(
        Sale,
        b,
        checkpoints,
        targets=[Repository(Stock, b), Repository(Order, a)],
        sources={"a": a, "b": b},
        services={"prices": prices},
        attempts=3,
    )
    transfers = ProcessManager(
        Moving, b, checkpoints, targets=[Repository(Saving, b), Repository(Checking, a)], attempts=3
    )
    return sales, transfers


async def read(folder: Path, name: str) -> None:
    """Run the managers until SIGTERM. Commands and handlers fail until the file `calm` exists."""
    world = msgspec.json.decode((folder / "world.json").read_bytes(), type=World)
    dice, counts = Random(f"{world.seed} {name}"), Counter[str]()
    calm = folder / "calm"

    def strikes(kind: str) -> bool:
        if dice.random() >= RATES[kind] or calm.exists():
            return False
        counts[kind] += 1
        (folder / f"{name}.json").write_bytes(msgspec.json.encode(counts))
        return True

    market.trouble.strikes = strikes
    deadline = dice.choice(DEADLINES) if world.endpoint else 10.0
    async with _opened(folder, world, deadline) as opened:
        managers = _managers(*opened)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: [each.stop() for each in managers])

        def leases() -> Leases:
            return Leases(worker=name, slots=SLOTS, ttl=world.ttl)

        await asyncio.gather(*(each.run(leases=leases, save_every=0.2) for each in managers))


class _Fleet(Fleet):
    def __init__(self, folder: Path, world: World, here: World, dice: Dice | None) -> None:
        super().__init__("campaigns.processes_live", folder, world.seed, world.ttl)
        self._world, self._here, self._dice = world, here, dice
        self._random = Random(world.seed)
        self._is_open = True
        self._pause = 0.7 if here.endpoint else 0.0  # seconds; DynamoDB Local and its workers share few cores
        self._orders: list[str] = []
        self._transfers = 0
        self.counts = Counter[str]()

    async def play(self, kills: int, workers: int) -> tuple[int, int, int]:
        """Send signals until so many workers were killed. Return commands, and those lost and applied twice."""
        (self.folder / "world.json").write_bytes(msgspec.json.encode(self._world))
        try:
            async with _opened(self.folder, self._here) as (a, b, checkpoints):
                if self._here.endpoint:
                    for store in (a, b):
                        await store.create_table(stream=True)
                    await checkpoints.create_table()
                self._a, self._b = a, b
                self._managers = _managers(a, b, checkpoints)
                self.processor = self._managers[0].processors[0]
                await self._open_accounts()
                buyers = [self._buy()] if self._here.endpoint else [self._buy(), self._buy()]
                users = [asyncio.create_task(each) for each in (*buyers, self._transfer(), self._move())]
                for _ in range(workers):
                    self.start_worker()
                await self.until(self.is_shared)
                while (done := len(self.taken_over["SIGKILL"])) < kills:
                    report(done, kills)
                    await self.strike()
                    await self._retry()
                self._is_open = False
                await asyncio.gather(*users)
                (self.folder / "calm").touch()
                if self._dice is not None:
                    self._dice.rate = 0.0
                found = await self._until_done()
                await self.end()
                return found
        finally:
            self.kill()

    async def _do(self, kind: Any, store: Any, id: str, command: Any, *args: Any) -> None:
        """Execute a command of a user."""
        repository: Repository[Any] = Repository(kind, store)
        try:
            await repository.executor(create=True).execute(id, command, *args)
        except CommitOutcomeUnknown as error:
            with suppress(CommitOutcomeUnknown):
                await repository.settle(error)

    async def _open_accounts(self) -> None:
        for number in range(SKUS):
            await self._do(Stock, self._b, f"s-{number}", Stock.stock, 200)

        async def one(number: int) -> None:
            await self._do(Checking, self._a, f"c-{number}", Checking.open, OPENING)
            if not _is_late(number):
                await self._do(Saving, self._b, f"v-{number}", Saving.open)

        await load_all(one, range(self._here.accounts), CONCURRENTLY)

    async def _buy(self) -> None:
        dice = self._random
        while self._is_open:
            self._orders.append(order := f"o-{len(self._orders)}")
            steps = ["draft"] * dice.choice((0, 0, 1)) + ["place"] + ["pay"] * dice.choice((0, 1, 1, 2))
            if dice.random() < 0.3:
                dice.shuffle(steps)
            for step in steps:
                if step == "draft":
                    await self._do(Order, self._a, order, Order.draft)
                elif step == "place":
                    sku, patience = f"s-{dice.randrange(SKUS)}", dice.choice((1.0, 2.0, 5.0))
                    await self._do(Order, self._a, order, Order.place, sku, dice.randint(1, 3), patience)
                else:
                    store = dice.choice((self._a, self._b))
                    await self._do(Payment, store, f"p-{order}", Payment.receive, order)
                await asyncio.sleep(dice.choice((0.0, 0.05, 0.5)))
            await asyncio.sleep(self._pause)

    async def _transfer(self) -> None:
        dice = self._random
        late = [number for number in range(self._here.accounts) if _is_late(number)]
        while self._is_open or late:
            request = f"c-{self._pick()}", f"v-{self._pick()}", dice.randint(1, 100)
            self._transfers += 1
            patience = dice.choice((0.5, 2.0))
            await self._do(Transfer, self._b, f"t-{self._transfers}", Transfer.request, *request, patience)
            if late and (dice.random() < 0.02 or not self._is_open):
                await self._do(Saving, self._b, f"v-{late.pop()}", Saving.open)
            await asyncio.sleep(dice.choice((0.05, 0.2)) + self._pause)

    async def _move(self) -> None:
        """Move money between savings accounts, each time in one transaction."""
        dice = self._random
        while self._is_open:
            source, target = self._pick(), self._pick()
            if source != target and not _is_late(source) and not _is_late(target):
                await self._move_once(f"v-{source}", f"v-{target}", dice.randint(1, 100))
            await asyncio.sleep(dice.choice((0.02, 0.1)) + self._pause)

    async def _move_once(self, source: str, target: str, amount: int) -> None:
        savings = Repository(Saving, self._b)

        async def move(tx: Transaction) -> None:
            payer, payee = await tx.load(savings, source), await tx.load(savings, target)
            payer.move(payee, amount)

        try:
            await transact(self._b, move)
        except TransactionOutcomeUnknown as error:
            with suppress(TransactionOutcomeUnknown):
                await settle(self._b, error)
        self.counts["moved"] += 1

    def _pick(self) -> int:
        """Return the number of an account."""
        return self._random.randrange(self._random.choice((BUSY, self._here.accounts)))

    async def _retry(self) -> None:
        """Retry what is parked, from this process."""
        for processor in (each for manager in self._managers for each in manager.processors):
            self.counts["parked"] += len(await processor.parked())
            await processor.retry_all()

    async def _until_done(self) -> tuple[int, int, int]:
        limit = monotonic() + AT_THE_END
        while True:
            await self._retry()
            commands, lost, twice, violations = await self._check()
            if not violations or monotonic() > limit:
                self.violations += violations
                return commands, lost, twice
            await asyncio.sleep(2)

    async def _check(self) -> tuple[int, int, int, Sequence[str]]:
        logs = {
            name: await stored_logs(self._here.endpoint, table) if self._here.endpoint else await _read_log(store)
            for name, table, store in zip("ab", self._here.tables, (self._a, self._b), strict=False)
        }
        sales = Checker(Sale, "b", {"a": "a", "b": "b"}, logs, targets={"stock": "b", "order": "a"}).check()
        transfers = Checker(Moving, "b", {"": "b"}, logs, targets={"saving": "b", "checking": "a"}).check()
        violations = [*sales.violations, *transfers.violations]
        accounts, savings = Repository(Checking, self._a), Repository(Saving, self._b)

        async def count(number: int) -> int:
            return (await accounts.load(f"c-{number}")).balance + (await savings.load(f"v-{number}")).balance

        money = sum((await load_all(count, range(self._here.accounts), CONCURRENTLY)).values())
        if money != OPENING * self._here.accounts:
            violations.append(f"{OPENING * self._here.accounts} were paid in, and there are {money}")
        left = defaultdict[str, int](int)
        for number in range(SKUS):
            stock = await Repository(Stock, self._b).load(f"s-{number}")
            violations += [f"{order} was reserved {times} times" for order, times in stock.times.items() if times > 1]
            for order, reserved in stock.reserved.items():
                left[order] += reserved
        shipped = {id.removeprefix("order-") for id, commits in logs["a"].items() if _has(commits, "order.shipped")}
        if wrong := shipped ^ {order for order, reserved in left.items() if reserved}:
            violations.append(f"of {sorted(wrong)[:5]}, stock is reserved and they are not shipped, or the reverse")
        for manager in self._managers:
            if pending := await manager.timers.count(manager.processors[-1].name):
                violations.append(f"{pending} timers are left")
        return (
            sales.commands + transfers.commands,
            sales.lost + transfers.lost,
            sales.twice + transfers.twice,
            violations,
        )

    def counted(self) -> Counter[str]:
        files = [path.read_bytes() for path in self.folder.glob("w-*.json")]
        made = (Counter(msgspec.json.decode(each, type=dict[str, int])) for each in files if each)
        return sum(made, self.counts) + Counter({kind: len(each) for kind, each in self.taken_over.items()})


def _has(commits: Sequence[Commit], tag: str) -> bool:
    return any(tag in each.tags for each in commits)


async def _read_log(store: Any) -> Mapping[str, Sequence[Commit]]:
    """Return all commits of a store, by stream."""
    found: dict[str, list[Commit]] = defaultdict(list)
    streams = [head.stream async for page in store.heads() for head in page]
    for stream in streams:
        found[stream] = [commit async for commit in store.read(stream)]
    return found


def _is_late(number: int) -> bool:
    """Whether the savings account is opened while transfers are under way."""
    return number < BUSY and not number % 3


def kills(times: int, seed: int, folder: Path, *, workers: int = 3, accounts: int = ACCOUNTS) -> Layer:
    """Kill workers on SQLite files in this empty folder so many times."""
    begun = perf_counter()
    world = World(seed, TTL, accounts)
    fleet = _Fleet(folder, world, world, None)
    commands, lost, twice = asyncio.run(fleet.play(times, workers))
    return _to_layer("processes, workers", fleet, commands, lost, twice, perf_counter() - begun, seed)


async def campaign(
    times: int, seed: int, folder: Path, endpoint: str, *, workers: int = 2, ttl: float = DYNAMODB_TTL
) -> Layer:
    """Kill workers on DynamoDB Local so many times, and inject faults into their requests."""
    begun = perf_counter()
    dice = Dice(seed, RATE, FAULTS)
    async with left_behind() as left, proxy_to(endpoint) as proxy:
        proxy.choose = dice
        tables = fresh_name(), fresh_name(), fresh_name()
        world = World(seed, ttl, DYNAMODB_ACCOUNTS, proxy.url, tables)
        fleet = _Fleet(folder, world, World(seed, ttl, DYNAMODB_ACCOUNTS, endpoint, tables), dice)
        commands, lost, twice = await fleet.play(times, workers)
    fleet.counts.update(dice.injected)
    fleet.violations += left
    return _to_layer("processes, DynamoDB Local", fleet, commands, lost, twice, perf_counter() - begun, seed)


def _to_layer(name: str, fleet: _Fleet, commands: int, lost: int, twice: int, seconds: float, seed: int) -> Layer:
    kinds = fleet.counted()
    faults = kinds.total() - kinds["parked"] - kinds["refused"] - kinds["moved"]
    row = (name, commands, faults, commands, lost, twice, seconds, seed)
    return Layer(*row, violations=fleet.violations, note=fleet.takeovers(), kinds=kinds)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["read", folder, name]:
            asyncio.run(read(Path(folder), name))
