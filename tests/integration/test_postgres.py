"""The example of docs/own-projections.md on a real PostgreSQL: checkpoints, and a projection that is killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from uuid import uuid4

import psycopg
import pytest
from support.postgres import create_schema, postgres_server

from eventsrc import Aggregate, Event, Fenced, StoreClosed, StoreUnavailable
from eventsrc.processing import Fence, MemoryCheckpoints, PositionMoved, Slice, Slot
from eventsrc.testing import ProjectionKit, every_crash
from eventsrc.testing.contract import checkpoints as of_checkpoints
from eventsrc.testing.contract import projections as of_projections
from eventsrc.testing.contract.projections import Bench, Capability, Happened, interfere
from eventsrc.testing.contract.samples import make_commit
from examples.postgres import Database, PostgresCheckpoints, PostgresContext, PostgresProjection
from examples.postgres.checkpoints import advance

P = "balances@1"


class Deposited(Event, tag="pg.deposited"):
    amount: int


class Account(Aggregate, tag="pg"):
    balance: int = 0

    def apply_deposited(self, event: Deposited) -> None:
        self.balance += event.amount


class Balances(PostgresProjection, tag="pg-balances"):
    async def create(self, db: Database) -> None:
        await db.execute("CREATE TABLE IF NOT EXISTS balances (account TEXT PRIMARY KEY, amount BIGINT NOT NULL)")

    async def drop(self, db: Database) -> None:
        await db.execute("DROP TABLE IF EXISTS balances")

    async def handle_deposited(self, event: Deposited, context: PostgresContext) -> None:
        await context.db.execute(
            "INSERT INTO balances VALUES (%s, %s) "
            "ON CONFLICT (account) DO UPDATE SET amount = balances.amount + excluded.amount",
            (context.stream, event.amount),
        )
        if event.amount < 0:
            await context.db.execute("SELECT 1 / 0")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres_server() as conninfo:
        yield conninfo


@pytest.fixture
def database(server: str) -> str:
    return create_schema(server, f"test_{uuid4().hex}")


@pytest.fixture
async def checkpoints(database: str) -> AsyncIterator[PostgresCheckpoints]:
    async with PostgresCheckpoints(database) as opened:
        yield opened


@pytest.mark.parametrize("check", of_checkpoints.CONTRACT, ids=str)
async def test_checkpoints_keep_the_contract(check: of_checkpoints.Check, database: str) -> None:
    await check(lambda: PostgresCheckpoints(database))


class Log(PostgresProjection, tag="log"):
    async def create(self, db: Database) -> None:
        await db.execute("CREATE TABLE IF NOT EXISTS log (place BIGSERIAL, version INT, stream TEXT, event TEXT)")

    async def drop(self, db: Database) -> None:
        await db.execute("DELETE FROM log WHERE version = %s", (self.version,))

    async def handle_happened(self, event: Happened, context: PostgresContext) -> None:
        insert = "INSERT INTO log (version, stream, event) VALUES (%s, %s, %s)"
        await context.db.execute(insert, (self.version, context.stream, context.id))
        interfere(context)


@asynccontextmanager
async def bench_in(database: str) -> AsyncIterator[Bench[Log]]:
    async with PostgresCheckpoints(database) as checkpoints:

        async def read(log: Log, stream: str) -> list[str]:
            query = "SELECT event FROM log WHERE version = %s AND stream = %s ORDER BY place"
            async with checkpoints.transaction() as db:
                found = await db.execute(query, (log.version, stream))
                return [event for (event,) in await found.fetchall()]

        yield Bench(Log, read, checkpoints)


@pytest.mark.parametrize("check", of_projections.CONTRACT, ids=str)
async def test_projections_keep_the_contract(check: of_projections.Check, database: str) -> None:
    await check(lambda: bench_in(database), without={Capability.RESETS})


async def read_balances(checkpoints: PostgresCheckpoints) -> dict[str, int]:
    async with checkpoints.transaction() as db:
        rows = await (await db.execute("SELECT account, amount FROM balances")).fetchall()
    return {row[0]: row[1] for row in rows}


def slice_of(stream: str, after: int, last: int, epoch: int = 1, *, is_first: bool = False) -> Slice:
    commits = [make_commit(stream, version) for version in range(after + 1, last + 1)]
    return Slice(stream, after, commits, Fence(0, epoch), is_first=is_first)


async def test_of_many_processes_that_begin_a_stream_one_succeeds(database: str) -> None:
    async with PostgresCheckpoints(database) as one, PostgresCheckpoints(database) as other:
        racing = [
            each.advance(P, slice_of("s-1", 0, version, is_first=True))
            for version in (1, 2, 3)
            for each in (one, other)
        ]
        outcomes = await asyncio.gather(*racing, return_exceptions=True)
        assert sum(outcome is None for outcome in outcomes) == 1
        assert sum(isinstance(outcome, PositionMoved) for outcome in outcomes) == 5


async def test_a_claim_waits_for_a_transaction_that_writes(checkpoints: PostgresCheckpoints) -> None:
    """Otherwise the old owner could write after the new one has read the positions."""
    await checkpoints.claim(P, Slot(number=0, of=1, epoch=1))
    inside, leave = asyncio.Event(), asyncio.Event()

    async def work(db: Database) -> None:
        await advance(db, P, slice_of("s-1", 0, 1, is_first=True))
        inside.set()
        await leave.wait()

    writing = asyncio.create_task(checkpoints.write(work))
    await inside.wait()
    claiming = asyncio.create_task(checkpoints.claim(P, Slot(number=0, of=1, epoch=2)))
    await _wait_until_blocked(checkpoints)
    assert not claiming.done()
    leave.set()
    await asyncio.gather(writing, claiming)
    assert (await checkpoints.positions(P, ["s-1"]))["s-1"].version == 1
    with pytest.raises(Fenced):
        await checkpoints.advance(P, slice_of("s-1", 1, 2, epoch=1))


async def _wait_until_blocked(checkpoints: PostgresCheckpoints) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while True:
        async with checkpoints.transaction() as db:
            row = await (await db.execute(waiting)).fetchone()
        if row is not None and row[0]:
            return
        await asyncio.sleep(0.01)


async def test_two_processes_create_the_tables_at_the_same_time(database: str) -> None:
    several = [PostgresCheckpoints(database) for _ in range(6)]
    await asyncio.gather(*(each.open() for each in several))
    await asyncio.gather(*(each.aclose() for each in several))


async def test_what_it_raises_is_known_to_processors(database: str) -> None:
    closed = PostgresCheckpoints(database)
    with pytest.raises(StoreClosed, match="not open"):
        await closed.slots(P)
    async with PostgresCheckpoints(database) as opened:
        with pytest.raises(StoreClosed, match="already open"):
            await opened.open()
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        with pytest.raises(StoreUnavailable):
            await opened.slots(P)
        assert await opened.slots(P) == []  # a processor tries again
    with pytest.raises(StoreUnavailable):
        await PostgresCheckpoints("host=/nowhere", deadline=0.2).open()


async def test_rows_are_the_same_wherever_the_process_is_killed(server: str) -> None:
    kills = 0
    for crash in every_crash():
        database = create_schema(server, f"crash_{crash.at}")
        async with (
            PostgresCheckpoints(database, connections=3) as checkpoints,
            ProjectionKit(Balances, checkpoints=checkpoints, crash=crash) as kit,
        ):
            await kit.given(Account, Deposited(amount=1), id="a")
            await kit.given(Account, Deposited(amount=2), Deposited(amount=4), id="a")
            await kit.given(Account, Deposited(amount=8), id="b")
            await kit.drain()
            assert await read_balances(checkpoints) == {"pg-a": 7, "pg-b": 8}, crash
        kills += crash.happened
    assert kills > 5


async def test_a_handler_that_fails_undoes_its_own_commit_only(checkpoints: PostgresCheckpoints) -> None:
    async with ProjectionKit(Balances, checkpoints=checkpoints) as kit:
        await kit.given(Account, Deposited(amount=1), id="a")
        await kit.given(Account, Deposited(amount=2), id="a")
        await kit.given(Account, Deposited(amount=-1), id="a")
        with pytest.raises(psycopg.errors.DivisionByZero):
            await kit.drain()
        assert await read_balances(checkpoints) == {"pg-a": 3}
        assert (await checkpoints.positions("pg-balances@1", ["pg-a"]))["pg-a"].version == 2


async def test_a_projection_needs_checkpoints_in_the_same_database() -> None:
    with pytest.raises(TypeError, match="Balances needs PostgresCheckpoints"):
        async with ProjectionKit(Balances, checkpoints=MemoryCheckpoints()):
            raise AssertionError("not reached")
