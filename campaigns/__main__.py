"""`make faults`: run every campaign in its long form, on all cores, and print one table of results.

`python -m campaigns simulation --seed 7 --seeds 1` replays one history. Several parts may be named.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import reduce
from itertools import chain
from statistics import fmean
from typing import Any

from rich.console import Console

from .display import Display, Took
from .jobs import SEEDS, WAITING, Job, parts_of
from .mutants import Verdict
from .progress import Finished, connect, run_job
from .report import Layer

TICK = 0.5  # seconds between two looks at the progress


class Run:
    """One run of some parts, and its results so far."""

    def __init__(self, parts: Mapping[str, Sequence[Job]], display: Display) -> None:
        self._parts, self._display = parts, display
        self._left = {part: len(jobs) for part, jobs in parts.items()}
        self._finished: dict[str, list[Finished]] = {part: [] for part in parts}
        self.layers: list[Layer] = []
        self.verdicts: list[Verdict] = []
        self.took: dict[str, Took] = {}

    def run(self) -> None:
        """Run all jobs, on all cores. Show each result as soon as there is one.

        One process runs the parts that mostly wait. As many as there are cores run the others, so that no core idles.
        """
        spawn = multiprocessing.get_context("spawn")
        jobs = [(part, *job) for part, each in self._parts.items() for job in each]
        shares = spawn.RawArray("d", len(jobs))
        options: Any = {"mp_context": spawn, "initializer": connect, "initargs": (shares,)}
        with (
            self._display.showing(),
            ProcessPoolExecutor(os.cpu_count(), **options) as computing,
            ProcessPoolExecutor(1, **options) as waiting,
        ):
            running: dict[Future[Finished], str] = {
                (waiting if part in WAITING else computing).submit(run_job, number, work, arguments): part
                for number, (part, work, arguments) in enumerate(jobs)
            }
            while running:
                done, _ = wait(running, TICK, FIRST_COMPLETED)
                for each in done:
                    self._add(running.pop(each), each.result())
                self._display.update(
                    {
                        part: fmean(share for share, job in zip(shares, jobs, strict=True) if job[0] == part)
                        for part in self._parts
                    }
                )

    def _add(self, part: str, finished: Finished) -> None:
        self._finished[part].append(finished)
        if isinstance(finished.result, Verdict):
            self.verdicts.append(finished.result)
            self._display.show_verdict(finished.result)
        self._left[part] -= 1
        if not self._left[part]:
            self._end(part)

    def _end(self, part: str) -> None:
        ended = self._finished[part]
        rows = [each.result for each in ended if isinstance(each.result, Layer)]
        if broken := [each.error for each in ended if each.error]:
            rows.append(Layer(part, 0, 0, 0, 0, 0, 0.0, rows[0].seed if rows else 0, broken))
        layers = merge(rows)
        self.layers += layers
        wall = max(each.end for each in ended) - min(each.start for each in ended)
        self.took[part] = Took(wall, sum(each.cpu for each in ended))
        self._display.show_part(part, layers, self.took[part])

    @property
    def failed(self) -> bool:
        wrong = any(layer.lost or layer.duplicated or layer.violations for layer in self.layers)
        return wrong or any(verdict.seeds is None for verdict in self.verdicts)


def merge(rows: Sequence[Layer]) -> list[Layer]:
    """Return one row for each layer."""
    names = dict.fromkeys(row.name for row in rows)
    return [reduce(Layer.plus, [row for row in rows if row.name == name]) for name in names]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m campaigns", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"one of {', '.join(parts_of(0, 1))}; default: all")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of histories to simulate")
    options = parser.parse_args()
    parts = parts_of(options.seed, options.seeds)
    for each in options.parts:
        if each not in parts:
            parser.error(f"{each!r} is not a part; give one of {', '.join(parts)}")
    console = Console(width=max(Console().width, 110))
    chosen = {part: jobs for part, jobs in parts.items() if part in options.parts or not options.parts}
    display = Display(console, list(chosen))
    display.say(f"{len(list(chain(*chosen.values())))} jobs of {len(chosen)} parts on {os.cpu_count()} cores")
    run = Run(chosen, display)
    run.run()
    display.show_all(run.layers, run.verdicts, run.took)
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
