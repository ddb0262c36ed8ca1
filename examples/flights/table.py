"""The table: every flight scheduled to leave New York's airports in January 2013."""

from __future__ import annotations

import csv
import lzma
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

import msgspec

from .aircraft import LATE_MINUTES, Leg

FLIGHTS = Path(__file__).parent / "data" / "january-2013.csv.xz"
AIRLINES = Path(__file__).parent / "data" / "airlines.csv"

# The table's times are local. No clocks change in January, so a fixed offset from UTC is enough (in hours).
_OFFSETS = {
    -4: "BQN PSE SJU STT",
    -5: "ALB ATL AVL BDL BOS BTV BUF BWI CAE CAK CHS CLE CLT CMH CRW CVG DAY DCA DTW EWR EYW FLL GRR GSO GSP IAD IND"
    " JAX JFK LGA MCO MHT MIA MYR ORF PBI PHL PIT PVD PWM RDU RIC ROC RSW SAV SDF SRQ SYR TPA TYS",
    -6: "AUS BHM BNA DFW DSM HOU IAH MCI MDW MEM MKE MSN MSP MSY OKC OMA ORD SAT STL TUL XNA",
    -7: "BZN DEN EGE HDN JAC MTJ PHX SLC",
    -8: "BUR LAS LAX LGB OAK PDX PSP SAN SEA SFO SJC SMF SNA",
    -10: "HNL",
}
ZONES = {airport: timezone(timedelta(hours=hours)) for hours, codes in _OFFSETS.items() for airport in codes.split()}
NEW_YORK = ZONES["JFK"]


class Flight(msgspec.Struct, frozen=True, kw_only=True):
    """One row. The fields have the names of the columns; a field is None where the table has no value.

    Times are local clock times as numbers: 517 is 5:17, 2400 is midnight. The properties `departs`, `departed`,
    `arrives` and `arrived` are datetimes in UTC.
    """

    day: int
    tailnum: str | None  # None: cancelled before an aircraft was assigned
    carrier: str
    flight: int
    origin: str
    dest: str
    distance: int  # miles
    sched_dep_time: int
    dep_time: int | None  # None: cancelled
    dep_delay: int | None  # minutes, below 0 if early
    sched_arr_time: int
    arr_time: int | None  # None with a dep_time: diverted, and no arrival reported
    arr_delay: int | None
    air_time: int | None  # minutes; None with a dep_time: diverted

    @property
    def departs(self) -> datetime:
        """Scheduled departure."""
        return _moment(datetime(2013, 1, self.day, tzinfo=ZONES[self.origin]), self.sched_dep_time)

    @property
    def departed(self) -> datetime | None:
        """Actual departure: the scheduled one plus the delay, because `dep_time` has no date."""
        return None if self.dep_delay is None else self.departs + timedelta(minutes=self.dep_delay)

    @property
    def arrives(self) -> datetime:
        """Scheduled arrival."""
        return _next(self.departs, self.dest, self.sched_arr_time)

    @property
    def arrived(self) -> datetime | None:
        """Actual arrival: the first `arr_time` on the destination's clocks after the departure."""
        if self.departed is None or self.arr_time is None:
            return None
        return _next(self.departed, self.dest, self.arr_time)

    @property
    def left(self) -> datetime:
        """Actual departure, or the scheduled one if cancelled. The legs of an aircraft are imported in this order."""
        return self.departed or self.departs

    @property
    def leg(self) -> Leg:
        return Leg(
            carrier=self.carrier,
            flight=self.flight,
            origin=self.origin,
            destination=self.dest,
            miles=self.distance,
            departs=self.departs,
            arrives=self.arrives,
        )


class Totals(NamedTuple):
    """The numbers on which the aggregates and the table must agree."""

    aircraft: int = 0
    legs: int = 0
    departures: int = 0
    arrivals: int = 0
    diversions: int = 0
    cancellations: int = 0
    delays: int = 0
    delay_minutes: int = 0
    air_minutes: int = 0
    miles: int = 0

    def __add__(self, other: object) -> Totals:
        """Add column by column (a tuple would append)."""
        if not isinstance(other, Totals):
            return NotImplemented
        return Totals(*map(sum, zip(self, other, strict=True)))

    @classmethod
    def of(cls, flights: Iterable[Flight]) -> Totals:
        """Add up the columns, without any code of the aggregates. Flights without an aircraft are left out."""
        rows = [row for row in flights if row.tailnum]
        delays = [row.dep_delay for row in rows if row.dep_delay is not None and row.dep_delay >= LATE_MINUTES]
        return cls(
            aircraft=len({row.tailnum for row in rows}),
            legs=len(rows),
            departures=sum(row.dep_time is not None for row in rows),
            arrivals=sum(row.arr_time is not None for row in rows),
            diversions=sum(row.dep_time is not None and row.air_time is None for row in rows),
            cancellations=sum(row.dep_time is None for row in rows),
            delays=len(delays),
            delay_minutes=sum(delays),
            air_minutes=sum(row.air_time or 0 for row in rows),
            miles=sum(row.distance for row in rows if row.arr_time is not None),
        )


class Delays(NamedTuple):
    """Departures of an airport, and their delays."""

    departures: int = 0
    delays: int = 0
    delay_minutes: int = 0
    cancellations: int = 0

    def __add__(self, other: object) -> Delays:
        """Add column by column, as `Totals` does."""
        if not isinstance(other, Delays):
            return NotImplemented
        return Delays(*map(sum, zip(self, other, strict=True)))

    @classmethod
    def by_airport(cls, flights: Iterable[Flight]) -> dict[str, Delays]:
        """Add up the columns, without any code of the projections. Flights without an aircraft are left out."""
        rows = [row for row in flights if row.tailnum]
        late = [row for row in rows if row.dep_delay is not None and row.dep_delay >= LATE_MINUTES]
        return {
            airport: cls(
                departures=sum(row.origin == airport and row.dep_time is not None for row in rows),
                delays=sum(row.origin == airport for row in late),
                delay_minutes=sum(row.dep_delay or 0 for row in late if row.origin == airport),
                cancellations=sum(row.origin == airport and row.dep_time is None for row in rows),
            )
            for airport in sorted({row.origin for row in rows})
        }


def read_flights(days: int = 31) -> list[Flight]:
    """Return the flights of the first `days` days of the month in New York, by `Flight.left`; all by default.

    The flights of an aircraft in fewer days are the first of its flights in more days, so an import can be continued
    with more days.
    """
    with lzma.open(FLIGHTS, "rt", encoding="utf-8", newline="") as file:
        rows = [{column: value or None for column, value in row.items()} for row in csv.DictReader(file)]
    flights = msgspec.convert(rows, list[Flight], strict=False)
    if days >= 31:
        return flights
    end = datetime(2013, 1, 1, tzinfo=NEW_YORK) + timedelta(days=days)
    return [flight for flight in flights if flight.left < end]


def by_aircraft(flights: Iterable[Flight]) -> dict[str, list[Flight]]:
    """Return the flights of each tail number, ordered by `Flight.left`; the busiest aircraft comes first."""
    fleet: dict[str, list[Flight]] = {}
    for flight in sorted((flight for flight in flights if flight.tailnum), key=lambda flight: flight.left):
        assert flight.tailnum is not None
        fleet.setdefault(flight.tailnum, []).append(flight)
    return dict(sorted(fleet.items(), key=lambda item: -len(item[1])))


def read_airlines() -> dict[str, str]:
    """Return the names of the airlines by their codes."""
    with AIRLINES.open(encoding="utf-8", newline="") as file:
        return {row["carrier"]: row["name"] for row in csv.DictReader(file)}


def _moment(midnight: datetime, clock: int) -> datetime:
    return (midnight + timedelta(hours=clock // 100, minutes=clock % 100)).astimezone(UTC)


def _next(after: datetime, airport: str, clock: int) -> datetime:
    """Return the first moment later than `after` at which the clocks of an airport show this time."""
    midnight = after.astimezone(ZONES[airport]).replace(hour=0, minute=0)
    moment = _moment(midnight, clock)
    return moment if moment > after else moment + timedelta(days=1)
