"""Shared by all benchmarks: figures, CPU and wall time of calls, and medians of several rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

ROUNDS = 15


@dataclass(frozen=True)
class Figure:
    """One measured number. `goal` is its minimum or, if `at_most`, its maximum."""

    name: str
    value: float
    goal: float | None = None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal


@dataclass(frozen=True)
class Cost:
    """The cost of one call in seconds: CPU time of all threads of this process, and wall time."""

    cpu: float
    wall: float


def median(measure: Callable[[], float], rounds: int = ROUNDS) -> float:
    return statistics.median(measure() for _ in range(rounds))


def median_of(values: Iterable[float]) -> float:
    return statistics.median(values)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def median_ratio(rounds: Sequence[dict[str, Cost]], name: str, other: str) -> float:
    """Return the median ratio of the CPU of two calls. Both values of a ratio come from the same round."""
    return median_of(each[name].cpu / each[other].cpu for each in rounds)


async def cost(call: Callable[[], Awaitable[Any]], times: int) -> Cost:
    """Return the mean cost of `times` calls, made one after the other."""
    cpu, wall = process_time(), perf_counter()
    for _ in range(times):
        await call()
    return Cost((process_time() - cpu) / times, (perf_counter() - wall) / times)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
