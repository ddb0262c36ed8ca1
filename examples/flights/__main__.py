"""Import a month of New York's departures into aggregates, load them again, and check them against the table."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.markup import escape

from eventsrc import DynamoDBStore, EventsrcError, Repository, SQLiteStore, Store, open_store
from eventsrc.local import DynamoDBLocalUnavailable, dynamodb_local

from . import report
from .aircraft import Aircraft
from .importer import import_fleet
from .survey import survey_fleet
from .table import Flight, Totals, by_aircraft, read_flights


async def show(
    store: Store, flights: Sequence[Flight], console: Console, *, where: str, workers: int = 32, tailnum: str = ""
) -> bool:
    """Import the flights, load all aircraft, and print the answers.

    Return whether the aggregates agree with the table and with a full replay of their streams.
    """
    # The default snapshot policy fits: up to about 14 legs of an aircraft are 4 KB, which is one read unit of DynamoDB
    # with or without a snapshot. Busier aircraft exceed that and get a snapshot.
    aircraft = Repository(Aircraft, store)
    fleet = by_aircraft(flights)
    started = time.perf_counter()
    with report.progress_bars(console) as progress:
        importing = progress.add_task("Importing flights", total=sum(map(len, fleet.values())))
        saved = await import_fleet(fleet, aircraft, workers=workers, progress=lambda n: progress.advance(importing, n))
        seconds = time.perf_counter() - started
        loading = progress.add_task("Loading aircraft", total=len(fleet))
        survey = await survey_fleet(
            fleet, store, aircraft, workers=workers, progress=lambda n: progress.advance(loading, n)
        )
    tailnum = tailnum or survey.busiest[0].id
    expected = Totals.of(flights)
    unassigned = sum(flight.tailnum is None for flight in flights)
    console.print(report.summary_table(where, survey, saved, seconds))
    console.print(report.busiest_table(survey))
    console.print(report.totals_table(survey, expected, unassigned))
    console.print(
        f"Departures before the last arrival of the same aircraft: {survey.contradictions}. They are in the table, so "
        "they count. Each has an event [cyan]aircraft.contradicted[/].\n"
    )
    console.print(await report.history_table(aircraft, tailnum))
    console.print(await report.versions_table(aircraft, tailnum))
    console.print(report.snapshots_table(survey))
    if survey.differing:
        console.print(f"[bold red]Load and full replay differ for:[/] {', '.join(survey.differing)}")
    if survey.totals != expected:
        console.print("[bold red]The totals differ.[/] Check whether the store holds other days than these.")
    return survey.totals == expected and not survey.differing


@asynccontextmanager
async def opened(name: str, path: Path | None) -> AsyncIterator[tuple[Store, str]]:
    """Open the store called `name`; yield it and a description of where it is.

    Without a path, the SQLite file is temporary: it is deleted on exit.
    """
    store: Store
    async with AsyncExitStack() as stack:
        if name == "sqlite":
            folder = stack.enter_context(TemporaryDirectory(prefix="eventsrc-"))
            store = SQLiteStore(path or Path(folder) / "flights.db")
            where = f"SQLite, {path or 'a temporary file'}"
        elif name == "dynamodb":
            local = await stack.enter_async_context(dynamodb_local())
            where = f"DynamoDB Local, {local.endpoint_url}"
            store = local.store("flights")
        else:
            try:
                store, where = open_store("memory://" if name == "memory" else name), name
            except ValueError as error:
                raise SystemExit(f"--store {error}") from None
        await stack.enter_async_context(store)
        if isinstance(store, DynamoDBStore):
            await store.create_table()
        yield store, where


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m examples.flights", description=__doc__)
    parser.add_argument("--store", default="sqlite", help="sqlite, dynamodb (DynamoDB Local), memory, or a store URL")
    parser.add_argument("--path", type=Path, help="keep the SQLite file here, to inspect it or to continue later")
    parser.add_argument(
        "--days", type=int, default=31, choices=range(1, 32), metavar="N", help="only the first days of the month"
    )
    parser.add_argument(
        "--workers", type=int, default=32, choices=range(1, 257), metavar="N", help="aircraft at a time (default: 32)"
    )
    parser.add_argument(
        "--aircraft", default="", metavar="TAILNUM", help="show the history of this aircraft (default: the busiest)"
    )
    options = parser.parse_args(arguments)
    if options.path and options.store != "sqlite":
        parser.error("--path works only with --store sqlite")
    console = Console()
    flights = read_flights(options.days)
    if options.aircraft and all(flight.tailnum != options.aircraft for flight in flights):
        parser.error(f"the table has no flights of {options.aircraft} on these days")
    if options.store == "dynamodb":
        console.print("On DynamoDB Local, the whole month takes about a minute.")

    async def run() -> bool:
        async with opened(options.store, options.path) as (store, where):
            return await show(store, flights, console, where=where, workers=options.workers, tailnum=options.aircraft)

    try:
        return 0 if asyncio.run(run()) else 1
    except KeyboardInterrupt:
        console.print("Interrupted. All saved flights are kept; on the same store, the import resumes after them.")
        return 130
    except (DynamoDBLocalUnavailable, EventsrcError) as error:
        console.print(f"[bold red]{type(error).__name__}:[/] {escape(str(error))}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
