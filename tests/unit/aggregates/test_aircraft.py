"""The flights example without a store: the rules of aircraft, odd rows, and the whole month against its table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventsrc.testing import given
from examples.flights.aircraft import (
    Aircraft,
    Arrived,
    Cancelled,
    Contradicted,
    Delayed,
    Departed,
    Diverted,
    Impossible,
    Leg,
    Scheduled,
)
from examples.flights.importer import report
from examples.flights.survey import Survey
from examples.flights.table import ZONES, Flight, Totals, by_aircraft, read_flights

NOON = datetime(2013, 1, 1, 17, tzinfo=UTC)  # in New York
LEG = Leg(
    carrier="UA",
    flight=1545,
    origin="EWR",
    destination="IAH",
    miles=1400,
    departs=NOON,
    arrives=NOON + timedelta(hours=4),
)
SCHEDULED = Scheduled(leg=LEG)
DEPARTED = Departed(at=NOON)
ARRIVED = Arrived(at=NOON + timedelta(hours=4), air_minutes=210)


def minutes(count: int) -> timedelta:
    return timedelta(minutes=count)


def flight(**columns: Any) -> Flight:
    """Return a flight to Houston (one hour earlier than New York), scheduled and flown 12:00 to 15:00 by default."""
    row: dict[str, Any] = {
        "day": 1,
        "tailnum": "N1",
        "carrier": "UA",
        "flight": 1545,
        "origin": "EWR",
        "dest": "IAH",
        "distance": 1400,
        "sched_dep_time": 1200,
        "dep_time": 1200,
        "dep_delay": 0,
        "sched_arr_time": 1500,
        "arr_time": 1500,
        "arr_delay": 0,
        "air_time": 210,
    }
    return Flight(**(row | columns))


CANCELLED = {"dep_time": None, "dep_delay": None, "arr_time": None, "arr_delay": None, "air_time": None}


def test_a_scheduled_aircraft_stands_where_its_leg_starts() -> None:
    given(Aircraft).when(Aircraft.schedule, LEG).then(SCHEDULED).then_state(
        phase="scheduled", position="EWR", leg=LEG, legs=1
    )


@pytest.mark.parametrize("past", [(SCHEDULED,), (SCHEDULED, DEPARTED)])
def test_one_leg_at_a_time(past: tuple[Any, ...]) -> None:
    given(Aircraft, *past).when(Aircraft.schedule, LEG).then_raises(Impossible)


def test_an_aircraft_in_the_air_has_no_place() -> None:
    given(Aircraft, SCHEDULED).when(Aircraft.depart, NOON).then(DEPARTED).then_state(
        phase="airborne", position=None, departures=1, delays=0
    )


@pytest.mark.parametrize("early_or_late", [-30, 0, 14])
def test_less_than_15_minutes_do_not_count_as_a_delay(early_or_late: int) -> None:
    at = NOON + minutes(early_or_late)
    given(Aircraft, SCHEDULED).when(Aircraft.depart, at).then(Departed(at=at))


def test_15_minutes_count_as_a_delay() -> None:
    at = NOON + minutes(15)
    given(Aircraft, SCHEDULED).when(Aircraft.depart, at).then(Delayed(minutes=15), Departed(at=at)).then_state(
        delays=1, delay_minutes=15
    )


@pytest.mark.parametrize("past", [(), (SCHEDULED, DEPARTED), (SCHEDULED, DEPARTED, ARRIVED), (SCHEDULED, Cancelled())])
def test_only_a_scheduled_aircraft_departs_or_is_cancelled(past: tuple[Any, ...]) -> None:
    given(Aircraft, *past).when(Aircraft.depart, NOON).then_raises(Impossible)
    given(Aircraft, *past).when(Aircraft.cancel).then_raises(Impossible)


def test_a_departure_before_the_last_arrival_counts_and_is_noted() -> None:
    given(Aircraft, SCHEDULED, DEPARTED, ARRIVED, SCHEDULED).when(Aircraft.depart, NOON).then(
        Contradicted(arrived=ARRIVED.at), DEPARTED
    ).then_state(contradictions=1, departures=2)


def test_an_arrival_adds_hours_and_miles() -> None:
    given(Aircraft, SCHEDULED, DEPARTED).when(Aircraft.arrive, ARRIVED.at, 210).then(ARRIVED).then_state(
        phase="parked", position="IAH", arrivals=1, air_minutes=210, miles=1400
    )


@pytest.mark.parametrize("past", [(), (SCHEDULED,), (SCHEDULED, Cancelled()), (SCHEDULED, DEPARTED, ARRIVED)])
def test_an_aircraft_that_has_not_departed_cannot_arrive(past: tuple[Any, ...]) -> None:
    given(Aircraft, *past).when(Aircraft.arrive, ARRIVED.at, 210).then_raises(Impossible, "cannot arrive")
    given(Aircraft, *past).when(Aircraft.divert).then_raises(Impossible, "cannot be diverted")


def test_an_arrival_must_be_after_the_departure() -> None:
    given(Aircraft, SCHEDULED, DEPARTED).when(Aircraft.arrive, NOON, 0).then_raises(Impossible)


def test_a_cancelled_aircraft_stays_where_it_is() -> None:
    given(Aircraft, SCHEDULED).when(Aircraft.cancel).then(Cancelled()).then_state(
        phase="parked", position="EWR", cancellations=1, miles=0
    )


def test_a_diverted_aircraft_has_no_place() -> None:
    given(Aircraft, SCHEDULED, DEPARTED).when(Aircraft.divert).then(Diverted()).then_state(
        phase="diverted", position=None, diversions=1, miles=0
    )


def test_a_diverted_aircraft_may_arrive_later_or_get_a_new_leg() -> None:
    past = given(Aircraft, SCHEDULED, DEPARTED, Diverted())
    past.when(Aircraft.schedule, LEG).then(SCHEDULED).then_state(position="EWR")
    given(Aircraft, SCHEDULED, DEPARTED, Diverted()).when(Aircraft.arrive, ARRIVED.at).then(
        Arrived(at=ARRIVED.at, air_minutes=None)
    ).then_state(position="IAH", miles=1400, air_minutes=0)


def test_a_row_becomes_events() -> None:
    row = flight(dep_time=1230, dep_delay=30)
    given(Aircraft).when(report, row).then(
        Scheduled(leg=row.leg),
        Delayed(minutes=30),
        Departed(at=NOON + minutes(30)),
        ARRIVED,
    )
    assert row.leg == LEG


@pytest.mark.parametrize(
    ("columns", "events"),
    [
        (CANCELLED, [Cancelled()]),
        ({"arr_delay": None, "air_time": None}, [DEPARTED, Diverted(), Arrived(at=ARRIVED.at, air_minutes=None)]),
        ({"arr_time": None, "arr_delay": None, "air_time": None}, [DEPARTED, Diverted()]),
    ],
    ids=["cancelled", "diverted, came later", "diverted, never came"],
)
def test_odd_rows_become_the_expected_events(columns: dict[str, Any], events: list[Any]) -> None:
    given(Aircraft).when(report, flight(**columns)).then(SCHEDULED, *events)


def test_a_flight_past_midnight_arrives_on_the_next_day() -> None:
    to_phoenix = flight(dest="PHX", sched_dep_time=2350, dep_delay=30, sched_arr_time=2400, arr_time=5)
    assert to_phoenix.departs == datetime(2013, 1, 2, 4, 50, tzinfo=UTC)
    assert to_phoenix.departed == datetime(2013, 1, 2, 5, 20, tzinfo=UTC)
    assert to_phoenix.arrives == datetime(2013, 1, 2, 7, 0, tzinfo=UTC)
    assert to_phoenix.arrived == datetime(2013, 1, 2, 7, 5, tzinfo=UTC)


def test_flights_without_an_aircraft_are_left_out_of_streams_and_totals() -> None:
    rows = [flight(), flight(tailnum=None, **CANCELLED)]
    assert by_aircraft(rows) == {"N1": rows[:1]}
    assert Totals.of(rows).legs == 1


@pytest.fixture(scope="module")
def month() -> list[Flight]:
    return read_flights()


def test_computed_times_agree_with_the_delay_columns(month: list[Flight]) -> None:
    for row in month:
        if row.departed is None:
            continue
        clock = row.departed.astimezone(ZONES[row.origin])
        assert (clock.hour * 100 + clock.minute) % 2400 == (row.dep_time or 0) % 2400, row
        if row.arrived is not None and row.arr_delay is not None and row.air_time is not None:
            assert row.arrived == row.arrives + minutes(row.arr_delay), row
            on_the_ground = row.arrived - row.departed - minutes(row.air_time)
            assert minutes(0) < on_the_ground < timedelta(hours=4), row


def test_the_whole_month_folds_to_the_totals_of_its_table(month: list[Flight]) -> None:
    survey = Survey()
    for tailnum, rows in by_aircraft(month).items():
        plane = Aircraft(id=tailnum)
        for row in rows:
            report(plane, row)
        survey.add(plane)
    assert survey.totals == Totals.of(month)
    assert survey.totals.legs + sum(row.tailnum is None for row in month) == len(month) == 27_004
    assert survey.contradictions == 9


def test_fewer_days_give_the_beginning_of_every_stream(month: list[Flight]) -> None:
    whole = by_aircraft(month)
    days = by_aircraft(read_flights(days=3))
    assert 0 < sum(map(len, days.values())) < 3 * 1000
    assert all(whole[tailnum][: len(rows)] == rows for tailnum, rows in days.items())
