"""The status of a processor, for people, and a health check."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from .checkpoints.checkpoints import current_slots
from .processor import Processor

MANY_ASIDE = 100  # streams that are retried; a processor with more of them is not healthy


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The status of a processor. Counts from the checkpoints, and the lag, are of all its workers in all processes.

    `state` is what this process does, one of:

    - `stopped`: it does not run here.
    - `failed`: it has stopped because of an error, which `run` raises.
    - `paused`: see `Processor.pause`.
    - `waiting for the store`: the store or the checkpoints cannot be reached, or a rebuild is switching versions.
    - `waiting for slots`: other workers have all of them.
    - `backing off`: everything fails, so nothing is read until a handler succeeds.
    - `catching up`: commits that were stored more than ten seconds ago are not handled yet.
    - `live`: it lags by less than that.
    """

    name: str
    guarantee: str
    state: str
    active: bool  # whether readers use this version
    paused: bool
    handled: int  # commits, by this process
    lag_seconds: float | None  # age of the oldest commit that may not be handled; None while a store is scanned
    lag_commits: int | None  # stored after its checkpoint; None if only a scan could count them
    waiting: str  # the error, while a store cannot be reached; "" if it can
    in_flight: int  # commits that handlers are working on, in this process
    aside: int  # streams that are retried, or catch up, by tasks of their own, and those stored as such
    parked: int  # parked streams
    skipped: int  # commits skipped with a reason
    slots: dict[int, str]  # number to owner, of all workers

    @property
    def problems(self) -> Sequence[str]:
        """What an operator should look at."""
        found = ["it has failed"] if self.state == "failed" else []
        if self.waiting:
            found.append(f"it waits for the store: {self.waiting}")
        if self.state == "backing off" or self.aside > MANY_ASIDE:
            found.append(f"{self.aside} streams are retried")
        if self.parked:
            found.append(f"{self.parked} streams are parked")
        return found


async def status(processor: Processor[Any]) -> Status:
    """Read the status of a processor from its checkpoints and its feed, in any process, also one that runs nothing.

    Raises:
        StoreError: the checkpoints or the feed cannot be read.
    """
    checkpoints, name, pipeline = processor.checkpoints, processor.name, processor.pipeline
    registration = await checkpoints.registry.registration(name)
    slots = current_slots(await checkpoints.slots(name))
    feed = pipeline.assignment.feed
    after = feed.earliest(slot.checkpoint for slot in slots)
    found = await checkpoints.parked(name)
    retrying = {each.stream for each in found if each.state == "retrying"} | pipeline.catch_up.entries.keys()
    lag: float | None = pipeline.progress.lag if pipeline.running else await feed.behind(after)
    return Status(
        name=name,
        guarantee=processor.projection.guarantee.value,
        state=processor.state,
        active=await checkpoints.active(processor.projection.tag) == processor.projection.version,
        paused=registration is not None and registration.paused,
        handled=pipeline.progress.commits,
        lag_seconds=None if lag is None or math.isinf(lag) else lag,
        lag_commits=await feed.remaining(pipeline.assignment.checkpoint or after),
        waiting=pipeline.progress.waiting,
        in_flight=pipeline.progress.in_flight,
        aside=len(retrying),
        parked=sum(each.state == "parked" for each in found),
        skipped=len(await checkpoints.skipped(name)),
        slots={slot.number: slot.owner for slot in slots},
    )


def health(*processors: Processor[Any], max_lag: float = 60.0) -> dict[str, str]:
    """Return what is wrong with processors that should run in this process, by name; empty if all is well.

    It sends no request to a store, so a load balancer may call it often. `max_lag` is in seconds. The first build of a
    read model may lag by years: give `math.inf` where the result decides whether the process is killed.
    """
    found: dict[str, str] = {}
    for processor in processors:
        if problem := _find_problem(processor, max_lag):
            found[processor.name] = problem
    return found


def _find_problem(processor: Processor[Any], max_lag: float) -> str:
    pipeline, state, lag = processor.pipeline, processor.state, processor.lag
    aside = len(pipeline.catch_up.entries)
    if pipeline.retries.failure is not None:
        return f"it has failed: {type(pipeline.retries.failure).__name__}"
    if state == "stopped":
        return "it has stopped"
    if state == "paused":
        return ""
    if pipeline.progress.waiting and lag > max_lag:
        return f"it waits for the store since {lag:.0f} seconds: {pipeline.progress.waiting}"
    if state == "backing off" or aside > MANY_ASIDE:
        return f"{aside} streams fail and are retried: {pipeline.retries.last_error}"
    if state != "waiting for slots" and lag > max_lag:
        return "it scans the store" if math.isinf(lag) else f"it lags by {lag:.0f} seconds"
    if pipeline.parking.parked:
        return f"{len(pipeline.parking.parked)} streams are parked"
    return ""
