"""The domain: an aircraft, told by the legs it flies out of New York."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from eventsrc import Aggregate, Event

LATE_MINUTES = 15
"""A departure this late is a delayed one; the US Department of Transportation counts so."""


class Leg(msgspec.Struct, frozen=True, kw_only=True):
    """One flight as scheduled."""

    carrier: str
    flight: int
    origin: str
    destination: str
    miles: int
    departs: datetime
    arrives: datetime


class Scheduled(Event, tag="aircraft.scheduled"):
    leg: Leg


class Cancelled(Event, tag="aircraft.cancelled"):
    pass


class Delayed(Event, tag="aircraft.delayed"):
    minutes: int


class Contradicted(Event, tag="aircraft.contradicted"):
    """It departs before its last arrival: some report of the two is about another aircraft."""

    arrived: datetime


class Departed(Event, tag="aircraft.departed"):
    at: datetime


class Diverted(Event, tag="aircraft.diverted"):
    """It does not fly the leg as planned. Where it landed instead is not reported."""


class Arrived(Event, tag="aircraft.arrived"):
    at: datetime
    air_minutes: int | None  # None after a diversion


class Impossible(Exception):
    """As the aircraft stands, it cannot do that."""


class Aircraft(Aggregate, tag="aircraft"):
    """Its id is its tail number, the registration painted on it.

    Flights back to New York are reported elsewhere, so a leg may start where the one before did not end.
    """

    phase: Literal["parked", "scheduled", "airborne", "diverted"] = "parked"
    position: str | None = None  # the airport; None while it is in the air, or nobody says
    leg: Leg | None = None  # the latest; none before the first
    moved: datetime | None = None  # its last departure or arrival
    legs: int = 0
    departures: int = 0
    arrivals: int = 0
    diversions: int = 0
    cancellations: int = 0
    contradictions: int = 0
    delays: int = 0
    delay_minutes: int = 0
    air_minutes: int = 0
    miles: int = 0  # of the legs it arrived on

    def schedule(self, leg: Leg) -> None:
        """The next leg. A diverted aircraft may have one: what became of a diversion is not always reported."""
        self._expect("be scheduled", "parked", "diverted")
        self.record(Scheduled(leg=leg))

    def cancel(self) -> None:
        self._expect("be cancelled", "scheduled")
        self.record(Cancelled())

    def depart(self, at: datetime) -> None:
        """Leave, early or late. A departure before the last arrival is noted, not refused: both are on record."""
        self._expect("depart", "scheduled")
        assert self.leg is not None
        if self.moved and at < self.moved:
            self.record(Contradicted(arrived=self.moved))
        if (minutes := (at - self.leg.departs) // timedelta(minutes=1)) >= LATE_MINUTES:
            self.record(Delayed(minutes=minutes))
        self.record(Departed(at=at))

    def divert(self) -> None:
        self._expect("be diverted", "airborne")
        self.record(Diverted())

    def arrive(self, at: datetime, air_minutes: int | None = None) -> None:
        """Reach the leg's destination, after a diversion too."""
        self._expect("arrive", "airborne", "diverted")
        assert self.moved is not None
        if at <= self.moved:
            raise Impossible(f"{self.id} departed at {self.moved}; it cannot arrive at {at}")
        self.record(Arrived(at=at, air_minutes=air_minutes))

    def apply_scheduled(self, event: Scheduled) -> None:
        self.phase, self.leg, self.position = "scheduled", event.leg, event.leg.origin
        self.legs += 1

    def apply_cancelled(self, event: Cancelled) -> None:
        self.phase = "parked"
        self.cancellations += 1

    def apply_delayed(self, event: Delayed) -> None:
        self.delays += 1
        self.delay_minutes += event.minutes

    def apply_contradicted(self, event: Contradicted) -> None:
        self.contradictions += 1

    def apply_departed(self, event: Departed) -> None:
        self.phase, self.position, self.moved = "airborne", None, event.at
        self.departures += 1

    def apply_diverted(self, event: Diverted) -> None:
        self.phase = "diverted"
        self.diversions += 1

    def apply_arrived(self, event: Arrived) -> None:
        assert self.leg is not None
        self.phase, self.position, self.moved = "parked", self.leg.destination, event.at
        self.arrivals += 1
        self.air_minutes += event.air_minutes or 0
        self.miles += self.leg.miles

    def _expect(self, what: str, *phases: str) -> None:
        if self.phase not in phases:
            raise Impossible(f"{self.id} is {self.phase}; it cannot {what}")
