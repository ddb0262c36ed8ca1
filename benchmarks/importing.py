"""Measure the time that `import eventsrc` adds to the start of Python."""

from __future__ import annotations

import subprocess
import sys
from time import perf_counter

from .measure import Figure, median


def figures() -> list[Figure]:
    cost = median(lambda: _seconds("import eventsrc") - _seconds("pass"), rounds=15)
    return [Figure("import eventsrc, ms more than python -c pass", cost * 1000, goal=60, at_most=True)]


def _seconds(code: str) -> float:
    start = perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return perf_counter() - start
