"""Handlers that hang, block or end the process: others continue, runs end in time, and each commit is handled once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.bank import Deposited
from support.ledger import Movement, Outside, Refused, deposit, fill, ids_of, run_with_parked, until

from eventsrc import SQLiteStore, Throttled
from eventsrc.processing import (
    Context,
    Effects,
    Leases,
    Processor,
    Runner,
    SQLiteCheckpoints,
    applying,
    health,
)
from eventsrc.processing.slice import Slice
from eventsrc.processing.worker import GRACE

TESTS = Path(__file__).parents[2]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "ledger.db") as store:
        yield store


@pytest.fixture
async def checkpoints(tmp_path: Path) -> AsyncIterator[SQLiteCheckpoints]:
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        yield checkpoints


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "PATIENCE", 0.05)


class Hanging(Outside, tag="hanging"):
    """Hangs in the streams of `hung`. One handler at a time, so one that hangs would hold up all."""

    concurrency = 1
    hung = frozenset({"account-a-0"})

    async def handle_movement(self, event: Movement, context: Context) -> None:
        if context.stream in self.hung:
            await asyncio.Event().wait()
        await Outside.handle_movement(self, event, context)


class Blocking(Outside, tag="blocking"):
    """The same in a plain function."""

    concurrency = 1
    hung = frozenset({"account-a-0"})

    def handle_movement(self, event: Movement, context: Context) -> None:  # type: ignore[override]  # plain
        if context.stream in self.hung:
            threading.Event().wait(3)
            raise Refused("it is too late")
        self.seen[context.stream].append(context.id)


Kind = type[Hanging] | type[Blocking]
every_kind = pytest.mark.parametrize("kind", [Hanging, Blocking])


@every_kind
async def test_other_streams_go_on_while_a_handler_hangs(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints, kind: Kind
) -> None:
    await fill(store, accounts=6)
    processor = Processor(kind(), store, checkpoints)
    runner = Runner(processor, grace=0.1)
    task = asyncio.create_task(runner.run())
    async with asyncio.timeout(2.0):
        for number in range(1, 6):
            await processor.wait_for(await deposit(store, f"a-{number}", 7))
    await until(lambda: processor.pipeline.catch_up.entries.keys() == {"account-a-0"})
    runner.stop()
    await task


@every_kind
async def test_a_handler_that_exceeds_its_limit_fails_and_parks_its_stream(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints, kind: Kind
) -> None:
    await fill(store, accounts=3)
    processor = Processor(kind(), store, checkpoints, attempts=2, handler_timeout=0.1)
    assert await asyncio.wait_for(run_with_parked(processor), 10) == ("account-a-0",)
    [parked] = await processor.parked()
    assert (parked.version, parked.attempts) == (1, 2)
    assert "took longer than the handler_timeout of 0.1 seconds" in parked.error
    assert "streams are parked" not in health(processor).get(processor.name, "")
    processor.projection.hung = frozenset()
    await processor.retry("account-a-0")
    assert await processor.projection.read_handled() == await ids_of(store)


@every_kind
async def test_a_stopped_run_ends_within_its_grace_while_a_handler_hangs(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsrc.processing.projections.calling.GRACE", 0.1)
    await fill(store, accounts=3)
    processor = Processor(kind(), store, checkpoints)
    runner = Runner(processor, grace=0.3)
    task = asyncio.create_task(runner.run())
    await until(lambda: sum(map(len, processor.projection.seen.values())) == 10)  # both others
    runner.stop()
    await asyncio.wait_for(task, GRACE - 1)
    projection = kind()
    projection.hung = frozenset()
    again = Processor(projection, store, checkpoints)
    await again.run(until_caught_up=True)
    assert projection.seen == {"account-a-0": (await ids_of(store))["account-a-0"]}


class Slow(Outside, tag="slow"):
    async def handle_movement(self, event: Movement, context: Context) -> None:
        await asyncio.sleep(0.5)
        await Outside.handle_movement(self, event, context)


async def test_a_long_batch_holds_up_neither_a_new_worker_nor_a_stop(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints
) -> None:
    """Each stream has 50 s of work in one batch; all this takes a few."""
    await fill(store, accounts=4, deposits=100)
    first, second = (Processor(Slow(), store, checkpoints) for _ in range(2))
    one, two = (Runner(each, leases=Leases(slots=4, ttl=3.0)) for each in (first, second))
    running_one = asyncio.create_task(one.run())
    await until(lambda: len(first.projection.seen) == 4)
    running_two = asyncio.create_task(two.run())
    await until(lambda: len(second.pipeline.assignment.held) == 2)
    one.stop()
    two.stop()
    await asyncio.gather(running_one, running_two)
    had = Counter(id for each in (first, second) for ids in each.projection.seen.values() for id in ids)
    assert set(had.values()) == {1}
    assert len(had) < 200


async def test_a_plain_handler_that_blocks_longer_than_the_ttl_has_each_effect_once(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints
) -> None:
    """With two workers: heartbeats continue, so nobody takes its slots over."""
    had = Counter[str]()

    class Post(Effects, tag="post"):
        def handle_deposited(self, event: Deposited, context: Context) -> None:
            had[context.id] += 1
            time.sleep(0.7)

    await fill(store, accounts=3, deposits=2)
    processors = [Processor(Post(), store, checkpoints) for _ in range(2)]
    runners = [Runner(each, leases=Leases(slots=4, ttl=0.5)) for each in processors]
    tasks = [asyncio.create_task(runner.run()) for runner in runners]
    for number in range(3):
        await processors[0].wait_for(await deposit(store, f"a-{number}", 2), timeout=20)
    for runner in runners:
        runner.stop()
    await asyncio.gather(*tasks)
    assert had == {f"account-a-{number}@{event}": 1 for number in range(3) for event in ("1.1", "2.0", "3.0")}


LIVES = """
    import asyncio, os, sys
    from support.bank import Deposited
    from eventsrc import SQLiteStore
    from eventsrc.processing import Context, Effects, Processor, SQLiteCheckpoints, SQLiteContext, SQLiteProjection

    class Exits(Effects, tag="exits"):
        async def handle_deposited(self, event: Deposited, context: Context) -> None:
            with open("had", "a") as file:
                file.write(context.id + chr(10))
            if event.amount == 66:
                os._exit(3)

    class InSQLite(SQLiteProjection, tag="exits-in-sqlite"):
        def create(self, db):
            db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} (event TEXT PRIMARY KEY)")

        def handle_deposited(self, event: Deposited, context: SQLiteContext) -> None:
            if event.amount == 66:
                os._exit(3)
            context.db.execute(f"INSERT INTO {self.table} VALUES (?)", (context.id,))

    async def main():
        kind = {"outside": Exits, "sqlite": InSQLite}[sys.argv[1]]
        async with SQLiteStore("ledger.db") as store, SQLiteCheckpoints("model.db") as checkpoints:
            await Processor(kind(), store, checkpoints, attempts=2).run(until_caught_up=True)

    asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["outside", "sqlite"])
async def test_a_handler_that_ends_its_process_parks_its_stream_after_the_third_life(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints, tmp_path: Path, kind: str
) -> None:
    """Other streams are handled by these lives, and no other stream is parked."""
    await fill(store, accounts=3, deposits=2)
    bad = await deposit(store, "a-1", 66)
    await deposit(store, "a-1", 1)
    for number in (0, 2):
        await deposit(store, f"a-{number}", 7)

    async def live() -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", textwrap.dedent(LIVES), kind,
            cwd=tmp_path, env={"PYTHONPATH": str(TESTS)}, stderr=subprocess.PIPE,
        )  # fmt: skip
        _, errors = await asyncio.wait_for(process.communicate(), 30)
        return process.returncode, errors.decode()

    codes: list[int | None] = []
    errors = ""
    for _ in range(6):
        code, errors = await live()
        codes.append(code)
        if code != 3:
            break
    assert codes[:-1] == [3, 3, 3], errors
    assert "StreamsParked" in errors
    name = "exits@1" if kind == "outside" else "exits-in-sqlite@1"
    [parked] = await checkpoints.parked(name)
    assert (parked.stream, parked.version, parked.state) == ("account-a-1", bad.version, "parked")
    assert "3 processes ended while they handled this commit" in parked.error
    positions = await checkpoints.positions(name, [f"account-a-{number}" for number in range(3)])
    assert {stream: each.version for stream, each in positions.items()} == {
        "account-a-0": 3, "account-a-1": 2, "account-a-2": 3,
    }  # fmt: skip
    if kind == "outside":
        had = Counter((tmp_path / "had").read_text().split())
        assert had.pop(f"account-a-1@{bad.version}.0") == 3
        assert set(had.values()) <= {1, 2}  # the process was ended while they were handled, too


async def test_a_process_that_was_killed_between_two_commits_parks_nothing(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often."""
    monkeypatch.setattr("eventsrc.processing.assignment.CONFIRM_SECONDS", 0.05)
    await fill(store, accounts=2, deposits=2)
    projection = Outside()
    for number in range(5):
        processor = Processor(projection, store, checkpoints)
        await processor.pipeline.prepare()
        await processor.pipeline.assignment.take_all()
        await deposit(store, "a-0", number + 1)
        await processor.pipeline.handle([each async for each in store.read("account-a-0")])
        await processor.pipeline.wait_until_idle()  # and then it is gone, without giving up its slots
    last: Any = Processor(projection, store, checkpoints)
    await last.run(until_caught_up=True)
    assert projection.seen == await ids_of(store)
    assert not await checkpoints.parked(last.name)


async def test_after_a_kill_a_position_that_could_not_be_written_is_not_passed_over(
    store: SQLiteStore, checkpoints: SQLiteCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsrc.processing.assignment.CONFIRM_SECONDS", 0.05)
    await fill(store, accounts=1, deposits=2)
    killed = Processor(Outside(), store, checkpoints)
    await killed.pipeline.prepare()
    await killed.pipeline.assignment.take_all()
    failures = [Throttled("positions")]
    advance = checkpoints.advance

    async def fail(processor: str, run: Slice) -> None:
        if failures and run.after == 1:
            raise failures.pop()
        await advance(processor, run)

    monkeypatch.setattr(checkpoints, "advance", fail)
    successor: Any = Processor(Outside(), store, checkpoints)
    await successor.run(until_caught_up=True)
    assert not failures
    assert await successor.positions(["account-a-0"]) == {"account-a-0": 2}
