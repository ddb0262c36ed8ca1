"""`make faults`: run every campaign in its long form, on all cores, and print one table of results.

`python -m campaigns simulation --seed 7 --seeds 1` replays one history.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import reduce
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .jobs import HUNTS, SEEDS, Job, hunt_one, jobs_of
from .mutants import Verdict
from .report import Layer


def _run(
    pool: ProcessPoolExecutor, jobs: Sequence[Job], hunts: int, console: Console
) -> tuple[list[Layer], list[Verdict]]:
    rows: list[Layer] = []
    verdicts: list[Verdict] = []
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("campaigns", total=len(jobs) + hunts)
        running: list[Future[Any]] = [pool.submit(job, *arguments) for job, arguments in jobs]
        running += [pool.submit(hunt_one, index) for index in range(hunts)]
        for done in as_completed(running):
            match done.result():
                case Layer() as row:
                    rows.append(row)
                case Verdict() as verdict:
                    verdicts.append(verdict)
            progress.advance(bar)
    return rows, verdicts


def _merged(rows: Sequence[Layer]) -> list[Layer]:
    """Return one row for each layer."""
    names = dict.fromkeys(row.name for row in rows)
    return [reduce(Layer.plus, [row for row in rows if row.name == name]) for name in names]


def _print(console: Console, rows: Sequence[Layer], verdicts: Sequence[Verdict], seconds: float) -> None:
    table = Table(title=f"Faults and violations by layer ({seconds:.0f} s in all)")
    for heading in ("layer", "operations", "faults", "acknowledged", "lost", "duplicated", "violations", "s", "seed"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for row in rows:
        counts = (row.operations, row.faults, row.acknowledged, row.lost, row.duplicated, len(row.violations))
        table.add_row(row.name, *(f"{count:,}" for count in counts), f"{row.seconds:.0f}", str(row.seed))
    if rows:
        console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.name}: {row.note}")
        if row.kinds:
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(row.kinds.items()))
            console.print(f"{row.name}: {kinds}")
        for violation in row.violations[:20]:
            console.print(f"[red]{row.name}: {violation}")
    if verdicts:
        caught = Table(title="Mutants of the library, and seeds until each was detected")
        for heading in ("mutant", "seeds", "violation"):
            caught.add_column(heading)
        for verdict in sorted(verdicts):
            caught.add_row(verdict.name.replace("_", " "), str(verdict.seeds or "missed"), verdict.violation)
        console.print(caught)


def main() -> int:
    layers = ["simulation", "reading", "reading-dynamodb", "workers", "live", "power", "crashes", "fuzz", "model"]
    parser = argparse.ArgumentParser(prog="python -m campaigns", description=__doc__)
    parser.add_argument("only", nargs="?", choices=[*layers, "mutants"])
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of histories to simulate")
    options = parser.parse_args()
    console = Console(width=max(Console().width, 110))
    begun = perf_counter()
    jobs = list(jobs_of(options.only, options.seed, options.seeds))
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        rows, verdicts = _run(pool, jobs, HUNTS if options.only in (None, "mutants") else 0, console)
    _print(console, _merged(rows), verdicts, perf_counter() - begun)
    wrong = any(row.lost or row.duplicated or row.violations for row in rows)
    return 1 if wrong or any(verdict.seeds is None for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
