"""A program for the command line: a store with one stream, a processor with a handler that fails, and their App."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from eventsrc import Repository, SQLiteStore, StreamsParked, trace
from eventsrc.inspection import App
from eventsrc.processing import Processor, SQLiteCheckpoints, SQLiteContext, SQLiteProjection

from .bank import Account, Deposited


class View(SQLiteProjection, tag="view"):
    poison = 13

    def handle_deposited(self, event: Deposited, context: SQLiteContext) -> None:
        if event.amount == self.poison:
            raise ValueError("unlucky")


class NewView(View, tag="view"):
    version = 2


class WholeView(View, tag="view"):
    version = 2
    poison = -1


async def fill(folder: Path) -> None:
    async with SQLiteStore(folder / "shop.db") as store:
        accounts = Repository(Account, store)
        with trace("request-9", metadata={"actor": "ann"}):
            account = Account.open("a", owner="ann")
            await accounts.save(account)
            for amount in (5, 13):
                account.deposit(amount)
                with trace(causation_id=f"account-a@{account.version}.0"):
                    await accounts.save(account)


@asynccontextmanager
async def app(view: type[View] = View, attempts: int = 1) -> AsyncGenerator[App]:
    async with SQLiteStore("shop.db") as store, SQLiteCheckpoints("view.db") as checkpoints:
        yield App({"shop": store}, [Account], [Processor(view(), store, checkpoints, attempts=attempts)])


def new_app() -> object:
    """The app of the next release, whose version of the read model fails at the same commit."""
    return app(NewView)


def patient_app() -> object:
    """The same, but it is some seconds until it gives up."""
    return app(NewView, attempts=5)


def whole_app() -> object:
    """The app of the next release, whose version of the read model does not fail."""
    return app(WholeView)


async def park() -> None:
    """Let the processor run until its stream is parked."""
    async with app() as opened:
        with suppress(StreamsParked):
            await opened.processors[0].run(until_caught_up=True)


@asynccontextmanager
async def late_app() -> AsyncGenerator[App]:
    """The app of a release whose new version begins now, so that it cannot be rebuilt."""
    async with SQLiteStore("shop.db") as store, SQLiteCheckpoints("view.db") as checkpoints:
        yield App({"shop": store}, [Account], [Processor(NewView(), store, checkpoints, start="now")])


async def deposit(amount: int) -> None:
    """Store another commit, which no processor has handled."""
    async with SQLiteStore("shop.db") as store:
        accounts = Repository(Account, store)
        account = await accounts.load("a")
        account.deposit(amount)
        await accounts.save(account)
