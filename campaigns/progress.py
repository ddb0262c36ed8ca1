"""The progress of campaigns that run in other processes: how much of each job is done."""

from __future__ import annotations

import os
from collections.abc import Callable, MutableSequence
from time import time
from typing import Any, NamedTuple

_shares: MutableSequence[float] | None = None  # shared memory, a number from 0 to 1 for each job
_job = 0  # that this process works on


class Finished(NamedTuple):
    """The result of a job, or the error that ended it, and the times of its start and end."""

    result: Any
    error: str
    start: float
    end: float
    cpu: float  # seconds, user and system, with those of child processes that have ended


def connect(shares: MutableSequence[float]) -> None:
    """Let the jobs of this process report their progress in shared memory."""
    global _shares
    _shares = shares


def report(done: int, total: int) -> None:
    """Report how much of the job is done. It does nothing in a process that runs no jobs, as in a test."""
    if _shares is not None:
        _shares[_job] = min(0.99, done / max(total, 1))


def run_job(number: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Finished:
    """Run a job in this process. An error of the campaign is a result, so that other jobs continue."""
    global _job
    _job = number
    start, before = time(), _cpu()
    result, error = None, ""
    report(1, 1_000_000)  # it has started
    try:
        result = work(*arguments)
    except Exception as failure:
        error = f"the campaign ended with {failure!r}"
    if _shares is not None:
        _shares[number] = 1.0
    return Finished(result, error, start, time(), _cpu() - before)


def _cpu() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
