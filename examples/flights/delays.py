"""Delays at each airport: one read model, stored in SQLite tables or in DynamoDB items.

    python -m examples.flights.delays --store sqlite|dynamodb

imports the flights, runs a processor at the same time, and checks the read model against the table.

Only `Scheduled` has the airport where a leg starts; the events that are counted follow it. So the handlers take
sequences of events. Each flight is one commit, and a sequence never splits a commit.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from zlib import crc32

from rich.console import Console
from rich.markup import escape

from eventsrc import EventsrcError, Repository, SQLiteStore
from eventsrc.local import DynamoDBLocalUnavailable, dynamodb_local
from eventsrc.processing import (
    Database,
    DynamoDBCheckpoints,
    DynamoDBContext,
    DynamoDBProjection,
    Processor,
    Runner,
    SQLiteCheckpoints,
    SQLiteContext,
    SQLiteProjection,
    status,
)

from . import report
from .aircraft import Aircraft, Cancelled, Delayed, Departed, Scheduled
from .importer import import_fleet
from .table import Delays, Flight, by_aircraft, read_flights

Counted = Scheduled | Cancelled | Delayed | Departed

SHARES = 8  # DynamoDB items over which the numbers of one airport are spread


class DelaysInSQLite(SQLiteProjection, tag="airport-delays"):
    """One row for each airport, and one for each aircraft with the airport where its leg starts.

    The row of the aircraft makes this work even if the events of a leg are spread over several commits.
    """

    @property
    def legs(self) -> str:
        """Name of the table with one row for each aircraft."""
        return f"{self.table}_legs"

    def create(self, db: Database) -> None:
        numbers = ", ".join(f"{name} INTEGER NOT NULL" for name in Delays._fields)
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} (airport TEXT PRIMARY KEY, {numbers}) STRICT")
        db.execute(f"CREATE TABLE IF NOT EXISTS {self.legs} (aircraft TEXT PRIMARY KEY, origin TEXT NOT NULL) STRICT")

    def handle_flights(self, events: Sequence[Counted], context: SQLiteContext) -> None:
        db, origin = context.db, None
        if not isinstance(events[0], Scheduled):
            find = f"SELECT origin FROM {self.legs} WHERE aircraft = ?"
            origin = next((origin for (origin,) in db.execute(find, (context.stream,))), None)
        sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in Delays._fields)
        add = f"INSERT INTO {self.table} VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET {sums}"
        db.executemany(add, [(airport, *delays) for airport, delays in by_airport(events, origin).items()])
        if scheduled := [event.leg.origin for event in events if isinstance(event, Scheduled)]:
            note = f"INSERT INTO {self.legs} VALUES (?, ?) ON CONFLICT DO UPDATE SET origin = excluded.origin"
            db.execute(note, (context.stream, scheduled[-1]))

    async def read(self, checkpoints: SQLiteCheckpoints) -> dict[str, Delays]:
        select = f"SELECT airport, {', '.join(Delays._fields)} FROM {self.table} ORDER BY airport"
        rows = await checkpoints.read(lambda db: db.execute(select).fetchall())
        return {airport: Delays(*numbers) for airport, *numbers in rows}


class DelaysInDynamoDB(DynamoDBProjection, tag="airport-delays"):
    """Items in the table that also has the checkpoints.

    Transactions that write the same item collide, and all aircraft depart from three airports. So the numbers of an
    airport are spread over several items, and `read` adds them up.

    Storing the leg of each aircraft would add one write to each transaction. It is left out, as each flight is one
    commit. If a flight had several commits, the handler would fail and the aircraft would be parked, not counted wrong.
    """

    concurrency = 16

    def __init__(self, model: str) -> None:
        self.model = model

    def handle_flights(self, events: Sequence[Counted], context: DynamoDBContext) -> None:
        share = crc32(context.stream.encode()) % SHARES
        for airport, delays in by_airport(events).items():
            context.add(self.model, {"PK": self.name, "SK": f"{airport} {share}"}, **delays._asdict())

    async def read(self, client: Any) -> dict[str, Delays]:
        """Return the delays of each airport. `client` is the SDK's client for DynamoDB."""
        asked = {"KeyConditionExpression": "PK = :name", "ExpressionAttributeValues": {":name": {"S": self.name}}}
        found: dict[str, Delays] = {}
        for item in (await client.query(TableName=self.model, ConsistentRead=True, **asked))["Items"]:
            airport = item["SK"]["S"].partition(" ")[0]
            found[airport] = found.get(airport, Delays()) + Delays(*(int(item[each]["N"]) for each in Delays._fields))
        return found


def by_airport(events: Sequence[Counted], origin: str | None = None) -> dict[str, Delays]:
    """Return what these events of one aircraft add to each airport.

    `origin` is the airport of the leg that was scheduled before the first of these events.

    Raises:
        LookupError: the origin is needed and not known.
    """
    found: dict[str, Delays] = {}
    for event in events:
        match event:
            case Scheduled(leg=leg):
                origin = leg.origin
                continue
            case Cancelled():
                more = Delays(cancellations=1)
            case Delayed(minutes=minutes):
                more = Delays(delays=1, delay_minutes=minutes)
            case Departed():
                more = Delays(departures=1)
        if origin is None:
            raise LookupError("the leg was scheduled in an earlier commit, which this read model does not store")
        found[origin] = found.get(origin, Delays()) + more
    return found


class Opened(NamedTuple):
    """A processor of the flights in a store, and a function that reads its read model."""

    processor: Processor[Any]
    read: Callable[[], Awaitable[dict[str, Delays]]]


@asynccontextmanager
async def in_sqlite(path: Path | None) -> AsyncIterator[Opened]:
    """Open the store and the read model in two SQLite files next to each other; without a path both are temporary."""
    async with AsyncExitStack() as stack:
        path = path or Path(stack.enter_context(TemporaryDirectory(prefix="eventsrc-"))) / "flights.db"
        store = await stack.enter_async_context(SQLiteStore(path))
        checkpoints = await stack.enter_async_context(SQLiteCheckpoints(path.with_suffix(".delays.db")))
        projection = DelaysInSQLite()
        yield Opened(Processor(projection, store, checkpoints), lambda: projection.read(checkpoints))


@asynccontextmanager
async def in_dynamodb(path: Path | None) -> AsyncIterator[Opened]:
    """Start DynamoDB Local and open both there. `path` is a folder for its data; without it all data is temporary."""
    from aiobotocore.session import get_session  # here, because it is not installed for SQLite alone

    async with AsyncExitStack() as stack:
        local = await stack.enter_async_context(dynamodb_local(path=path))
        store = await stack.enter_async_context(local.store("flights"))
        await store.create_table(stream=True)
        client = await stack.enter_async_context(get_session().create_client("dynamodb", **local.client_kwargs))
        checkpoints = await stack.enter_async_context(DynamoDBCheckpoints("flights-delays", client=client))
        await checkpoints.create_table()
        projection = DelaysInDynamoDB("flights-delays")
        yield Opened(Processor(projection, store, checkpoints), lambda: projection.read(client))


async def show(opened: Opened, flights: Sequence[Flight], console: Console) -> bool:
    """Import and project at the same time, then print. Return whether the read model agrees with the table."""
    processor = opened.processor
    fleet = by_aircraft(flights)
    total = sum(map(len, fleet.values()))
    pages = processor.checkpoints.all_positions(processor.name)
    before = sum([position.version async for page in pages for position in page])  # each flight is one version
    runner = Runner(processor)
    with report.progress_bars(console) as progress:
        importing = progress.add_task("Importing flights", total=total)
        projecting = progress.add_task("Adding up delays", total=total)

        async def follow() -> None:
            current = await status(processor)
            while before + current.handled < total and not current.parked:
                progress.update(projecting, completed=before + current.handled)
                await asyncio.sleep(0.2)
                current = await status(processor)
            progress.update(projecting, completed=min(before + current.handled, total))
            runner.stop()

        aircraft = Repository(Aircraft, processor.store)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(runner.run())
                group.create_task(follow())
                await import_fleet(fleet, aircraft, workers=16, progress=lambda n: progress.advance(importing, n))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
    delays, expected = await opened.read(), Delays.by_airport(flights)
    console.print(report.delays_table(delays, expected))
    if delays == expected:
        console.print(f"The read model agrees with the table: {total:,} flights, handled by {processor.name}.")
    else:
        console.print(
            "[bold red]The read model differs from the table (in brackets).[/] Does the store have other days?"
        )
        for parked in await processor.parked():
            console.print(f"parked: {parked.stream} at version {parked.version}, {escape(parked.error)}")
    return delays == expected


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m examples.flights.delays", description=__doc__)
    parser.add_argument("--store", default="sqlite", choices=["sqlite", "dynamodb"], help="default: sqlite")
    parser.add_argument(
        "--path", type=Path, help="keep the data here, to continue later: a file, or for dynamodb a folder"
    )
    parser.add_argument(
        "--days", type=int, default=31, choices=range(1, 32), metavar="N", help="only the first days of the month"
    )
    options = parser.parse_args(arguments)
    console = Console()
    opening = in_sqlite if options.store == "sqlite" else in_dynamodb

    async def run() -> bool:
        async with opening(options.path) as opened:
            return await show(opened, read_flights(options.days), console)

    try:
        return 0 if asyncio.run(run()) else 1
    except KeyboardInterrupt:
        console.print("Interrupted. With the same --path, the next run resumes from here.")
        return 130
    except (DynamoDBLocalUnavailable, EventsrcError) as error:
        console.print(f"[bold red]{type(error).__name__}:[/] {escape(str(error))}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
