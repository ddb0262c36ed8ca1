"""The status of a processor, for people, and a health check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from .checkpoints.checkpoints import current_slots
from .processor import Processor


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The status of a processor, as this process sees it. Counts from the checkpoints are of all its workers."""

    name: str
    guarantee: str
    state: str  # stopped (here), failed, waiting (for slots), catching up, live
    active: bool  # whether readers use this version
    handled: int  # commits, by this process
    lag_seconds: float  # see `Processor.lag`
    lag_commits: int | None  # stored after its checkpoint; None if only a scan could count them
    in_flight: int  # commits that handlers are working on
    aside: int  # streams that are retried, or catch up in a task of their own
    parked: int  # parked streams
    skipped: int  # commits skipped with a reason
    slots: dict[int, str]  # number to owner, of all workers

    @property
    def problems(self) -> Sequence[str]:
        """What an operator should look at."""
        found = ["it has failed"] if self.state == "failed" else []
        if self.parked:
            found.append(f"{self.parked} streams are parked")
        return found


async def status(processor: Processor[Any]) -> Status:
    """Read the status of a processor from its checkpoints and its feed.

    Raises:
        StoreError: the checkpoints or the feed cannot be read.
    """
    checkpoints, name = processor.checkpoints, processor.name
    slots = current_slots(await checkpoints.slots(name))
    after = processor.checkpoint or processor.feed.earliest(slot.checkpoint for slot in slots)
    return Status(
        name=name,
        guarantee=processor.projection.guarantee.value,
        state=processor.state,
        active=await checkpoints.active(processor.projection.tag) == processor.projection.version,
        handled=processor.commits,
        lag_seconds=processor.lag,
        lag_commits=await processor.feed.remaining(after),
        in_flight=processor.in_flight,
        aside=len(processor.parking.catching_up),
        parked=len(await checkpoints.parked(name)),
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
        if processor.parking.failure is not None:
            found[processor.name] = f"it has failed: {type(processor.parking.failure).__name__}"
        elif processor.state == "stopped":
            found[processor.name] = "it has stopped"
        elif processor.lag > max_lag:
            found[processor.name] = f"it lags by {processor.lag:.0f} seconds"
        elif processor.parking.parked:
            found[processor.name] = f"{len(processor.parking.parked)} streams are parked"
    return found
