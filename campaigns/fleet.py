"""Run processes that share one processor, and kill, stop and replace them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from statistics import median
from time import monotonic
from typing import Any

from eventsrc.processing import Processor
from eventsrc.processing.checkpoints.checkpoints import current_slots

from . import PYTHONPATH

AT_THE_END = 180.0  # seconds within which all commits must be handled after the last fault


class Fleet:
    """Workers: `python -m MODULE read FOLDER NAME`, which stops on SIGTERM. `processor` observes them from here."""

    processor: Processor[Any]

    def __init__(self, module: str, folder: Path, seed: int, ttl: float) -> None:
        self._module, self.folder, self.random, self._ttl = module, folder, Random(seed), ttl
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.violations: list[str] = []
        self.taken_over: dict[str, list[float]] = defaultdict(list)  # seconds, by signal
        self._names = 0

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", self._module, arguments[0], str(self.folder), *arguments[1:]]
        with (self.folder / f"{arguments[-1]}.err").open("wb") as errors:
            return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": PYTHONPATH}, stderr=errors)

    def start_worker(self) -> None:
        self._names += 1
        name = f"w-{self._names}"
        self.workers[name] = self.start("read", name)

    def kill(self) -> None:
        """Kill all workers that are still running."""
        for process in self.workers.values():
            if process.poll() is None:
                process.kill()
            process.wait()

    async def _owners(self) -> set[str]:
        checkpoints = self.processor.checkpoints
        return {slot.owner for slot in current_slots(await checkpoints.slots(self.processor.name))}

    async def is_shared(self) -> bool:
        return await self._owners() == set(self.workers)

    async def until(self, condition: Callable[[], Awaitable[bool]], seconds: float = AT_THE_END) -> None:
        limit = monotonic() + seconds
        while not await condition():
            if monotonic() > limit:
                name = getattr(condition, "__name__", condition)
                self.violations.append(f"{name} was not true within {seconds} s")
                return
            await asyncio.sleep(0.01)

    async def strike(self) -> None:
        """Kill one worker, suspend it for a while, or ask it to stop. The others take over, and a new one starts."""
        name = self.random.choice(sorted(self.workers))
        kind = self.random.choice(("SIGKILL", "SIGKILL", "SIGSTOP", "SIGTERM"))
        process = self.workers[name]
        await asyncio.sleep(self.random.uniform(0, self._ttl))
        if kind == "SIGTERM":
            await self.until(self.is_shared)  # a worker that is still starting does not handle SIGTERM yet
        begun = monotonic()
        process.send_signal(getattr(signal, kind))

        async def others_have_all() -> bool:
            return name not in await self._owners()

        await self.until(others_have_all)
        self.taken_over[kind].append(monotonic() - begun)
        if kind == "SIGSTOP":
            await asyncio.sleep(self.random.uniform(0, self._ttl))
            process.send_signal(signal.SIGCONT)
        else:
            del self.workers[name]
            await asyncio.to_thread(process.wait)
            if kind == "SIGTERM":
                self._check_end(name, process)
            self.start_worker()
        if self.random.random() < 0.7:
            await self.until(self.is_shared)

    async def end(self) -> None:
        """Wait until all workers share the slots, then ask each to stop."""
        await self.until(self.is_shared)
        for name, process in self.workers.items():
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait)
            self._check_end(name, process)

    def _check_end(self, name: str, process: subprocess.Popen[bytes]) -> None:
        if process.returncode:
            errors = (self.folder / f"{name}.err").read_text()
            self.violations.append(f"{name} ended with {process.returncode}: {errors[-500:]}")

    def takeovers(self) -> str:
        """Return a note on how long takeovers took, by signal."""
        each = [
            f"{len(seconds)} {kind}, taken over in {median(seconds):.2f} s (median), {max(seconds):.2f} s (most)"
            for kind, seconds in sorted(self.taken_over.items())
        ]
        return f"with a ttl of {self._ttl} s: " + "; ".join(each)
