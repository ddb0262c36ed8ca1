"""Import the table into a store: one commit for each flight, several aircraft at a time, no flight twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from eventsrc import AggregateNotFound, Repository

from .aircraft import Aircraft
from .table import Flight

T = TypeVar("T")


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[None]], workers: int) -> None:
    """Await `work(item)` for each item, `workers` at a time. The first error cancels the rest and is raised."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:  # one iterator for all workers: the next free worker gets the next item
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(worker())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors


async def import_fleet(
    fleet: Mapping[str, Sequence[Flight]],
    aircraft: Repository[Aircraft],
    *,
    workers: int = 32,
    progress: Callable[[int], object] = lambda flights: None,
) -> int:
    """Save every flight that the store does not have yet, and return their number.

    An airline reports a flight when it is over, so each row becomes one commit: all its events or none. The n-th flight
    of an aircraft is its version n. So an interrupted import resumes at the version, and two imports at the same time
    end with a ConflictError, not with flights counted twice.
    """
    saved = 0

    async def import_one(tailnum: str) -> None:
        nonlocal saved
        try:
            plane = await aircraft.load(tailnum)
        except AggregateNotFound:
            plane = Aircraft(id=tailnum)
        progress(plane.version)
        for flight in fleet[tailnum][plane.version :]:
            report(plane, flight)
            await aircraft.save(plane)
            saved += 1
            progress(1)

    await for_each(fleet, import_one, workers)
    return saved


def report(plane: Aircraft, flight: Flight) -> None:
    """Call the commands that correspond to a row of the table."""
    plane.schedule(flight.leg)
    if flight.departed is None:
        plane.cancel()
        return
    plane.depart(flight.departed)
    if flight.air_time is None:
        plane.divert()
    if flight.arrived is not None:
        plane.arrive(flight.arrived, flight.air_time)
