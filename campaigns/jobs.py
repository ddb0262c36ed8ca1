"""The long form of each campaign, in parts that can run in separate processes.

Together they take about 1,700 s of CPU on a quiet machine, so about 15 minutes on two cores; most are of `reading`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from eventsrc.local import dynamodb_local

from . import (
    crashes,
    fuzz,
    live,
    model,
    mutants,
    power,
    processes,
    processes_live,
    processes_mutants,
    reading,
    reading_dynamodb,
    reading_mutants,
    rebuilding,
    restoring,
    simulation,
    transacting,
    transacting_mutants,
    unit_mutants,
    workers,
)
from .mutants import MUTANTS, Verdict
from .processes_mutants import PROCESSES
from .reading_mutants import READING
from .report import Layer

SEEDS, PART = 3_000, 250
RESTORED = REBUILT = PICKS = 1_000
TOLD = 2_000  # histories of processes, besides the picks
CUTS = 3_000
INPUTS = 900_000
LIVE = 20_000
KILLS, SERVER_KILLS = 50, 3
SIGNALS, DYNAMODB_SIGNALS = 40, 4
PROCESS_KILLS, DYNAMODB_PROCESS_KILLS = 50, 6
TRANSACTED, LIVE_TRANSACTIONS, TRANSACTION_KILLS = 2_000, 6_000, 30
EXAMPLES = 120
WITHIN = 300  # histories within which each mutant must be detected; nearly all are within 50

WAITING = ("workers", "reading-dynamodb", "processes-live", "crashes", "unit-mutants")
"""Parts that mostly wait for other processes and for time. They run one job at a time, next to those that compute."""

Job = tuple[Callable[..., Layer | Verdict], tuple[int, ...]]


def _simulation(first: int, count: int) -> Layer:
    return simulation.campaign(range(first, first + count))


def _live(operations: int, seed: int) -> Layer:
    async def work() -> Layer:
        async with dynamodb_local() as local:
            return await live.campaign(operations, seed, local.endpoint_url)

    return asyncio.run(work())


def _model(examples: int, seed: int) -> Layer:
    async def work() -> Layer:
        async with dynamodb_local() as local:
            return await asyncio.to_thread(model.campaign, examples, seed, local.endpoint_url)

    return asyncio.run(work())


def _kills(times: int, seed: int) -> Layer:
    with TemporaryDirectory() as folder:
        return crashes.kills(times, seed, Path(folder))


def _server_kills(times: int, seed: int) -> Layer:
    with TemporaryDirectory() as folder:
        return asyncio.run(crashes.kills_of_dynamodb_local(times, seed, Path(folder)))


def _reading(first: int, count: int) -> Layer:
    return reading.campaign(range(first, first + count))


def _restoring(first: int, count: int) -> Layer:
    return restoring.campaign(range(first, first + count))


def _rebuilding(first: int, count: int) -> Layer:
    return rebuilding.campaign(range(first, first + count))


def _transacting(first: int, count: int) -> Layer:
    return transacting.campaign(range(first, first + count))


def _transacting_live(operations: int, seed: int) -> Layer:
    async def work() -> Layer:
        async with dynamodb_local() as local:
            return await transacting.live(operations, seed, local.endpoint_url)

    return asyncio.run(work())


def _transacting_kills(times: int, seed: int) -> Layer:
    with TemporaryDirectory() as folder:
        return transacting.kills(times, seed, Path(folder))


def _workers(times: int, seed: int) -> Layer:
    with TemporaryDirectory() as folder:
        return workers.campaign(times, seed, Path(folder))


def _reading_dynamodb(times: int, seed: int) -> Layer:
    async def work(folder: Path) -> Layer:
        async with dynamodb_local() as local:
            return await reading_dynamodb.campaign(times, seed, folder, local.endpoint_url)

    with TemporaryDirectory() as folder:
        return asyncio.run(work(Path(folder)))


def _processes(first: int, count: int) -> Layer:
    return processes.campaign(range(first, first + count))


def _picks(first: int, count: int) -> Layer:
    return processes.picking_campaign(range(first, first + count))


def _process_kills(times: int, seed: int) -> Layer:
    with TemporaryDirectory() as folder:
        return processes_live.kills(times, seed, Path(folder))


def _processes_dynamodb(times: int, seed: int) -> Layer:
    async def work(folder: Path) -> Layer:
        async with dynamodb_local() as local:
            return await processes_live.campaign(times, seed, folder, local.endpoint_url)

    with TemporaryDirectory() as folder:
        return asyncio.run(work(Path(folder)))


def _hunt(index: int) -> Verdict:
    """Return how soon the simulation detects a mutant."""
    return mutants.hunt(MUTANTS[index], range(1000, 1000 + WITHIN))


def _hunt_reading(index: int) -> Verdict:
    """Return how soon the campaign of the read side detects a mutant."""
    return reading_mutants.hunt(READING[index], range(1000, 1000 + WITHIN))


def _hunt_processes(index: int) -> Verdict:
    """Return how soon the campaign of processes detects a mutant."""
    return processes_mutants.hunt(PROCESSES[index], range(1000, 1000 + WITHIN))


def _hunt_transacting(index: int) -> Verdict:
    """Return how soon the campaign of transactions detects a mutant."""
    return transacting_mutants.hunt(transacting_mutants.MUTANTS[index], range(1000, 1000 + WITHIN))


def parts_of(seed: int, seeds: int) -> dict[str, Sequence[Job]]:
    """Return the jobs of each part. The longest come first, so that all cores are busy to the end."""
    starts = range(0, seeds, PART)
    return {
        "live": [(_live, (LIVE, seed))],
        "power": [(power.campaign, (CUTS // 3, seed + each)) for each in range(3)],
        "crashes": [(_kills, (KILLS, seed)), (_server_kills, (SERVER_KILLS, seed))],
        "workers": [(_workers, (SIGNALS // 2, seed + each)) for each in range(2)],
        "reading-dynamodb": [(_reading_dynamodb, (DYNAMODB_SIGNALS, seed + each)) for each in range(2)],
        "processes-live": [
            (_process_kills, (PROCESS_KILLS, seed)),
            (_processes_dynamodb, (DYNAMODB_PROCESS_KILLS, seed)),
        ],
        "fuzz": [(fuzz.campaign, (INPUTS // 3, seed + each)) for each in range(3)],
        "model": [(_model, (EXAMPLES, seed))],
        "reading": [(_reading, (seed + each, min(PART, seeds - each))) for each in starts],
        "processes": [
            *((_processes, (seed + each, min(PART, seeds - each))) for each in starts[: TOLD // PART]),
            *((_picks, (seed + each, min(PART, seeds - each))) for each in starts[: PICKS // PART]),
        ],
        "restoring": [(_restoring, (seed + each, min(PART, seeds - each))) for each in starts[: RESTORED // PART]],
        "rebuilding": [(_rebuilding, (seed + each, min(PART, seeds - each))) for each in starts[: REBUILT // PART]],
        "transacting": [
            (_transacting_live, (LIVE_TRANSACTIONS, seed)),
            (_transacting_kills, (TRANSACTION_KILLS, seed)),
            *((_transacting, (seed + each, min(PART, seeds - each))) for each in starts[: TRANSACTED // PART]),
        ],
        "simulation": [(_simulation, (seed + each, min(PART, seeds - each))) for each in starts],
        "unit-mutants": [(unit_mutants.detect, (index,)) for index in range(len(unit_mutants.MUTANTS))],
        "mutants": [
            *((_hunt_processes, (index,)) for index in range(len(PROCESSES))),
            *((_hunt_reading, (index,)) for index in range(len(READING))),
            *((_hunt_transacting, (index,)) for index in range(len(transacting_mutants.MUTANTS))),
            *((_hunt, (index,)) for index in range(len(MUTANTS))),
        ],
    }
