"""A program with one store, a class and a processor that parks, and a server for its studio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from support.bank import Account
from support.ledger import InSQLite

from eventsrc import Repository, SQLiteStore, StreamsParked, trace
from eventsrc.inspection import App
from eventsrc.processing import Processor, SQLiteCheckpoints


@asynccontextmanager
async def open_program(folder: Path) -> AsyncGenerator[App]:
    """Yield a program in which ann has opened an account, and paid in 66, which its processor cannot handle."""
    async with SQLiteStore(folder / "bank.db") as store, SQLiteCheckpoints(folder / "model.db") as checkpoints:
        processor = Processor(InSQLite(), store, checkpoints, attempts=1)
        processor.projection.poison = {66}
        with trace(correlation_id="request-9", metadata={"actor": "ann"}):
            account = Account.open("a-1", owner="ann")
            await Repository(Account, store).save(account)
        with trace(correlation_id="request-9", causation_id="account-a-1@1.0"):
            await Repository(Account, store).execute("a-1", Account.deposit, 66)
        with suppress(StreamsParked):
            await processor.run(until_caught_up=True)
        yield App({"bank": store}, aggregates=[Account], processors=[processor])


@asynccontextmanager
async def serve(app: Any) -> AsyncGenerator[str]:
    """Serve an ASGI app on a free port of this machine; yield its address."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="warning", lifespan="off", timeout_graceful_shutdown=1
    )
    listening, server = config.bind_socket(), uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started:  # noqa: ASYNC110  # it has no event for that
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listening.close()
