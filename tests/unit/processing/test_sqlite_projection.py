"""Read models in SQLite: order across streams, failures, hung handlers, what `discard` and `reset` remove."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.bank import Account, Deposited, Opened
from support.ledger import commits_of
from support.slices import FENCE, slices

from eventsrc import Commit, DeclarationError, Fenced, MemoryStore, Repository
from eventsrc.processing import Registration, Slot, SQLiteCheckpoints, SQLiteContext, SQLiteProjection
from eventsrc.processing.projections import sqlite as module
from eventsrc.processing.projections.sqlite import Database
from eventsrc.processing.slice import HandlerFailed, PositionMoved


@pytest.fixture
async def checkpoints(tmp_path: Path) -> AsyncIterator[SQLiteCheckpoints]:
    async with SQLiteCheckpoints(tmp_path / "read-model.db") as opened:
        yield opened


async def interleaved(rounds: int = 3, accounts: int = 3) -> list[Commit]:
    async with MemoryStore() as store:
        repository = Repository(Account, store)
        opened = [Account.open(f"a-{number}", owner="ann") for number in range(accounts)]
        for amount in range(rounds):
            for account in opened:
                if amount:
                    account.deposit(amount)
                await repository.save(account)
        return await commits_of(store)


class Seen(SQLiteProjection, tag="seen"):
    def __init__(self, *poison: str) -> None:
        self.poison = set(poison)
        self.calls: list[str] = []

    def create(self, db: Database) -> None:
        columns = "number INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT, version INTEGER"
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({columns})")

    def handle_movement(self, event: Opened | Deposited, context: SQLiteContext) -> None:
        row = context.stream, context.commit.version
        self.calls.append(f"{row[0]}@{row[1]}")
        context.db.execute(f"INSERT INTO {self.table} (stream, version) VALUES (?, ?)", row)
        if self.calls[-1] in self.poison:
            raise ValueError("refused")

    def forget_stream(self, db: Database, stream: str) -> None:
        db.execute(f"DELETE FROM {self.table} WHERE stream = ?", (stream,))


async def bound(projection: SQLiteProjection, checkpoints: SQLiteCheckpoints, timeout: float = 20.0) -> None:
    projection.bind(checkpoints, MemoryStore(), handler_timeout=timeout)
    await projection.prepare()


async def rows_of(projection: SQLiteProjection, checkpoints: SQLiteCheckpoints) -> list[tuple[str, int]]:
    query = f"SELECT stream, version FROM {projection.table} ORDER BY number"
    return await checkpoints.read(lambda db: db.execute(query).fetchall())


async def names_in(checkpoints: SQLiteCheckpoints) -> set[str]:
    query = "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite%' AND name NOT LIKE 'eventsrc%'"
    return {name for (name,) in await checkpoints.read(lambda db: db.execute(query).fetchall())}


async def versions(projection: SQLiteProjection, *streams: str) -> dict[str, int]:
    return {stream: position.version for stream, position in (await projection.positions(streams)).items()}


async def test_handlers_are_called_in_the_order_of_the_feed_across_streams(checkpoints: SQLiteCheckpoints) -> None:
    commits = await interleaved()
    await bound(projection := Seen(), checkpoints)
    assert not await projection.apply(slices(commits))
    assert await rows_of(projection, checkpoints) == [(commit.stream, commit.version) for commit in commits]
    assert projection.calls == [f"{commit.stream}@{commit.version}" for commit in commits]


async def test_with_the_order_of_streams_one_stream_follows_the_other(checkpoints: SQLiteCheckpoints) -> None:
    class ByStream(Seen, tag="by-stream"):
        order = "stream"

    await bound(projection := ByStream(), checkpoints)
    await projection.apply(slices(await interleaved()))
    rows = await rows_of(projection, checkpoints)
    assert rows == sorted(rows)
    assert len(rows) == 9


@pytest.mark.parametrize("order", ["feed", "stream"])
@pytest.mark.parametrize("poison", ["account-a-0@1", "account-a-1@2", "account-a-2@3", "account-a-0@3"])
async def test_a_failed_commit_leaves_out_its_stream_and_the_others_continue(
    checkpoints: SQLiteCheckpoints, order: Any, poison: str
) -> None:
    commits = await interleaved()
    projection = Seen(poison)
    projection.order = order  # type: ignore[misc]  # of this object
    await bound(projection, checkpoints)
    [failure] = await projection.apply(slices(commits))
    stream, version = poison.rsplit("@")
    assert (failure.run.stream, type(failure.error)) == (stream, HandlerFailed)
    expected = [
        (commit.stream, commit.version)
        for commit in (commits if order == "feed" else sorted(commits, key=lambda each: (each.stream, each.version)))
        if commit.stream != stream or commit.version < int(version)
    ]
    assert await rows_of(projection, checkpoints) == expected
    left = {"account-a-0": 3, "account-a-1": 3, "account-a-2": 3, stream: int(version) - 1}
    assert await versions(projection, *left) == {stream: version for stream, version in left.items() if version}
    projection.poison.clear()
    rest = [commit for commit in commits if commit.stream == stream and commit.version >= int(version)]
    assert not await projection.apply(slices(rest))
    assert len(await rows_of(projection, checkpoints)) == 9


async def test_several_failed_streams(checkpoints: SQLiteCheckpoints) -> None:
    commits = await interleaved(rounds=5, accounts=6)
    await bound(projection := Seen("account-a-0@2", "account-a-3@1", "account-a-5@5", "account-a-4@2"), checkpoints)
    failures = await projection.apply(slices(commits))
    assert {each.run.stream for each in failures} == {"account-a-0", "account-a-3", "account-a-4", "account-a-5"}
    done = {"account-a-0": 1, "account-a-1": 5, "account-a-2": 5, "account-a-3": 0, "account-a-4": 1, "account-a-5": 4}
    assert await rows_of(projection, checkpoints) == [
        (commit.stream, commit.version) for commit in commits if commit.version <= done[commit.stream]
    ]


async def test_a_stream_whose_position_moved_is_left_out(checkpoints: SQLiteCheckpoints) -> None:
    commits = await interleaved()
    await bound(projection := Seen("account-a-2@2"), checkpoints)
    moved = next(run for run in slices(commits) if run.stream == "account-a-1")
    await projection.advance(moved.part(0, 1))
    failures = {each.run.stream: each.error for each in await projection.apply(slices(commits))}
    assert isinstance(failures.pop("account-a-1"), PositionMoved)
    assert isinstance(failures.pop("account-a-2"), HandlerFailed)
    assert not failures
    assert await versions(projection, "account-a-0", "account-a-1", "account-a-2") == {
        "account-a-0": 3,
        "account-a-1": 1,
        "account-a-2": 1,
    }


async def test_a_fenced_worker_changes_nothing(checkpoints: SQLiteCheckpoints) -> None:
    await bound(projection := Seen(), checkpoints)
    await checkpoints.claim(projection.name, Slot(number=0, of=1, epoch=2))
    with pytest.raises(Fenced):
        await projection.apply(slices(await interleaved()))
    with pytest.raises(Fenced):
        await projection.reset("account-a-0", FENCE)
    assert not await rows_of(projection, checkpoints)


async def test_a_statement_that_takes_too_long_is_interrupted(checkpoints: SQLiteCheckpoints) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

    class Endless(Seen, tag="endless"):
        def handle_movement(self, event: Opened | Deposited, context: SQLiteContext) -> None:
            if context.stream == "account-a-1":
                for _ in context.db.execute("SELECT 1 UNION SELECT 2"):  # a cursor that stays open
                    context.db.execute(endless).fetchone()
            super().handle_movement(event, context)

    commits = await interleaved()
    await bound(projection := Endless(), checkpoints, timeout=0.3)
    [failure] = await asyncio.wait_for(projection.apply(slices(commits)), 30)
    assert isinstance(failure.error, HandlerFailed)
    assert "Endless.handle_movement took longer than the handler_timeout of 0.3" in str(failure.error.error)
    expected = [(commit.stream, commit.version) for commit in commits if commit.stream != "account-a-1"]
    assert await rows_of(projection, checkpoints) == expected


async def test_many_short_statements_that_take_too_long_are_stopped(checkpoints: SQLiteCheckpoints) -> None:
    class Looping(Seen, tag="looping"):
        def handle_movement(self, event: Opened | Deposited, context: SQLiteContext) -> None:
            while True:
                context.db.execute("SELECT 1").fetchone()

    await bound(projection := Looping(), checkpoints, timeout=0.2)
    [failure] = await asyncio.wait_for(projection.apply(slices(await interleaved(1, 1))), 30)
    assert isinstance(failure.error, HandlerFailed)
    assert isinstance(failure.error.error, TimeoutError)


async def test_a_handler_that_returns_too_late_has_failed(checkpoints: SQLiteCheckpoints) -> None:
    class Late(Seen, tag="late"):
        def handle_movement(self, event: Opened | Deposited, context: SQLiteContext) -> None:
            super().handle_movement(event, context)
            time.sleep(0.3)

    await bound(projection := Late(), checkpoints, timeout=0.1)
    [failure] = await projection.apply(slices(await interleaved(1, 1)))
    assert isinstance(failure.error, HandlerFailed)
    assert isinstance(failure.error.error, TimeoutError)
    assert not await rows_of(projection, checkpoints)


async def test_a_handler_that_blocks_the_writer_thread_ends_with_an_error(
    checkpoints: SQLiteCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE", 0.1)
    release = threading.Event()

    class Blocking(Seen, tag="blocking"):
        def handle_movement(self, event: Opened | Deposited, context: SQLiteContext) -> None:
            release.wait(60)

    await bound(projection := Blocking(), checkpoints, timeout=0.1)
    try:
        with pytest.raises(DeclarationError, match=r"Blocking\.handle_movement.*must wait for nothing"):
            await asyncio.wait_for(projection.apply(slices(await interleaved(1, 1))), 30)
    finally:
        release.set()
    assert not await versions(projection, "account-a-0")


@pytest.mark.parametrize(
    "error", [StopIteration(), sqlite3.OperationalError("mine"), KeyError("x"), asyncio.CancelledError()]
)
async def test_what_a_handler_raises_is_its_failure(checkpoints: SQLiteCheckpoints, error: BaseException) -> None:
    class Raising(Seen, tag="raising"):
        def handle_movement(self, event: Opened | Deposited, context: SQLiteContext) -> None:
            raise error

    await bound(projection := Raising(), checkpoints)
    [failure] = await asyncio.wait_for(projection.apply(slices(await interleaved(1, 1))), 10)
    assert isinstance(failure.error, HandlerFailed)
    assert failure.error.error is error or "raised CancelledError" in str(failure.error.error)


class Wealth(SQLiteProjection, tag="wealth"):
    """With further tables, an index, a view, a trigger and a full-text index."""

    def create(self, db: Database) -> None:
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} (owner TEXT PRIMARY KEY, amount INTEGER)")
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table.upper()}_owners (account TEXT PRIMARY KEY, owner TEXT)")
        db.execute(f"CREATE INDEX IF NOT EXISTS {self.table}_by_amount ON {self.table} (amount)")
        db.execute(f"CREATE VIEW IF NOT EXISTS {self.table}_rich AS SELECT * FROM {self.table} WHERE amount > 100")
        db.execute(f"CREATE TRIGGER IF NOT EXISTS {self.table}_kept AFTER DELETE ON {self.table} BEGIN SELECT 1; END")
        db.execute(f"CREATE VIRTUAL TABLE IF NOT EXISTS {self.table}_text USING fts5(owner)")
        db.execute(f'CREATE TABLE IF NOT EXISTS "{self.table}_odd ""name" (x)')

    def handle_opened(self, event: Opened, context: SQLiteContext) -> None:
        context.db.execute(f"INSERT INTO {self.table}_owners VALUES (?, ?)", (context.stream, event.owner))

    def handle_deposited(self, event: Deposited, context: SQLiteContext) -> None:
        context.db.execute(
            f"INSERT INTO {self.table} SELECT owner, ? FROM {self.table}_owners WHERE account = ? "
            "ON CONFLICT DO UPDATE SET amount = amount + excluded.amount",
            (event.amount, context.stream),
        )


class Wealth10(Wealth, tag="wealth"):
    version = 10


async def test_discard_drops_all_tables_of_the_version_and_nothing_else(checkpoints: SQLiteCheckpoints) -> None:
    await bound(other := Wealth10(), checkpoints)
    before = await names_in(checkpoints)
    await bound(projection := Wealth(), checkpoints)
    commits = await interleaved(accounts=1)
    assert not await projection.apply(slices(commits))
    assert not await other.apply(slices(commits))

    async def total(table: str) -> list[tuple[int]]:
        return await checkpoints.read(lambda db: db.execute(f"SELECT amount FROM {table}").fetchall())

    assert await total("wealth_1") == [(3,)]
    await projection.discard()
    assert await names_in(checkpoints) == before
    assert not await versions(projection, "account-a-0")
    assert await total("wealth_10") == [(3,)]
    await projection.prepare()
    assert not await projection.apply(slices(commits))  # it begins with nothing
    assert await total("wealth_1") == [(3,)]


async def test_a_stale_worker_is_fenced_after_discard(checkpoints: SQLiteCheckpoints) -> None:
    await bound(projection := Seen(), checkpoints)
    await checkpoints.claim(projection.name, Slot(number=0, of=1, epoch=1))
    [run] = slices(await interleaved(accounts=1))
    await projection.apply([run.part(0, 1)])
    await projection.discard()
    await projection.prepare()
    for stale in (run.part(1, 3), run):
        with pytest.raises(Fenced):
            await projection.apply([stale])
    assert not await rows_of(projection, checkpoints)


async def test_reset_handles_a_stream_again(checkpoints: SQLiteCheckpoints) -> None:
    commits = await interleaved()
    await bound(projection := Seen(), checkpoints)
    await projection.apply(slices(commits))
    await projection.reset("account-a-1", FENCE)
    assert await versions(projection, "account-a-0", "account-a-1") == {"account-a-0": 3}
    assert not await projection.apply(slices([commit for commit in commits if commit.stream == "account-a-1"]))
    rows = await rows_of(projection, checkpoints)
    assert sorted(rows) == sorted((commit.stream, commit.version) for commit in commits)


async def test_reset_that_fails_changes_nothing(checkpoints: SQLiteCheckpoints) -> None:
    class Failing(Seen, tag="failing"):
        def forget_stream(self, db: Database, stream: str) -> None:
            super().forget_stream(db, stream)
            raise ValueError("no")

    commits = await interleaved()
    await bound(projection := Failing(), checkpoints)
    await projection.apply(slices(commits))
    with pytest.raises(ValueError, match="no"):
        await projection.reset("account-a-1", FENCE)
    assert len(await rows_of(projection, checkpoints)) == 9
    await bound(without := Wealth(), checkpoints)
    with pytest.raises(TypeError, match=r"Wealth\.forget_stream is not written"):
        await without.reset("account-a-1", FENCE)


@pytest.mark.parametrize("other", ["air.port@1", "AIR-port@1", "air_port@1", "air-port-1@2"])
async def test_processors_that_share_tables_are_refused(checkpoints: SQLiteCheckpoints, other: str) -> None:
    class Air(Seen, tag="air-port"): ...

    await checkpoints.registry.register(other, Registration(store="s"), instead_of=None)
    with pytest.raises(DeclarationError, match=rf"air_port_1, which the processor {other} uses"):
        await bound(Air(), checkpoints)


@pytest.mark.parametrize("other", ["air-port@2", "air-port@10", "air-ports@1", "air@1"])
async def test_processors_with_tables_of_their_own_are_not_refused(checkpoints: SQLiteCheckpoints, other: str) -> None:
    class Air(Seen, tag="air-port"): ...

    await checkpoints.registry.register(other, Registration(store="s"), instead_of=None)
    await bound(Air(), checkpoints)


async def test_a_tag_that_is_no_table_name_is_refused(checkpoints: SQLiteCheckpoints) -> None:
    class Digit(Seen, tag="2nd-try"): ...

    with pytest.raises(DeclarationError, match=r"2nd_try_1.*start it with a letter"):
        await bound(Digit(), checkpoints)
