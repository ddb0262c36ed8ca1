"""Measure, print, store the numbers as JSON, and write docs/performance.md with its plots.

`python -m benchmarks` measures all parts. `python -m benchmarks layouts growth` measures only these two; the page then
shows their new figures and the stored figures of the other parts.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from . import basics, clients, comparison, compression, growth, layouts, page, policy, processes, reading, tracing
from .measure import Figure

PARTS = {
    part.__name__.rpartition(".")[2]: part
    for part in (basics, comparison, layouts, growth, policy, compression, reading, clients, tracing, processes)
}
"""The parts by name, in the order of the page."""

RESULTS = Path(__file__).parent / "results"


def main(chosen: list[str]) -> None:
    if unknown := set(chosen) - set(PARTS):
        raise SystemExit(f"{', '.join(unknown)}: unknown; choose from {', '.join(PARTS)}")
    RESULTS.mkdir(exist_ok=True)
    for name in chosen or PARTS:
        start = perf_counter()
        print(f"Measuring {name} ...", file=sys.stderr)
        found = PARTS[name].measure()
        (RESULTS / f"{name}.json").write_text(json.dumps({"versions": _versions(), "found": found}, indent=1) + "\n")
        print(f"Measured {name} in {perf_counter() - start:.0f} s", file=sys.stderr)
    kept = {name: json.loads(path.read_text()) for name in PARTS if (path := RESULTS / f"{name}.json").exists()}
    results: dict[str, Any] = {name: each["found"] for name, each in kept.items()}
    for name, found in results.items():
        PARTS[name].draw(found)
    _show(page.write(PARTS, results, _versions()))


def _versions() -> dict[str, str]:
    return {
        "Python": platform.python_version(),
        "msgspec": msgspec.__version__,
        "SQLite": sqlite3.sqlite_version,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _show(figures: list[Figure]) -> None:
    table = Table(title="eventsrc: ratios inside one run")
    for column, justify in (("figure", "left"), ("measured", "right"), ("goal", "right"), ("", "center")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]  # the literals of the loop
    for figure in figures:
        mark = "[green]met[/]" if figure.met else "[red]missed[/]"
        table.add_row(figure.name, f"{figure.value:,.2f}", page.bound(figure), mark)
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
