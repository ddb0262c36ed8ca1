"""Measure what `import eventsrc` costs beyond `import asyncio`."""

from __future__ import annotations

import subprocess
import sys

from .measure import Figure, median_of

_ROUNDS = 25

_PROGRAM = """
from time import process_time
begin = process_time()
import asyncio
middle = process_time()
import eventsrc
print((process_time() - middle) / (middle - begin))
"""


def figures() -> list[Figure]:
    """CPU in a process of its own, as a share of what `import asyncio` costs there; compiled modules are cached."""
    ratios = [_ratio() for _ in range(_ROUNDS + 1)][1:]  # the first run compiles
    return [Figure("import eventsrc ÷ import asyncio, CPU", median_of(ratios), goal=0.45, at_most=True)]


def _ratio() -> float:
    command = [sys.executable, "-X", "pycache_prefix=.bench/pycache", "-c", _PROGRAM]
    return float(subprocess.run(command, env={}, check=True, capture_output=True, text=True).stdout)
