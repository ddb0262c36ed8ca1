"""The domain: an aircraft and the legs that it flies out of New York."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from eventsrc import Aggregate, Event

LATE_MINUTES = 15
"""Minutes from which a departure counts as delayed, as defined by the US Department of Transportation."""


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
    """The departure is earlier than the last arrival: one of the two reports is about another aircraft."""

    arrived: datetime


class Departed(Event, tag="aircraft.departed"):
    at: datetime


class Diverted(Event, tag="aircraft.diverted"):
    """The aircraft did not fly the leg as planned. The table does not say where it landed instead."""


class Arrived(Event, tag="aircraft.arrived"):
    at: datetime
    air_minutes: int | None  # None after a diversion


class Impossible(Exception):
    """The command is not possible in the current phase of the aircraft."""


class Aircraft(Aggregate, tag="aircraft"):
    """An aircraft. Its id is the tail number, the registration painted on it.

    The table has no flights back to New York, so a leg may start at another airport than the one where the previous
    leg ended.
    """

    phase: Literal["parked", "scheduled", "airborne", "diverted"] = "parked"
    position: str | None = None  # airport; None while it is in the air, or if not reported
    leg: Leg | None = None  # the latest one; None before the first
    moved: datetime | None = None  # time of the last departure or arrival
    legs: int = 0
    departures: int = 0
    arrivals: int = 0
    diversions: int = 0
    cancellations: int = 0
    contradictions: int = 0
    delays: int = 0
    delay_minutes: int = 0
    air_minutes: int = 0
    miles: int = 0  # of legs that have arrived

    def schedule(self, leg: Leg) -> None:
        """Schedule the next leg. A diverted aircraft may have one: the end of a diversion is not always reported."""
        self._expect("be scheduled", "parked", "diverted")
        self.record(Scheduled(leg=leg))

    def cancel(self) -> None:
        self._expect("be cancelled", "scheduled")
        self.record(Cancelled())

    def depart(self, at: datetime) -> None:
        """Depart, early or late. A departure before the last arrival is recorded, not refused: the table has both."""
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
        """Arrive at the leg's destination, also after a diversion."""
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
