"""The delays of the flights example: built while flights are imported, killed at random, and equal to the table's."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random

import pytest
from support.ledger import running, until
from support.tables import checkpoints_on, fresh_name, session, store_on

from eventsrc import MemoryStore, Repository, SQLiteStore
from eventsrc.processing import Processor, SQLiteCheckpoints
from examples.flights.aircraft import Aircraft
from examples.flights.delays import DelaysInDynamoDB, DelaysInSQLite, main
from examples.flights.importer import import_fleet
from examples.flights.table import Delays, Flight, by_aircraft, read_flights

KILLS = 4


PROJECTION = """
import asyncio, sys
from eventsrc import SQLiteStore
from eventsrc.processing import Processor, SQLiteCheckpoints
from examples.flights.delays import DelaysInSQLite

async def project(flights, delays):
    async with SQLiteStore(flights) as store, SQLiteCheckpoints(delays) as checkpoints:
        await Processor(DelaysInSQLite(), store, checkpoints).run()

asyncio.run(project(*sys.argv[1:]))
"""


@asynccontextmanager
async def projecting(folder: Path) -> AsyncIterator[None]:
    """A process that projects; it is killed when the block is left."""
    files = str(folder / "flights.db"), str(folder / "delays.db")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROJECTION, *files, cwd=Path(__file__).parents[2]
    )
    try:
        yield
    finally:
        process.kill()
        assert await process.wait() == -signal.SIGKILL


async def eventually(ask: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await ask():  # noqa: ASYNC110  # what is asked has no event
            await asyncio.sleep(0.02)


async def handled(checkpoints: SQLiteCheckpoints) -> int:
    pages = checkpoints.all_positions(DelaysInSQLite().name)
    return sum([position.version async for page in pages for position in page])


async def is_handled(checkpoints: SQLiteCheckpoints, enough: int) -> bool:
    return await handled(checkpoints) >= enough


async def test_a_projection_that_is_killed_while_flights_are_imported(tmp_path: Path) -> None:
    dice = Random(7)
    flights = read_flights(days=2)
    fleet = by_aircraft(flights)
    async with SQLiteStore(tmp_path / "flights.db") as store, SQLiteCheckpoints(tmp_path / "delays.db") as checkpoints:
        before = 0
        for part in range(1, KILLS + 1):  # of each aircraft's flights
            slice_ = {tailnum: rows[: len(rows) * part // KILLS] for tailnum, rows in fleet.items()}
            total = sum(map(len, slice_.values()))
            async with projecting(tmp_path), asyncio.TaskGroup() as group:
                group.create_task(import_fleet(slice_, Repository(Aircraft, store)))
                enough = dice.randint(before + 1, total)
                await eventually(partial(is_handled, checkpoints, enough))
            before = await handled(checkpoints)
        projection = DelaysInSQLite()
        await Processor(projection, store, checkpoints).run(until_caught_up=True)
        assert await handled(checkpoints) == len([flight for flight in flights if flight.tailnum])
        assert await projection.read(checkpoints) == Delays.by_airport(flights)


def few_flights() -> list[Flight]:
    """Those of the busiest aircraft and of some that fly once."""
    fleet = list(by_aircraft(read_flights()).values())
    return [flight for rows in fleet[:2] + fleet[-40:] for flight in rows]


async def test_in_dynamodb_over_a_restart(dynamodb_endpoint: str) -> None:
    flights = few_flights()
    model = fresh_name()
    async with (
        store_on(dynamodb_endpoint, fresh_name()) as store,
        checkpoints_on(dynamodb_endpoint, model) as checkpoints,
        session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client,
    ):
        await store.create_table(stream=True)
        await checkpoints.create_table()
        importing = asyncio.create_task(import_fleet(by_aircraft(flights), Repository(Aircraft, store)))
        first = asyncio.create_task(Processor(projection := DelaysInDynamoDB(model), store, checkpoints).run())

        async def is_under_way() -> bool:
            assert not first.done()
            return sum(each.departures for each in (await projection.read(client)).values()) >= 50

        await eventually(is_under_way)
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        second = Processor(projection, store, checkpoints)
        expected = Delays.by_airport(flights)

        async def agrees() -> bool:
            return await projection.read(client) == expected

        async with running(second):
            await importing
            await eventually(agrees)
        assert not await second.parked()


async def test_a_leg_may_be_spread_over_commits(tmp_path: Path) -> None:
    """Where the read model keeps the legs; where it does not, the aircraft is parked."""
    flights = [flight for flight in few_flights()[:6] if flight.departed]
    async with MemoryStore() as store, SQLiteCheckpoints(tmp_path / "delays.db") as checkpoints:
        aircraft, plane = Repository(Aircraft, store), Aircraft(id="N1")
        processor = Processor(projection := DelaysInSQLite(), store, checkpoints)
        async with running(processor):
            for flight in flights:
                plane.schedule(flight.leg)
                await processor.wait_for(await aircraft.save(plane))
                assert flight.departed is not None
                plane.depart(flight.departed)
                if flight.arrived:
                    plane.arrive(flight.arrived, flight.air_time)
                await processor.wait_for(await aircraft.save(plane))
        assert await projection.read(checkpoints) == Delays.by_airport(flights)


async def test_in_dynamodb_an_aircraft_is_parked_rather_than_counted_wrong(dynamodb_endpoint: str) -> None:
    flight = next(flight for flight in few_flights() if flight.departed)
    model = fresh_name()
    async with MemoryStore() as store, checkpoints_on(dynamodb_endpoint, model) as checkpoints:
        await checkpoints.create_table()
        aircraft, plane = Repository(Aircraft, store), Aircraft(id="N1")
        plane.schedule(flight.leg)
        await aircraft.save(plane)
        processor = Processor(DelaysInDynamoDB(model), store, checkpoints, attempts=1)
        async with running(processor):
            await asyncio.wait_for(processor.caught_up.wait(), 20)
            assert flight.departed is not None
            plane.depart(flight.departed)
            await aircraft.save(plane)
            await until(lambda: processor.pipeline.parking.parked)
        [parked] = await processor.parked()
        assert (parked.stream, parked.version) == ("aircraft-N1", 2)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--path", str(tmp_path / "flights.db")]
    assert main([*arguments, "--days", "1"]) == 0
    assert "agrees with the table" in capsys.readouterr().out
    assert main([*arguments, "--days", "2"]) == 0  # continues
    assert main([*arguments, "--days", "1"]) == 1  # the store has more
    assert "✗" in capsys.readouterr().out


def test_the_command_on_dynamodb(dynamodb_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTSRC_DYNAMODB_ENDPOINT", dynamodb_endpoint)
    monkeypatch.setattr("examples.flights.delays.read_flights", lambda days: read_flights(days)[:200])
    assert main(["--store", "dynamodb", "--days", "1"]) == 0
