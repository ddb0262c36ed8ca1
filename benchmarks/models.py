"""The read models of the benchmarks: balances of bank accounts in memory and in SQLite."""

from __future__ import annotations

from collections.abc import Sequence

from support.bank import Deposited, Opened

from eventsrc.processing import Context, MemoryProjection, SQLiteContext, SQLiteProjection
from eventsrc.processing.projections.sqlite import Database


class Balances(MemoryProjection, tag="balances"):
    """The smallest read model: a dictionary."""

    def __init__(self) -> None:
        self.balances: dict[str, int] = {}

    def handle_opened(self, event: Opened, context: Context) -> None:
        self.balances[context.stream] = 0

    def handle_deposited(self, event: Deposited, context: Context) -> None:
        self.balances[context.stream] += event.amount


class BalancesByEvent(SQLiteProjection, tag="balances-by-event"):
    """The same in SQLite, with one statement for each event."""

    def create(self, db: Database) -> None:
        db.execute(_create(self.table))

    def handle_opened(self, event: Opened, context: SQLiteContext) -> None:
        context.db.execute(f"INSERT INTO {self.table} VALUES (?, 0)", (context.stream,))

    def handle_deposited(self, event: Deposited, context: SQLiteContext) -> None:
        context.db.execute(_add_to(self.table), (context.stream, event.amount))


class BalancesInSQLite(SQLiteProjection, tag="balances"):
    """The same with one statement for several events of a stream."""

    def create(self, db: Database) -> None:
        db.execute(_create(self.table))

    def handle_deposits(self, events: Sequence[Opened | Deposited], context: SQLiteContext) -> None:
        amount = sum(event.amount for event in events if isinstance(event, Deposited))
        context.db.execute(_add_to(self.table), (context.stream, amount))


class BalancesByStream(BalancesInSQLite, tag="balances-by-stream"):
    """The same, with the commits of a batch one stream after the other, which gives longer sequences to the handler."""

    order = "stream"


def _create(table: str) -> str:
    return f"CREATE TABLE IF NOT EXISTS {table} (stream TEXT PRIMARY KEY, balance INTEGER) WITHOUT ROWID"


def _add_to(table: str) -> str:
    return f"INSERT INTO {table} VALUES (?, ?) ON CONFLICT DO UPDATE SET balance = balance + excluded.balance"
