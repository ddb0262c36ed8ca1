"""Measure, print, keep the numbers as JSON, and write docs/performance.md with its plots.

`python -m benchmarks` measures all parts, `python -m benchmarks layouts growth` only these; the page is then made of
their new figures and of the kept ones of the others.
"""

from __future__ import annotations

import importlib
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

from . import page
from .measure import Figure

PARTS = ("basics", "beside", "layouts", "growth", "policy", "compression", "reading")
RESULTS = Path(__file__).parent / "results"


def main(chosen: list[str]) -> None:
    parts = {name: importlib.import_module(f".{name}", __package__) for name in PARTS}
    if unknown := set(chosen) - set(parts):
        raise SystemExit(f"{', '.join(unknown)}: the parts are {', '.join(parts)}")
    RESULTS.mkdir(exist_ok=True)
    for name in chosen or parts:
        start = perf_counter()
        print(f"Measuring {name} ...", file=sys.stderr)
        found = parts[name].measure()
        (RESULTS / f"{name}.json").write_text(json.dumps({"versions": _versions(), "found": found}, indent=1) + "\n")
        print(f"Measured {name} in {perf_counter() - start:.0f} s", file=sys.stderr)
    kept = {name: json.loads(path.read_text()) for name in parts if (path := RESULTS / f"{name}.json").exists()}
    results: dict[str, Any] = {name: each["found"] for name, each in kept.items()}
    for name, found in results.items():
        parts[name].draw(found)
    _show(page.write(parts, results, _versions()))


def _versions() -> dict[str, str]:
    return {
        "Python": platform.python_version(),
        "msgspec": msgspec.__version__,
        "SQLite": sqlite3.sqlite_version,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _show(figures: list[Figure]) -> None:
    table = Table(title="eventsrc, ratios inside one run")
    for column, justify in (("figure", "left"), ("measured", "right"), ("goal", "right"), ("", "center")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]  # literals, spelt above
    for figure in figures:
        mark = "[green]met[/]" if figure.met else "[red]missed[/]"
        table.add_row(figure.name, f"{figure.value:,.2f}", page.bound(figure), mark)
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
