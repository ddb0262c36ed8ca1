"""Causes: what handlers commit is stamped with what caused it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from support.bank import Account, Deposited, Opened, Withdrawn
from support.ledger import commits_of, fill

from eventsrc import Commit, MemoryStore, Repository, SQLiteStore, Store, TraceContext, current_trace, trace
from eventsrc.processing import (
    Checkpoints,
    Context,
    Effects,
    MemoryCheckpoints,
    MemoryProjection,
    Processor,
    Projection,
    Runner,
    SQLiteCheckpoints,
    SQLiteContext,
    SQLiteProjection,
)
from eventsrc.tracing import trace_id_of


class Forward(Effects, tag="forward"):
    """Passes a deposit on to an account in another store."""

    def __init__(self, target: Store) -> None:
        self.accounts = Repository(Account, target)

    async def handle_deposited(self, event: Deposited, context: Context) -> None:
        account = Account.open("to", owner="ann")
        account.deposit(event.amount)
        await self.accounts.save(account)


async def run(projection: Projection, store: Store, checkpoints: Checkpoints | None = None) -> None:
    async with checkpoints or nullcontext():
        await Runner(Processor(projection, store, checkpoints)).run(until_caught_up=True)


async def save(store: Store, id: str = "a", amount: int = 5) -> Commit:
    account = Account.open(id, owner="ann")
    account.deposit(amount)
    await Repository(Account, store).save(account)
    return (await commits_of(store))[-1]


async def test_a_command_of_a_handler_is_caused_by_its_event() -> None:
    async with MemoryStore() as store, MemoryStore() as target:
        with trace("request-9", metadata={"user": "ann"}):
            await save(store)
        await run(Forward(target), store, MemoryCheckpoints())
        [commit] = await commits_of(target)
        assert commit.correlation_id == "request-9"
        assert commit.causation_ids == ("account-a@1.1",)
        assert commit.metadata == {"handler": "forward@1.handle_deposited"}


async def test_a_commit_without_a_correlation_id_starts_a_trace_with_its_own_identity() -> None:
    async with MemoryStore() as first, MemoryStore() as second, MemoryStore() as third:
        root = await save(first)
        assert (root.correlation_id, trace_id_of(root)) == (None, "account-a@1")
        await run(Forward(second), first, MemoryCheckpoints())
        await run(Forward(third), second, MemoryCheckpoints())
        [middle], [last] = await commits_of(second), await commits_of(third)
        assert [each.correlation_id for each in (middle, last)] == ["account-a@1"] * 2
        assert [each.causation_ids for each in (middle, last)] == [("account-a@1.1",), ("account-to@1.1",)]


async def test_what_a_handler_says_wins_over_what_caused_it() -> None:
    class Says(Forward, tag="says"):
        async def handle_deposited(self, event: Deposited, context: Context) -> None:
            with trace("mine", "order-7@1.0", {"user": "eve"}):
                await super().handle_deposited(event, context)

    async with MemoryStore() as store, MemoryStore() as target:
        await save(store)
        await run(Says(target), store, MemoryCheckpoints())
        [commit] = await commits_of(target)
        assert (commit.correlation_id, commit.causation_ids) == ("mine", ("order-7@1.0",))
        assert commit.metadata == {"handler": "says@1.handle_deposited", "user": "eve"}


async def test_the_trace_around_a_runner_is_not_that_of_its_handlers() -> None:
    async with MemoryStore() as store, MemoryStore() as target:
        await save(store)
        with trace("deployment-3", metadata={"user": "root"}):
            await run(Forward(target), store, MemoryCheckpoints())
            assert current_trace().correlation_id == "deployment-3"
        [commit] = await commits_of(target)
        assert (commit.correlation_id, "user" in commit.metadata) == ("account-a@1", False)


async def test_a_redelivery_has_the_same_cause_and_its_attempt() -> None:
    class Fails(Forward, tag="fails"):
        calls = 0

        async def handle_deposited(self, event: Deposited, context: Context) -> None:
            self.calls += 1
            if self.calls < 3:
                raise ConnectionError
            await super().handle_deposited(event, context)

    async with MemoryStore() as store, MemoryStore() as target:
        await save(store)
        await run(Fails(target), store, MemoryCheckpoints())
        [commit] = await commits_of(target)
        assert commit.causation_ids == ("account-a@1.1",)
        assert commit.metadata == {"handler": "fails@1.handle_deposited", "attempt": "3"}


class Noted:
    """Notes the trace of each call."""

    def __init__(self) -> None:
        self.seen: list[TraceContext] = []


class InMemory(Noted, MemoryProjection, tag="noted"):
    def handle_movement(self, event: Opened | Deposited | Withdrawn) -> None:
        self.seen.append(current_trace())


class InSQLite(Noted, SQLiteProjection, tag="noted"):
    def handle_movement(self, event: Opened | Deposited | Withdrawn, context: SQLiteContext) -> None:
        self.seen.append(current_trace())


class InThread(Noted, Effects, tag="noted"):
    def handle_movement(self, event: Opened | Deposited | Withdrawn) -> None:
        self.seen.append(current_trace())


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (InMemory, lambda path: None),
        (InSQLite, lambda path: SQLiteCheckpoints(path / "c.db")),
        (InThread, lambda path: MemoryCheckpoints()),
    ],
)
async def test_each_kind_of_projection_has_the_trace_of_its_event(
    kind: type[Any], make: Callable[[Path], Checkpoints | None], tmp_path: Path
) -> None:
    async with MemoryStore() as store:
        await fill(store, accounts=2, deposits=2)
        await run(projection := kind(), store, make(tmp_path))
        assert sorted((each.correlation_id, *each.causation_ids) for each in projection.seen) == [
            (f"account-a-{number}@{version}", f"account-a-{number}@{version}.{index}")
            for number in range(2)
            for version, index in [(1, 0), (1, 1), (2, 0)]
        ]
        assert {each.metadata["handler"] for each in projection.seen} == {"noted@1.handle_movement"}
    assert current_trace() == TraceContext()


class ManyInSQLite(Noted, SQLiteProjection, tag="many"):
    def handle_movements(self, events: Sequence[Opened | Deposited], context: SQLiteContext) -> None:
        self.seen.append(current_trace())


@pytest.mark.parametrize(("deposits", "count"), [(3, 4), (200, 100)])
async def test_a_handler_of_many_events_has_many_causes(deposits: int, count: int, tmp_path: Path) -> None:
    async with MemoryStore() as store:
        await fill(store, accounts=1, deposits=deposits)
        await run(projection := ManyInSQLite(), store, SQLiteCheckpoints(tmp_path / "c.db"))
        longest = max(projection.seen, key=lambda each: len(each.causation_ids))
        assert len(longest.causation_ids) == count
        assert longest.causation_ids[-1] == f"{longest.correlation_id}.0"


async def test_a_task_that_a_handler_starts_keeps_the_trace_of_its_event() -> None:
    class Spawns(MemoryProjection, tag="spawns"):
        def __init__(self) -> None:
            self.tasks: list[asyncio.Task[TraceContext]] = []

        def handle_movement(self, event: Opened | Deposited) -> None:
            async def later() -> TraceContext:
                await asyncio.sleep(0)
                return current_trace()

            self.tasks.append(asyncio.get_running_loop().create_task(later()))

    async with MemoryStore() as store:
        await save(store)
        await run(projection := Spawns(), store)
        assert [(await task).causation_ids for task in projection.tasks] == [("account-a@1.0",), ("account-a@1.1",)]


async def test_a_chain_over_three_stores_has_one_correlation_and_every_cause(tmp_path: Path) -> None:
    """Five handlers, each of which fails once, so each event is delivered twice."""

    class Passes(Effects):
        def __init__(self, stage: int, target: Store) -> None:
            self.stage, self.accounts, self.failed = stage, Repository(Account, target), False

        async def handle_deposited(self, event: Deposited, context: Context) -> None:
            if not context.stream.endswith(f"-{self.stage}"):
                return
            account = Account.open(f"x-{self.stage + 1}", owner="ann")
            account.deposit(event.amount)
            await self.accounts.save(account, command_id=context.id)
            if not self.failed:
                self.failed = True
                raise ConnectionError

    stores = [SQLiteStore(tmp_path / f"{number}.db") for number in range(3)]
    async with stores[0], stores[1], stores[2]:
        with trace("request-1"):
            await save(stores[0], "x-0")
        for stage in range(5):
            source, target = stores[stage % 3], stores[(stage + 1) % 3]
            kind = type(f"Passes{stage}", (Passes,), {}, tag=f"passes-{stage}")
            await run(kind(stage, target), source, MemoryCheckpoints())
        commits = {commit.stream: commit for store in stores for commit in await commits_of(store)}
        assert len(commits) == 6
        assert {commit.correlation_id for commit in commits.values()} == {"request-1"}
        for stage in range(5):
            assert commits[f"account-x-{stage + 1}"].causation_ids == (f"account-x-{stage}@1.1",)
