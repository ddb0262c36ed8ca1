"""How a processor does: for people, and for a health check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from .checkpoints.checkpoints import current_slots
from .processor import Processor


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Of one processor, as this process sees it; what is kept in its checkpoints is of all its workers."""

    name: str
    guarantee: str
    state: str  # stopped (here), failed, waiting (for slots), catching up, live
    active: bool  # readers use this version
    handled: int  # commits, by this process
    lag_seconds: float  # since the newest commit handled here was stored; 0 when it has caught up
    lag_commits: int | None  # behind its checkpoint; None where that would take a scan
    in_flight: int  # commits that handlers have now
    aside: int  # streams that are tried again, or catch up by themselves
    parked: int  # streams that are held back
    skipped: int  # commits that somebody decided not to have handled
    slots: dict[int, str]  # of all workers, with who owns them

    @property
    def problems(self) -> Sequence[str]:
        """What somebody should look at."""
        found = ["it has failed"] if self.state == "failed" else []
        if self.parked:
            found.append(f"{self.parked} streams are parked")
        return found


async def status(processor: Processor[Any]) -> Status:
    """Ask its checkpoints and its feed. Raises StoreError."""
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
    """What is wrong with processors that should run in this process, by name; nothing if all is well.

    It asks nothing of any store, so it can be called as often as a load balancer likes. `max_lag` is in seconds; a
    first build lags by years, so give `math.inf` where the answer decides whether the process is killed.
    """
    found: dict[str, str] = {}
    for processor in processors:
        if processor.parking.failure is not None:
            found[processor.name] = f"it has failed: {type(processor.parking.failure).__name__}"
        elif processor.state == "stopped":
            found[processor.name] = "it has stopped"
        elif processor.lag > max_lag:
            found[processor.name] = f"it is {processor.lag:.0f} seconds behind"
        elif processor.parking.parked:
            found[processor.name] = f"{len(processor.parking.parked)} streams are parked"
    return found
