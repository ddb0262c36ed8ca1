"""The flights example on real stores: its totals are the table's, and importing again changes nothing."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from rich.console import Console
from support.tables import session

from eventsrc import DynamoDBStore, Repository, SQLiteStore, Store
from examples.flights.__main__ import main, show
from examples.flights.aircraft import Aircraft
from examples.flights.importer import for_each, import_fleet
from examples.flights.survey import survey_fleet
from examples.flights.table import Flight, Totals, by_aircraft, read_flights


@pytest.fixture(scope="module")
def flights() -> list[Flight]:
    """Those of the ten busiest aircraft, which get snapshots, and of some that fly once."""
    fleet = list(by_aircraft(read_flights()).values())
    return [flight for rows in fleet[:10] + fleet[-50:] for flight in rows]


@pytest.fixture(params=["sqlite", "dynamodb"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "sqlite":
        async with SQLiteStore(tmp_path / "flights.db") as sqlite:
            yield sqlite
        return
    endpoint = request.getfixturevalue("dynamodb_endpoint")
    async with DynamoDBStore(f"flights-{uuid4().hex}", endpoint_url=endpoint, session=session()) as dynamodb:
        await dynamodb.create_table()
        yield dynamodb


async def test_the_totals_are_those_of_the_table(store: Store, flights: list[Flight]) -> None:
    aircraft, fleet = Repository(Aircraft, store), by_aircraft(flights)
    assert await import_fleet(fleet, aircraft, workers=16) == len(flights)
    survey = await survey_fleet(fleet, store, aircraft, workers=16)
    assert survey.totals == Totals.of(flights)
    assert survey.replayed.commits == len(flights)
    assert {plane.id for plane in survey.busiest} == set(list(fleet)[:10])


async def test_importing_again_changes_nothing(store: Store, flights: list[Flight]) -> None:
    """Nor does an import that continues where another one was cut short."""
    aircraft, fleet = Repository(Aircraft, store), by_aircraft(flights)
    half = {tailnum: rows[: len(rows) // 2] for tailnum, rows in fleet.items()}
    first = await import_fleet(half, aircraft)
    assert first + await import_fleet(fleet, aircraft) == len(flights)
    survey = await survey_fleet(fleet, store, aircraft)
    assert await import_fleet(fleet, aircraft) == 0
    assert (await survey_fleet(fleet, store, aircraft)).totals == survey.totals == Totals.of(flights)


async def test_snapshots_save_reads_and_tell_nothing_else(store: Store, flights: list[Flight]) -> None:
    aircraft, fleet = Repository(Aircraft, store), by_aircraft(flights)
    await import_fleet(fleet, aircraft)
    survey = await survey_fleet(fleet, store, aircraft)
    assert survey.loaded_with_snapshot.loads == 10
    assert survey.loaded_with_snapshot.commits < survey.replayed_with_snapshot.commits / 2
    assert survey.differing == []


async def test_the_report_tells_when_a_flight_is_missing(flights: list[Flight], tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "flights.db") as sqlite:

        async def shown(table: list[Flight]) -> tuple[bool, str]:
            output = io.StringIO()
            agreed = await show(sqlite, table, Console(file=output, width=80), where="a test")
            return agreed, output.getvalue()

        agreed, output = await shown(flights)
        assert agreed
        assert "✗" not in output
        assert "…" not in output  # it fits a terminal of 80 columns
        agreed, output = await shown(flights[1:])
        assert not agreed
        assert "✗" in output


def test_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--days", "1", "--path", str(tmp_path / "flights.db")]
    assert main(arguments) == 0
    assert "Busiest aircraft" in capsys.readouterr().out
    assert main(["--days", "2", "--store", f"sqlite:///{tmp_path}/flights.db"]) == 0
    assert main(arguments) == 1  # the store holds more than a day


def test_the_demo_on_dynamodb(dynamodb_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by a URL; the table is made if it is not there."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    url = f"dynamodb://flights-{uuid4().hex}?region=us-east-1&endpoint={dynamodb_endpoint}"
    assert main(["--days", "1", "--store", url]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--store", "postgres://db"],
        ["--store", "memory", "--path", "x"],
        ["--days", "0"],
        ["--workers", "0"],
        ["--aircraft", "N0"],
    ],
)
def test_a_wrong_argument_ends_before_any_import(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code not in (None, 0)


async def test_concurrency_is_bounded_and_an_error_ends_it() -> None:
    running = most = 0

    async def work(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        if item == 50:
            raise LookupError(item)

    items = iter(range(100))
    with pytest.raises(LookupError):
        await for_each(items, work, workers=4)
    assert most == 4
    assert next(items) < 60
