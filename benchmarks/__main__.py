"""Run all benchmarks, print the figures, keep them as JSON."""

from __future__ import annotations

import json
import platform
import sqlite3
import sys
from dataclasses import asdict
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from . import fold, importing, limit, snapshots, sqlite

RESULTS = Path(__file__).parent / "results" / "foundation.json"


def main() -> None:
    table = Table(title="eventsrc, ratios inside one run")
    for column, justify in (("figure", "left"), ("measured", "right"), ("goal", "right"), ("", "center")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]  # literals, spelt above
    chosen = [
        module
        for module in (importing, fold, snapshots, sqlite, limit)
        if module.__name__.endswith(tuple(sys.argv[1:]) or "")
    ]
    figures = [figure for module in chosen for figure in module.figures()]
    for figure in figures:
        goal = "" if figure.goal is None else f"{'≤' if figure.at_most else '≥'} {figure.goal:g}"
        mark = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[figure.met]
        table.add_row(figure.name, f"{figure.value:,.2f}", goal, mark)
    Console().print(table)
    if sys.argv[1:]:
        return  # a part of the figures is not kept
    versions = {
        "python": platform.python_version(),
        "msgspec": msgspec.__version__,
        "sqlite": sqlite3.sqlite_version,
        "machine": platform.machine(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    kept = {"versions": versions, "figures": [asdict(each) for each in figures]}
    RESULTS.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
