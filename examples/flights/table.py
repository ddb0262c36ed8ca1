"""The table: every flight scheduled to leave New York's airports in January 2013, as its columns have it."""

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

# The table's times are local. No clock changes in January, so hours from UTC say all.
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
    """A row. The fields are the columns under their own names, None where the table has nothing.

    A time is a clock's reading, 517 for 5:17 and 2400 for midnight; `departs`, `departed`, `arrives` and `arrived`
    are the moments that are meant.
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
    arr_time: int | None  # None, though it departed: it was diverted, and never came
    arr_delay: int | None
    air_time: int | None  # minutes; None, though it departed: it was diverted

    @property
    def departs(self) -> datetime:
        """When it is scheduled to leave."""
        return _moment(datetime(2013, 1, self.day, tzinfo=ZONES[self.origin]), self.sched_dep_time)

    @property
    def departed(self) -> datetime | None:
        """When it left: counted from the schedule, for `dep_time` does not tell the day."""
        return None if self.dep_delay is None else self.departs + timedelta(minutes=self.dep_delay)

    @property
    def arrives(self) -> datetime:
        """When it is scheduled to arrive."""
        return _next(self.departs, self.dest, self.sched_arr_time)

    @property
    def arrived(self) -> datetime | None:
        """When it arrived: the first time after it left that the clocks there showed `arr_time`."""
        if self.departed is None or self.arr_time is None:
            return None
        return _next(self.departed, self.dest, self.arr_time)

    @property
    def left(self) -> datetime:
        """When it left or, cancelled, should have: the order in which an aircraft's legs are told."""
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
    """What the aggregates and the table must agree on."""

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
        """Column by column, where a tuple would append."""
        if not isinstance(other, Totals):
            return NotImplemented
        return Totals(*map(sum, zip(self, other, strict=True)))

    @classmethod
    def of(cls, flights: Iterable[Flight]) -> Totals:
        """Straight from the columns, by no code that the aggregates share. Flights without an aircraft are left out."""
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
    """What leaves an airport, and how late."""

    departures: int = 0
    delays: int = 0
    delay_minutes: int = 0
    cancellations: int = 0

    def __add__(self, other: object) -> Delays:
        """Column by column, as above."""
        if not isinstance(other, Delays):
            return NotImplemented
        return Delays(*map(sum, zip(self, other, strict=True)))

    @classmethod
    def by_airport(cls, flights: Iterable[Flight]) -> dict[str, Delays]:
        """Straight from the columns, by no code that projections share. Flights without an aircraft are left out."""
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
    """The flights that left, or should have, in the first days of the month, New York's; all by default.

    What fewer days give of an aircraft is the beginning of what more days give: an import can go on from there.
    """
    with lzma.open(FLIGHTS, "rt", encoding="utf-8", newline="") as file:
        rows = [{column: value or None for column, value in row.items()} for row in csv.DictReader(file)]
    flights = msgspec.convert(rows, list[Flight], strict=False)
    if days >= 31:
        return flights
    end = datetime(2013, 1, 1, tzinfo=NEW_YORK) + timedelta(days=days)
    return [flight for flight in flights if flight.left < end]


def by_aircraft(flights: Iterable[Flight]) -> dict[str, list[Flight]]:
    """The flights of each tail number in the order they left, busiest aircraft first."""
    fleet: dict[str, list[Flight]] = {}
    for flight in sorted((flight for flight in flights if flight.tailnum), key=lambda flight: flight.left):
        assert flight.tailnum is not None
        fleet.setdefault(flight.tailnum, []).append(flight)
    return dict(sorted(fleet.items(), key=lambda item: -len(item[1])))


def read_airlines() -> dict[str, str]:
    """The airlines' names by their codes."""
    with AIRLINES.open(encoding="utf-8", newline="") as file:
        return {row["carrier"]: row["name"] for row in csv.DictReader(file)}


def _moment(midnight: datetime, clock: int) -> datetime:
    return (midnight + timedelta(hours=clock // 100, minutes=clock % 100)).astimezone(UTC)


def _next(after: datetime, airport: str, clock: int) -> datetime:
    """The first time after `after` that the clocks at an airport show this."""
    midnight = after.astimezone(ZONES[airport]).replace(hour=0, minute=0)
    moment = _moment(midnight, clock)
    return moment if moment > after else moment + timedelta(days=1)
