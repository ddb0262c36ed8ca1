"""The kit for projections: rows of given events, redelivery, a kill at every step, errors of handlers."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from eventsrc import Aggregate, Event, MemoryStore, Repository, UnhandledEvent
from eventsrc.processing import (
    Context,
    Database,
    Effects,
    MemoryCheckpoints,
    MemoryProjection,
    SQLiteContext,
    SQLiteProjection,
)
from eventsrc.testing import Crash, ProjectionKit, every_crash


class Deposited(Event, tag="kit.deposited"):
    amount: int


class Account(Aggregate, tag="kit"):
    balance: int = 0

    def apply_deposited(self, event: Deposited) -> None:
        self.balance += event.amount


class Balances(SQLiteProjection, tag="kit-balances"):
    def create(self, db: Database) -> None:
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} (account TEXT PRIMARY KEY, amount INTEGER)")

    def handle_deposited(self, event: Deposited, context: SQLiteContext) -> None:
        if event.amount < 0:
            raise ValueError(f"{event.amount} is not an amount")
        context.db.execute(
            f"INSERT INTO {self.table} VALUES (?, ?) ON CONFLICT DO UPDATE SET amount = amount + excluded.amount",
            (context.stream, event.amount),
        )


class Wrong(SQLiteProjection, tag="kit-wrong"):
    """Keeps its total in the object and not in the transaction, so a kill loses or doubles amounts."""

    total = 0

    def create(self, db: Database) -> None:
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} (total INTEGER)")

    def handle_deposited(self, event: Deposited, context: SQLiteContext) -> None:
        self.total += event.amount
        context.db.execute(f"DELETE FROM {self.table}")
        context.db.execute(f"INSERT INTO {self.table} VALUES (?)", (self.total,))


class Total(MemoryProjection, tag="kit-total"):
    def __init__(self) -> None:
        self.total = 0

    def handle_deposited(self, event: Deposited) -> None:
        self.total += event.amount


class Receipts(Effects, tag="kit-receipts"):
    def __init__(self, send: Callable[[str], None]) -> None:
        self.send = send

    async def handle_deposited(self, event: Deposited, context: Context) -> None:
        self.send(context.id)


async def test_given_events_become_rows() -> None:
    async with ProjectionKit(Balances) as kit:
        receipt = await kit.given(Account, Deposited(amount=1), Deposited(amount=2), id="a")
        await kit.given(Account, Deposited(amount=4), id="a")
        assert (receipt.stream, receipt.version, receipt.events) == ("kit-a", 1, 2)
        await kit.drain()
        assert await kit.rows("SELECT * FROM kit_balances_1 WHERE account = ?", "kit-a") == [("kit-a", 7)]
        assert (await Repository(Account, kit.store).load("a")).balance == 7


async def test_a_second_process_continues_with_a_new_projection() -> None:
    async with ProjectionKit(Balances) as kit:
        await kit.given(Account, Deposited(amount=1), id="a")
        await kit.drain()
        first = kit.projection
        await kit.restart()
        await kit.given(Account, Deposited(amount=2), id="a")
        await kit.drain()
        assert await kit.rows("SELECT amount FROM kit_balances_1") == [(3,)]
        assert kit.projection is not first


async def test_the_error_of_a_handler_is_raised() -> None:
    async with ProjectionKit(Balances) as kit:
        await kit.given(Account, Deposited(amount=-1), id="a")
        with pytest.raises(ValueError, match="-1 is not an amount"):
            await kit.drain()


async def test_rows_are_the_same_wherever_the_process_is_killed() -> None:
    kills = 0
    for crash in every_crash():
        async with ProjectionKit(Balances, crash=crash) as kit:
            await kit.given(Account, Deposited(amount=1), id="a")
            await kit.given(Account, Deposited(amount=2), id="a")
            await kit.given(Account, Deposited(amount=4), id="b")
            await kit.drain()
            assert await kit.rows("SELECT * FROM kit_balances_1 ORDER BY 1") == [("kit-a", 3), ("kit-b", 4)], crash
        kills += crash.happened
    assert kills > 5


async def test_state_outside_the_transaction_is_noticed() -> None:
    wrong = []
    for crash in every_crash():
        async with ProjectionKit(Wrong, crash=crash) as kit:
            await kit.given(Account, Deposited(amount=1), id="a")
            await kit.drain()
            await kit.given(Account, Deposited(amount=2), id="a")
            await kit.drain()
            if await kit.rows("SELECT * FROM kit_wrong_1") != [(3,)]:
                wrong.append(crash)
    assert wrong


async def test_an_effect_is_repeated_with_the_same_id_after_a_kill() -> None:
    lists = []
    for crash in every_crash():
        sent: list[str] = []
        async with ProjectionKit(lambda: Receipts(sent.append), crash=crash) as kit:  # noqa: B023  # used in this turn
            await kit.given(Account, Deposited(amount=1), id="a")
            await kit.given(Account, Deposited(amount=2), id="a")
            await kit.drain()
        lists.append(sent)
    assert lists[0] == ["kit-a@1.0", "kit-a@2.0"]  # redelivery repeats nothing
    assert {tuple(dict.fromkeys(sent)) for sent in lists} == {("kit-a@1.0", "kit-a@2.0")}
    assert ["kit-a@1.0", "kit-a@1.0", "kit-a@2.0"] in lists  # killed between an effect and its position
    assert ["kit-a@1.0", "kit-a@2.0", "kit-a@2.0"] in lists


async def test_a_read_model_in_memory_begins_again_in_each_process() -> None:
    for crash in every_crash():
        async with ProjectionKit(Total, crash=crash) as kit:
            await kit.given(Account, Deposited(amount=1), Deposited(amount=2))
            await kit.drain()
            assert kit.projection.total == 3
            with pytest.raises(TypeError, match="Total has no tables in SQLite"):
                await kit.rows("SELECT 1")


async def test_a_store_and_checkpoints_of_the_caller_stay_open_and_unchanged() -> None:
    checkpoints = MemoryCheckpoints()
    sent: list[str] = []
    async with MemoryStore() as store:
        async with ProjectionKit(
            lambda: Receipts(sent.append), store=store, checkpoints=checkpoints, crash=Crash(4)
        ) as kit:
            await kit.given(Account, Deposited(amount=1))
            await kit.drain()
        assert not vars(checkpoints).keys() & {"advance", "save", "claim"}
        assert await checkpoints.positions("kit-receipts@1", ["kit-1"])
        assert (await Repository(Account, store).load("1")).balance == 1


async def test_mistakes_are_named() -> None:
    class Unknown(Event, tag="kit.unknown"):
        pass

    with pytest.raises(TypeError, match="give it the class, or a function"):
        ProjectionKit(Total())  # type: ignore[arg-type]
    async with ProjectionKit(Total) as kit:
        with pytest.raises(UnhandledEvent, match="Unknown"):
            await kit.given(Account, Unknown())


async def test_nothing_is_left_open_by_a_failed_start() -> None:
    class Undeclared(SQLiteProjection):  # has no tag
        def handle_deposited(self, event: Deposited) -> None: ...

    with pytest.raises(Exception, match="has no tag"):
        async with ProjectionKit(Undeclared):
            raise AssertionError("not reached")
    gc.collect()  # an open connection would be reported
