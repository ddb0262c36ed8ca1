"""The processors that checkpoints know, whether or not this process has their code."""

from __future__ import annotations

import msgspec

from ..concurrency import load_all
from .checkpoints.checkpoints import Checkpoints, current_slots
from .checkpoints.registry import Registration

_CONCURRENCY = 8  # processors that are read at once


class RegisteredProcessor(msgspec.Struct, frozen=True, kw_only=True):
    """What checkpoints know of a processor, of all its workers."""

    name: str  # tag and version, as `balances@2`
    registration: Registration
    active: bool  # whether readers use this version
    slots: dict[int, str]  # number to owner; "" if no worker has the slot
    parked: int  # parked streams
    retrying: int  # streams that are retried, or catch up, as stored


async def processors(checkpoints: Checkpoints) -> list[RegisteredProcessor]:
    """Read what these checkpoints know of all their processors, sorted by name. A forgotten one is not listed.

    It needs no projections and no store: any process can ask.

    Raises:
        StoreError: the checkpoints cannot be read.
    """

    async def read(name: str) -> RegisteredProcessor | None:
        tag, _, version = name.rpartition("@")
        registration = await checkpoints.registry.registration(name)
        if registration is None:  # it was forgotten just now
            return None
        states = [entry.state for entry in await checkpoints.parked(name)]
        return RegisteredProcessor(
            name=name,
            registration=registration,
            active=str(await checkpoints.active(tag)) == version,
            slots={slot.number: slot.owner for slot in current_slots(await checkpoints.slots(name))},
            parked=states.count("parked"),
            retrying=states.count("retrying"),
        )

    found = await load_all(read, await checkpoints.processors(), _CONCURRENCY)
    return [each for each in found.values() if each is not None]
